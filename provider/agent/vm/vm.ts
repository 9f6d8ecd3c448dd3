import { readdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { unless } from "../../lib/errors";
import { Mutex } from "../../lib/mutex";
import type { Wiring } from "../../schemas/link";
import type { AgentContext } from "../context";
import type { CopyState } from "../migration/decide";
import type { MoveJob } from "../migration/job";
import type { VmJournal } from "../migration/journal";
import type { Store } from "../store/store";
import { keepBasis } from "./basis";
import { tailOf } from "./console";
import { readVmFile, readWirings, type VmFile, writeVmFile, writeWirings } from "./file";
import type { LiveVm } from "./live";
import { type VmPaths, vmPaths } from "./paths";
import { adoptProcess, dropProcess, type Ended, isOurs, killProcess, readProcess } from "./process";
import { type Header, Tool } from "./tool";

/** One VM that this agent knows of: its files, its journal, and its process if one runs. */
export class Vm {
  readonly paths: VmPaths;
  /** Held by whatever starts, stops or changes the VM. */
  readonly turn = new Mutex();
  file: VmFile | undefined;
  wirings: readonly Wiring[] = [];
  live: LiveVm | undefined;
  /** The move under way, at either end. */
  job: MoveJob | undefined;

  private constructor(
    readonly context: AgentContext,
    readonly store: Store,
    readonly journal: VmJournal,
  ) {
    this.paths = vmPaths(context, journal.value.vm);
  }

  static async open(context: AgentContext, store: Store, journal: VmJournal): Promise<Vm> {
    const vm = new Vm(context, store, journal);
    vm.file = await readVmFile(vm.paths);
    vm.wirings = await readWirings(vm.paths);
    return vm;
  }

  get uuid(): string {
    return this.journal.value.vm;
  }

  async writeFile(file: VmFile): Promise<void> {
    await writeVmFile(this.paths, file);
    this.file = file;
  }

  async writeWirings(wirings: readonly Wiring[]): Promise<void> {
    await writeWirings(this.paths, wirings);
    this.wirings = wirings;
  }

  /** What a person reads as the reason for its state. */
  async setNote(note: string | undefined): Promise<void> {
    if (!this.file || this.file.note === note) return;
    const { note: _old, ...rest } = this.file;
    await this.writeFile(note === undefined ? rest : { ...rest, note });
  }

  /** The process is ours to watch from here on. */
  adopt(live: LiveVm): void {
    this.live = live;
    void live.process.ended.then((how) => this.#ended(live, how));
  }

  /** Lets go of the process without ending it. */
  release(): LiveVm | undefined {
    const live = this.detach();
    live?.[Symbol.dispose]();
    return live;
  }

  /** Its end is not noted from here on; it can still be spoken to, and be adopted again. */
  detach(): LiveVm | undefined {
    const { live } = this;
    this.live = undefined;
    return live;
  }

  /** The memory file's header; undefined where there is no file. */
  async header(): Promise<Header | undefined> {
    if (!this.file || !(await unless(stat(this.paths.memory), "ENOENT"))) return undefined;
    return await new Tool(await this.kernel()).header(this.paths.memory);
  }

  async copyState(): Promise<CopyState> {
    return (await this.header())?.state ?? "none";
  }

  /** Path of the kernel's program; that of the running process, where the store has it no more. */
  async kernel(): Promise<string> {
    const id = this.file?.spec.kernelId ?? "";
    const running = (await this.store.has(id)) ? undefined : await readProcess(this.paths.process);
    return running && (await isOurs(running)) ? `/proc/${running.pid}/exe` : await this.store.path(id);
  }

  /** Path of the image that its disk lies over; undefined where the store has it no more. */
  async image(): Promise<string | undefined> {
    const id = this.file?.spec.imageId ?? "";
    return (await this.store.has(id)) ? await this.store.path(id) : undefined;
  }

  /** Removes memory and sockets, and ends a process that may still be there: the copy is not to run again. */
  async dropRun(): Promise<void> {
    await this.#endProcess();
    await rm(this.paths.run, { recursive: true, force: true });
  }

  /**
   * It went: removes disk, memory, logs and keys. What stays says whose VM it was and where it went, and what an earlier call has kept.
   * @param keep disk and memory stay for a way back, where there is room
   */
  async dropCopy(keep: boolean): Promise<void> {
    await this.#endProcess();
    if (keep) await keepBasis(this.context, this.paths);
    const { basisMemory, disk, wirings, console, log } = this.paths;
    for (const name of (await unless(readdir(this.paths.run), "ENOENT")) ?? [])
      if (name !== basename(basisMemory)) await rm(join(this.paths.run, name), { recursive: true, force: true });
    for (const path of [disk, wirings, console, log]) await rm(path, { force: true });
    this.wirings = [];
  }

  /** Removes all that is kept of the VM, but for the journal. */
  async dropState(): Promise<void> {
    await this.dropRun();
    // A file of the VM that is being replaced at this moment has another name for an instant.
    await rm(this.paths.state, { recursive: true, force: true, maxRetries: 5, retryDelay: 20 });
    this.file = undefined;
    this.wirings = [];
  }

  async #endProcess(): Promise<void> {
    const record = await readProcess(this.paths.process).catch(() => undefined);
    const left = record && (await adoptProcess(record));
    if (left) await killProcess(left);
  }

  async #ended(live: LiveVm, how: Ended): Promise<void> {
    if (this.live !== live) return;
    this.release();
    live.sessions.lose("the VM has stopped");
    const note = await this.#noteOf(how);
    this.context.log.warn({ vm: this.uuid, ...how, note }, "kernel process ended");
    await dropProcess(this.paths.process);
    await this.setNote(note);
    // A copy that an attempt still counts on stays: its header decides.
    const { out } = this.journal.value;
    if (out?.state !== "OPEN" && this.journal.in?.state !== "RESERVED") await this.dropRun();
    this.job?.processEnded(note);
  }

  async #noteOf(how: Ended): Promise<string> {
    if (how.code === 0) return "the guest powered off; `pulumi up` boots it from its disk";
    const said = (await tailOf(this.paths.log, 2048)).trim().split("\n").at(-1) ?? "";
    const way = how.signal !== undefined ? `by ${how.signal}` : how.code !== undefined ? `with code ${how.code}` : "while no agent watched";
    const ended = `the kernel process ended ${way}${said === "" ? "" : `: ${said}`}`;
    // One that only waited for a copy had nothing to lose.
    const waited = this.journal.in?.state === "RESERVED" && (await this.copyState().catch(() => "none")) === "part";
    return waited ? ended : `${ended}; what was in RAM is lost, \`pulumi up\` boots it from its disk`;
  }
}
