import { setTimeout as sleep } from "node:timers/promises";
import type { TLSSocket } from "node:tls";
import { messageOf } from "../../lib/errors";
import type { MoveNeeds, MoveProgress } from "../../protocol/methods";
import { giveKeys } from "../link/wire";
import type { LiveVm } from "../vm/live";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import { guestsTurnMs, standBack } from "../vm/weight";
import { answerAttempt } from "./courier";
import { decideTarget } from "./decide";
import { DirectPlace, keyBytes } from "./direct";
import { Filling, missingMap, writeMissing } from "./filling";
import { closeIncoming, forgetIfNothingStays } from "./forget";
import { heldAt, isHoldAt } from "./holds";
import type { MoveJob } from "./job";
import { checkFinal, decodeFinal, type Fact, parseMessage, specMessage, wiringsMessage } from "./messages";
import { Receiver } from "./receiver";
import { rehearse, sweep } from "./rehearse";
import { reservePlace } from "./reserve";
import { completeIncoming, sayGone } from "./settle";
import { Settling } from "./settling";
import { basisOf, type DiskSink, lastPages, type MemorySink, prepareHeader } from "./sinks";
import { type Frame, frameType, type StreamDecoder, StreamError } from "./stream";

/** Nobody came for the copy: it is refused, which a target may do at any time before it runs. */
const idleLimitMs = 300_000;
/** How long a source that heard GONE may take to say its last word. */
const lastWordMs = 10_000;

/** One incoming attempt in this agent, from `move.offer` to SETTLED or GONE. */
export class TargetJob implements MoveJob {
  readonly side = "target";
  readonly #receiver: Receiver;
  #memory: MemorySink | undefined;
  #disk: DiskSink | undefined;
  #idle: NodeJS.Timeout | undefined;
  /** While the long part of a copy comes in; over for good when the links' keys do. */
  #back: Disposable | undefined;
  /** `go` is on its way: its outcome, not a refusal, decides. */
  #going = false;
  #started = false;
  /** The guest runs, and lacks pages. */
  #filling: Filling | undefined;
  /** It lacks nothing (or needs no memory any more): no way back from here on. */
  #isFull = false;
  /** The VM as its source knew it last. */
  #spec: MoveNeeds["spec"] | undefined;
  #over = false;
  #refusal: Promise<void> | undefined;
  readonly #direct: DirectPlace;
  readonly #settling: Settling;

  private constructor(
    private readonly vms: Vms,
    readonly vm: Vm,
    private readonly needs: MoveNeeds,
    /** The provider may bring another for the same attempt. */
    public key: Buffer,
    private readonly live: LiveVm,
    private readonly onOver: () => void,
    started = false,
  ) {
    this.#started = started;
    this.#direct = new DirectPlace(vms, vm, live, needs.attempt, needs.epochTarget);
    const sinks = { sync: async () => await this.#disk?.sync(), close: () => this.#closeSinks() };
    this.#settling = new Settling(vm, needs.attempt, sinks, () => this.#settled(), started ? vm.wirings : []);
    this.#receiver = new Receiver(
      {
        apply: (type, payload, digest) => this.#apply(type, payload, digest),
        fact: (fact) => void this.heard(fact),
        failed: (error) => void this.#endWith(`the stream could not be taken: ${messageOf(error)}`),
      },
      { journalId: vm.context.journalId, ports: vm.file?.ports ?? {} },
      started,
    );
    this.#watch();
  }

  /** Makes the place for the copy. On failure nothing stays. */
  static async reserve(vms: Vms, needs: MoveNeeds, key: Buffer, onOver: () => void): Promise<TargetJob> {
    const { vm, live, memory, disk } = await reservePlace(vms, needs);
    const job = new TargetJob(vms, vm, needs, key, live, onOver);
    job.#memory = memory;
    job.#disk = disk;
    vm.adopt(live);
    vm.job = job;
    return job;
  }

  /** Takes up a guest that runs here already and lacks pages: an earlier agent let it go on. */
  static async takeUp(vms: Vms, vm: Vm, needs: MoveNeeds, key: Buffer, onOver: () => void): Promise<TargetJob> {
    if (!vm.live || !vm.file) throw new Error("nothing to take up");
    const job = new TargetJob(vms, vm, needs, key, vm.live, onOver, true);
    job.#spec = vm.file.spec;
    vm.job = job;
    try {
      await job.#fill();
    } catch (error) {
      vm.job = undefined;
      throw error;
    }
    return job;
  }

