import type { TLSSocket } from "node:tls";
import { messageOf } from "../../lib/errors";
import { mkdirPrivate } from "../../lib/files";
import { deferred } from "../../lib/time";
import { UndoStack } from "../../lib/undo";
import type { MoveNeeds, MoveProgress } from "../../protocol/methods";
import type { Wiring } from "../../schemas/link";
import { mtuOf, setLink, setPeer } from "../link/wire";
import { startIncoming } from "../vm/boot";
import { configure } from "../vm/ensure";
import type { LiveVm } from "../vm/live";
import { createOverlay, overlayVirtualBytes } from "../vm/overlay";
import { killProcess } from "../vm/process";
import { Tool } from "../vm/tool";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import { standBack } from "../vm/weight";
import { answerAttempt } from "./courier";
import { decideTarget } from "./decide";
import { heldAt } from "./holds";
import type { MoveJob } from "./job";
import { decodeFinal, type Fact, parseMessage, specMessage, wiringsMessage } from "./messages";
import { Receiver } from "./receiver";
import { rehearse, sweep } from "./rehearse";
import { sayGone, settleIncoming } from "./settle";
import { DiskSink, MemorySink, pageBytes } from "./sinks";
import { type Frame, frameType, type StreamDecoder, StreamError } from "./stream";

/** Nobody came for the copy: it is refused, which a target may do at any time before it runs. */
const idleLimitMs = 300_000;
/** How long a source that heard GONE may take to say its last word. */
const lastWordMs = 10_000;
/** What a guest that goes on has to itself, to announce itself and answer what has waited. */
const guestsTurnMs = 10;
/** A SETTLED that could not be written is tried again. */
const settleAgainMs = 5_000;

/** One incoming attempt in this agent, from `move.offer` to SETTLED or GONE. */
export class TargetJob implements MoveJob {
  readonly side = "target";
  readonly #receiver: Receiver;
  #key: Buffer;
  #memory: MemorySink | undefined;
  #disk: DiskSink | undefined;
  #idle: NodeJS.Timeout | undefined;
  /** While the long part of a copy comes in; over for good when the links' keys do. */
  #back: Disposable | undefined;
  /** `go` is on its way: its outcome, not a refusal, decides. */
  #going = false;
  #started = false;
  /** The VM as its source knew it last. */
  #spec: MoveNeeds["spec"] | undefined;
  #over = false;
  #refusal: Promise<void> | undefined;
  /** The guest runs, but SETTLED could not be written yet. */
  #unsettled: MoveNeeds["spec"] | undefined;
  #again: NodeJS.Timeout | undefined;
  /** The guest has had time to answer its frames: then its agent is spoken to. */
  readonly #calm = deferred<void>();
  #written: Promise<void> = Promise.resolve();
  #wirings: readonly Wiring[] = [];

