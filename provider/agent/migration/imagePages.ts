import { readSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import type { Run } from "./runs";
import { pageBytes } from "./sinks";

/** Read at once while an image is looked through. */
const portionBytes = 1 << 20;
/** Larger images are not looked through: reading them would take longer than sending. */
const maxImageBytes = 512 << 20;
/** Words of a page that its hash is made of: where they are. */
const sampled = Int32Array.from({ length: 16 }, (_, i) => (i * 256 + ((i * 20) & 252)) / 4);
const pageWords = pageBytes / 4;

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
      const words = wordsOf(portion);
      for (let page = 0; (page + 1) * pageBytes <= bytesRead; page++) found.#add(hashOf(words, page), first + page);
    }
    return found;
  }

  /** The run as runs of its own bytes and runs that the image has. */
  *split(run: Run): Generator<Run> {
    const { first, count, data } = run;
    if (!data) return yield run;
    const words = wordsOf(data);
    for (let from = 0; from < count; ) {
      const image = this.#find(data, words, from);
      let to = from + 1;
      for (; to < count; to++) {
        const next = this.#find(data, words, to);
        if (next !== (image === undefined ? undefined : image + to - from)) break;
      }
      const pages = { first: first + from, count: to - from };
      yield image === undefined ? { ...pages, data: data.subarray(from * pageBytes, to * pageBytes) } : { ...pages, data: null, image };
      from = to;
    }
  }

  #add(hash: number, page: number): void {
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

  /** @param index of the page in the bytes, which `words` are, too */
  #find(bytes: Buffer, words: Int32Array, index: number): number | undefined {
    // What lies side by side in a file mostly does so in memory.
    const next = this.#last + 1;
    if (next > 0 && this.#is(next, bytes, index)) return this.#found(next);
    const page = (this.#pageAt[this.#slot(hashOf(words, index))] ?? 0) - 1;
    return page >= 0 && page !== next && this.#is(page, bytes, index) ? this.#found(page) : this.#found(undefined);
  }

  #found(page: number | undefined): number | undefined {
    this.#last = page ?? -1;
    return page;
  }

  #is(page: number, bytes: Buffer, index: number): boolean {
    if (page >= this.pages || readSync(this.image.fd, this.#candidate, 0, pageBytes, page * pageBytes) !== pageBytes) return false;
    return this.#candidate.compare(bytes, index * pageBytes, (index + 1) * pageBytes) === 0;
  }
}

/** Each page is hashed by code that V8 is not let optimize: a typed array's words take a quarter of the time that readInt32LE() does. */
function wordsOf(bytes: Buffer): Int32Array {
  const { buffer, byteOffset } = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
  return new Int32Array(buffer, byteOffset, bytes.length >> 2);
}

function hashOf(words: Int32Array, page: number): number {
  let hash = 0;
  for (let i = 0; i < sampled.length; i++) {
    hash = Math.imul(hash ^ (words[page * pageWords + (sampled[i] ?? 0)] ?? 0), 0x9e3779b1);
    hash ^= hash >>> 15;
  }
  return hash;
}
