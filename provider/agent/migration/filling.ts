import { readFileSync, writeFileSync, writeSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { createConnection, type Socket } from "node:net";
import { join } from "node:path";
import type { VmPaths } from "../vm/paths";
import { Bits } from "./bits";
import { encodePages, encodeRanges } from "./lacks";
import { decodeRuns } from "./runs";
import { pageBytes, writeAll } from "./sinks";
import { frameType, StreamError } from "./stream";

/** Name of the map in the run folder (docs/formats/vm-process.md, "A guest that goes on while pages are missing"). */
export const missingMap = "missing.map";
const magic = "MOBIMISS";
const bitsAt = 4096;
const askBytes = 8;
const againMs = 200;
const zeroPage = Buffer.alloc(pageBytes);

/** The source, if it is there, and the job. */
interface Asking {
  ask(type: typeof frameType.lacks | typeof frameType.wants, payload: Buffer): void;
  /** On each connection, for the source may not know yet. */
  started(missing: number): void;
  /** Nothing is missing any more: called once. */
  filled(): Promise<void>;
}

/** Writes the map that `go` is given: before it, and at once, for the guest stands. */
export function writeMissing(paths: VmPaths, missing: Bits): void {
  const head = Buffer.alloc(bitsAt);
  head.write(magic, "latin1");
  head.writeBigUInt64LE(BigInt(missing.size), 8);
  writeFileSync(join(paths.run, missingMap), Buffer.concat([head, missing.bytes]), { mode: 0o600 });
}

/**
 * Puts the pages into the memory of a guest that runs already. Each goes in once, whole, before its bit is cleared; from then on it is the guest's. The map
 * outlives this agent: one that comes later goes on with what it says.
 */
export class Filling implements AsyncDisposable {
  #socket: Socket | undefined;
  #rest = Buffer.alloc(0);
  /** Pages that the process waits for, and how many times it asked. */
  readonly #asked = new Map<number, number>();
  /** Pages of the last list that have not come. */
  #toldLeft = 0;
  #isOver = false;

  private constructor(
    private readonly missing: Bits,
    private readonly map: FileHandle,
    private readonly memory: FileHandle,
    private readonly to: Asking,
  ) {}

  static async open(paths: VmPaths, to: Asking): Promise<Filling> {
    const path = join(paths.run, missingMap);
    const bytes = readFileSync(path);
    const pages = Number(bytes.readBigUInt64LE(8));
    await using undo = new AsyncDisposableStack();
    const map = undo.use(await open(path, "r+"));
    const memory = undo.use(await open(paths.memory, "r+"));
    const filling = new Filling(new Bits(pages, bytes.subarray(bitsAt)), map, memory, to);
    undo.move();
    filling.#connect(join(paths.run, "pages.sock"));
    return filling;
  }

  /** Pages that are missing. */
  get left(): number {
    return this.missing.count;
  }

  /** All may have come before an earlier agent ended. */
  async begin(): Promise<void> {
    this.askAll();
    await this.#ifFilled();
  }

  /** On each new connection: a source that comes again need know nothing. */
  askAll(): void {
    if (this.#isOver) return;
    this.to.started(this.left);
    this.#tellLacks();
    if (this.#asked.size > 0) this.to.ask(frameType.wants, encodePages([...this.#asked.keys()]));
  }

  /** A LATE frame: what is not missing any more is passed over. @throws StreamError */
  async take(payload: Buffer): Promise<void> {
    if (this.#isOver) return;
    for (const { first, count, data, isWords, isLate } of decodeRuns(payload, pageBytes, this.missing.size)) {
      if (isWords || isLate) throw new StreamError("late pages come whole");
      for (let page = first; page < first + count; page++) {
        if (!this.missing.has(page)) continue;
        const at = (page - first) * pageBytes;
        writeAll(this.memory.fd, data ? data.subarray(at, at + pageBytes) : zeroPage, page * pageBytes);
        this.missing.set(page, false);
        this.#toldLeft -= 1;
        writeSync(this.map.fd, this.missing.bytes, page >> 3, 1, bitsAt + (page >> 3));
        this.#answer(page);
      }
    }
    // All of the last list have come, and there are more.
    if (this.#toldLeft <= 0 && this.left > 0) this.#tellLacks();
    await this.#ifFilled();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    this.#socket?.destroy();
    await this.map.close();
    await this.memory.close();
  }

  async #ifFilled(): Promise<void> {
    if (this.left > 0 || this.#isOver) return;
    this.#isOver = true;
    await this.to.filled();
  }

  #tellLacks(): void {
    const { payload, pages } = encodeRanges(this.missing.runs());
    this.#toldLeft = pages;
    this.to.ask(frameType.lacks, payload);
  }

  #connect(path: string): void {
    const socket = createConnection(path);
    this.#socket = socket;
    // One that has ended is seen by other means.
    socket.on("error", () => undefined);
    socket.once("close", () => {
      this.#rest = Buffer.alloc(0);
      if (!this.#isOver) setTimeout(() => this.#isOver || this.#connect(path), againMs).unref();
    });
    socket.on("data", (chunk: Buffer) => {
      this.#rest = Buffer.concat([this.#rest, chunk]);
      const wanted: number[] = [];
      for (; this.#rest.length >= askBytes; this.#rest = this.#rest.subarray(askBytes)) {
        const page = Number(this.#rest.readBigUInt64LE());
        // No process of ours asks for that.
        if (page === 0 || page >= this.missing.size) return void socket.destroy();
        this.#asked.set(page, (this.#asked.get(page) ?? 0) + 1);
        if (this.missing.has(page)) wanted.push(page);
        else this.#answer(page);
      }
      if (wanted.length > 0) this.to.ask(frameType.wants, encodePages(wanted));
    });
  }

  /** Each question wants a byte. */
  #answer(page: number): void {
    const times = this.#asked.get(page);
    if (times === undefined) return;
    this.#asked.delete(page);
    this.#socket?.write(Buffer.alloc(times));
  }
}
