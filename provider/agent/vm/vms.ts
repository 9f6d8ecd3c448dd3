import { randomBytes } from "node:crypto";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { mkdirPrivate } from "../../lib/files";
import type { VmReport } from "../../protocol/methods";
import type { AgentContext } from "../context";
import { AgentFault } from "../errors";
import { Ports } from "../link/ports";
import { Journals } from "../migration/journal";
import type { Store } from "../store/store";
import type { LiveVm } from "./live";
import { pickUp } from "./pickup";
import { adoptProcess, killNow, readProcess } from "./process";
import { reportOf } from "./report";
import { Vm } from "./vm";

/** All VMs of one agent. */
export class Vms {
  readonly #vms = new Map<string, Vm>();
  /** Claims on VMs that are not here: nothing is written for those. */
  readonly #strangers = new Map<string, number>();
  readonly ports: Ports;

  private constructor(
    readonly context: AgentContext,
    readonly store: Store,
    readonly journals: Journals,
  ) {
    this.ports = new Ports(context.ports, context.bindAddress);
  }

  /** Reads what is on disk and picks up the processes that run; leftovers that no journal knows are removed. */
  static async open(context: AgentContext, store: Store): Promise<Vms> {
    await mkdirPrivate(join(context.stateDir, "vms"));
    const vms = new Vms(context, store, await Journals.open(context.stateDir));
    for (const journal of vms.journals.all()) {
      const vm = await Vm.open(context, store, journal);
      vms.#vms.set(vm.uuid, vm);
      vms.ports.hold(Object.values(vm.file?.ports ?? {}));
      await pickUp(vm);
    }
    await vms.#sweep();
    return vms;
  }

  get(uuid: string): Vm | undefined {
    return this.#vms.get(uuid);
  }

  all(): Vm[] {
    return [...this.#vms.values()];
  }

  /** A VM that is here. @throws AgentFault not-found */
  need(uuid: string, step: string): Vm & { file: NonNullable<Vm["file"]> } {
    const vm = this.#vms.get(uuid);
    if (vm?.file) return vm as Vm & { file: NonNullable<Vm["file"]> };
    throw new AgentFault("not-found", step, `no VM ${uuid} is here`, { next: "`pulumi refresh` finds where it is" });
  }

  /** The live process of a VM. @throws AgentFault bad-state */
  needLive(uuid: string, step: string): { vm: Vm; live: LiveVm } {
    const vm = this.need(uuid, step);
    if (vm.live) return { vm, live: vm.live };
    throw new AgentFault("bad-state", step, "the VM does not run here", {
      next: vm.journal.value.tombstone ? `it went to ${vm.journal.value.tombstone.host}` : "`pulumi up` boots it",
    });
  }

  /** A new VM's place: journal with a fresh incarnation. */
  async make(uuid: string, gen: number): Promise<Vm> {
    const journal = await this.journals.make(uuid, { incarnation: randomBytes(4).toString("hex"), gen });
    const vm = this.#vms.get(uuid) ?? (await Vm.open(this.context, this.store, journal));
    this.#vms.set(uuid, vm);
    return vm;
  }

  /** Forgets a VM whose files are gone. */
  async forget(vm: Vm): Promise<void> {
    this.ports.free(Object.values(vm.file?.ports ?? {}));
    this.#vms.delete(vm.uuid);
    await this.journals.remove(vm.uuid);
  }

  /** A provider run's claim: durable for a VM that is known. */
  async claim(uuid: string): Promise<number> {
    const vm = this.#vms.get(uuid);
    let gen = (this.#strangers.get(uuid) ?? 0) + 1;
    if (!vm) this.#strangers.set(uuid, gen);
    else
      await vm.journal.update((current) => {
        gen = Math.max(gen, current.gen + 1);
        return { ...current, gen };
      });
    return gen;
  }

  /** @throws AgentFault stale-gen */
  checkGen(uuid: string, gen: number, step: string): void {
    const newest = Math.max(this.#vms.get(uuid)?.journal.value.gen ?? 0, this.#strangers.get(uuid) ?? 0);
    if (gen < newest)
      throw new AgentFault("stale-gen", step, `run ${gen} was overtaken by run ${newest}`, {
        next: "another `pulumi up` works on this VM; let it end, then run again",
      });
  }

  async report(uuid: string): Promise<VmReport | null> {
    const vm = this.#vms.get(uuid);
    return (vm && (await reportOf(vm))) ?? null;
  }

  /** Blobs that a VM here needs at its next start. */
  usedBlobs(): Set<string> {
    return new Set(
      this.all().flatMap((vm) => (vm.file && !vm.journal.value.tombstone ? [vm.file.spec.imageId, vm.file.spec.kernelId] : [])),
    );
  }

  /** Folders of VMs that no journal knows: an agent ended between a journal's removal and the folder's, or before a journal was made. */
  async #sweep(): Promise<void> {
    for (const folder of [join(this.context.stateDir, "vms"), this.context.runDir]) {
      for (const name of await readdir(folder)) {
        if (!/^[0-9a-f]{8}-[0-9a-f-]{27}$/.test(name) || this.#vms.has(name)) continue;
        const left = await readProcess(join(folder, name, "process.json")).catch(() => undefined);
        if (left && (await adoptProcess(left))) killNow(left);
        await rm(join(folder, name), { recursive: true, force: true });
      }
    }
  }
}
