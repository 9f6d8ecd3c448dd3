import { schemas } from "@mobitopolo/provider";
import * as pulumi from "@pulumi/pulumi";
import { topologyArgs } from "./schema";

type Fault = schemas.Fault;
type Loose = Readonly<Record<string, unknown>>;

/** A link as it is written, with the name and place that it has in the input. */
export interface NamedLink {
  readonly name: string;
  readonly path: string;
  readonly link: { readonly ends: readonly [string, string]; readonly mtu?: number; readonly seal?: boolean };
}

/** Every fault of the whole at once: first each part by itself, then how the parts fit together. Outputs are judged later, by their resource. */
export function faultsOfTopology(given: unknown): Fault[] {
  const args = withoutOutputs(given);
  const own = schemas.faultsOf(topologyArgs, args);
  const { hosts, vms } = parts(args);
  const links = linksOf(args);
  return [
    ...own,
    ...Object.entries(hosts).flatMap(([name, host]) => hostFaults(name, host)),
    ...Object.entries(vms).flatMap(([name, vm]) => vmFaults(name, vm, hosts)),
    ...doubleMacs(vms),
    ...linkFaults(links, vms, hosts),
  ];
}

function withoutOutputs(value: unknown): unknown {
  if (pulumi.Output.isInstance(value) || value instanceof Promise) return schemas.UNKNOWN;
  if (Array.isArray(value)) return value.map(withoutOutputs);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, inner]) => inner !== undefined)
      .map(([key, inner]) => [key, withoutOutputs(inner)]),
  );
}

/** Links by name: a list's names come from the ends. */
export function linksOf(args: unknown): NamedLink[] {
  const links = object(args).links;
  const named = (name: string, path: string, link: unknown): NamedLink[] => {
    const ends = object(link).ends;
    if (!Array.isArray(ends) || ends.length !== 2 || !ends.every((end) => typeof end === "string")) return [];
    return [{ name: name || ends.join("--").replaceAll(":", "-"), path, link: link as NamedLink["link"] }];
  };
  if (Array.isArray(links)) return links.flatMap((link: unknown, index) => named("", `links[${index}]`, link));
  return Object.entries(object(links)).flatMap(([name, link]) => named(name, `links.${name}`, link));
}

function parts(args: unknown): { hosts: Record<string, Loose>; vms: Record<string, Loose> } {
  const objects = (value: unknown) => Object.fromEntries(Object.entries(object(value)).map(([key, inner]) => [key, object(inner)]));
  return { hosts: objects(object(args).hosts), vms: objects(object(args).vms) };
}

const object = (value: unknown): Loose => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Loose) : {});

function hostFaults(name: string, host: Loose): Fault[] {
  const ssh = object(host.connection).ssh;
  if (ssh === undefined || host.address !== undefined) return [];
  const { host: given } = object(ssh);
  if (given !== undefined && (typeof given !== "string" || schemas.ipAddress.safeParse(given).success)) return [];
  return [
    {
      path: `hosts.${name}.address`,
      reason:
        "is missing; wanted: the host's numeric IPv4 or IPv6 address, since frames and migrations go to it without a look-up of names",
    },
  ];
}

function vmFaults(name: string, vm: Loose, hosts: Record<string, Loose>): Fault[] {
  const faults: Fault[] = [];
  if (typeof vm.host === "string" && !schemas.isUnknown(vm.host) && hosts[vm.host] === undefined) {
    faults.push({
      path: `vms.${name}.host`,
      reason: `is ${schemas.show(vm.host)}, which is none of the hosts; wanted: ${quoted(Object.keys(hosts))}`,
    });
  }
  return [
    ...faults,
    ...twice(
      nicsOf(vm).flatMap((nic, index) =>
        typeof nic.name === "string" ? [{ what: `NIC name of ${name}`, value: nic.name, path: `vms.${name}.nics[${index}].name` }] : [],
      ),
    ),
  ];
}

function doubleMacs(vms: Record<string, Loose>): Fault[] {
  return twice(
    Object.entries(vms).flatMap(([name, vm]) =>
      nicsOf(vm).flatMap((nic, index) =>
        typeof nic.mac === "string" ? [{ what: "MAC address", value: nic.mac, path: `vms.${name}.nics[${index}].mac` }] : [],
      ),
    ),
  );
}

