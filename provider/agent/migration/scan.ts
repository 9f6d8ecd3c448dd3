import { type ChildProcess, spawn } from "node:child_process";
import { readSync, writeSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import type { Readable, Writable } from "node:stream";
import { release } from "../../lib/release";
import { AgentFault } from "../errors";
import { socketName } from "../link/wire";
import { blockBytes, overlayLayout } from "../vm/overlay";
import type { DirectWay } from "./direct";
import type { Run } from "./runs";
import { pageBytes } from "./sinks";

/**
 * All that is present (the first time, but for what is marked); what changed since; the same as soon as the guest stands, and its page 0; of that, what may
 * travel late only by its numbers; or all of it sent on directly, too, before it is told.
 */
export type ScanKind = "full" | "scan" | "scan frozen" | "scan frozen late" | "scan frozen direct";

const recordBytes = 16;
const maxPagesAtOnce = 64;

/** What a scan of the memory came to. */
export interface ScanEnd {
  readonly pages: number;
  /** Time that looking for them took. */
  readonly scanMs: number;
}

/** Bytes of a stream in the portions that one asks for, each copied once; the stream waits while much is unread. */
class ByteReader {
  readonly #parts: Buffer[] = [];
  #bytes = 0;
  #ended: Error | undefined;
  #wake: () => void = () => undefined;

  constructor(private readonly from: Readable) {
    from.on("data", (chunk: Buffer) => {
      this.#parts.push(chunk);
      this.#bytes += chunk.length;
      if (this.#bytes > 4 << 20) from.pause();
      this.#wake();
    });
  }

  /** There will be no more than what came. */
  end(error: Error): void {
    this.#ended = error;
    this.#wake();
  }

  /** So many bytes, where they have come. */
  take(bytes: number): Buffer | undefined {
    if (this.#bytes < bytes) return undefined;
    const taken = Buffer.allocUnsafe(bytes);
    for (let at = 0; at < bytes; ) at += this.#copyTo(taken.subarray(at));
    this.#bytes -= bytes;
    return taken;
  }

  /** Resolves when more has come. @throws what ended the stream */
  async more(): Promise<void> {
    if (this.#ended) throw this.#ended;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (this.from.isPaused()) this.from.resume();
    });
  }

  /** Of the first part what it has and `to` takes. @returns how many bytes that were */
  #copyTo(to: Buffer): number {
    const [first] = this.#parts;
    if (!first) throw new Error("bytes were counted that are not there");
    const bytes = first.copy(to);
    if (bytes < first.length) this.#parts[0] = first.subarray(bytes);
    else {
      this.#parts.shift();
      release(first.buffer);
    }
    return bytes;
  }
}

/** The scanner's word on some pages, whose bytes may still be on their way. */
interface Record {
  readonly kind: number;
  readonly first: number;
  readonly pages: number;
  /** Of words, as soon as that has come. */
  bytes?: number;
}

/** `linux tool track`: tells which pages changed since it was last asked. */
export class MemoryScanner {
  readonly #child: ChildProcess;
  readonly #out: ByteReader;
  readonly #in: Writable;
  /** Begun, and not all of it here. */
  #record: Record | undefined;
  #isAsked = false;
  /** Of the last pages, what the scanner has sent directly. */
  sentDirectly = 0;

  /** @param map of a tracking session, whose pages alone are then looked at; a full scan looks at all */
  constructor(kernel: string, memory: string, map?: string) {
    this.#child = spawn(kernel, ["tool", "track", memory, ...(map === undefined ? [] : [map])], {
      stdio: ["pipe", "pipe", "pipe"],
      env: {},
    });
    const { stdin, stdout, stderr } = this.#child;
    if (!stdin || !stdout) throw new Error("the scanner has no pipes");
    this.#in = stdin;
    this.#out = new ByteReader(stdout);
    let said = "";
    stdin.on("error", () => undefined);
    stderr?.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-1000);
    });
    this.#child.once("error", (error) => this.#out.end(error));
    this.#child.once("close", (code, signal) =>
      this.#out.end(new AgentFault("failed", "look for changed pages", `the scanner ended with ${code ?? signal}: ${said.trim()}`)),
    );
  }

  /** Where the last pages may go directly, unless a block has changed since the disk's epoch. */
  leadOn({ address, port, key }: DirectWay, epoch: number, diskMap: string): void {
    this.#in.write(`direct ${socketName(address, port)},${key},${epoch},${diskMap}\n`);
  }

  /**
   * Asks; `frozen` waits until the guest is, and includes page 0; `late` only names pages that may travel late. Gives the runs in the portions in which they
   * come; they must be read to the end before the next question.
   */
  async *scan(how: ScanKind): AsyncGenerator<readonly Run[], ScanEnd> {
    this.#in.write(`${how}\n`);
    this.#isAsked = true;
    for (;;) {
      const runs: Run[] = [];
      let next = this.#next();
      for (; next && !("scanMs" in next); next = this.#next()) runs.push(next);
      if (runs.length > 0) yield runs;
      if (next) {
        this.#isAsked = false;
        return next;
      }
      // Who takes runs may take long, and more may have come meanwhile.
      if (runs.length === 0) await this.#out.more();
    }
  }

  /** The next run or the end, where all of it has come. */
  #next(): Run | ScanEnd | undefined {
    this.#record ??= this.#nextRecord();
    if (!this.#record) return undefined;
    const { kind, first, pages } = this.#record;
    if (kind === 1) return this.#nextPages(first, pages);
    if (kind === 3) return this.#nextWords(this.#record);
    this.#record = undefined;
    if (kind === 0) return { pages, scanMs: first / 1e6 };
    if (kind === 2) return { first, count: pages, data: null };
    if (kind === 4) return { first, count: pages, data: null, isLate: true };
    if (kind === 5) {
      this.sentDirectly = first;
      return this.#next();
    }
    throw new AgentFault("failed", "look for changed pages", `the scanner sent a record of kind ${kind}`);
  }

  #nextRecord(): Record | undefined {
    const bytes = this.#out.take(recordBytes);
    return bytes && { kind: bytes.readUInt32LE(0), pages: bytes.readUInt32LE(4), first: bytes.readUIntLE(8, 6) };
  }

  #nextPages(first: number, pages: number): Run | undefined {
    const count = Math.min(maxPagesAtOnce, pages);
    const data = this.#out.take(count * pageBytes);
    if (!data) return undefined;
    this.#record = pages > count ? { kind: 1, first: first + count, pages: pages - count } : undefined;
    return { first, count, data };
  }

  #nextWords(record: Record): Run | undefined {
    record.bytes ??= this.#out.take(8)?.readUIntLE(0, 6);
    const data = record.bytes === undefined ? undefined : this.#out.take(record.bytes);
    if (!data) return undefined;
    this.#record = undefined;
    return { first: record.first, count: record.pages, data, isWords: true };
  }

  /** One that was asked for nothing frees its memory bit by bit, which a guest beside it does not notice. */
  end(): void {
    if (this.#isAsked) this.#child.kill("SIGKILL");
    else this.#in.end();
  }
}

