import { AgentFault } from "../errors";
import { stopProcess } from "./stop";
import type { Vm } from "./vm";
import type { Vms } from "./vms";

/** Removes a VM with all it has. Missing is fine; in doubt is refused; a tombstone is dropped whoever asks. */
export async function destroyVm(
  vms: Vms,
  request: { vm: string; owner: string; gen: number },
  cancel: (vm: Vm) => Promise<void>,
): Promise<{ existed: boolean }> {
  const step = "destroy the VM";
  const vm = vms.get(request.vm);
  if (!vm) return { existed: false };
  vms.checkGen(request.vm, request.gen, step);
  const record = vm.journal.value;
  if (record.tombstone && record.home === "no" && !pending(vm)) {
    await vm.dropState();
    await forgetUnlessNeeded(vms, vm);
    return { existed: false };
  }
  if (vm.file && vm.file.owner !== request.owner) {
    throw new AgentFault("not-ours", step, `the VM belongs to ${vm.file.owner}`, { next: "destroy it where it was made" });
  }
  await cancel(vm);
  using _turn = await vm.turn.lock();
  // What was cancelled may have been all that there was of it here.
  if (vms.get(request.vm) !== vm) return { existed: false };
  if (pending(vm))
    throw new AgentFault("in-doubt", step, "a move of this VM is past its point of no return and not settled", {
      next: "`pulumi refresh` resolves it, then destroy again",
    });
  await vm.journal.write({ home: "destroyed" });
  if (vm.live) {
    vm.live.sessions.lose("the VM was destroyed");
    await stopProcess(vm.live, "quit");
    vm.release();
  }
  await vm.dropState();
  await forgetUnlessNeeded(vms, vm);
  return { existed: true };
}

function pending(vm: Vm): boolean {
  const { out } = vm.journal.value;
  return out?.state === "INIT" || out?.state === "OPEN" || vm.journal.in?.state === "RESERVED";
}

/** A source that has not said CLOSED may still ask: then our SETTLED must stand, or it would take the VM for lost and run its old copy. */
export async function forgetUnlessNeeded(vms: Vms, vm: Vm): Promise<void> {
  if (vm.journal.value.in.some((one) => one.state === "SETTLED" && !one.closed)) return;
  await vms.forget(vm);
}