function linkFaults(links: readonly NamedLink[], vms: Record<string, Loose>, hosts: Record<string, Loose>): Fault[] {
  const plugs = links.flatMap(({ path, link }) =>
    link.ends.map((end, index) => ({ what: "NIC", value: end, path: `${path}.ends[${index}]` })),
  );
  const names = twice(links.map(({ name, path }) => ({ what: "link name", value: name, path })));
  return [
    ...plugs.flatMap(({ value, path }) => plugFaults(value, path, vms)),
    ...twice(plugs, "a NIC has one link"),
    ...names,
    ...links.flatMap((link) => [...addressFaults(link, vms), ...reachFaults(link, vms, hosts)]),
  ];
}

/** An end must be a NIC that exists. */
function plugFaults(end: string, path: string, vms: Record<string, Loose>): Fault[] {
  const [vmName = "", nicName] = end.split(":");
  const vm = vms[vmName];
  // What is not even of that form has been reported.
  if (nicName === undefined) return [];
  if (!vm)
    return [
      { path, reason: `is ${schemas.show(end)}, and there is no VM ${schemas.show(vmName)}; wanted: one of ${quoted(Object.keys(vms))}` },
    ];
  const known = nicsOf(vm).map((nic) => String(nic.name));
  return known.includes(nicName)
    ? []
    : [
        {
          path,
          reason: `is ${schemas.show(end)}, and VM ${schemas.show(vmName)} has no NIC ${schemas.show(nicName)}; wanted: one of ${quoted(known)}`,
        },
      ];
}

/** On one cable an address is used once. */
function addressFaults({ path, link }: NamedLink, vms: Record<string, Loose>): Fault[] {
  const uses = link.ends.flatMap((end) =>
    nicOf(end, vms).flatMap(({ nic, path: at }) =>
      (Array.isArray(nic.addresses) ? nic.addresses : []).flatMap((address: unknown, index) =>
        typeof address === "string" ? [{ what: "address", value: address.split("/")[0] ?? "", path: `${at}.addresses[${index}]` }] : [],
      ),
    ),
  );
  return twice(uses, `${path} joins ${link.ends.join(" and ")}`);
}

/** Loopback addresses of this machine mean nothing on another one. */
function reachFaults({ path, link }: NamedLink, vms: Record<string, Loose>, hosts: Record<string, Loose>): Fault[] {
  const [a, b] = link.ends.map((end) => String(vms[end.split(":")[0] ?? ""]?.host));
  const [first, second] = [a, b].map((name) => (name === undefined || hosts[name] === undefined ? undefined : isLoopback(hosts[name])));
  if (first === undefined || second === undefined || first === second) return [];
  const local = first ? a : b;
  return [
    {
      path,
      reason: `leads from ${a} to ${b}, which cannot reach each other, since ${local} has a loopback address; wanted: \`dataAddress\` on host ${local}, an address of this machine that the other one reaches`,
    },
  ];
}

/** Undefined where it cannot be told from the inputs. */
function isLoopback(host: Loose): boolean | undefined {
  const ssh = object(host.connection).ssh;
  const address = host.dataAddress ?? host.address ?? (ssh === undefined ? "127.0.0.1" : object(ssh).host);
  return typeof address === "string" && schemas.ipAddress.safeParse(address).success
    ? address.startsWith("127.") || address === "::1"
    : undefined;
}

const nicsOf = (vm: Loose): Loose[] => (Array.isArray(vm.nics) ? vm.nics.map(object) : []);

function nicOf(end: string, vms: Record<string, Loose>): { nic: Loose; path: string }[] {
  const [vmName = "", nicName = ""] = end.split(":");
  return nicsOf(vms[vmName] ?? {}).flatMap((nic, index) => (nic.name === nicName ? [{ nic, path: `vms.${vmName}.nics[${index}]` }] : []));
}

interface Use {
  readonly what: string;
  readonly value: string;
  readonly path: string;
}

/** Each use of a value but the first is a fault. */
function twice(uses: readonly Use[], why = ""): Fault[] {
  const first = new Map<string, string>();
  return uses
    .filter(({ value }) => !schemas.isUnknown(value))
    .flatMap(({ what, value, path }) => {
      const before = first.get(value.toLowerCase());
      if (before === undefined) first.set(value.toLowerCase(), path);
      return before === undefined || before === path
        ? []
        : [{ path, reason: `is ${schemas.show(value)}, the same ${what} as ${before}${why ? ` (${why})` : ""}; wanted: one of its own` }];
    });
}

const quoted = (names: readonly string[]): string =>
  names.length === 0 ? "(there are none)" : names.map((name) => JSON.stringify(name)).join(" or ");