  get m(): string {
    return this.needs.attempt;
  }

  get progress(): MoveProgress {
    const phase = this.#started ? "settle" : "reserve";
    return { vm: this.vm.uuid, attempt: this.m, phase, round: 0, bytesSent: 0, ...(this.#filling && { pagesLeft: this.#filling.left }) };
  }

  /** A connection of the source, its HELLO read. */
  async serve(socket: TLSSocket, stream: string, decoder: StreamDecoder, first: readonly Frame[]): Promise<void> {
    this.#watch();
    const says = () => ({ isFilling: this.#filling !== undefined, basis: basisOf(this.#memory, this.#disk) });
    const { anew } = await this.#receiver.serve(socket, stream, decoder, first, says);
    if (anew) this.#memory?.begin();
    this.#filling?.askAll();
    socket.once("close", () => this.#watch());
  }

  /** A fact of the source, over the stream or brought by a courier. */
  async heard(fact: { fact: string; m: string; result?: Fact["result"] }): Promise<void> {
    if (fact.m !== this.m) return;
    if (fact.fact === "ABORTED") {
      // Of a guest that runs here, only a person can have made it do so: what it lacks will never come.
      await this.#endWith("the source gave the move up");
      // Both have given up: nobody will ask again.
      await answerAttempt(this.vms, this.vm.uuid, this.m, "ABORTED");
      this.leave();
    } else if (fact.fact === "QUERY" || fact.fact === "LOST") {
      if (!this.#started) await this.refuse("the source asked before all was here");
      else if (fact.fact === "LOST" && this.#filling) await this.#endedFilling("the source has lost them");
      else await this.#settling.again();
    }
    if (fact.fact === "CLOSED") {
      await closeIncoming(this.vms, this.vm, this.m, fact.result);
      this.leave();
    }
  }

  processEnded(note: string): void {
    if (!this.#started) void this.refuse(`the waiting process ended: ${note}`);
    else if (this.#filling) void this.#endedFilling(note);
  }

  /** A link of a VM that has not arrived is wired when it has. */
  wiringsChanged(): void {
    return;
  }

  /** Before the copy runs: no, for good. After it: nothing. Who comes second waits for the first. */
  async refuse(reason: string): Promise<void> {
    if (!this.#started && !this.#over && !this.#going) this.#refusal = this.#refuse(reason);
    await this.#refusal;
  }

  /** The guest runs, and cannot go on: what it did here is lost, and the source's copy returns to the freeze. */
  async #giveUp(reason: string): Promise<void> {
    if (!this.#over && !this.#isFull) this.#refusal = this.#refuse(reason);
    await this.#refusal;
  }

  async #endedFilling(note: string): Promise<void> {
    // One that powered off needs no pages.
    const state = await this.vm.copyState().catch(() => "runPartial");
    if (state !== "haltedByGuest") return await this.#giveUp(`its process ended before all pages were there: ${note}`);
    this.#isFull = true;
    await this.#closeSinks();
    if (this.#spec) await this.#settling.settle(this.#spec);
  }

  async #endWith(reason: string): Promise<void> {
    await (this.#started ? this.#giveUp(reason) : this.refuse(reason));
  }

  async #refuse(reason: string): Promise<void> {
    if (this.vm.journal.incoming(this.m)?.state !== "RESERVED") return;
    this.#over = true;
    this.#back?.[Symbol.dispose]();
    clearTimeout(this.#idle);
    this.vm.context.log.warn({ vm: this.vm.uuid, m: this.m, reason }, "an incoming move is refused");
    try {
      if (!(await sayGone(this.vm, this.m))) {
        this.#over = false;
        return await this.#ranDirectly();
      }
      await this.#closeSinks();
      this.#receiver.tell({ fact: "GONE", m: this.m, journalId: this.vm.context.journalId, reason });
      this.vms.ports.free(Object.values(this.vm.file?.ports ?? {}));
      await this.vm.dropState();
      await forgetIfNothingStays(this.vms, this.vm);
    } finally {
      // Until here whoever brings a fact waits for this, and does not read what is being removed.
      if (this.#over) this.vm.job = undefined;
    }
    // The source answers GONE by ABORTED: then the record of it may go.
    setTimeout(() => this.leave(), lastWordMs).unref();
  }

  /** The agent ends: what the journal and the header say is all that stays. */
  end(): void {
    clearTimeout(this.#idle);
    this.#settling.end();
    this.#receiver.end();
  }

  async #apply(type: number, payload: Buffer, digest: () => string): Promise<Buffer | undefined> {
    if (this.#filling && type === frameType.late && !this.#over) await this.#filling.take(payload);
    else if (this.#over || this.#started) return undefined;
    else if (type === frameType.memory && this.#memory?.keep(payload)) return undefined;
    else if (!(await this.#direct.waits())) this.#ranDirectly();
    else if (type === frameType.memory) {
      this.#back ??= standBack();
      this.#memory?.apply(payload);
    } else if (type === frameType.disk) await this.#disk?.apply(payload);
    else if (type === frameType.memorySums) return this.#memory?.takeHeld(payload);
    else if (type === frameType.diskSums) return await this.#disk?.takeHeld(payload);
    else if (type === frameType.direct) return await this.#openDirect(payload);
    else if (type === frameType.wirings) await this.#wire(payload);
    else if (type === frameType.final) await this.#final(payload, digest());
    else if (type === frameType.spec) this.#takeSpec(parseMessage(specMessage, payload));
    else throw new StreamError(`a source does not send frames of type ${type}`);
    return undefined;
  }

  /** The links' keys are in the waiting process before the guest freezes. */
  async #wire(payload: Buffer): Promise<void> {
    this.#back?.[Symbol.dispose]();
    const before = this.#settling.wirings;
    const wirings = parseMessage(wiringsMessage, payload);
    this.#settling.wired(wirings);
    await giveKeys(this.live.control, this.needs.spec, before, wirings);
    // The source is about to freeze the guest.
    this.#disk?.finish();
    this.#memory?.keepLast(this.vm.paths.run);
    rehearse(this.m, this.needs.epochTarget);
    sweep();
  }

  /** All that was sent before is put into place: the process may go on by itself, without a word from here. */
  async #openDirect(key: Buffer): Promise<Buffer> {
    if (key.length !== keyBytes) throw new StreamError(`a key of ${key.length} bytes`);
    this.#memory?.putKept();
    this.#disk?.finish();
    const may = this.#spec && this.#memory?.isWhole && !isHoldAt(this.vm.context, "go");
    return may ? await this.#direct.open(key) : Buffer.alloc(2);
  }

  /** It has. */
  async #ranDirectly(): Promise<void> {
    if (this.#started || !this.#spec) return;
    this.#started = this.#isFull = true;
    clearTimeout(this.#idle);
    this.#tellStarted({ agoMs: await this.#direct.agoMs() });
    this.#runs(this.#spec);
  }

  #takeSpec(spec: MoveNeeds["spec"]): void {
    if (spec.uuid !== this.needs.spec.uuid) throw new StreamError("the spec is of another VM");
    this.#spec = spec;
  }

  /** The last byte: check, let it run, and tell. Nothing is waited for that is not needed to run. */
  async #final(payload: Buffer, digest: string): Promise<void> {
    await heldAt(this.vm.context, "go");
    if (!(await this.#direct.waits())) return await this.#ranDirectly();
    // From here to `go` nothing is awaited: a refusal comes before all of it, or too late.
    if (this.#over) return;
    const { message, page0 } = decodeFinal(payload);
    const spec = this.#spec;
    if (!spec) throw new StreamError("the last frame came before the VM's spec");
    if (!this.#memory || !this.#disk) throw new StreamError("the last frame came when the copy was closed");
    const { late } = this.#memory;
    checkFinal(message, { m: this.m, epoch: this.needs.epochTarget, digest, diskBlocks: this.#disk.blocks, latePages: late.count });
    const begun = performance.now();
    this.#disk.finish();
    if (late.count > 0) writeMissing(this.vm.paths, late);
    const last = this.#memory.finish(prepareHeader(page0, this.m, this.needs.epochTarget));
    await this.#go({ last: last ? lastPages : undefined, missing: late.count > 0 ? missingMap : undefined });
    // A guest that lacks nothing is here for good.
    this.#isFull = late.count === 0;
    this.#started = true;
    clearTimeout(this.#idle);
    const runningMs = performance.now() - begun;
    // The guest goes first: it may share its CPU with what follows, here and at the source's agent.
    if (late.count === 0) await sleep(guestsTurnMs);
    const missing = late.count > 0 ? { missing: late.count } : {};
    this.#tellStarted({ resumeMs: runningMs, agoMs: performance.now() - begun - runningMs, ...missing });
    if (late.count > 0) {
      this.live.openChannels(this.vm.context, this.#settling.calm.promise);
      this.#settling.noted(spec);
      setTimeout(() => this.#settling.calm.resolve(), guestsTurnMs);
      await this.#fill();
      await heldAt(this.vm.context, "filling");
      return;
    }
    this.#runs(spec);
  }

  #runs(spec: MoveNeeds["spec"]): void {
    if (this.vm.live === this.live) this.live.openChannels(this.vm.context, this.#settling.calm.promise);
    this.vm.context.log.info({ vm: this.vm.uuid, m: this.m }, "the guest runs here");
    // Not awaited by the stream: the source's facts must be heard meanwhile.
    void this.#settling.settle(spec);
  }

  /** Whatever the process answers, or whether it does: the header tells if the copy runs. */
  async #go(how: { last: string | undefined; missing: string | undefined }): Promise<void> {
    this.#going = true;
    try {
      await this.live.control.say("go", { attempt: this.m, ...how });
    } catch (error) {
      const step = decideTarget("RESERVED", await this.vm.copyState(), this.vm.live !== undefined);
      if (step !== "settle" && step !== "fill") {
        this.#going = false;
        throw error;
      }
    }
  }

  #tellStarted(more: Pick<Fact, "resumeMs" | "agoMs" | "missing">): void {
    this.#receiver.tell({ fact: "STARTED", m: this.m, journalId: this.vm.context.journalId, ...more });
  }

  /** The guest runs; what it lacks is asked for. */
  async #fill(): Promise<void> {
    this.#filling = await Filling.open(this.vm.paths, {
      ask: (type, payload) => this.#receiver.ask(type, payload),
      started: (missing) => this.#tellStarted({ missing }),
      filled: () => this.#filled(),
    });
    this.vm.context.log.info({ vm: this.vm.uuid, m: this.m, missing: this.#filling.left }, "the guest runs here, and lacks pages");
    await this.#filling.begin();
    // It may have ended before anybody looked.
    if (this.vm.live !== this.live) await this.#endedFilling("it ended as soon as it ran");
  }

  /** Nothing is missing any more: from here on it is an ordinary guest. */
  async #filled(): Promise<void> {
    this.#isFull = true;
    const ended = await completeIncoming(this.vm, this.live, this.m);
    this.#isFull = ended === undefined;
    if (ended !== undefined) return await this.#giveUp(`it had all its pages, and ended: ${ended}`);
    await this.#closeSinks();
    this.vm.context.log.info({ vm: this.vm.uuid, m: this.m }, "all of the guest's pages are here");
    if (this.#spec) void this.#settling.settle(this.#spec);
  }

  #settled(): void {
    this.vm.job = undefined;
    this.#receiver.tell({ fact: "SETTLED", m: this.m, journalId: this.vm.context.journalId });
  }

  async #closeSinks(): Promise<void> {
    await this.#filling?.[Symbol.asyncDispose]();
    await this.#memory?.close();
    await this.#disk?.close();
    this.#direct[Symbol.dispose]();
    this.#filling = undefined;
    this.#memory = undefined;
    this.#disk = undefined;
  }

  /** No more of it here: the attempt is over, or somebody else has decided it. */
  leave(): void {
    this.#over = true;
    if (this.vm.job === this) this.vm.job = undefined;
    void this.#closeSinks();
    this.#back?.[Symbol.dispose]();
    clearTimeout(this.#idle);
    this.#receiver.end();
    this.onOver();
  }

  #watch(): void {
    clearTimeout(this.#idle);
    if (this.#started || this.#over) return;
    this.#idle = setTimeout(
      () => (this.#receiver.connected ? this.#watch() : void this.refuse(`no source came for ${idleLimitMs / 1000} s`)),
      idleLimitMs,
    ).unref();
  }
}
