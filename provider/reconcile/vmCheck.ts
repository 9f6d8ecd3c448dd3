import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import type { CheckResult } from "@pulumi/pulumi/dynamic";
import type { Assets } from "../lib/assets";
import { messageOf } from "../lib/errors";
import { type Fault, faultsOf, show } from "../schemas/faults";
import { containsUnknown, isUnknown, UNKNOWN } from "../schemas/unknown";
import { vmInputs } from "../schemas/vm";
import { same } from "./compare";
import { isLoopback, knownHosts } from "./fleet";
import { type Props, visible } from "./handler";
import { defaultMac, instanceOf, uuidOf } from "./identity";

/** Only these replace a VM; what the user asked for stands beside them in `__asked`, so that a newer provider's defaults change nothing. */
export const replacingKeys = ["image", "kernel", "memoryMiB", "diskMiB"] as const;
const defaults = { memoryMiB: 128, diskMiB: 512 } as const;

/**
 * All faults of a Vm's inputs at once; every default settled, so that previews know it. Pure but for the hash of an image or kernel that the
 * user names by path.
 */
export function checkVm(olds: Props, news: Props, assets: () => Assets): CheckResult {
  const given = visible(news);
  const asked = Object.fromEntries(replacingKeys.filter((key) => given[key] !== undefined).map((key) => [key, given[key]]));
  const faults: Fault[] = [...faultsOf(vmInputs, given), ...nicFaults(given.nics), ...hostFaults(given.host, olds, news)];
  const settled = settleReplacing(olds, asked, assets, faults);
  if (faults.length > 0) return { inputs: news, failures: faults.map(({ path, reason }) => ({ property: path, reason })) };
  const uuid = olds.uuid ?? (typeof news.__urn === "string" && !isUnknown(news.__urn) ? uuidOf(news.__urn) : UNKNOWN);
  const values = replacingKeys.map((key) => settled[key]);
  return {
    inputs: {
      cpu: "auto",
      userspace: "seccomp",
      runcmd: [],
      migration: {},
      running: true,
      labels: {},
      ...news,
      ...settled,
      uuid,
      instance: containsUnknown(values) ? UNKNOWN : instanceOf(values),
      nics: settleNics(given.nics, uuid),
      __asked: asked,
    },
  };
}

/** The values of what replaces: as they were where the user asks for the same as before, else found anew. */
function settleReplacing(olds: Props, asked: Props, assets: () => Assets, faults: Fault[]): Record<string, unknown> {
  const before = typeof olds.__asked === "object" && olds.__asked !== null ? (olds.__asked as Props) : {};
  const asBefore = (key: string) => olds[key] !== undefined && same(normal(asked[key]), normal(before[key]));
  const blob = (key: "image" | "kernel"): unknown => {
    const wanted = asked[key];
    if (isUnknown(wanted)) return UNKNOWN;
    if (wanted === undefined || wanted === "default") return asBefore(key) ? olds[key] : defaultBlob(key, assets, faults);
    return typeof wanted === "string" ? namedBlob(key, wanted, faults) : undefined;
  };
  const size = (key: "memoryMiB" | "diskMiB") => asked[key] ?? (asBefore(key) ? olds[key] : defaults[key]);
  return { image: blob("image"), kernel: blob("kernel"), memoryMiB: size("memoryMiB"), diskMiB: size("diskMiB") };
}

const normal = (asked: unknown): unknown => (asked === "default" ? undefined : asked);

function defaultBlob(key: "image" | "kernel", assets: () => Assets, faults: Fault[]): unknown {
  try {
    return `sha256:${assets()[key].id}`;
  } catch (error) {
    faults.push({ path: key, reason: messageOf(error) });
    return undefined;
  }
}

function namedBlob(key: string, wanted: string, faults: Fault[]): unknown {
  if (/^sha256:[0-9a-f]{64}$/.test(wanted)) return wanted;
  const path = wanted.startsWith("file:") ? wanted.slice(5) : wanted;
  try {
    return `sha256:${hashOf(path)}`;
  } catch (error) {
    const what = wanted.startsWith("sha256:") ? "after sha256: come 64 hex digits in lower case" : `not readable (${messageOf(error)})`;
    faults.push({ path: key, reason: `is ${show(wanted)}: ${what}; wanted: "default", the path of a file, or sha256:<64 hex digits>` });
    return undefined;
  }
}

