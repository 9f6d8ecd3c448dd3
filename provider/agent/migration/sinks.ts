import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { blockBytes, overlayLayout, virtualBytesIn } from "../vm/overlay";
import { Turns } from "../vm/weight";
import { Bits } from "./bits";
import { bringsOrChanges, decodeRuns } from "./runs";
import { StreamError } from "./stream";
import { decodeSums, sumOf } from "./sums";
import { putWords, type WordRun, wordRuns } from "./words";

export const pageBytes = 4096;
const zeros = Buffer.alloc(64 * pageBytes);
/** Pages on their way into a copy, from its image or as they were there. */
const portion = Buffer.alloc(64 * pageBytes);
const portionPages = portion.length / pageBytes;
/** Batches that a guest's process puts into place itself (docs/formats/vm-process.md, `go`), and where they lie: it takes less than 128 KiB. */
export const lastPages = "last.pages";
const mostKept = 64 << 10;

/** Writes pages of a guest into a target's memory file. Page 0, the header, is not its business. */
export class MemorySink {
  readonly #pages: number;
  readonly #written: Bits;
  #stale: Bits | undefined;
  /** Pages that come only when the guest runs. */
  readonly late: Bits;
  readonly #turns = new Turns();
  /** Where the guest's process looks for the last batches, if they are small. */
  #lastFd: number | undefined;
  /** Those that came last, not put into place yet. */
  #kept: Buffer[] = [];
  #keptBytes = 0;

