import { AgentFault } from "../errors";
import type { CopyState } from "../migration/decide";
import { startIncoming } from "./boot";
import type { LiveVm } from "./live";
import { Tool } from "./tool";
import type { Vm } from "./vm";

/**
 * Lets a frozen copy whose process died run again in a new process. The caller knows that it may (migration-protocol.md).
 * @param from the header's state now; `part` where an earlier try ended half-way
 */
export async function resumeCopy(vm: Vm, from: CopyState, attempt: string, epoch: number): Promise<LiveVm> {
  const { file, paths } = vm;
  if (!file) throw new AgentFault("failed", "resume the VM", "its record is gone");
  if (from !== "part") await new Tool(await vm.kernel()).swap(paths.memory, from, "part", { attempt, epoch });
  const live = await startIncoming({
    context: vm.context,
    store: vm.store,
    paths,
    spec: file.spec,
    ports: file.ports,
    wirings: vm.wirings,
  });
  await live.control.say("go", { attempt });
  live.openChannels(vm.context);
  return live;
}
