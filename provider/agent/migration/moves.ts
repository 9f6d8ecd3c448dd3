import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import type { TLSSocket } from "node:tls";
import type { MoveFacts, MoveHindrance, MoveNeeds, MovePrediction, MoveProgress, VmReport } from "../../protocol/methods";
import type { LastMigration, MigrationPolicy } from "../../schemas/vm";
import type { AgentContext } from "../context";
import { AgentFault } from "../errors";
import { hostFacts } from "../host";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import { overrule, recoverByHand } from "./byHand";
import { answerAttempt, tellSource } from "./courier";
import { decideStart, decideTarget, mayReturn, whyNotBegin, whyNotOffer } from "./decide";
import { closeIncoming } from "./forget";
import { MoveListener } from "./listener";
import { linkRateOf, observeVm, predict } from "./predict";
import { lacksFor, preflight } from "./preflight";
import { MoveQueue } from "./queue";
import { recoverAll, recoverSource } from "./recover";
import { SourceJob } from "./source";
import { encodeStreamJson, type Frame, frameType, type StreamDecoder } from "./stream";
import { TargetJob } from "./target";

/** How long an attempt that is over is still answered on its own key. */
const answersForMs = 60_000;
/** Outgoing moves that copy at the same time, unless the Host says otherwise. */
const movesAtOnce = 2;

interface Watcher {
  onEnd(action: () => void): void;
}

/** All moves of one agent, at either end. */
export class Moves {
  readonly #listener: MoveListener;
  readonly #targets = new Map<string, TargetJob>();
  readonly #ended = new Map<string, MoveProgress>();
  readonly #queue = new MoveQueue(movesAtOnce);
  /** What the link to a host has shown in the last move there. */
  readonly #seenMbps = new Map<string, number>();

  constructor(
    private readonly context: AgentContext,
    private readonly vms: Vms,
  ) {
    this.#listener = new MoveListener(context, (socket, hello, decoder, rest) => this.#accept(socket, hello, decoder, rest));
  }

  /** At start: what journals and headers say is done. */
  async recover(): Promise<void> {
    await recoverAll(this.vms);
  }

