import type { Assets } from "../lib/assets";
import { messageOf } from "../lib/errors";
import { storeMissing } from "../protocol/methods";
import type { Reached } from "../transport/connect";
import { relayBlob, uploadFile } from "../transport/upload";
import type { Row } from "./engine";
import { ReconcileError } from "./errors";
import type { Props } from "./handler";

/** A kernel or image, and where it may be had. */
export interface Blob {
  readonly id: string;
  readonly what: "kernel" | "image";
  /** On this machine. */
  readonly path?: string | undefined;
}

/** The kernel and image of a VM; on this machine lie only the ones of this provider version and the user's own files. */
export function blobsOf(props: Props, assets: () => Assets): Blob[] {
  return (["kernel", "image"] as const).map((what) => {
    const id = String(props[what]).replace(/^sha256:/, "");
    return { id, what, path: pathOf(what, id, props.__asked, assets) };
  });
}

function pathOf(what: "kernel" | "image", id: string, asked: unknown, assets: () => Assets): string | undefined {
  const named = typeof asked === "object" && asked !== null ? (asked as Props)[what] : undefined;
  if (typeof named === "string" && named !== "default" && !named.startsWith("sha256:")) return named.replace(/^file:/, "");
  try {
    return assets()[what].id === id ? assets()[what].path : undefined;
  } catch {
    // Another host may have it all the same.
    return undefined;
  }
}

/** Brings what the host's store lacks: from this machine, else from another host's store, through us. */
export async function ensureBlobs(
  resource: string,
  to: Reached,
  blobs: readonly Blob[],
  others: readonly (() => Promise<Reached>)[],
  row: Row,
): Promise<void> {
  const { missing } = await to.agent.call(storeMissing, { ids: blobs.map(({ id }) => id) });
  for (const blob of blobs.filter(({ id }) => missing.includes(id))) await bring(resource, to, blob, others, row);
}

async function bring(resource: string, to: Reached, blob: Blob, others: readonly (() => Promise<Reached>)[], row: Row): Promise<void> {
  const tell = (text: string) => row.progress(text);
  if (blob.path !== undefined) return await uploadFile(to, blob.id, blob.path, blob.what, tell);
  const reasons: string[] = [];
  for (const reach of others) {
    try {
      const from = await reach();
      if (from.agent === to.agent) continue;
      return await relayBlob(from, to, blob.id, blob.what, tell);
    } catch (error) {
      reasons.push(messageOf(error).split("\n")[0] ?? "");
    }
  }
  throw new ReconcileError(
    resource,
    `bring its ${blob.what} to ${to.agent.host}`,
    `sha256:${blob.id} is neither on this machine nor in the store of a host that can be reached${reasons.length > 0 ? ` (${reasons.join("; ")})` : ""}`,
    `next: name the file (\`${blob.what}: "path"\`), or bring back a host that has it`,
  );
}
