import { ensureNoProcess } from "../vm/pickup";
import { killProcess } from "../vm/process";
import { resumeCopy } from "../vm/resume";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import { endPartial } from "./byHand";
import { retireCopy } from "./courier";
import { decideSource, decideTarget } from "./decide";
import { forgetIfNothingStays } from "./forget";
import { sayGone, settleIncoming } from "./settle";

/** At an agent's start: each VM's journal and header say what is to be done. What needs the other side waits for it. */
export async function recoverAll(vms: Vms): Promise<void> {
  for (const vm of vms.all()) {
    try {
      await recoverTarget(vms, vm);
      await recoverSource(vm);
      await finishDestroy(vms, vm);
    } catch (error) {
      vm.context.log.error({ vm: vm.uuid, err: error }, "a VM could not be recovered; it is left as it is");
    }
  }
}

/** What the recovery table says of an outgoing attempt, done: at an agent's start, and when an attempt fails. */
export async function recoverSource(vm: Vm): Promise<void> {
  const { out } = vm.journal.value;
  if (!out || out.state === "ABORTED") return;
  // One that lives and does not answer may be the only copy: nothing is done without it.
  await ensureNoProcess(vm);
  const header = await vm.copyState();
  const cameBack = vm.journal.value.home === "yes" || vm.journal.in?.state === "RESERVED";
  const step = decideSource(out.state, header, vm.live !== undefined, cameBack);
  if (step === "none") return;
  vm.context.log.info({ vm: vm.uuid, m: out.m, journal: out.state, header, step }, "recovering an outgoing move");
  if (step === "thaw-and-abort")
    await vm.live?.control.say("thaw", { attempt: out.m }).catch(async (error: unknown) => {
      // The dead man may have been faster.
      if ((await vm.copyState()) !== "run") throw error;
    });
  if (step === "restore-and-abort") {
    const dead = vm.release();
    if (dead) await killProcess(dead.process);
    vm.adopt(await resumeCopy(vm, header, out.m, (await vm.header())?.epoch ?? out.epochReturn));
  }
  if (step === "retire") await retireCopy(vm, out);
  else if (step !== "finish" && step !== "ask") {
    await vm.journal.writeOut({ state: "ABORTED" });
    // A copy that ran when its process ended has no way on.
    if (!vm.live) await vm.dropRun();
    vm.live?.openChannels(vm.context);
  }
}

async function recoverTarget(vms: Vms, vm: Vm): Promise<void> {
  const record = vm.journal.in;
  // A person's recovery that was interrupted.
  if (record?.state === "SETTLED" && (await vm.copyState()) === "runPartial") return await endPartial(vm);
  if (record?.state !== "RESERVED") return;
  const header = await vm.copyState();
  const step = decideTarget("RESERVED", header, vm.live !== undefined);
  vm.context.log.info({ vm: vm.uuid, m: record.m, header, step }, "recovering an incoming move");
  // What the stream had brought is not known any more: a target may refuse at any time before it runs.
  const isHere = step === "settle" || step === "fill" || !(await sayGone(vm, record.m));
  if (isHere && step !== "fill") await settleIncoming(vm, record.m);
  if (isHere) return vm.live?.openChannels(vm.context);
  vms.ports.free(Object.values(vm.file?.ports ?? {}));
  await vm.dropState();
}

/** A destroy that was interrupted after its record. */
async function finishDestroy(vms: Vms, vm: Vm): Promise<void> {
  if (vm.journal.value.home !== "destroyed") return;
  const live = vm.release();
  if (live) await killProcess(live.process);
  await vm.dropState();
  await forgetIfNothingStays(vms, vm);
}
