import { setTimeout as sleep } from "node:timers/promises";
import type { MoveProgress } from "../../protocol/methods";
import type { LastMigration } from "../../schemas/vm";
import type { Vm } from "../vm/vm";
import type { Convergence } from "./convergence";
import { CopyOut } from "./copy";
import { askWay } from "./direct";
import { isHoldAt } from "./holds";
import { measurableBytes, type Verdict } from "./rounds";
import type { ScanKind } from "./scan";
import type { Sender } from "./sender";
import { Standstill } from "./standstill";

/** Sent but not applied when a round counts as done, and when the deciding word may change: one round trip's worth on a slow link. */
export const lateBytes = 128 << 10;
/**
 * Pages that are marked as changed, of which most have not, or by a few words: less than `lateBytes` in nearly all cases. With no more than that, the guest's
 * process changes the deciding word as it freezes: nobody need be asked, and nothing waited for.
 */
const fewPages = 256;
const fewBlocks = 1;
/** So long does a pass take at least that says how fast the guest writes, or is changed by that. */
const sampleMs = 1000;
/** In a first pass that waits for its link, so often is marked what has changed meanwhile. */
const markEveryMs = 250;
/** Sent but not applied: then it is the link that is waited for. */
const behindBytes = 1 << 20;
/** The answer to a freeze is waited for much longer: what is undone then must not be decided later. */
const decidesWithinMs = 1000;

interface Watching {
  /** After each frame. */
  sent(): void;
  /** After each round. */
  round(change: Partial<MoveProgress>): void;
  /** The next that comes is the freeze. */
  enough(): void;
}

/** A source's copy on its way: rounds while the guest runs, and what is left when it stands. */
export class Outgoing {
  readonly standstill = new Standstill();
  readonly #begunMs = performance.now();
  #copy: CopyOut | undefined;
  /** Of the guest as it was before anything slowed it down. */
  #pagesPerMs: number | undefined;
  /** The last pages may go directly. */
  #hasWay = false;
  /** The pass over what changed last, begun at the freeze. */
  #last: Promise<{ scanMs: number }> | undefined;

  constructor(
    private readonly vm: Vm,
    private readonly m: string,
    private readonly sender: Sender,
    private readonly convergence: Convergence,
    private readonly signal: AbortSignal,
    private readonly watching: Watching,
  ) {}

  /** @param isRunning false: the guest stands, and nothing of it is tracked. */
  async open(isRunning: boolean): Promise<CopyOut> {
    this.#copy = await CopyOut.open(this.vm, this.sender, isRunning);
    return this.#copy;
  }

