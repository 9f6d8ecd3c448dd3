import { randomBytes } from "node:crypto";
import type { Wiring } from "../../schemas/link";
import { AgentFault } from "../errors";
import { setLink } from "../link/wire";
import { killProcess } from "../vm/process";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import { forgetIfNothingStays } from "./forget";
import { returnCopy } from "./return";
import { settleIncoming } from "./settle";

/** No number of moves comes near it: what was recovered is above all that a lost copy's side may burn. */
export const floorJump = 1 << 16;

/**
 * A person says that the source of a guest that runs here and lacks pages is gone for good: what was in RAM is lost, and the disk, which is whole, is this
 * host's. SETTLED is written first, and is what a source that comes back after all hears.
 */
async function keepDiskOnly(vm: Vm, attempt: string): Promise<void> {
  await settleIncoming(vm, attempt);
  await endPartial(vm);
  vm.context.log.warn({ vm: vm.uuid, m: attempt }, "recovered by a person's decision, from its disk");
}

/** A guest that will never have all its pages ends. */
export async function endPartial(vm: Vm): Promise<void> {
  const live = vm.release();
  live?.sessions.lose("the VM was recovered from its disk");
  if (live) await killProcess(live.process);
  await vm.dropRun();
  await vm.setNote("recovered without the pages that its source had; what was in RAM is lost, `pulumi up` boots it from its disk");
}

/**
 * A person says that a released move's target is gone for good. Floor and keys are durable before the copy may run; its own job, if one still asks, has ended.
 * @param leave ends the job of a target
 * @returns when it was frozen (if the header tells), and the links that have new keys here
 */
export async function recoverByHand(vm: Vm, attempt: string, leave: () => void): Promise<{ frozenAtMs?: number; links: string[] }> {
  const step = "recover the VM";
  if (vm.journal.incoming(attempt)?.state === "RESERVED" && (await vm.copyState()) === "runPartial") {
    leave();
    await keepDiskOnly(vm, attempt);
    return { links: [] };
  }
  const { out } = vm.journal.value;
  if (out?.m !== attempt || out.state !== "OPEN")
    throw new AgentFault("bad-state", step, `its move ${attempt} is ${out?.m === attempt ? out.state : "unknown here"}`, {
      next: "`pulumi refresh` finds where the VM is",
    });
  const header = await vm.header();
  const state = header?.state ?? "none";
  if (state !== "released" && state !== "none")
    throw new AgentFault("bad-state", step, `its copy here is \`${state}\`: it was never released`, {
      next: "`pulumi up` undoes the move",
    });
  const rotated = vm.wirings.map((wiring) => (wiring.seal ? withNewKey(wiring) : wiring));
  const before = vm.live;
  let epochReturn = 0;
  await vm.journal.update((current) => {
    epochReturn = current.floor + floorJump;
    return { ...current, floor: epochReturn, out: { ...out, epochReturn } };
  });
  await vm.writeWirings(rotated);
  if (state === "released") await returnCopy(vm, { ...out, epochReturn });
  else await vm.journal.writeOut({ state: "ABORTED" });
  // A process that was made just now has read them already; to set a key twice would use nonces again.
  if (before && vm.live === before) await setKeys(vm, rotated);
  vm.context.log.warn({ vm: vm.uuid, m: attempt, header: state, epoch: epochReturn }, "recovered by a person's decision");
  return {
    ...(header?.frozenAtMs !== undefined && { frozenAtMs: header.frozenAtMs }),
    links: rotated.filter(({ seal }) => seal).map(({ link }) => link),
  };
}

const withNewKey = (wiring: Wiring): Wiring => ({
  ...wiring,
  keyId: (wiring.keyId % 65_535) + 1,
  key: randomBytes(32).toString("hex"),
});

async function setKeys(vm: Vm, wirings: readonly Wiring[]): Promise<void> {
  for (const wiring of wirings.filter(({ seal }) => seal)) {
    const index = vm.file?.spec.nics.findIndex((nic) => nic.name === wiring.nic) ?? -1;
    if (index >= 0 && vm.live) await setLink(vm.live.control, index, wiring);
  }
}

/** A copy that a recovery elsewhere has left behind: ended and removed, unless what is here is above that recovery. */
export async function overrule(vms: Vms, vm: Vm, floor: number): Promise<boolean> {
  if (vm.journal.value.floor + floorJump / 2 > floor) return false;
  if (vm.job) throw new AgentFault("busy", "end a copy that was recovered elsewhere", `its move ${vm.job.m} is under way`);
  vm.context.log.warn({ vm: vm.uuid, floor }, "a person has recovered this VM elsewhere: the copy here ends");
  const live = vm.release();
  live?.sessions.lose("the VM was recovered elsewhere");
  if (live) await killProcess(live.process);
  vms.ports.free(Object.values(vm.file?.ports ?? {}));
  await vm.dropState();
  await vm.journal.update(({ out: _, tombstone: __, ...kept }) => ({ ...kept, home: "no", floor, in: [] }));
  await forgetIfNothingStays(vms, vm);
  return true;
}
