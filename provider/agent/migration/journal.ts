import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { mkdirPrivate, syncFolder, UnreadableStateError } from "../../lib/files";
import { Mutex } from "../../lib/mutex";
import { SlotFile } from "../../lib/slot";

const side = z.strictObject({ host: z.string(), agentId: z.string() });

/** Source's word on an attempt (migration-protocol.md). */
const outgoing = z.strictObject({
  m: z.string(),
  to: side,
  /** The target's journal, once it has offered: only its GONE counts. */
  toJournal: z.string().optional(),
  epochTarget: z.int(),
  epochReturn: z.int(),
  gen: z.int(),
  state: z.enum(["INIT", "OPEN", "ABORTED", "CLOSED"]),
});
export type Outgoing = z.infer<typeof outgoing>;

/** Target's word on an attempt. */
const incoming = z.strictObject({
  m: z.string(),
  from: side,
  epoch: z.int(),
  bootId: z.string(),
  state: z.enum(["RESERVED", "SETTLED", "GONE"]),
  /** The source has said CLOSED. */
  closed: z.boolean().default(false),
});
export type Incoming = z.infer<typeof incoming>;

const record = z.strictObject({
  vm: z.uuid(),
  /** Random per create: the uuid comes again with the URN. */
  incarnation: z.string(),
  /** The custodian bit. */
  home: z.enum(["no", "yes", "destroyed"]),
  /** Highest epoch burnt or heard. */
  floor: z.int(),
  /** Newest provider run. */
  gen: z.int(),
  out: outgoing.optional(),
  /** The newest is last; older ones stay until their source has closed. */
  in: z.array(incoming).default([]),
  /** Where the VM went. */
  tombstone: side.optional(),
});
export type VmRecord = z.infer<typeof record>;

/** One VM's journal: a single durable record, so that every step of the protocol is one atomic write. */
export class VmJournal {
  readonly #turn = new Mutex();

  private constructor(
    readonly path: string,
    private readonly slot: SlotFile,
    private current: VmRecord,
  ) {}

  static async open(path: string, initial: VmRecord): Promise<VmJournal> {
    const slot = await SlotFile.open(path, initial);
    const parsed = record.safeParse(slot.value);
    if (!parsed.success) {
      await slot.close();
      throw new UnreadableStateError(path, z.prettifyError(parsed.error));
    }
    return new VmJournal(path, slot, parsed.data);
  }

  get value(): Readonly<VmRecord> {
    return this.current;
  }

  /**
   * Changes the record by what it is when its turn comes: two that write at the same time must not undo each other. Durable when it resolves.
   */
  async update(change: (current: Readonly<VmRecord>) => VmRecord): Promise<void> {
    using _turn = await this.#turn.lock();
    const next = change(this.current);
    await this.slot.write(next);
    this.current = next;
  }

  /** Replaces some fields. Durable when it resolves. */
  async write(change: Partial<VmRecord>): Promise<void> {
    await this.update((current) => ({ ...current, ...change }));
  }

  /** The newest incoming attempt. */
  get in(): Incoming | undefined {
    return this.current.in.at(-1);
  }

  incoming(m: string): Incoming | undefined {
    return this.current.in.find((one) => one.m === m);
  }

  /** Changes one incoming record (and what stands with it) in one write. */
  async writeIncoming(m: string, change: Partial<Incoming>, beside: Partial<VmRecord> = {}): Promise<void> {
    await this.update((current) => ({ ...current, ...beside, in: current.in.map((one) => (one.m === m ? { ...one, ...change } : one)) }));
  }

  /** Forgets an incoming record. */
  async dropIncoming(m: string): Promise<void> {
    await this.update((current) => ({ ...current, in: current.in.filter((one) => one.m !== m) }));
  }

  async writeOut(change: Partial<Outgoing>, beside: Partial<VmRecord> = {}): Promise<void> {
    await this.update((current) => {
      if (!current.out) throw new Error("no outgoing attempt to write");
      return { ...current, ...beside, out: { ...current.out, ...change } };
    });
  }

  /** Burns the next epoch, durably, before anything may run with it. */
  async burnEpoch(): Promise<number> {
    let epoch = 0;
    await this.update((current) => {
      epoch = current.floor + 1;
      return { ...current, floor: epoch };
    });
    return epoch;
  }

  async close(): Promise<void> {
    await this.slot.close();
  }
}

/** All journals of an agent: `<state>/journal/<vm uuid>`. */
export class Journals {
  readonly #open = new Map<string, VmJournal>();

  private constructor(readonly folder: string) {}

  static async open(stateDir: string): Promise<Journals> {
    const journals = new Journals(join(stateDir, "journal"));
    await mkdirPrivate(journals.folder);
    for (const file of await readdir(journals.folder)) {
      const vm = file.replace(/\.new$/, "");
      if (file !== vm) await rm(join(journals.folder, file), { force: true });
      else journals.#open.set(vm, await VmJournal.open(join(journals.folder, vm), blank(vm, "")));
    }
    return journals;
  }

  get(vm: string): VmJournal | undefined {
    return this.#open.get(vm);
  }

  all(): VmJournal[] {
    return [...this.#open.values()];
  }

  async make(vm: string, initial: Partial<VmRecord>): Promise<VmJournal> {
    const made = this.#open.get(vm) ?? (await VmJournal.open(join(this.folder, vm), { ...blank(vm, ""), ...initial }));
    this.#open.set(vm, made);
    return made;
  }

  /** Forgets a VM altogether. The caller has seen that no other side still counts on this journal. */
  async remove(vm: string): Promise<void> {
    const journal = this.#open.get(vm);
    if (!journal) return;
    this.#open.delete(vm);
    await journal.close();
    await rm(journal.path, { force: true });
    await syncFolder(this.folder);
  }
}

function blank(vm: string, incarnation: string): VmRecord {
  return { vm, incarnation, home: "no", floor: 0, gen: 0, in: [] };
}
