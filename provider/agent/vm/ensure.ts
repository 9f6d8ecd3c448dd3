import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { mkdirPrivate } from "../../lib/files";
import { DeadlineError } from "../../lib/time";
import { UndoStack } from "../../lib/undo";
import type { VmReport } from "../../protocol/methods";
import type { VmSpec } from "../../schemas/vm";
import { AgentFault } from "../errors";
import { addNic, mtuOf } from "../link/wire";
import { whyNotChange } from "../migration/decide";
import { coldBoot } from "./boot";
import { forgetUnlessNeeded } from "./destroy";
import { createOverlay } from "./overlay";
import { ensureNoProcess } from "./pickup";
import { stopProcess } from "./stop";
import type { Vm } from "./vm";
import type { Vms } from "./vms";

export interface EnsureRequest {
  readonly spec: VmSpec;
  readonly owner: string;
  readonly adopt?: boolean | undefined;
  readonly running: boolean;
  readonly gen: number;
}

/** How long a guest agent may take from the kernel's start to its answer. */
const guestLimitMs = 30_000;

/** Makes a VM as asked: created if missing, changed in place, running or stopped. Idempotent. */
export async function ensureVm(vms: Vms, request: EnsureRequest): Promise<{ vm: VmReport; created: boolean; booted: boolean }> {
  const { spec, gen } = request;
  const step = `ensure the VM ${spec.name}`;
  vms.checkGen(spec.uuid, gen, step);
  let created = false;
  let vm = vms.get(spec.uuid);
  if (!vm?.file || vm.journal.value.tombstone) {
    vm = await create(vms, request, step);
    created = true;
  }
  using _turn = await vm.turn.lock();
  checkOwner(vm, request, step);
  checkIdle(vm, step);
  if (gen > vm.journal.value.gen) await vm.journal.write({ gen });
  const before = vm.file?.spec;
  await ensureNoProcess(vm);
  await takeSpec(vms, vm, request, !created && vm.file?.owner === request.owner);
  const booted = request.running && !vm.live;
  if (booted) await boot(vm);
  else if (!request.running && vm.live) await halt(vm);
  else if (vm.live && JSON.stringify(before) !== JSON.stringify(spec)) await change(vm, before);
  const report = await vms.report(spec.uuid);
  if (!report) throw new AgentFault("failed", step, "the VM has no record after all");
  return { vm: report, created, booted };
}

async function create(vms: Vms, request: EnsureRequest, step: string): Promise<Vm> {
  const { spec, owner, gen } = request;
  const before = vms.get(spec.uuid);
  const gone = before?.journal.value.tombstone;
  // With another token it is a new VM of the same name: the one that left was destroyed where it went.
  if (gone && before.file?.owner === owner)
    throw new AgentFault("bad-state", step, `this VM went to ${gone.host}`, { next: "`pulumi refresh` finds it there" });
  const missing = await vms.store.missing([spec.kernelId, spec.imageId]);
  if (missing.length > 0)
    throw new AgentFault("missing-blob", step, `the store lacks ${missing.join(", ")}`, { next: "bring them with store.import" });
  const vm = await vms.make(spec.uuid, gen);
  await using undo = new UndoStack();
  undo.add(async () => {
    await vm.dropState();
    await forgetUnlessNeeded(vms, vm);
  });
  await mkdirPrivate(vm.paths.state);
  await rm(vm.paths.disk, { force: true });
  await createOverlay(vm.paths.disk, await vms.store.path(spec.imageId), spec.imageId, spec.diskMiB);
  await vm.writeFile({
    spec,
    owner,
    confirmed: false,
    ports: await vms.ports.takeFor(
      spec.nics.map((nic) => nic.name),
      {},
    ),
  });
  await vm.journal.update(({ tombstone: _, out: __, ...kept }) => ({ ...kept, home: "yes", incarnation: randomBytes(4).toString("hex") }));
  undo.commit();
  return vm;
}

function checkOwner(vm: Vm, request: EnsureRequest, step: string): void {
  if (vm.file?.owner === request.owner || request.adopt || !vm.file?.confirmed) return;
  throw new AgentFault("not-ours", step, `a VM of this uuid belongs to ${vm.file?.owner}`, {
    next: "set `adopt: true` to take it over, or destroy it where it was made",
  });
}