const mapHeaderBytes = 24;

/** Tells which blocks of a running VM's overlay changed, by the epochs in `disk.map`. */
export class DiskScanner {
  #from = 1;
  /** How many blocks the overlay held when it was looked at last. */
  allocated = 0;
  /** The map's stamps as they were then, the newest of them, and room to look again. */
  #seen: Buffer;
  #newest = 0;
  #now: Buffer;

  private constructor(
    private readonly map: FileHandle,
    private readonly overlay: FileHandle,
    private readonly layout: ReturnType<typeof overlayLayout>,
  ) {
    this.#seen = Buffer.from(new ArrayBuffer(4 * layout.blocks));
    this.#now = Buffer.from(new ArrayBuffer(4 * layout.blocks));
  }

  static async open(mapPath: string, overlayPath: string, virtualBytes: number): Promise<DiskScanner> {
    const map = await open(mapPath, "r+");
    const layout = overlayLayout(virtualBytes);
    const { buffer } = await map.read(Buffer.alloc(mapHeaderBytes), 0, mapHeaderBytes, 0);
    if (buffer.toString("latin1", 0, 8) !== "MOBIMAP1" || Number(buffer.readBigUInt64LE(16)) !== layout.blocks) {
      await map.close();
      throw new AgentFault("failed", "read the disk's map", `${mapPath} is not the map of a disk of ${layout.blocks} blocks`);
    }
    const scanner = new DiskScanner(map, await open(overlayPath, "r"), layout);
    scanner.#stampedFrom(1);
    return scanner;
  }

  /**
   * Blocks written since the last question (the first time: all that the overlay holds). Raises the epoch first; the kernel stamps a block after it was
   * written, with the epoch of then, so a write that is under way now is seen the next time.
   */
  changed(): number[] {
    const word = Buffer.alloc(8);
    readSync(this.map.fd, word, 0, 8, 8);
    const epoch = Number(word.readBigUInt64LE(0));
    word.writeBigUInt64LE(BigInt(epoch + 1));
    writeSync(this.map.fd, word, 0, 8, 8);
    const blocks = this.#stampedFrom(this.#from);
    this.#from = epoch + 1;
    return blocks;
  }

  /** What is written from here on has this epoch or a later one. */
  get epoch(): number {
    return this.#from;
  }

  /** How many blocks were written since the last question; asks none. */
  get pending(): number {
    return this.#stampedFrom(this.#from).length;
  }

  async *read(blocks: readonly number[]): AsyncGenerator<Run> {
    for (const block of blocks) {
      const data = Buffer.alloc(blockBytes);
      await this.overlay.read(data, 0, blockBytes, this.layout.dataOffset + block * blockBytes);
      yield { first: block, count: 1, data };
    }
  }

  async close(): Promise<void> {
    await this.map.close();
    await this.overlay.close();
  }

  /** The map lies on a tmpfs: reading is copying, so it is done at once. A guest may stand for this: what has not changed is not looked at again. */
  #stampedFrom(epoch: number): number[] {
    readSync(this.map.fd, this.#now, 0, this.#now.length, mapHeaderBytes);
    if (!this.#now.equals(this.#seen)) {
      [this.#now, this.#seen] = [this.#seen, this.#now];
      const stamps = this.#stamps();
      this.allocated = stamps.filter((stamp) => stamp > 0).length;
      this.#newest = stamps.reduce((newest, stamp) => Math.max(newest, stamp), 0);
    }
    if (this.#newest < epoch) return [];
    const blocks: number[] = [];
    for (const [block, stamp] of this.#stamps().entries()) if (stamp >= epoch) blocks.push(block);
    return blocks;
  }

  #stamps(): Uint32Array {
    return new Uint32Array(this.#seen.buffer, this.#seen.byteOffset, this.layout.blocks);
  }
}
