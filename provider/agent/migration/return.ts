import { resumeCopy } from "../vm/resume";
import type { Vm } from "../vm/vm";
import type { Outgoing } from "./journal";

/**
 * Lets a released copy run again, with its new epoch. The caller holds GONE of the target's own journal.
 * @returns what is the case now, for a person
 */
export async function returnCopy(vm: Vm, out: Outgoing): Promise<string> {
  if (vm.live) await vm.live.control.say("return", { attempt: out.m, epoch: out.epochReturn });
  else if ((await vm.copyState()) === "released") vm.adopt(await resumeCopy(vm, "released", out.m, out.epochReturn));
  await vm.journal.writeOut({ state: "ABORTED" });
  return vm.live
    ? "the VM runs here again, as it was at the freeze"
    : "what was in RAM is lost here too; `pulumi up` boots it from its disk";
}
