import { AgentFault } from "../errors";
import { Control } from "./control";
import { LiveVm } from "./live";
import { adoptProcess, readProcess } from "./process";
import type { Vm } from "./vm";

const answerLimitMs = 5_000;

/**
 * Finds the VM's process of before and opens its channels.
 * @returns false where a process lives that cannot be talked to: it is left alone, for it may be the only copy
 */
export async function pickUp(vm: Vm): Promise<boolean> {
  const record = await readProcess(vm.paths.process);
  const found = record && (await adoptProcess(record));
  if (!found) return true;
  try {
    // It may stand for a page that this agent is to bring.
    if ((await vm.copyState()) === "runPartial") {
      const partial = new LiveVm(found, await Control.attach(vm.paths.control, vm.uuid), vm.paths);
      vm.adopt(partial);
      partial.openChannels(vm.context);
      return true;
    }
    const live = new LiveVm(found, await Control.connect(vm.paths.control, answerLimitMs), vm.paths);
    vm.adopt(live);
    const { state } = await live.control.say("status");
    if (state === "run") live.openChannels(vm.context);
    return true;
  } catch (error) {
    vm.context.log.error({ vm: vm.uuid, pid: found.record.pid, err: error }, "a VM process does not answer");
    return vm.live !== undefined;
  }
}

/** There is no process of this VM but the one that is driven here (`vm.live`). @throws AgentFault bad-state */
export async function ensureNoProcess(vm: Vm): Promise<void> {
  if (vm.live || (await pickUp(vm))) return;
  const record = await readProcess(vm.paths.process);
  throw new AgentFault("bad-state", "drive the VM", `its kernel process ${record?.pid ?? "?"} lives, but does not answer`, {
    next: "look at it; to give up what is in its memory, kill it and run the same command again",
  });
}
