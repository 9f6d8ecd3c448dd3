import { randomBytes } from "node:crypto";
import { errnoOf, messageOf } from "../../lib/errors";
import { type Deferred, deferred } from "../../lib/time";
import type { MoveProgress } from "../../protocol/methods";
import type { Wiring } from "../../schemas/link";
import type { VmSpec } from "../../schemas/vm";
import { AgentFault } from "../errors";
import { currentWirings } from "../link/current";
import { passFrames } from "../link/wire";
import type { LiveVm } from "../vm/live";
import type { Vm } from "../vm/vm";
import { endAside, standBack, standsAgain } from "../vm/weight";
import { Convergence } from "./convergence";
import { mayReturn } from "./decide";
import { Doubt, inDoubt } from "./doubt";
import { heldAt } from "./holds";
import type { MoveJob, SourceRequest } from "./job";
import { LatePages } from "./latePages";
import { encodeFinal, type Fact } from "./messages";
import { lateBytes, Outgoing } from "./outgoing";
import { resumedPhases, runPhases, type SourceSteps, sourcePhases } from "./phases";
import type { MoveQueue } from "./queue";
import { recoverSource } from "./recover";
import { rehearse, sweep } from "./rehearse";
import { returnCopy } from "./return";
import { Sender } from "./sender";
import { gaveUp, gaveUpAfterRelease, lost, unreachable } from "./sourceFaults";
import { frameType } from "./stream";
import { dial } from "./tls";
import { Watchers } from "./watchers";

/** How long a cut link may stay cut before release; afterwards we go on trying for longer. */
const reconnectMs = 30_000;
const connectTries = 5;
const reconnectAfterReleaseMs = 600_000;

/** One outgoing attempt, from `move.start` to its end. */
export class SourceJob implements MoveJob, SourceSteps {
  readonly side = "source";
  readonly done: Promise<MoveProgress>;
  progress: MoveProgress;
  /** The header word is `released`. */
  released = false;
  readonly #abort = new AbortController();
  readonly #sender: Sender;
  readonly #limits: { bandwidthMbps: number | undefined; reconnectMs: number };
  readonly #live: LiveVm | undefined;
  readonly #watchers = new Watchers();
  readonly #settled = deferred<Fact>();
  readonly #started = deferred<Fact>();
  readonly #convergence: Convergence;
  #turn: Disposable | undefined;
  readonly #outgoing: Outgoing;
  /** The guest is to go on at the target before all of it is there. */
  #late = false;
  #latePages: Promise<LatePages> | undefined;
  /** As the target knows it. */
  #spec: VmSpec | undefined;
  /** While a freeze may change the deciding word by itself. */
  #deciding: Promise<unknown> | undefined;
  readonly #doubt = new Doubt();
  #doubted: Deferred<MoveProgress> = deferred();

