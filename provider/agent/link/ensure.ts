import type { Wiring } from "../../schemas/link";
import { AgentFault } from "../errors";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import { mtuOf, setLink, setPeer } from "./wire";

/** This agent's end of a link, set in its record and, where the VM runs, in its process. Idempotent. */
export async function ensureLink(vms: Vms, wiring: Wiring): Promise<{ address: string; port: number }> {
  const step = `wire NIC ${wiring.nic}`;
  const vm = needHere(vms, wiring.vm, step);
  using _turn = await vm.turn.lock();
  const { index, nic } = findNic(vm, wiring.nic, step);
  const before = vm.wirings.find((one) => one.nic === wiring.nic);
  await vm.writeWirings([...vm.wirings.filter((one) => one.nic !== wiring.nic), wiring]);
  if (vm.live) {
    if (!before || !sameKey(before, wiring)) await setLink(vm.live.control, index, wiring);
    else if (JSON.stringify(before.peer) !== JSON.stringify(wiring.peer)) await setPeer(vm.live.control, index, wiring.peer);
    if ((before?.mtu ?? nic.mtu) !== mtuOf(nic, vm.wirings) && vm.file)
      void vm.live
        .configure(vm.file.spec, vm.wirings, 10_000)
        .catch((error: unknown) => vm.context.log.warn({ vm: vm.uuid, err: error }, "the guest did not take the link's MTU"));
  }
  vm.job?.wiringsChanged(vm.wirings);
  // A Link is made after its VMs are in the state: whose token it was is settled.
  if (vm.file && !vm.file.confirmed) await vm.writeFile({ ...vm.file, confirmed: true });
  await announce(vm);
  return localEnd(vm, wiring.nic);
}

/** Where the peer is now; nothing else changes. */
export async function setLinkPeer(vms: Vms, request: { vm: string; nic: string; peer: { address: string; port: number } }): Promise<void> {
  const step = `point NIC ${request.nic} at its peer`;
  const vm = needHere(vms, request.vm, step);
  using _turn = await vm.turn.lock();
  const { index } = findNic(vm, request.nic, step);
  const wiring = vm.wirings.find((one) => one.nic === request.nic);
  if (!wiring) throw new AgentFault("not-found", step, "the NIC has no link here", { next: "say link.ensure first" });
  await vm.writeWirings(vm.wirings.map((one) => (one === wiring ? { ...one, peer: request.peer } : one)));
  if (vm.live) await setPeer(vm.live.control, index, request.peer);
  await announce(vm);
  vm.job?.wiringsChanged(vm.wirings);
}

export function getLink(vms: Vms, request: { link: string; vm: string }): { wiring: Wiring | null; address?: string; port?: number } {
  const vm = vms.get(request.vm);
  const wiring = vm?.journal.value.tombstone ? undefined : vm?.wirings.find((one) => one.link === request.link);
  return vm && wiring ? { wiring, ...localEnd(vm, wiring.nic) } : { wiring: null };
}

/** Takes the link off: the NIC stays, deaf and mute. */
export async function removeLink(vms: Vms, request: { link: string; vm: string }): Promise<{ existed: boolean }> {
  const vm = vms.get(request.vm);
  if (!vm?.file) return { existed: false };
  using _turn = await vm.turn.lock();
  const wiring = vm.wirings.find((one) => one.link === request.link);
  if (!wiring) return { existed: false };
  await vm.writeWirings(vm.wirings.filter((one) => one !== wiring));
  const index = vm.file.spec.nics.findIndex((nic) => nic.name === wiring.nic);
  if (vm.live && index >= 0) await setPeer(vm.live.control, index, undefined);
  vm.job?.wiringsChanged(vm.wirings);
  return { existed: true };
}

/** So that the peer hears us, and we it, before the first frame of the guest. */
async function announce(vm: Vm): Promise<void> {
  await vm.live?.control.say("nic.announce").catch((error: unknown) => vm.context.log.warn({ vm: vm.uuid, err: error }, "no announcement"));
}

/** A VM that went away is wired at its new host. */
function needHere(vms: Vms, uuid: string, step: string): Vm {
  const vm = vms.need(uuid, step);
  const went = vm.journal.value.tombstone;
  if (went) throw new AgentFault("not-found", step, `the VM went to ${went.host}`, { next: "`pulumi refresh` finds it there" });
  return vm;
}

function findNic(vm: Vm, name: string, step: string): { index: number; nic: NonNullable<Vm["file"]>["spec"]["nics"][number] } {
  const nics = vm.file?.spec.nics ?? [];
  const index = nics.findIndex((nic) => nic.name === name);
  const nic = nics[index];
  if (!nic)
    throw new AgentFault("not-found", step, `the VM has no NIC of this name; it has ${nics.map((one) => one.name).join(", ") || "none"}`);
  return { index, nic };
}

function sameKey(a: Wiring, b: Wiring): boolean {
  return a.link === b.link && a.keyId === b.keyId && a.key === b.key && a.seal === b.seal && a.selfId === b.selfId && a.peerId === b.peerId;
}

function localEnd(vm: Vm, nic: string): { address: string; port: number } {
  return { address: vm.context.address, port: vm.file?.ports[nic] ?? 0 };
}