/** Nothing else may go on with the VM: moves own it from INIT to their end. */
export function checkIdle(vm: Vm, step: string): void {
  const { out } = vm.journal.value;
  const next = "`pulumi up` attaches to it and finishes it";
  switch (whyNotChange(vm.journal.value)) {
    case "move open":
      throw new AgentFault(
        out?.state === "OPEN" && !vm.job ? "in-doubt" : "busy",
        step,
        `its move ${out?.m} to ${out?.to.host} is not finished`,
        { next },
      );
    case "move arriving":
      throw new AgentFault("busy", step, `its move ${vm.journal.in?.m} from ${vm.journal.in?.from.host} is not finished`, { next });
    case "not here":
      throw new AgentFault("bad-state", step, "this host does not have the VM", { next: "`pulumi refresh` finds it" });
  }
}

async function takeSpec(vms: Vms, vm: Vm, { spec, owner }: EnsureRequest, confirmed: boolean): Promise<void> {
  const { file } = vm;
  if (!file) throw new Error("a created VM has a file");
  const had = file.spec;
  const fixed = ["imageId", "kernelId", "memoryMiB", "diskMiB"] as const;
  const other = fixed.filter((key) => had[key] !== spec[key]);
  if (other.length > 0)
    throw new AgentFault("bad-request", `change the VM ${spec.name}`, `${other.join(", ")} cannot change while the VM exists`, {
      next: "replace the VM",
    });
  const ports = await vms.ports.takeFor(
    spec.nics.map((nic) => nic.name),
    file.ports,
  );
  vms.ports.free(Object.entries(file.ports).flatMap(([name, port]) => (ports[name] === undefined ? [port] : [])));
  await vm.writeFile({ ...file, spec, owner, ports, confirmed });
}

/** A cold boot; returns when the guest's addresses are set, or the guest agent did not answer in time (then the note says so). */
export async function boot(vm: Vm): Promise<void> {
  const { file } = vm;
  if (!file) throw new Error("a VM without a file cannot boot");
  const epoch = await vm.journal.burnEpoch();
  await vm.setNote(undefined);
  const live = await coldBoot(
    { context: vm.context, store: vm.store, paths: vm.paths, spec: file.spec, ports: file.ports, wirings: vm.wirings },
    epoch,
  );
  vm.adopt(live);
  await configure(vm);
}

/** Sends the guest its names and addresses; what the guest cannot do stands in the note, for the VM runs all the same. */
export async function configure(vm: Vm): Promise<void> {
  const { file, live } = vm;
  if (!file || !live) return;
  try {
    const faults = await Promise.race([
      live.configure(file.spec, vm.wirings, guestLimitMs),
      live.process.ended.then(() => ["the VM ended"]),
    ]);
    if (vm.live !== live) throw new AgentFault("failed", "boot the VM", vm.file?.note ?? "the kernel process ended");
    await vm.setNote(faults.length > 0 ? `the guest could not set up all: ${faults.join("; ")}` : undefined);
  } catch (error) {
    if (!(error instanceof DeadlineError)) throw error;
    await vm.setNote("no guest agent answers: names and addresses are not set, exec does not work (see `mobitopolo logs`)");
  }
}

async function halt(vm: Vm): Promise<void> {
  if (!vm.live) return;
  vm.live.sessions.lose("the VM was stopped");
  await stopProcess(vm.live);
  vm.release();
  await vm.dropRun();
  await vm.setNote("stopped as asked");
}

/** What can change while the guest runs: names, addresses, NICs at the end of the list, the CPU. */
async function change(vm: Vm, before: VmSpec | undefined): Promise<void> {
  const { file, live } = vm;
  if (!file || !live) return;
  const had = before?.nics ?? [];
  for (const [index, nic] of had.entries()) {
    const now = file.spec.nics[index];
    if (now?.name !== nic.name || now.mac !== nic.mac) await live.control.say("nic.remove", { nic: index });
  }
  for (const [index, nic] of file.spec.nics.entries()) {
    const old = had[index];
    if (old?.name !== nic.name || old.mac !== nic.mac)
      await addNic(vm.context, live.control, index, nic, file.ports[nic.name] ?? 0, mtuOf(nic, vm.wirings));
  }
  if (file.spec.cpu !== "auto" && file.spec.cpu !== live.cpu) {
    await live.control.say("pin", { cpu: file.spec.cpu });
    live.cpu = file.spec.cpu;
  }
  await configure(vm);
}