  constructor(
    private readonly vm: Vm,
    private request: SourceRequest,
    alreadyReleased: boolean,
    private readonly queue: MoveQueue,
  ) {
    this.released = alreadyReleased;
    this.#limits = { bandwidthMbps: request.policy.bandwidthMbps, reconnectMs: alreadyReleased ? reconnectAfterReleaseMs : reconnectMs };
    this.#live = vm.live;
    this.progress = { vm: vm.uuid, attempt: request.attempt, phase: "reserve", round: 0, bytesSent: 0 };
    this.#sender = new Sender(
      async () => await dial(this.request.target, request.attempt, this.request.key, this.#abort.signal),
      { m: request.attempt, vm: vm.uuid, stream: randomBytes(8).toString("hex") },
      {
        fact: (fact) => this.heard(fact),
        lacks: (payload) => void this.#serve((pages) => pages.lacks(payload)),
        wants: (payload) => void this.#serve((pages) => pages.wants(payload)),
        lost: (error) => this.#once(() => (this.released ? this.#settled.reject(error) : this.#giveUp(lost(this.request.target, error)))),
      },
      this.#limits,
    );
    this.#convergence = new Convergence(
      request.target.host,
      request.policy,
      { say: async (...words) => await this.#control().say(...words) },
      (reason) => vm.context.log.info({ vm: vm.uuid, m: request.attempt, reason }, "the guest is not throttled any more"),
    );
    this.#outgoing = new Outgoing(vm, request.attempt, this.#sender, this.#convergence, this.#abort.signal, {
      sent: () => {
        this.progress = { ...this.progress, bytesSent: this.#sender.bytesOnWire };
      },
      round: (change) => this.#report(change),
      enough: () => this.#watchers.keepForLater(),
    });
    this.done = this.#run();
  }

  get m(): string {
    return this.request.attempt;
  }

  /** What the link has shown; undefined where nothing of it was seen. */
  get linkMbps(): number | undefined {
    return this.#convergence.linkMbps;
  }

  /** Resolves at the job's end, or earlier when it is in doubt and nobody answers. */
  get answer(): Promise<MoveProgress> {
    return Promise.race([this.done, this.#doubted.promise]);
  }

  watch(listener: (progress: MoveProgress) => void): () => void {
    return this.#watchers.add(listener, this.progress);
  }

  /** Before release: undone. @throws AgentFault bad-state after it */
  async cancel(reason: string): Promise<void> {
    await this.#deciding;
    if (this.released)
      throw new AgentFault("bad-state", "cancel the move", `${this.m} is past its point of no return`, {
        next: "let it finish; then move the VM back",
      });
    this.#giveUp(new Error(reason));
    await this.done;
  }

  /** Stops asking, and decides nothing: the copy stays as it is. */
  async yield(reason: string): Promise<void> {
    this.#settled.reject(new Error(reason));
    this.#giveUp(new Error(reason));
    await this.done;
  }

  processEnded(note: string): void {
    if (!this.released) this.#giveUp(new Error(note));
  }

  wiringsChanged(wirings: readonly Wiring[]): void {
    if (!this.released && this.#outgoing.isOpen)
      void this.#sender.send(frameType.wirings, Buffer.from(JSON.stringify(wirings))).catch(() => undefined);
  }

  /** The provider came again: another key, and the target's agent may listen elsewhere by now. */
  renew(request: Pick<SourceRequest, "key" | "target">): void {
    this.request = { ...this.request, ...request };
    this.#doubted = deferred();
    if (this.released) this.#waitForDoubt();
  }

  async #run(): Promise<MoveProgress> {
    try {
      await runPhases(this, this.released ? resumedPhases : sourcePhases, (name) => {
        this.#report({ phase: name === "resend" ? "release" : name });
        return heldAt(this.vm.context, name);
      });
      return this.#report({ phase: "done", fault: undefined, result: this.#outgoing.result(this.request.target.host, "moved") });
    } catch (error) {
      return await this.#failed(error);
    } finally {
      this.#turn?.[Symbol.dispose]();
      await (await this.#latePages?.catch(() => undefined))?.[Symbol.asyncDispose]();
      await this.#outgoing.close();
      this.#doubt[Symbol.dispose]();
      this.#sender.end();
      if (this.vm.job === this) this.vm.job = undefined;
    }
  }

  async reserve(): Promise<void> {
    using _back = standBack();
    await this.#sender.connect(connectTries).catch((error: unknown) => Promise.reject(unreachable(this.request.target, error)));
  }

  async precopy(): Promise<void> {
    // Connected all the while: a target that nobody comes to would give up.
    const links = new Set(this.vm.wirings.map(({ link }) => link));
    this.#turn = await this.queue.turn(links, this.#abort.signal, (ahead) => this.#report({ phase: "queued", ahead }));
    this.#convergence.begin();
    this.#report({ phase: "precopy", ahead: undefined });
    const { mayBeLate } = await this.#outgoing.open(true);
    this.#convergence.mayBeLate = mayBeLate;
    await this.#outgoing.rounds("full");
  }

  async arm(): Promise<void> {
    const { out } = this.vm.journal.value;
    if (out?.m !== this.m || out.state !== "INIT")
      throw new AgentFault("bad-state", "arm the move", `the journal has ${out?.m ?? "no attempt"} in ${out?.state ?? "no state"}`);
    if (this.#sender.journalId !== out.toJournal)
      throw new AgentFault("bad-state", "arm the move", "the target answers from another journal than it offered with", {
        next: "run `pulumi up` again",
      });
    // The guest runs while the target sets the links up; what it dirties meanwhile is a round of its own, with nothing of it left on the way.
    await this.#sender.send(frameType.wirings, Buffer.from(JSON.stringify(await currentWirings(this.vm))));
    if (this.vm.file) await this.#tellSpec(this.vm.file.spec);
    await this.vm.journal.writeOut({ state: "OPEN" });
    rehearse(this.m, out.epochTarget);
    // Other threads do a part of it: they have one more round to get done.
    sweep();
    const { late } = await this.#outgoing.rounds("scan", "freeze");
    this.#late = late === true;
    const ready = [this.#sender.drained(0), standsAgain()];
    await Promise.all(this.#late ? ready : [...ready, this.#outgoing.leadOn(this.request.target.address)]);
  }

  async freeze(): Promise<void> {
    const deadmanMs = Math.ceil(Math.max(10_000, 5 * (this.#convergence.rounds.at(-1)?.ms ?? 0)));
    await this.#convergence.lift();
    // From its release on, the guest's process passes on by itself what comes for it here.
    await passFrames(this.#control(), this.vm.file?.spec, this.request.target.address, this.#sender.ports);
    this.#abort.signal.throwIfAborted();
    // The scanner is asked first: it begins when the guest stands, and need not hear of that from here.
    const how = { attempt: this.m, deadmanMs, ...(this.#late && { late: 1 }), ...this.#outgoing.beginLast(this.#late) };
    const frozen = this.#control().say("freeze", how, deadmanMs);
    this.#deciding = frozen.then(
      ({ released }) => released === "1" && this.#isReleased(),
      () => undefined,
    );
    await frozen;
    await (this.released ? heldAt(this.vm.context, "released") : this.#outgoing.frozen());
  }

  async release(): Promise<void> {
    const { file, journal } = this.vm;
    const { out } = journal.value;
    if (!out || !file || !this.#outgoing.isOpen) throw new Error("nothing to release");
    if (!this.released) {
      this.#abort.signal.throwIfAborted();
      await this.#control().say("release", { attempt: this.m });
      this.#isReleased();
      await heldAt(this.vm.context, "released");
    }
    // A target that gave up takes no more of it.
    if (await Promise.race([this.#outgoing.lastRead(), this.#settled.promise])) return;
    await this.#tellSpec(file.spec);
    const { page0, blocks: diskBlocks, latePages } = this.#outgoing.copy;
    if (!page0) throw new Error("the copy has no page 0");
    const message = { m: this.m, digest: await this.#sender.digest(), epoch: out.epochTarget, diskBlocks, latePages };
    await this.#sender.send(frameType.final, encodeFinal(message, page0), "soon");
    this.#turn?.[Symbol.dispose]();
    this.#waitForDoubt();
  }

  async resend(): Promise<void> {
    this.#waitForDoubt();
    // What is lost cannot be sent: only the answer counts.
    if ((await this.vm.copyState()) === "none") return this.#sender.tell({ fact: "LOST", m: this.m, journalId: this.vm.context.journalId });
    // The guest runs there: what it lacks is all that it takes.
    if (this.#sender.isFilling) return;
    const again = async (): Promise<void> => {
      const copy = await this.#outgoing.open(false);
      // The answer came first, and nobody closes it any more.
      if (this.vm.job !== this) return copy.close();
      await this.#outgoing.pass("full");
      await copy.readPage0();
      await this.release();
    };
    // The target may have it all already and say so: then the rest need not go out.
    await Promise.race([again(), this.#settled.promise, this.#started.promise]);
  }

  async resume(): Promise<void> {
    const fact = await Promise.race([this.#started.promise, this.#settled.promise]);
    const { standstill } = this.#outgoing;
    standstill.end(`${fact.fact}, ${fact.resumeMs?.toFixed(1) ?? "?"} of it resuming`, fact.agoMs ?? 0);
    this.vm.context.log.info({ vm: this.vm.uuid, m: this.m, msAfterFreeze: standstill.marks }, "the frozen part");
    if (fact.fact !== "GONE") this.#live?.sessions.lose("the VM moved", this.request.target.host);
    this.#report({ downtimeMs: standstill.totalMs });
  }

  async settle(): Promise<void> {
    if (this.#late) this.#watchers.tellAll();
    const fact = await this.#settled.promise;
    this.#watchers.tellAll();
    if (fact.fact === "GONE") await this.#return(fact.reason ?? "the target gave up");
  }

  async retire(): Promise<void> {
    const { out } = this.vm.journal.value;
    if (!out) throw new Error("no attempt to close");
    const result = this.#outgoing.result(this.request.target.host, "moved");
    await this.vm.journal.writeOut({ state: "CLOSED" }, { home: "no", tombstone: out.to });
    const live = this.vm.release();
    if (live) await endAside(live.process);
    await this.vm.dropCopy(this.request.policy.keepBasis !== false);
    if (this.vm.file) await this.vm.writeFile({ ...this.vm.file, lastMigration: result });
    this.#sender.tell({ fact: "CLOSED", m: this.m, journalId: this.vm.context.journalId, result });
  }

  /** The guest runs there, and lacks pages. Nothing is served before the release: it cannot run there while it may run here. */
  async #serve(hear: (pages: LatePages) => void): Promise<void> {
    if (!this.released || this.vm.job !== this) return;
    try {
      this.#latePages ??= LatePages.open(this.vm.paths.memory, this.#sender, {
        sent: (pagesLeft) => {
          this.#report({ phase: "settle", pagesLeft, fault: undefined });
          this.#waitForDoubt();
        },
        failed: (error) => this.#settled.reject(error),
      });
      hear(await this.#latePages);
    } catch (error) {
      // Lost with the rest of the memory (its host was rebooted): then what runs there is no whole guest.
      if (errnoOf(error) === "ENOENT") this.#sender.tell({ fact: "LOST", m: this.m, journalId: this.vm.context.journalId });
      else this.#settled.reject(error instanceof Error ? error : new Error(messageOf(error)));
    }
  }

  async #tellSpec(spec: VmSpec): Promise<void> {
    if (spec === this.#spec) return;
    this.#spec = spec;
    await this.#sender.send(frameType.spec, Buffer.from(JSON.stringify(spec)));
  }

  #control(): LiveVm["control"] {
    if (!this.#live || this.vm.live !== this.#live) throw new AgentFault("bad-state", "drive the VM process", "it has ended");
    return this.#live.control;
  }

  /** A fact that a courier brought, or that came over the stream. */
  heard(fact: Fact): void {
    const { out } = this.vm.journal.value;
    if (fact.m !== this.m || !out) return;
    if (fact.fact === "STARTED") this.#started.resolve(fact);
    else if (fact.fact === "SETTLED") {
      if (this.released) this.#settled.resolve(fact);
    } else if (fact.fact === "GONE" || fact.fact === "FAULT") {
      this.#once(() => {
        if (!this.released) this.#giveUp(gaveUp(this.request.target.host, fact.reason));
        else if (mayReturn(out, fact)) this.#settled.resolve(fact);
      });
    }
  }

  /** What ends a move before its release, and not after it, waits while the freeze decides. */
  #once(end: () => void): void {
    void (this.#deciding ? this.#deciding.then(end) : end());
  }

  #isReleased(): void {
    this.released = true;
    this.#limits.reconnectMs = reconnectAfterReleaseMs;
    this.#waitForDoubt();
    this.#outgoing.standstill.mark("released");
  }

  #giveUp(error: Error): void {
    this.#abort.abort(error);
    this.#sender.abort(error);
  }

  /** The one rule: only GONE of the target's own journal leads here, and the copy runs with the epoch that was kept for it. */
  async #return(reason: string): Promise<never> {
    const { out } = this.vm.journal.value;
    if (!out) throw new Error("no attempt to return from");
    const next = await returnCopy(this.vm, out);
    this.#sender.tell({ fact: "ABORTED", m: this.m, journalId: this.vm.context.journalId });
    throw gaveUpAfterRelease(this.request.target.host, reason, next);
  }

  async #failed(error: unknown): Promise<MoveProgress> {
    const cause: unknown = this.#abort.signal.aborted ? this.#abort.signal.reason : error;
    this.#watchers.tellAll();
    await this.#convergence.lift();
    this.vm.context.log.error({ vm: this.vm.uuid, m: this.m, err: cause, phase: this.progress.phase }, "a move failed");
    const returned = this.released && this.vm.journal.value.out?.state === "ABORTED";
    if (!returned && (this.released || !(await this.#undone()))) return this.#report(inDoubt(this.request.target.host, messageOf(cause)));
    const result = this.#outgoing.result(this.request.target.host, returned ? "failed, returned" : "failed", messageOf(cause));
    if (this.vm.file) await this.vm.writeFile({ ...this.vm.file, lastMigration: result }).catch(() => undefined);
    return this.#report({ phase: "failed", result, fault: { message: messageOf(cause), running: "source" } });
  }

  /** Before release every failure thaws, as the recovery table says; the target is told, but not waited for. False: the word was said after all. */
  async #undone(): Promise<boolean> {
    await recoverSource(this.vm).catch((error: unknown) =>
      this.vm.context.log.error({ vm: this.vm.uuid, m: this.m, err: error }, "a move could not be undone; the next run tries it again"),
    );
    if (this.vm.journal.value.out?.state !== "ABORTED") return false;
    this.#sender.tell({ fact: "ABORTED", m: this.m, journalId: this.vm.context.journalId });
    return true;
  }

  #waitForDoubt(): void {
    this.#doubt.begin(lateBytes, this.request.policy.bandwidthMbps, (silence) => {
      this.#watchers.tellAll();
      this.#doubted.resolve(this.#report(inDoubt(this.request.target.host, silence)));
    });
  }

  #report(change: Partial<MoveProgress>): MoveProgress {
    this.progress = { ...this.progress, bytesSent: this.#sender.bytesOnWire, ...change };
    this.#watchers.tell(this.progress);
    return this.progress;
  }
}