const hashes = new Map<string, string>();
/** Hash of a file, computed once per state of the file: check runs often. */
function hashOf(path: string): string {
  const stats = statSync(path);
  if (!stats.isFile()) throw new Error("it is no file");
  const { size, mtimeMs, ino } = stats;
  const key = `${path} ${ino} ${size} ${mtimeMs}`;
  const known = hashes.get(key);
  if (known) return known;
  const hash = createHash("sha256").update(readFileSync(path)).digest("hex");
  hashes.set(key, hash);
  return hash;
}

interface MaybeNic {
  readonly name?: unknown;
  readonly mac?: unknown;
  readonly addresses?: unknown;
}
const nicsOf = (nics: unknown): MaybeNic[] =>
  Array.isArray(nics) ? nics.map((nic: unknown) => (typeof nic === "object" && nic !== null ? nic : {})) : [];

function settleNics(nics: unknown, uuid: unknown): unknown {
  if (isUnknown(nics)) return nics;
  return nicsOf(nics).map((nic) => ({
    addresses: [],
    ...nic,
    mac: nic.mac ?? (isUnknown(uuid) || isUnknown(nic.name) ? UNKNOWN : defaultMac(String(uuid), String(nic.name))),
  }));
}

/** Names, MAC addresses and IP addresses are a VM's own once. */
export function nicFaults(nics: unknown): Fault[] {
  const uses = nicsOf(nics).flatMap((nic, index) => [
    { what: "name", path: `nics[${index}].name`, value: nic.name },
    { what: "MAC address", path: `nics[${index}].mac`, value: nic.mac },
    ...(Array.isArray(nic.addresses)
      ? nic.addresses.map((value: unknown, i) => ({
          what: "address",
          path: `nics[${index}].addresses[${i}]`,
          value: typeof value === "string" ? value.split("/")[0] : value,
        }))
      : []),
  ]);
  const seen = new Map<string, string>();
  return uses.flatMap(({ what, path, value }) => {
    if (typeof value !== "string" || isUnknown(value)) return [];
    const first = seen.get(`${what} ${value}`);
    if (first === undefined) seen.set(`${what} ${value}`, path);
    return first === undefined ? [] : [{ path, reason: `is ${show(value)}, the same ${what} as ${first}; wanted: one of its own` }];
  });
}

/** A host that nobody describes, or one to which no stream can go from where the VM is. */
function hostFaults(host: unknown, olds: Props, news: Props): Fault[] {
  if (typeof host !== "string" || isUnknown(host) || containsUnknown(names(news))) return [];
  const known = names(news);
  if (known.length === 0)
    return [
      { path: "host", reason: `is ${show(host)}, and nothing says how to reach it; wanted: a Host, or a name with \`hosts\` beside it` },
    ];
  if (!known.includes(host))
    return [
      {
        path: "host",
        reason: `is ${show(host)}, which is none of the hosts; wanted: ${known.map((name) => JSON.stringify(name)).join(" or ")}`,
      },
    ];
  const hosts = new Map([...knownHosts(olds), ...knownHosts(news)].map((one) => [one.name, one]));
  const from = hosts.get(String(olds.host));
  const to = hosts.get(host);
  if (!from || !to || isLoopback(from.dataAddress) === isLoopback(to.dataAddress)) return [];
  const local = isLoopback(from.dataAddress) ? from : to;
  return [
    {
      path: "host",
      reason: `is ${show(host)}: ${from.name} and ${to.name} cannot reach each other, since ${local.name} has the loopback address ${local.dataAddress}; wanted: \`dataAddress\` on Host ${local.name}, an address of this machine that the other one reaches`,
    },
  ];
}

function names(props: Props): unknown[] {
  if (isUnknown(props.__hosts)) return [UNKNOWN];
  return Array.isArray(props.__hosts)
    ? props.__hosts.map((entry: unknown) => (typeof entry === "object" && entry !== null && "name" in entry ? entry.name : UNKNOWN))
    : [];
}
