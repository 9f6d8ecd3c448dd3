/** What another version of the provider would bring along: its files differ, what they do does not. */
import { createHash } from "node:crypto";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { defaultAssets } from "../../../provider/lib/assets";

/** A folder for MOBITOPOLO_ASSETS. */
export interface OtherAssets extends Disposable {
  readonly folder: string;
  /** SHA-256 of the other default kernel. */
  readonly kernelId: string;
}

/** A newer provider: its default kernel and image and its agent have other hashes (some bytes after the end change no program). */
export function otherAssets(): OtherAssets {
  const folder = mkdtempSync("/tmp/mobi-assets-");
  const mine = defaultAssets();
  const changed = (name: string, path: string, more: string): { id: string; path: string } => {
    const bytes = Buffer.concat([readFileSync(path), Buffer.from(more)]);
    const to = join(folder, name);
    writeFileSync(to, bytes);
    chmodSync(to, 0o755);
    return { id: createHash("sha256").update(bytes).digest("hex"), path: to };
  };
  const kernel = changed("linux", mine.kernel.path, "another build");
  const image = changed("image", mine.image.path, "another image");
  const agent = changed("agent.cjs", mine.agent.path, "\n// another build\n");
  writeFileSync(join(folder, "assets.json"), JSON.stringify({ kernel, agent, image, node: mine.node }));
  return { folder, kernelId: kernel.id, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}