  /** Source: attaches to a running attempt with the same target, or burns two epochs and journals INIT. */
  async begin(uuid: string, gen: number, to: { host: string; agentId: string }): Promise<{ needs: MoveNeeds; attached: boolean }> {
    const step = `begin the move to ${to.host}`;
    const vm = this.vms.need(uuid, step);
    this.vms.checkGen(uuid, gen, step);
    using _turn = await vm.turn.lock();
    const { out, tombstone } = vm.journal.value;
    if (tombstone) throw new AgentFault("bad-state", step, `the VM went to ${tombstone.host}`, { next: "`pulumi refresh` finds it there" });
    if (out && (out.state === "INIT" || out.state === "OPEN")) {
      if (out.to.agentId === to.agentId) return { needs: await this.#needs(vm, out.m, out.epochTarget), attached: true };
      if (vm.job instanceof SourceJob) await vm.job.cancel(`another move, to ${to.host}, was asked for`);
      else await recoverSource(vm);
      if (isOpen(vm))
        throw new AgentFault("in-doubt", step, `its move ${out.m} to ${out.to.host} is past its point of no return`, {
          next: `\`pulumi refresh\` finishes it when ${out.to.host} is reachable; then move on`,
        });
    }
    const hindrance = whyNotBegin(vm.journal.value, vm.live !== undefined);
    if (hindrance === "move arriving")
      throw new AgentFault("busy", step, "its incoming move is not settled yet", { next: "run `pulumi up` again in a moment" });
    if (hindrance)
      throw new AgentFault("bad-state", step, "the VM does not run here", {
        next: "a VM that is stopped is not moved live: start it first",
      });
    const { incarnation } = vm.journal.value;
    const m = `${incarnation}-${this.context.agentId}-${randomBytes(8).toString("hex")}`;
    let epochTarget = 0;
    await vm.journal.update((current) => {
      // From the floor of this very write: an epoch that was burnt a moment ago is not handed out again.
      epochTarget = current.floor + 1;
      const epochReturn = epochTarget + 1;
      return {
        ...current,
        gen: Math.max(gen, current.gen),
        floor: epochReturn,
        out: { m, to, epochTarget, epochReturn, gen, state: "INIT" },
      };
    });
    return { needs: await this.#needs(vm, m, epochTarget), attached: false };
  }

  /** Source: what a move there would need and come to. Changes nothing. */
  async plan(uuid: string, to: { host: string }, policy: MigrationPolicy): Promise<{ needs: MoveNeeds; prediction: MovePrediction }> {
    const step = `foresee a move to ${to.host}`;
    const { vm } = this.vms.needLive(uuid, step);
    if (vm.job) throw new AgentFault("busy", step, `its move ${vm.job.m} is under way`);
    // The epoch is the one that a move would burn next.
    const needs = await this.#needs(vm, "00000000", vm.journal.value.floor + 1);
    return { needs, prediction: predict(await observeVm(vm), policy, linkRateOf(policy, this.#seenMbps.get(to.host))) };
  }

  /** Target: what it lacks. Changes nothing. */
  async check(needs: MoveNeeds): Promise<{ missing: string[]; hindrances: MoveHindrance[] }> {
    const { missing, hindrances } = await lacksFor(this.context, this.vms, needs);
    const vm = this.vms.get(needs.spec.uuid);
    const known = vm && whyRefused(vm, needs, `take over ${needs.spec.name}`);
    const all = [...(known ? [known] : []), ...hindrances];
    return { missing, hindrances: all.map(({ code, reason, next }) => ({ code, reason, ...(next !== undefined && { next }) })) };
  }

  /** A person's way out (byHand.ts). */
  async recoverByHand(uuid: string, gen: number, attempt: string): Promise<{ vm: VmReport; frozenAtMs?: number; links: string[] }> {
    const step = "recover the VM";
    const vm = this.vms.need(uuid, step);
    this.vms.checkGen(uuid, gen, step);
    if (vm.job instanceof SourceJob) await vm.job.yield("a person recovers the VM");
    using _turn = await vm.turn.lock();
    const recovered = await recoverByHand(vm, attempt, () => this.#targets.get(attempt)?.leave());
    const report = await this.vms.report(uuid);
    if (!report) throw new AgentFault("failed", step, "the VM has no record after all");
    return { vm: report, ...recovered };
  }

  async overrule(uuid: string, floor: number): Promise<boolean> {
    const vm = this.vms.get(uuid);
    if (!vm) return false;
    using _turn = await vm.turn.lock();
    return await overrule(this.vms, vm, floor);
  }

  /** Target: preflight and RESERVED. Idempotent per attempt; an attempt that is over answers by its fact when the source connects. */
  async offer(needs: MoveNeeds, keyHex: string): Promise<{ port: number; journalId: string; missing: string[] }> {
    const key = Buffer.from(keyHex, "hex");
    const step = `take over ${needs.spec.name}`;
    const { journalId } = this.context;
    const vm = this.vms.get(needs.spec.uuid);
    if (vm?.journal.incoming(needs.attempt)) {
      const job = this.#targets.get(needs.attempt) ?? (await this.#takeUp(vm, needs, key));
      if (job) job.key = key;
      return { port: await this.#listener.admit(needs.attempt, key), journalId, missing: [] };
    }
    if (vm) {
      refuseOffer(vm, needs, step);
      await this.#giveWay(vm, step);
    }
    if (needs.from.agentId === this.context.agentId)
      throw new AgentFault("bad-request", step, "source and target are the same agent", {
        next: "two Host names must not share a state folder",
      });
    const missing = await preflight(this.context, this.vms, needs);
    if (missing.length > 0) return { port: 0, journalId, missing };
    const port = await this.#listener.admit(needs.attempt, key);
    try {
      this.#targets.set(needs.attempt, await TargetJob.reserve(this.vms, needs, key, () => this.#over(needs.attempt)));
    } catch (error) {
      this.#listener.dismiss(needs.attempt);
      throw error;
    }
    return { port, journalId, missing };
  }

  /** Source: starts the job; one that runs goes on. */
  async start(request: {
    vm: string;
    attempt: string;
    key: string;
    policy: MigrationPolicy;
    target: { host: string; address: string; port: number; journalId: string };
    atOnce?: number | undefined;
  }): Promise<void> {
    if (request.atOnce !== undefined) this.#queue.atOnce = request.atOnce;
    const step = `start the move to ${request.target.host}`;
    const vm = this.vms.need(request.vm, step);
    using _turn = await vm.turn.lock();
    const { out } = vm.journal.value;
    if (out?.m !== request.attempt || (out.state !== "INIT" && out.state !== "OPEN"))
      throw new AgentFault("bad-state", step, `the attempt ${request.attempt} is ${out?.m === request.attempt ? out.state : "unknown"}`, {
        next: "begin the move again",
      });
    if (vm.job) {
      if (vm.job instanceof SourceJob && vm.job.m === request.attempt) {
        vm.job.renew({ key: Buffer.from(request.key, "hex"), target: request.target });
        return;
      }
      throw new AgentFault("busy", step, `the move ${vm.job.m} is under way`);
    }
    const how = decideStart(out.state, await vm.copyState());
    if (how === "refuse") {
      await recoverSource(vm);
      throw new AgentFault("bad-state", step, `the attempt ${request.attempt} was broken off before its release, and is undone`, {
        next: "run the same command again",
      });
    }
    const released = how === "resume";
    // After the release only the journal that had the offer counts: another one cannot have the copy.
    if (!released) await vm.journal.writeOut({ toJournal: request.target.journalId });
    this.#ended.delete(vm.uuid);
    const job = new SourceJob(
      vm,
      { attempt: request.attempt, key: Buffer.from(request.key, "hex"), policy: request.policy, target: request.target },
      released,
      this.#queue,
    );
    vm.job = job;
    void job.done.then((progress) => {
      this.#ended.set(vm.uuid, progress);
      if (job.linkMbps !== undefined) this.#seenMbps.set(request.target.host, job.linkMbps);
    });
  }

  /** Answers when the job has ended (or is in doubt and nobody answers); progress goes to `tell` meanwhile. */
  async watch(uuid: string, attempt: string, tell: (progress: MoveProgress) => void, watcher: Watcher): Promise<MoveProgress> {
    const job = this.vms.get(uuid)?.job;
    if (job instanceof SourceJob && job.m === attempt) {
      const stop = job.watch(tell);
      watcher.onEnd(stop);
      return await job.answer.finally(stop);
    }
    const ended = this.#ended.get(uuid);
    if (ended?.attempt === attempt) return ended;
    throw new AgentFault("not-found", "watch a move", `no move ${attempt} is under way here`, {
      next: "`pulumi refresh` tells where the VM is",
    });
  }

  async cancel(uuid: string, attempt: string): Promise<void> {
    const vm = this.vms.need(uuid, "cancel the move");
    if (vm.job instanceof SourceJob && vm.job.m === attempt) return await vm.job.cancel("it was cancelled");
    await this.#abandon(vm, attempt);
  }

  /** Before a destroy: an attempt that is not released is given up. */
  async cancelFor(vm: Vm): Promise<void> {
    const { out } = vm.journal.value;
    if (vm.job instanceof SourceJob && !vm.job.released) return await vm.job.cancel("the VM is to be destroyed");
    if (out && !vm.job) await this.#abandon(vm, out.m).catch(() => undefined);
    if (vm.job instanceof TargetJob) await vm.job.refuse("the VM is to be destroyed");
  }

  async facts(uuid: string): Promise<MoveFacts[]> {
    const vm = this.vms.get(uuid);
    if (!vm) return [];
    const { out, in: all, tombstone } = vm.journal.value;
    // One that cannot be read now says nothing.
    const header = await vm.copyState().catch(() => undefined);
    const { journalId } = this.context;
    const last = vm.file?.lastMigration;
    const result = out?.state === "CLOSED" && last?.attempt === out.m && { result: last };
    return [
      ...(out
        ? [
            {
              attempt: out.m,
              out: out.state,
              ...(header && { header }),
              journalId,
              peer: out.to,
              ...(tombstone && { movedTo: tombstone.host }),
              ...result,
            },
          ]
        : []),
      ...all.map((one) => ({ attempt: one.m, in: one.state, ...(header && { header }), journalId, peer: one.from })),
    ];
  }

  /** A courier's word (the provider relays what the two sides cannot say to each other). */
  async tell(word: {
    vm: string;
    attempt: string;
    fact: "QUERY" | "LOST" | "ABORTED" | "CLOSED" | "SETTLED" | "GONE";
    journalId: string;
    result?: LastMigration | undefined;
  }): Promise<MoveFacts[]> {
    const vm = this.vms.get(word.vm);
    if (word.fact === "SETTLED" || word.fact === "GONE") {
      const fact = { fact: word.fact, m: word.attempt, journalId: word.journalId };
      if (vm?.job instanceof SourceJob) vm.job.heard(fact);
      else if (vm) await this.#heardWithoutJob(vm, fact);
    } else {
      const job = this.#targets.get(word.attempt);
      if (job && vm?.job === job) await job.heard({ fact: word.fact, m: word.attempt, ...(word.result && { result: word.result }) });
      else if (word.fact === "CLOSED" && vm) await closeIncoming(this.vms, vm, word.attempt, word.result);
      else if (word.fact !== "CLOSED") await answerAttempt(this.vms, word.vm, word.attempt, word.fact);
    }
    return await this.facts(word.vm);
  }

  /** The agent ends: jobs before release leave their guests running (the dead man thaws a frozen one). */
  end(): void {
    this.#listener.end();
    for (const job of this.#targets.values()) job.end();
  }

  #over(attempt: string): void {
    this.#targets.delete(attempt);
    // A source whose connection broke may still come and ask: it gets its answer for a while.
    setTimeout(() => this.#listener.dismiss(attempt), answersForMs).unref();
  }

  /** A guest that an earlier agent let go on here, and that lacks pages. Undefined where it is none. */
  async #takeUp(vm: Vm, needs: MoveNeeds, key: Buffer): Promise<TargetJob | undefined> {
    using _turn = await vm.turn.lock();
    if (vm.job || vm.journal.incoming(needs.attempt)?.state !== "RESERVED") return undefined;
    if (decideTarget("RESERVED", await vm.copyState(), vm.live !== undefined) !== "fill") return undefined;
    const job = await TargetJob.takeUp(this.vms, vm, needs, key, () => this.#over(needs.attempt));
    this.#targets.set(needs.attempt, job);
    return job;
  }

  /** An older attempt that waits here is refused, as a target may at any time before the copy runs: its source has begun another. */
  async #giveWay(vm: Vm, step: string): Promise<void> {
    const old = vm.journal.in;
    if (old?.state !== "RESERVED") return;
    const job = this.#targets.get(old.m);
    if (job) await job.refuse(`another attempt came`);
    else await answerAttempt(this.vms, vm.uuid, old.m, "QUERY");
    if (vm.journal.in?.state === "RESERVED")
      throw new AgentFault("busy", step, `its move ${old.m} has started here and is not settled yet`, {
        next: "run `pulumi up` again in a moment",
      });
  }

  /** The recovery table first: the target's word counts only for what was released. */
  async #heardWithoutJob(vm: Vm, fact: { fact: "SETTLED" | "GONE"; m: string; journalId: string }): Promise<void> {
    using _turn = await vm.turn.lock();
    if (isOpen(vm)) await recoverSource(vm);
    await tellSource(vm, fact, mayReturn);
  }

  /** An attempt without a job. */
  async #abandon(vm: Vm, attempt: string): Promise<void> {
    using _turn = await vm.turn.lock();
    const { out } = vm.journal.value;
    if (out?.m !== attempt || (out.state !== "INIT" && out.state !== "OPEN"))
      throw new AgentFault("not-found", "cancel the move", `no move ${attempt} is under way here`);
    await recoverSource(vm);
    if (isOpen(vm))
      throw new AgentFault("in-doubt", "cancel the move", `${attempt} may be past its point of no return`, {
        next: "`pulumi refresh` resolves it",
      });
  }

  async #needs(vm: Vm, attempt: string, epochTarget: number): Promise<MoveNeeds> {
    const { file } = vm;
    const header = await vm.header();
    if (!file) throw new AgentFault("failed", "begin a move", "the VM's record is gone");
    const facts = header?.cpuFlags ? undefined : await hostFacts(this.context, this.vms, await vm.kernel());
    return {
      attempt,
      epochTarget,
      spec: file.spec,
      owner: file.owner,
      memoryBytes: header?.memoryBytes ?? file.spec.memoryMiB * 1048576,
      diskBytes: (await stat(vm.paths.disk)).blocks * 512,
      cpuFlags: header?.cpuFlags ?? facts?.cpuFlags ?? [],
      xstateBytes: header?.xstateBytes ?? 0,
      from: { host: this.context.hostName, agentId: this.context.agentId },
    };
  }

  #accept(socket: TLSSocket, hello: { m: string; vm: string; stream: string }, decoder: StreamDecoder, rest: readonly Frame[]): void {
    const job = this.#targets.get(hello.m);
    const record = this.vms.get(hello.vm)?.journal.incoming(hello.m);
    if (job && record?.state === "RESERVED") return void job.serve(socket, hello.stream, decoder, rest);
    // The attempt is over here: say so, take nothing.
    socket.on("data", () => undefined);
    socket.write(encodeStreamJson(frameType.ready, 0, { journalId: this.context.journalId, received: 0 }));
    void answerAttempt(this.vms, hello.vm, hello.m, "QUERY").then((fact) => {
      if (fact) socket.write(encodeStreamJson(frameType.fact, 0, { fact, m: hello.m, journalId: this.context.journalId }));
    });
  }
}

const isOpen = (vm: Vm): boolean => vm.journal.value.out?.state === "INIT" || vm.journal.value.out?.state === "OPEN";

/** A VM that is known here already may come only if nothing of it is left. */
function refuseOffer(vm: Vm, needs: MoveNeeds, step: string): void {
  const fault = whyRefused(vm, needs, step);
  if (fault) throw fault;
}

function whyRefused(vm: Vm, needs: MoveNeeds, step: string): AgentFault | undefined {
  const { out, floor } = vm.journal.value;
  switch (whyNotOffer(vm.journal.value, needs.epochTarget)) {
    case "own move open":
      return new AgentFault("in-doubt", step, `this host's own move ${out?.m} of it to ${out?.to.host} is not resolved`, {
        next: "`pulumi refresh` resolves it",
      });
    case "has it":
      return new AgentFault("bad-state", step, "this host has the VM", { next: "`pulumi refresh` finds it here" });
    case "stale epoch":
      return new AgentFault("stale-gen", step, `epoch ${needs.epochTarget} is not above ${floor}`, { next: "begin the move again" });
    default:
      return undefined;
  }
}
