/** The files of ours that the image is made from, and this recipe itself. */
import { readdir } from "node:fs/promises";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { sha256OfFile } from "../../scripts/lib/cache.mjs";

/** The repository's top. */
export const TOP = fileURLToPath(new URL("../..", import.meta.url));
const FOLDERS = ["uml-kernel/guest", "uml-kernel/image", "examples/follow-me/guest"];

/** @returns {Promise<Record<string, string>>} path below the top → SHA-256, sorted by path */
export async function hashSources() {
  const files = (await Promise.all(FOLDERS.map((folder) => listFiles(join(TOP, folder))))).flat().filter((file) => !file.endsWith(".md"));
  const hashes = await Promise.all(files.map(sha256OfFile));
  return Object.fromEntries(files.map((file, i) => [relative(TOP, file), hashes[i]]).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** @param {string} folder @returns {Promise<string[]>} every file below it, sorted */
export async function listFiles(folder) {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  return entries
    .filter((e) => e.isFile())
    .map((e) => join(e.parentPath ?? e.path, e.name))
    .sort();
}
