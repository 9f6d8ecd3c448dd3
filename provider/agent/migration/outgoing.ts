import type { MoveProgress } from "../../protocol/methods";
import type { Vm } from "../vm/vm";
import type { Convergence } from "./convergence";
import { CopyOut, type ScanKind } from "./copy";
import type { Verdict } from "./rounds";
import type { Sender } from "./sender";
import { Standstill } from "./standstill";

/** Sent but not applied when a round counts as done, and when the deciding word may change: one round trip's worth on a slow link. */
export const lateBytes = 128 << 10;
/** Pages that are marked as changed, of which most have not, or by a few words: less than `lateBytes` in nearly all cases. */
const fewPages = 256;
const fewBlocks = 1;

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
  #copy: CopyOut | undefined;
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

  /**
   * Begins the last pass: the scanner waits by itself until the guest stands.
   * @param late what may travel late is only named
   */
  beginLast(late: boolean): void {
    this.standstill.begin();
    this.#last = this.pass(late ? "scan frozen late" : "scan frozen");
    this.#last.catch(() => undefined);
  }

  /** The guest stands. Resolves when the deciding word may change: for a few pages it need not wait. */
  async frozen(dirtyPages: string | undefined): Promise<void> {
    this.standstill.mark("frozen");
    if (Number(dirtyPages ?? Infinity) <= fewPages && this.copy.pendingBlocks <= fewBlocks) return;
    await this.lastRead();
    await this.sender.drained(lateBytes);
    this.standstill.mark("almost all of it there");
  }

  async lastRead(): Promise<void> {
    const last = await this.#last;
    if (last) this.standstill.mark(`last pages and blocks read, ${last.scanMs.toFixed(1)} of it comparing`);
    this.#last = undefined;
  }

  /** One round, to the point where the target has nearly all of it, and what it says about the next. */
  async #round(how: "full" | "scan", then?: "freeze"): Promise<Verdict> {
    const begun = performance.now();
    const bytesBefore = this.sender.bytesOnWire;
    const { scanMs } = await this.pass(how);
    await this.sender.drained(lateBytes);
    this.signal.throwIfAborted();
    const round = { bytes: this.sender.bytesOnWire - bytesBefore, ms: performance.now() - begun, scanMs };
    const verdict = this.convergence.after(round);
    if (then && verdict.next !== "round") this.watching.enough();
    this.watching.round({ round: this.convergence.rounds.length, ...(verdict.course.share < 1 && { guestShare: verdict.course.share }) });
    this.vm.context.log.info({ vm: this.vm.uuid, attempt: this.m, ...round, ...verdict }, "a pre-copy round ended");
    return verdict;
  }
}
