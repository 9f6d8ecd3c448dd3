import { isIP, isIPv6 } from "node:net";
import type { NicStats, Wiring } from "../../schemas/link";
import type { VmSpec } from "../../schemas/vm";
import type { AgentContext } from "../context";
import type { Control, Fields } from "../vm/control";

/** `address:port` as the control channel wants it. */
export function socketName(address: string, port: number): string {
  return isIPv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}

/** The reverse; undefined for `none` and what is no address. */
export function parseSocketName(text: string | undefined): { address: string; port: number } | undefined {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(text ?? "");
  const address = found?.[1] ?? found?.[2];
  return address === undefined ? undefined : { address, port: Number(found?.[3]) };
}

/** The MTU that a NIC shall have: its link's, if it has one. */
export function mtuOf(nic: VmSpec["nics"][number], wirings: readonly Wiring[]): number {
  return wirings.find((one) => one.nic === nic.name)?.mtu ?? nic.mtu;
}

/** Gives a VM process its NICs. */
export async function addNics(
  context: AgentContext,
  control: Control,
  spec: VmSpec,
  ports: Readonly<Record<string, number>>,
  wirings: readonly Wiring[],
): Promise<void> {
  for (const [index, nic] of spec.nics.entries()) await addNic(context, control, index, nic, ports[nic.name] ?? 0, mtuOf(nic, wirings));
}

/** Gives a guest that boots what is known of its links. */
export async function setLinks(control: Control, spec: VmSpec, wirings: readonly Wiring[]): Promise<void> {
  for (const [index, nic] of spec.nics.entries()) {
    const wiring = wirings.find((one) => one.nic === nic.name);
    if (wiring) await setLink(control, index, wiring);
  }
}

export async function addNic(
  context: AgentContext,
  control: Control,
  index: number,
  nic: VmSpec["nics"][number],
  port: number,
  mtu: number,
): Promise<void> {
  await control.say("nic.add", { nic: index, mac: nic.mac, mtu, bind: socketName(context.bindAddress, port) });
}

/** Key and peer. Not to be said twice with one key: a counter that began anew would use nonces again. */
export async function setLink(control: Control, index: number, wiring: Wiring): Promise<void> {
  await setKey(control, index, wiring);
  await setPeer(control, index, wiring.peer);
}

async function setKey(control: Control, index: number, wiring: Wiring): Promise<void> {
  const ends = { self: wiring.selfId, peer: wiring.peerId };
  await control.say(
    "nic.key",
    wiring.seal ? { nic: index, id: wiring.keyId, key: wiring.key, ...ends } : { nic: index, id: 0, plain: 1, ...ends },
  );
}

export async function setPeer(control: Control, index: number, peer: Wiring["peer"]): Promise<void> {
  await control.say("nic.peer", { nic: index, addr: peer ? socketName(peer.address, peer.port) : "none" });
}

/**
 * What peers still send to a VM that has left follows it, from its release on. It spares retransmissions, and nothing hangs on it: no refusal is an error.
 * @param address of the other host; a name is left to roaming
 */
export async function passFrames(
  control: Control,
  spec: VmSpec | undefined,
  address: string,
  ports: Readonly<Record<string, number>>,
): Promise<void> {
  await Promise.allSettled(
    (spec?.nics ?? []).map(async (nic, index) => {
      const port = isIP(address) === 0 ? undefined : ports[nic.name];
      await control.say("nic.pass", { nic: index, addr: port === undefined ? "none" : socketName(address, port) });
    }),
  );
}

/** Counters and peers of all NICs; one question each, since a line of the control channel is short. */
export async function askStats(control: Control, spec: VmSpec, wirings: readonly Wiring[]): Promise<NicStats[]> {
  const answers = await Promise.all(spec.nics.map(async (_, nic) => await control.say("nic.stats", { nic }, 2000).catch(() => ({}))));
  return parseStats(Object.assign({}, ...answers) as Fields, spec, wirings);
}

/** What `nic.stats` told, by NIC. */
export function parseStats(fields: Fields, spec: VmSpec, wirings: readonly Wiring[]): NicStats[] {
  return spec.nics.map((nic, index) => {
    const own = Object.entries(fields).flatMap(([key, value]) =>
      key.startsWith(`${index}.`) ? [[key.slice(String(index).length + 1), value] as const] : [],
    );
    const text = Object.fromEntries(own);
    const link = wirings.find((one) => one.nic === nic.name)?.link;
    const counters = Object.fromEntries(own.flatMap(([key, value]) => (/^-?\d+(\.\d+)?$/.test(value) ? [[key, Number(value)]] : [])));
    return {
      nic: nic.name,
      ...(link !== undefined && { link }),
      ...(text.bind !== undefined && { local: text.bind }),
      ...(text.peer !== undefined && { peer: text.peer }),
      counters,
    };
  });
}

/**
 * Gives a process that waits for its guest the keys that changed since `before`. Where the other ends are comes with the guest's memory: what it learns until
 * it stands is newer than all that an agent knows.
 */
export async function giveKeys(control: Control, spec: VmSpec, before: readonly Wiring[], now: readonly Wiring[]): Promise<void> {
  for (const wiring of now) {
    const index = spec.nics.findIndex((nic) => nic.name === wiring.nic);
    const old = before.find((one) => one.nic === wiring.nic);
    if (index < 0 || (old?.key === wiring.key && old.keyId === wiring.keyId && old.link === wiring.link)) continue;
    await setKey(control, index, wiring);
  }
}
