/** The project's cache: outside of the repo, kept by content or version, safe to delete as a whole. */
import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { link, mkdir, readFile, rename, rm, unlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { SetupError } from "./errors.mjs";

/** @returns {string} `MOBITOPOLO_CACHE`, else ~/.cache/mobitopolo */
export function cacheRoot() {
  return process.env.MOBITOPOLO_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "mobitopolo");
}

/** @param {...string} parts a path below the cache */
export const cachePath = (...parts) => join(cacheRoot(), ...parts);

/** @param {string} file @returns {Promise<string>} SHA-256 of its bytes in hex */
export async function sha256OfFile(file) {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}

/** Writes a file so that a reader sees the old or the new one, never half. @param {string} file @param {string | Uint8Array} data */
export async function writeFileAtomic(file, data) {
  await mkdir(dirname(file), { recursive: true });
  const temporary = `${file}.${randomUUID()}.tmp`;
  await writeFile(temporary, data, { flush: true });
  await rename(temporary, file);
}

/**
 * Runs `make` with an empty folder and puts the result at `dir` in one step, so that a broken run leaves nothing that looks whole.
 * @param {string} dir @param {(temporary: string) => Promise<void>} make
 */
export async function makeDirAtomic(dir, make) {
  const temporary = `${dir}.${process.pid}.tmp`;
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  try {
    await make(temporary);
    await rm(dir, { recursive: true, force: true });
    await rename(temporary, dir);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/**
 * Holds a lock of the cache while `work` runs: two clones set up at the same time wait for each other instead of doing things twice.
 * A lock whose process is gone is taken over.
 * @template T @param {string} name @param {() => Promise<T>} work @param {(line: string) => void} [say] told once when it has to wait
 * @returns {Promise<T>}
 */
export async function withLock(name, work, say = () => {}) {
  const file = cachePath("locks", `${name}.lock`);
  await mkdir(dirname(file), { recursive: true });
  const mine = `${file}.${process.pid}.${randomUUID()}`;
  await writeFile(mine, String(process.pid));
  try {
    const deadlineMs = Date.now() + 45 * 60_000;
    let told = false;
    // link() is the one operation that both creates the file with its contents and fails where it exists.
    while (
      !(await link(mine, file).then(
        () => true,
        () => false,
      ))
    ) {
      const holder = Number(await readFile(file, "utf8").catch(() => "0"));
      if (holder && !isAlive(holder)) {
        await unlink(file).catch(() => {});
        continue;
      }
      if (!told) say(`waiting for process ${holder}, which works on the same`);
      told = true;
      if (Date.now() > deadlineMs)
        throw new SetupError(`process ${holder} has held ${file} for 45 minutes`, { next: "end it, or remove the file" });
      await delay(500);
    }
    try {
      return await work();
    } finally {
      await unlink(file).catch(() => {});
    }
  } finally {
    await rm(mine, { force: true });
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}
