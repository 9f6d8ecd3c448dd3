import { randomBytes } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { unless } from "./errors";

/** A file of ours that cannot be read as what it should be: never taken for empty. */
export class UnreadableStateError extends Error {
  override readonly name = "UnreadableStateError";
  constructor(
    readonly path: string,
    readonly reason: string,
  ) {
    super(`${path} is unreadable: ${reason}`);
  }
}

/** Makes a folder that only we can enter, with its parents. */
export async function mkdirPrivate(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
}

/** Makes what the folder holds (names, not contents) survive a crash. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Replaces the file as a whole: temp, fsync, rename, fsync of the folder. 0600. */
export async function writeFileAtomic(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    const file = await open(temporary, "wx", 0o600);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Writes a value as JSON, as writeFileAtomic does. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(value, null, 1)}\n`);
}

/** Reads and checks a JSON file; undefined if it does not exist. @throws UnreadableStateError */
export async function readJson<T>(path: string, parse: (value: unknown) => T): Promise<T | undefined> {
  const text = await unless(readFile(path, "utf8"), "ENOENT");
  if (text === undefined) return undefined;
  try {
    return parse(JSON.parse(text));
  } catch (error) {
    throw new UnreadableStateError(path, error instanceof Error ? error.message : String(error));
  }
}