  private constructor(
    private readonly file: FileHandle,
    private readonly image: { readonly file: FileHandle; readonly pages: number },
    memoryBytes: number,
    private readonly basis: FileHandle | undefined,
  ) {
    this.#pages = memoryBytes / pageBytes;
    this.#written = new Bits(this.#pages);
    this.late = new Bits(this.#pages);
  }

  /**
   * @param imagePath the base image, whose pages the source may name instead of sending them
   * @param basis the memory as an earlier visit left it; closed with this
   */
  static async open(path: string, imagePath: string, memoryBytes: number, basis?: FileHandle): Promise<MemorySink> {
    const image = await open(imagePath, "r");
    const pages = Math.floor((await image.stat()).size / pageBytes);
    return new MemorySink(await open(path, "r+"), { file: image, pages }, memoryBytes, basis);
  }

  get hasBasis(): boolean {
    return this.basis !== undefined;
  }

  /**
   * The source is about to freeze the guest: from here on batches are kept while they are small. They are left to the guest's process, which has the memory
   * mapped: to put 42 changed pages into place takes an agent a millisecond (V8 optimizes nothing there), and such a process next to nothing.
   */
  keepLast(runFolder: string): void {
    this.#lastFd ??= openSync(join(runFolder, lastPages), "w", 0o600);
  }

  /** A source that begins anew sends all it has; what it does not send again must become zero. */
  begin(): void {
    this.#takeKept();
    this.#stale = new Bits(this.#pages);
    this.#written.bytes.copy(this.#stale.bytes);
    this.late.clear();
  }

  /** Nothing is left over from an earlier stream, or named to come later. */
  get isWhole(): boolean {
    return this.#stale === undefined && this.late.count === 0;
  }

  /** Touches nothing of the memory. @returns whether the batch is kept; if not, it is to be applied */
  keep(payload: Buffer): boolean {
    if (!this.#mayKeep(payload)) return false;
    this.#kept.push(Buffer.from(payload));
    this.#keptBytes += payload.length;
    return true;
  }

  /** @throws StreamError */
  apply(payload: Buffer): void {
    this.putKept();
    this.#put(payload);
  }

  putKept(): void {
    for (const kept of this.#takeKept()) this.#put(kept);
  }

  #mayKeep(payload: Buffer): boolean {
    if (this.#lastFd === undefined || this.#keptBytes + payload.length > mostKept || this.#stale || this.late.count > 0) return false;
    return bringsOrChanges(payload, this.#pages, this.#written);
  }

  #takeKept(): Buffer[] {
    const kept = this.#kept;
    [this.#kept, this.#keptBytes] = [[], 0];
    return kept;
  }

  /** tmpfs: writing is copying, so it is done at once. */
  #put(payload: Buffer): void {
    for (const { first, count, data, isWords, isLate, image } of decodeRuns(payload, pageBytes, this.#pages, this.image.pages)) {
      if (first === 0) throw new StreamError("page 0 does not travel as memory");
      if (data && isWords) this.#change(first, count, data);
      else if (data) writeAll(this.file.fd, data, first * pageBytes);
      else if (image !== undefined) this.#copy(image, first, count);
      const zero = !data && image === undefined && !isLate;
      for (let page = first; page < first + count; page++) {
        this.late.set(page, isLate === true);
        // What the file has there counts for nothing.
        if (isLate) this.#stale?.set(page, false);
        if (isLate) continue;
        if (zero && this.#written.has(page)) writeAll(this.file.fd, zeros.subarray(0, pageBytes), page * pageBytes);
        this.#written.set(page, !zero);
        this.#stale?.set(page, false);
      }
      if (!zero) this.#turns.worked(count * pageBytes);
    }
  }

  /** Takes from the basis what is the same there. @returns which of the pages that is @throws StreamError */
  takeHeld(payload: Buffer): Buffer {
    this.putKept();
    const asked = decodeSums(payload, this.#pages, 1);
    const held = new Bits(asked.length);
    const page = portion.subarray(0, pageBytes);
    for (const [i, { unit, sum }] of asked.entries()) {
      if (!this.basis || readSync(this.basis.fd, page, 0, pageBytes, unit * pageBytes) !== pageBytes || !sumOf(page).equals(sum)) continue;
      writeAll(this.file.fd, page, unit * pageBytes);
      held.set(i, true);
      this.#written.set(unit, true);
      this.#stale?.set(unit, false);
      this.late.set(unit, false);
    }
    return held.bytes;
  }

  /**
   * All pages are here: what an earlier stream left over goes, then the header is written.
   * @returns whether the last batches lie where the guest's process looks for them
   */
  finish(page0: Buffer): boolean {
    for (let page = 1; this.#stale && page < this.#pages; page++) {
      if (this.#stale.has(page)) writeAll(this.file.fd, zeros.subarray(0, pageBytes), page * pageBytes);
    }
    writeAll(this.file.fd, page0, 0);
    if (this.#kept.length === 0 || this.#lastFd === undefined) return false;
    writeAll(this.#lastFd, Buffer.concat(this.#kept), 0);
    return true;
  }

  async close(): Promise<void> {
    if (this.#lastFd !== undefined) closeSync(this.#lastFd);
    this.#lastFd = undefined;
    await this.file.close();
    await this.image.file.close();
    await this.basis?.close();
  }

  /** @param words of pages that this stream has brought */
  #change(first: number, count: number, words: Buffer): void {
    let at = 0;
    for (let page = first; page < first + count; page++)
      if (!this.#written.has(page) || this.#stale?.has(page)) throw new StreamError(`a change of page ${page}, which is not here`);
    for (let done = 0; done < count; done += portionPages) {
      const pages = Math.min(portionPages, count - done);
      const { runs, end } = wordRuns(words, at, pages);
      this.#putWords(words, runs, (first + done) * pageBytes, pages);
      at = end;
    }
  }

  /** Where there are few, the words by themselves: to read and to write all of it is two calls. */
  #putWords(words: Buffer, runs: readonly WordRun[], at: number, pages: number): void {
    if (runs.length <= 2) {
      for (const { to, from, bytes } of runs) writeAll(this.file.fd, words.subarray(from, from + bytes), at + to);
      return;
    }
    const part = portion.subarray(0, pages * pageBytes);
    readAll(this.file.fd, part, at);
    putWords(part, words, runs);
    writeAll(this.file.fd, part, at);
  }

  #copy(from: number, to: number, count: number): void {
    for (let done = 0; done < count; done += portionPages) {
      const part = portion.subarray(0, Math.min(portionPages, count - done) * pageBytes);
      readAll(this.image.file.fd, part, (from + done) * pageBytes);
      writeAll(this.file.fd, part, (to + done) * pageBytes);
    }
  }
}

/** Writes blocks into a target's overlay; every block that ever came is allocated. */
export class DiskSink {
  readonly #allocated: Bits;
  /** How many the overlay's own bitmap names. Blocks are only added. */
  #inBitmap = 0;
  readonly #layout: ReturnType<typeof overlayLayout>;

  private constructor(
    private readonly file: FileHandle,
    virtualBytes: number,
    private readonly basis: FileHandle | undefined,
  ) {
    this.#layout = overlayLayout(virtualBytes);
    this.#allocated = new Bits(this.#layout.blocks);
  }

  /** @param basis the overlay as an earlier visit left it; closed with this, or now where its size is another */
  static async open(path: string, virtualBytes: number, basis?: FileHandle): Promise<DiskSink> {
    if (basis && (await virtualBytesIn(basis)) !== virtualBytes) {
      await basis.close();
      return new DiskSink(await open(path, "r+"), virtualBytes, undefined);
    }
    return new DiskSink(await open(path, "r+"), virtualBytes, basis);
  }

  get hasBasis(): boolean {
    return this.basis !== undefined;
  }

  get blocks(): number {
    return this.#allocated.count;
  }

  /** @throws StreamError, or ENOSPC of the file system */
  async apply(payload: Buffer): Promise<void> {
    for (const { first, count, data } of decodeRuns(payload, blockBytes, this.#layout.blocks)) {
      if (!data) throw new StreamError("a disk block without bytes");
      await this.file.write(data, 0, data.length, this.#layout.dataOffset + first * blockBytes);
      for (let block = first; block < first + count; block++) this.#allocated.set(block, true);
    }
  }

  /** Takes from the basis what is the same there. @returns which of the blocks that is @throws StreamError, or ENOSPC of the file system */
  async takeHeld(payload: Buffer): Promise<Buffer> {
    const asked = decodeSums(payload, this.#layout.blocks, 0);
    const held = new Bits(asked.length);
    const block = Buffer.alloc(blockBytes);
    for (const [i, { unit, sum }] of asked.entries()) {
      const at = this.#layout.dataOffset + unit * blockBytes;
      const read = await this.basis?.read(block, 0, blockBytes, at);
      if (read?.bytesRead !== blockBytes || !sumOf(block).equals(sum)) continue;
      await this.file.write(block, 0, blockBytes, at);
      held.set(i, true);
      this.#allocated.set(unit, true);
    }
    return held.bytes;
  }

  /**
   * Writes the bitmap where it has changed since: before the freeze, so that after it there is seldom anything left to write. Not yet synced: a crash before
   * SETTLED ends in GONE anyway. At once, for the guest is frozen.
   */
  finish(): void {
    if (this.#inBitmap === this.blocks) return;
    const bitmap = Buffer.alloc(this.#layout.bitmapBytes);
    this.#allocated.bytes.copy(bitmap);
    writeAll(this.file.fd, bitmap, pageBytes);
    this.#inBitmap = this.blocks;
  }

  /** Durable when it resolves. */
  async sync(): Promise<void> {
    await this.file.sync();
  }

  async close(): Promise<void> {
    await this.file.close();
    await this.basis?.close();
  }
}

/** Of what an earlier visit has left something. */
export function basisOf(memory: MemorySink | undefined, disk: DiskSink | undefined): { memory: boolean; disk: boolean } {
  return { memory: memory?.hasBasis === true, disk: disk?.hasBasis === true };
}

/** @throws StreamError where the file ends before */
function readAll(fd: number, bytes: Buffer, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    const read = readSync(fd, bytes, done, bytes.length - done, position + done);
    if (read === 0) throw new StreamError("a file ended within a page");
    done += read;
  }
}

export function writeAll(fd: number, bytes: Buffer, position: number): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

/** The header as a target's copy has it: in `part`, with its own epoch. */
export function prepareHeader(page0: Buffer, m: string, epoch: number): Buffer {
  if (page0.length !== pageBytes || page0.toString("latin1", 0, 8) !== "MOBIMEM1") throw new StreamError("page 0 is no header");
  const header = Buffer.from(page0);
  header.writeUInt32LE(0, 8);
  header.writeBigUInt64LE(BigInt(epoch), 24);
  header.fill(0, 32, 96);
  header.write(m, 32, 64, "latin1");
  return header;
}
