import { type FileHandle, open } from "node:fs/promises";
import { type Deferred, deferred } from "../../lib/time";
import { Bits } from "./bits";
import { decodePages, decodeRanges } from "./lacks";
import { RunBatch } from "./runs";
import type { Sender } from "./sender";
import { pageBytes } from "./sinks";
import { frameType } from "./stream";

/** Read and sent in one go: so long does a page that is asked for wait behind what goes by itself. */
const pieceBytes = 64 << 10;
const piecePages = pieceBytes / pageBytes;
/** What goes by itself and is on its way: as much as the link carries without a queue of its own. */
const leastAheadBytes = 64 << 10;
const mostAheadBytes = 4 << 20;
/** Acknowledgements this much later than the fastest: there is no queue; there is one. */
const noQueueMs = 10;
const queueMs = 40;

const zeroPage = Buffer.alloc(pageBytes);

interface Served {
  /** After each piece: how many are left. */
  sent(left: number): void;
  /** The stream ended, or the copy cannot be read. */
  failed(error: Error): void;
}

/**
 * Serves the pages that a guest lacks which runs at its target already, from its copy here, that stands: what it asks for first, then what lies behind that,
 * then the rest. What it lacks is the target's to say.
 */
export class LatePages implements AsyncDisposable {
  readonly #left: Bits;
  readonly #asked = new Set<number>();
  #from = 0;
  #aheadBytes = leastAheadBytes;
  #tripsSeen = 0;
  #changed: Deferred<void> = deferred();
  #over = false;

  private constructor(
    private readonly memory: FileHandle,
    pages: number,
    private readonly sender: Sender,
    private readonly to: Served,
  ) {
    this.#left = new Bits(pages);
  }

  /** Serves from now on, until it is closed. */
  static async open(path: string, sender: Sender, to: Served): Promise<LatePages> {
    const memory = await open(path, "r");
    const pages = new LatePages(memory, (await memory.stat()).size / pageBytes, sender, to);
    pages.#run().catch((error: unknown) => {
      if (!pages.#over) to.failed(error instanceof Error ? error : new Error(String(error)));
    });
    return pages;
  }

  /** All that is lacking now. @throws StreamError */
  lacks(payload: Buffer): void {
    this.#left.clear();
    for (const { first, count } of decodeRanges(payload, this.#left.size))
      for (let page = first; page < first + count; page++) this.#left.set(page, true);
    this.#tick();
  }

  /** The guest stands until these are there. @throws StreamError */
  wants(payload: Buffer): void {
    for (const page of decodePages(payload, this.#left.size)) this.#asked.add(page);
    this.#tick();
  }

  async #run(): Promise<void> {
    while (!this.#over) {
      const changed = this.#changed.promise;
      if (this.#asked.size > 0) await this.#send(this.#wanted(), "soon");
      else if (this.#left.count === 0) await changed;
      else if (this.sender.unackedBytes > this.#aheadBytes) await Promise.race([changed, this.sender.drained(this.#aheadBytes)]);
      else {
        this.#pace();
        await this.#send(this.#piece(), "small");
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    this.#tick();
    await this.memory.close();
  }

  /** More ahead while nothing queues, less when it does. */
  #pace(): void {
    // One acknowledgement says one thing.
    const { trips, lastTripMs, nearestMs } = this.sender;
    if (trips === this.#tripsSeen) return;
    this.#tripsSeen = trips;
    const lateMs = lastTripMs - nearestMs;
    if (lateMs < noQueueMs) this.#aheadBytes = Math.min(this.#aheadBytes + pieceBytes, mostAheadBytes);
    else if (lateMs > queueMs) this.#aheadBytes = Math.max(this.#aheadBytes / 2, leastAheadBytes);
  }

  #wanted(): number[] {
    const pages = [...this.#asked].slice(0, piecePages);
    for (const page of pages) this.#asked.delete(page);
    return pages;
  }

  #piece(): number[] {
    const pages: number[] = [];
    let page = this.#left.next(this.#from) ?? this.#left.next(0);
    for (; page !== undefined && pages.length < piecePages; page = this.#left.next(page + 1)) pages.push(page);
    this.#from = page ?? 0;
    return pages;
  }

  async #send(pages: readonly number[], how: "small" | "soon"): Promise<void> {
    const batch = new RunBatch(pageBytes);
    for (const page of pages) {
      // What was asked for comes again though it is on its way: it may wait behind much.
      const data = Buffer.allocUnsafe(pageBytes);
      await this.memory.read(data, 0, pageBytes, page * pageBytes);
      batch.add({ first: page, count: 1, data: data.equals(zeroPage) ? null : data });
      this.#left.set(page, false);
      if (how === "soon") this.#from = page + 1;
    }
    if (batch.isEmpty) return;
    await this.sender.send(frameType.late, batch.take(), how);
    this.to.sent(this.#left.count);
  }

  #tick(): void {
    const { resolve } = this.#changed;
    this.#changed = deferred();
    resolve();
  }
}
