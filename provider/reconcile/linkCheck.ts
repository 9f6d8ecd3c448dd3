import type { CheckResult, DiffResult } from "@pulumi/pulumi/dynamic";
import { type Fault, faultsOf } from "../schemas/faults";
import { linkInputs } from "../schemas/link";
import { containsUnknown, isUnknown, UNKNOWN } from "../schemas/unknown";
import { changed, same } from "./compare";
import { isLoopback, knownHosts } from "./fleet";
import { type Props, visible } from "./handler";
import { uuidOf } from "./identity";

export const linkInputKeys = ["ends", "mtu", "seal"];

/** All faults at once; defaults settled. Pure. */
export function checkLink(olds: Props, news: Props): CheckResult {
  const given = visible(news);
  const faults: Fault[] = [...faultsOf(linkInputs, given), ...endFaults(given.ends, news)];
  if (faults.length > 0) return { inputs: news, failures: faults.map(({ path, reason }) => ({ property: path, reason })) };
  const uuid = olds.uuid ?? (typeof news.__urn === "string" && !isUnknown(news.__urn) ? uuidOf(news.__urn) : UNKNOWN);
  return { inputs: { mtu: 1400, seal: true, ...news, uuid } };
}

/** Which NICs it joins replaces the Link; where their VMs are does not. Pure. */
export function diffLink(_id: string, olds: Props, news: Props): DiffResult {
  const replaces = movedPlugs(olds, news) ? ["ends"] : [];
  const lost = olds.state === "unwired" ? ["state"] : [];
  const changes = [...changed(linkInputKeys, olds, news), ...lost, ...replaces];
  return { changes: changes.length > 0, replaces, deleteBeforeReplace: replaces.length > 0 };
}

export interface MaybeEnd {
  readonly vm?: unknown;
  readonly instance?: unknown;
  readonly host?: unknown;
  readonly nic?: unknown;
}
export const endsOf = (ends: unknown): MaybeEnd[] =>
  Array.isArray(ends) ? ends.map((end: unknown) => (typeof end === "object" && end !== null ? end : {})) : [];

/** Whether it is known that an end is another VM or NIC now. */
function movedPlugs(olds: Props, news: Props): boolean {
  const before = endsOf(olds.ends);
  return endsOf(news.ends).some((end, index) => {
    const plug = [end.vm, end.nic];
    const was = [before[index]?.vm, before[index]?.nic];
    return !containsUnknown(plug) && !containsUnknown(was) && !same(plug, was);
  });
}

function endFaults(ends: unknown, news: Props): Fault[] {
  const [a, b] = endsOf(ends);
  if (!a || !b || containsUnknown([a.vm, a.nic, b.vm, b.nic])) return hostFaults([a, b], news);
  const faults = hostFaults([a, b], news);
  if (a.vm === b.vm && a.nic === b.nic)
    faults.push({ path: "ends[1]", reason: `is the same NIC ${JSON.stringify(a.nic)} as ends[0]; wanted: two NICs` });
  return faults;
}

/** A host on the loopback interface cannot be spoken to from another machine. */
function hostFaults(ends: readonly (MaybeEnd | undefined)[], news: Props): Fault[] {
  const hosts = new Map(knownHosts(news).map((host) => [host.name, host]));
  const [a, b] = ends.map((end) => hosts.get(String(end?.host)));
  if (!a || !b || isLoopback(a.dataAddress) === isLoopback(b.dataAddress)) return [];
  const local = isLoopback(a.dataAddress) ? a : b;
  return [
    {
      path: "ends",
      reason: `lead to ${a.name} and ${b.name}, which cannot reach each other, since ${local.name} has the loopback address ${local.dataAddress}; wanted: \`dataAddress\` on Host ${local.name}, an address of this machine that the other one reaches`,
    },
  ];
}