  get copy(): CopyOut {
    if (!this.#copy) throw new Error("nothing to copy from");
    return this.#copy;
  }

  get isOpen(): boolean {
    return this.#copy !== undefined;
  }

  async close(): Promise<void> {
    await this.#copy?.close();
  }

  /** Pre-copy rounds until there is one more to make with the guest frozen. @param then what comes where there is none */
  async rounds(first: "full" | "scan", then?: "freeze"): Promise<Verdict> {
    let verdict = await this.#round(first, then);
    while (verdict.next === "round") verdict = await this.#round("scan", then);
    return verdict;
  }

  async pass(how: ScanKind): Promise<{ scanMs: number }> {
    return await this.copy.once(how, () => this.watching.sent());
  }

  /** Before the last pass. @param address of the target */
  async leadOn(address: string): Promise<void> {
    // Where a test wants to hold it after the release, the guest is not to run elsewhere by then.
    const way = this.copy.mayBeDirect && !isHoldAt(this.vm.context, "released") ? await askWay(this.sender, address) : undefined;
    if (way) this.copy.leadOn(way);
    this.#hasWay = way !== undefined;
  }

  /**
   * Begins the last pass: the scanner waits by itself until the guest stands.
   * @param late what may travel late is only named
   * @returns on what the freeze may change the deciding word at once
   */
  beginLast(late: boolean): { releasePages?: number; releaseByNs?: string } {
    const may = this.copy.pendingBlocks <= fewBlocks && !isHoldAt(this.vm.context, "release");
    this.standstill.begin();
    const isDirect = may && !late && this.#hasWay;
    this.#last = this.pass(late ? "scan frozen late" : isDirect ? "scan frozen direct" : "scan frozen");
    this.#last.catch(() => undefined);
    return may ? { releasePages: fewPages, releaseByNs: `${process.hrtime.bigint() + BigInt(decidesWithinMs * 1e6)}` } : {};
  }

  /** The guest stands, and the word has not changed. Resolves when it may: nearly all is there. */
  async frozen(): Promise<void> {
    this.standstill.mark("frozen");
    await this.lastRead();
    await this.sender.drained(lateBytes);
    this.standstill.mark("almost all of it there");
  }

  async lastRead(): Promise<void> {
    const last = await this.#last;
    if (last) this.sender.bytesOnWire += this.copy.sentDirectly;
    if (last) this.standstill.mark(`last pages and blocks read, ${last.scanMs.toFixed(1)} of it comparing`);
    this.#last = undefined;
  }

  /** How it went, as the VM's record keeps it. */
  result(to: string, result: LastMigration["result"], error?: string): LastMigration {
    return {
      attempt: this.m,
      from: this.vm.context.hostName,
      to,
      result,
      bytes: this.sender.bytesOnWire,
      seconds: (performance.now() - this.#begunMs) / 1000,
      rounds: this.convergence.rounds.length,
      downtimeMs: this.standstill.totalMs,
      ...(error !== undefined && { error }),
    };
  }

  /**
   * A first pass that waits for its link leaves to the next one what it finds marked, since that would be sent again. And how many pages are marked after a
   * second says how fast the guest writes while it runs freely: of one that writes the same pages again and again, only here.
   */
  #markMeanwhile(): Disposable {
    const begunMs = performance.now();
    const over = new AbortController();
    const mark = async (): Promise<void> => {
      for (;;) {
        await sleep(markEveryMs, undefined, { signal: over.signal });
        const isSample = this.#pagesPerMs === undefined && performance.now() - begunMs >= sampleMs;
        if (!isSample && this.sender.unackedBytes < behindBytes) continue;
        const pages = await this.copy.markChanged();
        if (pages === undefined) return;
        if (isSample) this.#pagesPerMs = pages / (performance.now() - begunMs);
      }
    };
    mark().catch((error: unknown) => {
      if (!over.signal.aborted) this.vm.context.log.info({ vm: this.vm.uuid, err: error }, "nothing more is marked within the first pass");
    });
    return { [Symbol.dispose]: () => over.abort() };
  }

  /** In a later pass, as soon as it shows what a changed page takes on the link. @param before what had been packed when it began */
  #look(beganMs: number, before: Sender["packed"]): void {
    const { packed } = this.sender;
    const [from, to] = [packed.from - before.from, packed.to - before.to];
    if (this.#pagesPerMs === undefined || to < measurableBytes || performance.now() - beganMs < sampleMs) return;
    // Not all that was read has been packed.
    const dirtyRate = (this.#pagesPerMs * (this.copy.payloadBytes / Math.max(1, this.copy.pages)) * to) / from;
    const share = this.convergence.during(dirtyRate);
    if (share === undefined) return;
    this.watching.round({ guestShare: share });
    this.vm.context.log.info({ vm: this.vm.uuid, attempt: this.m, dirtyRate, share }, "throttled within a round");
  }

  /** One round, to the point where the target has nearly all of it, and what it says about the next. */
  async #round(how: "full" | "scan", then?: "freeze"): Promise<Verdict> {
    const begun = performance.now();
    const bytesBefore = this.sender.bytesOnWire;
    const packedBefore = { ...this.sender.packed };
    using _first = how === "full" ? this.#markMeanwhile() : undefined;
    const { scanMs } = await this.copy.once(how, () => {
      this.watching.sent();
      if (how === "scan") this.#look(begun, packedBefore);
    });
    await this.sender.drained(lateBytes);
    this.signal.throwIfAborted();
    const round = { bytes: this.sender.bytesOnWire - bytesBefore, ms: performance.now() - begun, scanMs };
    const verdict = this.convergence.after(round);
    if (then && verdict.next !== "round") {
      this.copy.standUp();
      this.watching.enough();
    }
    this.watching.round({ round: this.convergence.rounds.length, ...(verdict.course.share < 1 && { guestShare: verdict.course.share }) });
    this.vm.context.log.info({ vm: this.vm.uuid, attempt: this.m, ...round, ...verdict }, "a pre-copy round ended");
    return verdict;
  }
}
