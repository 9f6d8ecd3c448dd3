import { readSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import type { Run } from "./runs";
import { pageBytes } from "./sinks";

/** Read at once while an image is looked through. */
const portionBytes = 1 << 20;
/** Larger images are not looked through: reading them would take longer than sending. */
const maxImageBytes = 512 << 20;
/** Words of a page that its hash is made of. */
const sampledWords = 16;
const stride = pageBytes / sampledWords;

/** Those of one agent, by path; an image in a store never changes. */
const known = new Map<string, Promise<ImagePages | undefined>>();

/**
 * Finds a page of memory in the VM's base image. What a guest has read from its disk it keeps in its page cache, and the target has the image: such pages
 * travel as the number of the image's page. Every page found is compared as a whole.
 */
export class ImagePages {
  /** Hashes, each in its own slot or the next free one behind it, and page number + 1 to each; 0: the slot is free. */
  readonly #hashes: Int32Array;
  readonly #pageAt: Uint32Array;
  readonly #candidate = Buffer.alloc(pageBytes);
  #last = -1;

  private constructor(
    private readonly image: FileHandle,
    private readonly pages: number,
  ) {
    const slots = 2 ** Math.ceil(Math.log2(Math.max(2 * pages, 2)));
    this.#hashes = new Int32Array(slots);
    this.#pageAt = new Uint32Array(slots);
  }

  /** Of the image at `path`; looked through once. Undefined where there is none, or it is too large. */
  static async of(path: string | undefined): Promise<ImagePages | undefined> {
    if (path === undefined) return undefined;
    let pages = known.get(path);
    if (!pages) {
      pages = ImagePages.#read(path);
      known.set(path, pages);
      pages.catch(() => known.delete(path));
    }
    return await pages;
  }

  static async #read(path: string): Promise<ImagePages | undefined> {
    const image = await open(path, "r");
    const { size } = await image.stat();
    if (size > maxImageBytes) {
      await image.close();
      return undefined;
    }
    const found = new ImagePages(image, Math.floor(size / pageBytes));
    const portion = Buffer.alloc(portionBytes);
    for (let first = 0; first < found.pages; first += portionBytes / pageBytes) {
      const { bytesRead } = await image.read(portion, 0, portionBytes, first * pageBytes);
      for (let at = 0; at + pageBytes <= bytesRead; at += pageBytes) found.#add(portion, at, first + at / pageBytes);
    }
    return found;
  }

  /** The run as runs of its own bytes and runs that the image has. */
  *split(run: Run): Generator<Run> {
    const { first, count, data } = run;
    if (!data) return yield run;
    for (let from = 0; from < count; ) {
      const image = this.#find(data, from * pageBytes);
      let to = from + 1;
      for (; to < count; to++) {
        const next = this.#find(data, to * pageBytes);
        if (next !== (image === undefined ? undefined : image + to - from)) break;
      }
      const pages = { first: first + from, count: to - from };
      yield image === undefined ? { ...pages, data: data.subarray(from * pageBytes, to * pageBytes) } : { ...pages, data: null, image };
      from = to;
    }
  }

  #add(bytes: Buffer, at: number, page: number): void {
    const hash = hashOf(bytes, at);
    // Nothing in the sampled places: most such pages are empty.
    if (hash === 0) return;
    const slot = this.#slot(hash);
    // Of those that are alike, the first is as good as any.
    if (this.#pageAt[slot] !== 0) return;
    this.#hashes[slot] = hash;
    this.#pageAt[slot] = page + 1;
  }

  /** Where the hash is, or the free slot where it would be. */
  #slot(hash: number): number {
    const mask = this.#pageAt.length - 1;
    let slot = hash & mask;
    while (this.#pageAt[slot] !== 0 && this.#hashes[slot] !== hash) slot = (slot + 1) & mask;
    return slot;
  }

  #find(bytes: Buffer, at: number): number | undefined {
    // What lies side by side in a file mostly does so in memory.
    const next = this.#last + 1;
    if (next > 0 && this.#is(next, bytes, at)) return this.#found(next);
    const page = (this.#pageAt[this.#slot(hashOf(bytes, at))] ?? 0) - 1;
    return page >= 0 && page !== next && this.#is(page, bytes, at) ? this.#found(page) : this.#found(undefined);
  }

  #found(page: number | undefined): number | undefined {
    this.#last = page ?? -1;
    return page;
  }

  #is(page: number, bytes: Buffer, at: number): boolean {
    if (page >= this.pages || readSync(this.image.fd, this.#candidate, 0, pageBytes, page * pageBytes) !== pageBytes) return false;
    return this.#candidate.compare(bytes, at, at + pageBytes) === 0;
  }
}

function hashOf(bytes: Buffer, at: number): number {
  let hash = 0;
  for (let i = 0; i < sampledWords; i++) {
    hash = Math.imul(hash ^ bytes.readInt32LE(at + i * stride + ((i * 20) & (stride - 4))), 0x9e3779b1);
    hash ^= hash >>> 15;
  }
  return hash;
}