  private constructor(
    private readonly vms: Vms,
    readonly vm: Vm,
    private readonly needs: MoveNeeds,
    key: Buffer,
    private readonly live: LiveVm,
    private readonly onOver: () => void,
  ) {
    this.#key = key;
    this.#receiver = new Receiver(
      {
        apply: (type, payload, digest) => this.#apply(type, payload, digest),
        fact: (fact) => void this.heard(fact),
        failed: (error) => void this.refuse(`the stream could not be taken: ${messageOf(error)}`),
      },
      { journalId: vm.context.journalId, ports: vm.file?.ports ?? {} },
    );
    this.#watch();
  }

  /** Makes the place for the copy: memory file, disk, RESERVED, and a process that waits. On failure nothing stays. */
  static async reserve(vms: Vms, needs: MoveNeeds, key: Buffer, onOver: () => void): Promise<TargetJob> {
    const { spec, attempt, epochTarget } = needs;
    const { context, store } = vms;
    const known = vms.get(spec.uuid);
    const vm = known ?? (await vms.make(spec.uuid, 0));
    await using undo = new UndoStack();
    if (!known) undo.add(() => vms.forget(vm));
    vms.ports.free(Object.values(vm.file?.ports ?? {}));
    await vm.dropState();
    await mkdirPrivate(vm.paths.state);
    await mkdirPrivate(vm.paths.run);
    undo.add(() => vm.dropState());
    const tool = new Tool(await store.path(spec.kernelId));
    await tool.create(vm.paths.memory, needs.memoryBytes);
    await tool.prepare(vm.paths.memory, attempt, epochTarget);
    await createOverlay(vm.paths.disk, await store.path(spec.imageId), spec.imageId, spec.diskMiB);
    const ports = await vms.ports.takeFor(
      spec.nics.map((nic) => nic.name),
      {},
    );
    undo.add(() => vms.ports.free(Object.values(ports)));
    await vm.writeFile({ spec, owner: needs.owner, confirmed: true, ports });
    await vm.journal.update(({ tombstone: _, ...kept }) => ({
      ...kept,
      home: "no",
      // The source burnt two: its own way back is heard of too, so that the VM's next epoch here is above both.
      floor: epochTarget + 1,
      in: [
        ...kept.in.filter((one) => one.state === "SETTLED" && !one.closed),
        { m: attempt, from: needs.from, epoch: epochTarget, bootId: context.bootId, state: "RESERVED", closed: false },
      ],
    }));
    undo.add(() => sayGone(vm, attempt));
    const live = await startIncoming({ context, store, paths: vm.paths, spec, ports, wirings: [] });
    undo.add(async () => {
      live[Symbol.dispose]();
      await killProcess(live.process);
    });
    const job = new TargetJob(vms, vm, needs, key, live, onOver);
    job.#memory = await MemorySink.open(vm.paths.memory, await store.path(spec.imageId), needs.memoryBytes);
    job.#disk = await DiskSink.open(vm.paths.disk, await overlayVirtualBytes(vm.paths.disk));
    vm.adopt(live);
    vm.job = job;
    rehearse(attempt, epochTarget);
    undo.commit();
    return job;
  }

  get m(): string {
    return this.needs.attempt;
  }

  get key(): Buffer {
    return this.#key;
  }

  /** The provider brought a new key for the same attempt. */
  set key(key: Buffer) {
    this.#key = key;
  }

  get progress(): MoveProgress {
    return { vm: this.vm.uuid, attempt: this.m, phase: this.#started ? "settle" : "reserve", round: 0, bytesSent: 0 };
  }

  /** A connection of the source, its HELLO read. */
  async serve(socket: TLSSocket, stream: string, decoder: StreamDecoder, first: readonly Frame[]): Promise<void> {
    this.#watch();
    const { anew } = await this.#receiver.serve(socket, stream, decoder, first);
    if (anew) this.#memory?.begin();
    socket.once("close", () => this.#watch());
  }

  /** A fact of the source, over the stream or brought by a courier. */
  async heard(fact: { fact: string; m: string; result?: Fact["result"] }): Promise<void> {
    if (fact.m !== this.m) return;
    if (fact.fact === "ABORTED") {
      await this.refuse("the source gave the move up");
      // Both have given up: nobody will ask again.
      await answerAttempt(this.vms, this.vm.uuid, this.m, "ABORTED");
      this.#end();
    } else if (fact.fact === "QUERY") {
      if (!this.#started) await this.refuse("the source asked before all was here");
      else if (this.#unsettled) await this.#settleAgain(this.#unsettled);
    }
    if (fact.fact === "CLOSED") {
      await closeIncoming(this.vms, this.vm, this.m, fact.result);
      this.#end();
    }
  }

  processEnded(note: string): void {
    if (!this.#started) void this.refuse(`the waiting process ended: ${note}`);
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

  async #refuse(reason: string): Promise<void> {
    this.#over = true;
    this.#back?.[Symbol.dispose]();
    clearTimeout(this.#idle);
    this.vm.context.log.warn({ vm: this.vm.uuid, m: this.m, reason }, "an incoming move is refused");
    try {
      const live = this.vm.release() ?? this.live;
      await live.control.say("refuse", { attempt: this.m }, 2000).catch(() => undefined);
      await killProcess(live.process);
      await this.#closeSinks();
      await sayGone(this.vm, this.m);
      this.#receiver.tell({ fact: "GONE", m: this.m, journalId: this.vm.context.journalId, reason });
      this.vms.ports.free(Object.values(this.vm.file?.ports ?? {}));
      await this.vm.dropState();
      await forgetIfNothingStays(this.vms, this.vm);
    } finally {
      // Until here whoever brings a fact waits for this, and does not read what is being removed.
      this.vm.job = undefined;
    }
    // The source answers GONE by ABORTED: then the record of it may go.
    setTimeout(() => this.#end(), lastWordMs).unref();
  }

  /** The agent ends: what the journal and the header say is all that stays. */
  end(): void {
    clearTimeout(this.#idle);
    clearTimeout(this.#again);
    this.#receiver.end();
  }

  async #apply(type: number, payload: Buffer, digest: () => string): Promise<void> {
    if (this.#over || this.#started) return;
    if (type === frameType.memory) {
      this.#back ??= standBack();
      this.#memory?.apply(payload);
    } else if (type === frameType.disk) await this.#disk?.apply(payload);
    else if (type === frameType.wirings) await this.#wire(payload);
    else if (type === frameType.final) await this.#final(payload, digest());
    else if (type === frameType.spec) this.#takeSpec(parseMessage(specMessage, payload));
    else throw new StreamError(`a source does not send frames of type ${type}`);
  }

  /** The links' keys are in the waiting process before the guest freezes. */
  async #wire(payload: Buffer): Promise<void> {
    this.#back?.[Symbol.dispose]();
    const before = this.#wirings;
    const wirings = parseMessage(wiringsMessage, payload);
    this.#wirings = wirings;
    // Not awaited here: a sync would hold up the frames behind this one. Settling waits for it.
    this.#written = this.#written.then(() => this.vm.writeWirings(wirings));
    this.#written.catch(() => undefined);
    for (const wiring of wirings) {
      const index = this.needs.spec.nics.findIndex((nic) => nic.name === wiring.nic);
      const old = before.find((one) => one.nic === wiring.nic);
      if (index < 0) continue;
      if (old?.key === wiring.key && old.keyId === wiring.keyId && old.link === wiring.link)
        await setPeer(this.live.control, index, wiring.peer);
      else await setLink(this.live.control, index, wiring);
    }
    // The source is about to freeze the guest.
    this.#disk?.finish();
    sweep();
  }

  #takeSpec(spec: MoveNeeds["spec"]): void {
    if (spec.uuid !== this.needs.spec.uuid) throw new StreamError("the spec is of another VM");
    this.#spec = spec;
  }

  /** The last byte: check, let it run, and tell. Nothing is waited for that is not needed to run. */
  async #final(payload: Buffer, digest: string): Promise<void> {
    await heldAt(this.vm.context, "go");
    // From here to `go` nothing is awaited: a refusal comes before all of it, or too late.
    if (this.#over) return;
    const { message, page0 } = decodeFinal(payload);
    if (message.m !== this.m || message.epoch !== this.needs.epochTarget) throw new StreamError("the last frame is of another attempt");
    const spec = this.#spec;
    if (!spec) throw new StreamError("the last frame came before the VM's spec");
    if (message.digest !== digest) throw new StreamError("the digest over all frames is wrong");
    if (message.diskBlocks !== this.#disk?.blocks)
      throw new StreamError(`${message.diskBlocks} disk blocks should be here, ${this.#disk?.blocks ?? 0} are`);
    const begun = performance.now();
    this.#disk.finish();
    this.#memory?.finish(prepareHeader(page0, this.m, this.needs.epochTarget));
    const writtenMs = performance.now() - begun;
    await this.#go();
    this.#started = true;
    clearTimeout(this.#idle);
    const runningMs = performance.now() - begun;
    this.#receiver.tell({ fact: "STARTED", m: this.m, journalId: this.vm.context.journalId, resumeMs: runningMs });
    this.live.openChannels(this.vm.context, this.#calm.promise);
    // Not awaited by the stream: the source's facts must be heard meanwhile. And the guest goes first: it may share its CPU with what follows.
    setTimeout(() => {
      this.vm.context.log.info({ vm: this.vm.uuid, m: this.m, writtenMs, runningMs }, "the guest runs here");
      void this.#settle(spec);
    }, guestsTurnMs);
  }

  /** Whatever the process answers, or whether it does: the header tells if the copy runs. */
  async #go(): Promise<void> {
    this.#going = true;
    try {
      await this.live.control.say("go", { attempt: this.m });
    } catch (error) {
      if (decideTarget("RESERVED", await this.vm.copyState()) !== "settle") {
        this.#going = false;
        throw error;
      }
    }
  }

  async #settle(spec: MoveNeeds["spec"]): Promise<void> {
    this.#unsettled = undefined;
    clearTimeout(this.#again);
    try {
      if (this.vm.file) await this.vm.writeFile({ ...this.vm.file, spec });
      await this.#written;
      await this.#disk?.sync();
      this.#calm.resolve();
      await this.#closeSinks();
      await heldAt(this.vm.context, "started");
      await settleIncoming(this.vm, this.m);
      await heldAt(this.vm.context, "settled");
      this.vm.job = undefined;
      this.#receiver.tell({ fact: "SETTLED", m: this.m, journalId: this.vm.context.journalId });
      const changed = spec.nics.some((nic) => mtuOf(nic, this.vm.wirings) !== nic.mtu);
      if (changed) await configure(this.vm);
    } catch (error) {
      this.vm.context.log.error({ vm: this.vm.uuid, m: this.m, err: error }, "settling failed; the guest runs, it is tried again");
      this.#calm.resolve();
      if (this.vm.journal.incoming(this.m)?.state !== "RESERVED") return;
      this.#unsettled = spec;
      this.#again = setTimeout(() => void this.#settleAgain(spec), settleAgainMs).unref();
    }
  }

  /** A disk that was full may have room by now: also for what was not awaited then. */
  async #settleAgain(spec: MoveNeeds["spec"]): Promise<void> {
    if (this.vm.job !== this) return;
    this.#written = this.vm.writeWirings(this.#wirings);
    this.#written.catch(() => undefined);
    await this.#settle(spec);
  }

  async #closeSinks(): Promise<void> {
    await this.#memory?.close();
    await this.#disk?.close();
    this.#memory = undefined;
    this.#disk = undefined;
  }

  #end(): void {
    this.#over = true;
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

/** The header as a target's copy has it: in `part`, with its own epoch. */
function prepareHeader(page0: Buffer, m: string, epoch: number): Buffer {
  if (page0.length !== pageBytes || page0.toString("latin1", 0, 8) !== "MOBIMEM1") throw new StreamError("page 0 is no header");
  const header = Buffer.from(page0);
  header.writeUInt32LE(0, 8);
  header.writeBigUInt64LE(BigInt(epoch), 24);
  header.fill(0, 32, 96);
  header.write(m, 32, 64, "latin1");
  return header;
}

/** The source has closed: the attempt is over for both. */
export async function closeIncoming(vms: Vms, vm: Vm, m: string, result: Fact["result"]): Promise<void> {
  using _turn = await vm.turn.lock();
  if (vms.get(vm.uuid) !== vm) return;
  const record = vm.journal.incoming(m);
  if (record?.state === "SETTLED") await vm.journal.dropIncoming(m);
  if (result && vm.file) await vm.writeFile({ ...vm.file, lastMigration: result });
  await forgetIfNothingStays(vms, vm);
}

/** A journal that says nothing any more goes. */
export async function forgetIfNothingStays(vms: Vms, vm: Vm): Promise<void> {
  const { home, out, tombstone, in: all } = vm.journal.value;
  const owed = all.some((one) => !one.closed);
  if (home !== "yes" && !vm.file && !owed && !tombstone && (!out || out.state === "ABORTED" || out.state === "CLOSED"))
    await vms.forget(vm);
}
