import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { posix } from "node:path";
import type { Readable } from "node:stream";
import { createZstdCompress } from "node:zlib";
import { messageOf } from "../lib/errors";
import { storeImport, storePath } from "../protocol/methods";
import { counted } from "./agent";
import type { Reached } from "./connect";
import { TransportError } from "./errors";

const importTimeoutMs = 300_000;
type Progress = ((text: string) => void) | undefined;

/** Brings a file of this machine into a host's content store. */
export async function uploadFile(to: Reached, id: string, path: string, what: string, onProgress?: Progress): Promise<void> {
  if (to.machine.isLocal) await to.agent.call(storeImport, { id, path }, { timeoutMs: importTimeoutMs });
  else await send(to, id, createReadStream(path), what, onProgress);
}

/** Brings a blob of one host's store into another's, through us. @throws AgentError not-found or missing-blob where the first has none */
export async function relayBlob(from: Reached, to: Reached, id: string, what: string, onProgress?: Progress): Promise<void> {
  const { path } = await from.agent.call(storePath, { id });
  if (from.machine.isLocal && to.machine.isLocal) await to.agent.call(storeImport, { id, path }, { timeoutMs: importTimeoutMs });
  else await send(to, id, await from.machine.get(path), what, onProgress);
}

async function send(to: Reached, id: string, content: Readable, what: string, onProgress: Progress): Promise<void> {
  const host = to.agent.host;
  const folder = posix.join(to.agent.stateDir, "incoming");
  const path = posix.join(folder, randomBytes(8).toString("hex"));
  try {
    await to.machine.mkdirPrivate(folder);
    // A local machine's store takes the bytes as they are; over a network they travel compressed.
    const zstd = !to.machine.isLocal;
    const stream = zstd ? content.compose(createZstdCompress()) : content;
    await to.machine.put(
      path,
      0o600,
      counted(stream, (mebibytes) => onProgress?.(`sending the ${what} to ${host}: ${mebibytes} MiB`)),
    );
    await to.agent.call(storeImport, { id, path, zstd, remove: true }, { timeoutMs: importTimeoutMs });
  } catch (error) {
    if (error instanceof TransportError) throw error;
    throw new TransportError({ host, kind: "upload", step: `bring the ${what} there`, reason: messageOf(error), cause: error });
  }
}
