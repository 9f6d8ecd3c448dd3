import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { chmod, type FileHandle, link, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createZstdDecompress } from "node:zlib";
import { errnoOf, messageOf, unless } from "../../lib/errors";
import { mkdirPrivate, syncFolder } from "../../lib/files";
import { AgentFault } from "../errors";

const blobName = /^[0-9a-f]{64}$/;
const holeBytes = 65536;
const zeros = Buffer.alloc(holeBytes);

/** Kernels and images by the SHA-256 of their bytes: `<state>/store/<id>`, read-only and executable. */
export class Store {
  private constructor(readonly folder: string) {}

  static async open(stateDir: string): Promise<Store> {
    const folder = join(stateDir, "store");
    await mkdirPrivate(folder);
    for (const left of await readdir(folder)) if (!blobName.test(left)) await rm(join(folder, left), { force: true });
    return new Store(folder);
  }

  /** Path of a blob that is here. @throws AgentFault missing-blob */
  async path(id: string): Promise<string> {
    if (await this.has(id)) return join(this.folder, id);
    throw new AgentFault("missing-blob", "look into the store", `${id} is not here`, {
      next: "the provider brings it at the next `pulumi up`",
    });
  }

  async has(id: string): Promise<boolean> {
    return (await unless(stat(join(this.folder, id)), "ENOENT")) !== undefined;
  }

  /** The path of some blob that can be run, where there is one: a kernel, for images are none. */
  async anyProgram(): Promise<string | undefined> {
    for (const id of await readdir(this.folder))
      if (blobName.test(id) && (await isElf(join(this.folder, id)))) return join(this.folder, id);
    return undefined;
  }

  async missing(ids: readonly string[]): Promise<string[]> {
    const there = await Promise.all(ids.map((id) => this.has(id)));
    return ids.filter((_, i) => !there[i]);
  }

  /** Takes a file of this host; `zstd`: it is compressed, `id` is of the content. @throws AgentFault if the hash is another */
  async take(id: string, source: string, options: { zstd?: boolean; remove?: boolean }): Promise<void> {
    if (!(await this.has(id))) {
      const temporary = join(this.folder, `${id}.${process.hrtime.bigint()}.tmp`);
      try {
        const isLink = !options.zstd && (await linked(source, temporary));
        const found = isLink ? await hashOf(temporary) : await copied(source, temporary, options.zstd === true);
        if (found !== id)
          throw new AgentFault("bad-request", `import ${basename(source)}`, `its SHA-256 is ${found}, not ${id}`, {
            next: "the file was changed or cut short; send it again",
          });
        if (!isLink) await chmod(temporary, 0o500);
        await rename(temporary, join(this.folder, id));
        await syncFolder(this.folder);
      } catch (error) {
        await rm(temporary, { force: true });
        if (error instanceof AgentFault) throw error;
        throw new AgentFault(errnoOf(error) === "ENOSPC" ? "no-space" : "failed", `import ${source}`, messageOf(error), { cause: error });
      }
    }
    if (options.remove) await rm(source, { force: true });
  }

  /** Removes what nobody of `used` needs. */
  async collect(used: ReadonlySet<string>): Promise<{ removed: number; bytes: number }> {
    const result = { removed: 0, bytes: 0 };
    for (const id of await readdir(this.folder)) {
      if (!blobName.test(id) || used.has(id)) continue;
      result.bytes += (await stat(join(this.folder, id))).blocks * 512;
      result.removed += 1;
      await rm(join(this.folder, id));
    }
    return result;
  }
}

/** A hard link costs no space. Not for a file of another owner, nor for a program that is not executable: a link shares its mode with the original. */
async function linked(source: string, target: string): Promise<boolean> {
  const facts = await stat(source);
  if (facts.uid !== process.getuid?.()) return false;
  if ((facts.mode & 0o100) === 0 && (await isElf(source))) return false;
  try {
    await link(source, target);
    return true;
  } catch {
    return false;
  }
}

async function isElf(path: string): Promise<boolean> {
  const file = await open(path, "r");
  try {
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 0);
    return buffer.toString("latin1") === "\x7fELF";
  } finally {
    await file.close();
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest("hex");
}

/** Copies with holes for zeros: images are mostly empty. */
async function copied(source: string, target: string, zstd: boolean): Promise<string> {
  const hash = createHash("sha256");
  const file = await open(target, "wx", 0o600);
  try {
    const input = createReadStream(source, { highWaterMark: 1 << 20 });
    const sink = async (chunks: AsyncIterable<Buffer>): Promise<void> => {
      let offset = 0;
      for await (const chunk of chunks) {
        hash.update(chunk);
        await writeSparse(file, chunk, offset);
        offset += chunk.length;
      }
      await file.truncate(offset);
    };
    await (zstd ? pipeline(input, createZstdDecompress(), sink) : pipeline(input, sink));
    await file.sync();
  } finally {
    await file.close();
  }
  return hash.digest("hex");
}

async function writeSparse(file: FileHandle, chunk: Buffer, offset: number): Promise<void> {
  for (let at = 0; at < chunk.length; at += holeBytes) {
    const piece = chunk.subarray(at, at + holeBytes);
    if (!piece.equals(zeros.subarray(0, piece.length))) await file.write(piece, 0, piece.length, offset + at);
  }
}
