import { readFileSync } from "node:fs";
import { Host, type HostArgs, Link, type schemas, Vm, type VmArgs } from "@mobitopolo/provider";
import * as pulumi from "@pulumi/pulumi";
import { parseDocument } from "yaml";
import { faultsOfTopology, linksOf } from "./validate";

/** A host of a Topology: as HostArgs; its name is its key. */
export type TopologyHost = Omit<HostArgs, "name">;

/** A VM of a Topology: as VmArgs; `host` is the key of one of the topology's hosts. **Changing it moves the running VM live.** */
export type TopologyVm = Omit<VmArgs, "host" | "hosts"> & { host: string };

/** A cable of a Topology. */
export interface TopologyLink {
  /** The two NICs that it joins, each as `vm:nic`. A NIC has one link. */
  ends: readonly [string, string];
  /** MTU that the guests see, 576 to 9000. @default 1400 */
  mtu?: number;
  /** Frames sealed with AES-256-GCM. @default true */
  seal?: boolean;
}

/** Hosts, VMs and links by name. Names are Pulumi names too: two Topologies of one stack must not share them. */
export interface TopologyArgs {
  hosts: Readonly<Record<string, TopologyHost>>;
  vms?: Readonly<Record<string, TopologyVm>>;
  /** A list (each is named by its ends, as `web-lan--db-lan`), or by name. */
  links?: readonly TopologyLink[] | Readonly<Record<string, TopologyLink>>;
}

/** A topology that cannot be: all that is wrong with it. A RunError, of which Pulumi shows the text alone. */
export class TopologyError extends pulumi.RunError {
  override readonly name = "TopologyError";
  constructor(
    readonly topology: string,
    readonly faults: readonly schemas.Fault[],
  ) {
    super(
      `Topology ${topology} has ${faults.length} fault${faults.length === 1 ? "" : "s"}:\n${faults.map(({ path, reason }) => `  ${path || "it"} ${reason}`).join("\n")}`,
    );
  }
}

/**
 * A distributed system: hosts, the VMs that run on them, and the cables between their NICs. It is checked as a whole before anything is
 * registered, so that a preview names all faults at once. Moving a VM is a change of its `host`.
 */
export class Topology extends pulumi.ComponentResource {
  readonly hosts: Readonly<Record<string, Host>>;
  readonly vms: Readonly<Record<string, Vm>>;
  readonly links: Readonly<Record<string, Link>>;

  /** @throws TopologyError with all faults */
  constructor(name: string, args: TopologyArgs, opts?: pulumi.ComponentResourceOptions) {
    const faults = faultsOfTopology(args);
    if (faults.length > 0) throw new TopologyError(name, faults);
    super("mobitopolo:components:Topology", name, {}, opts);
    const parent = { parent: this };
    this.hosts = mapValues(args.hosts, (host, key) => new Host(key, host, parent));
    const hosts = Object.values(this.hosts);
    this.vms = mapValues(args.vms ?? {}, (vm, key) => new Vm(key, { ...vm, host: need(this.hosts[vm.host]), hosts }, parent));
    this.links = Object.fromEntries(
      linksOf(args).map(
        ({
          name: linkName,
          link: {
            ends: [a, b],
            ...link
          },
        }) => [linkName, new Link(linkName, { ...link, ends: [this.#plug(a), this.#plug(b)], hosts }, parent)],
      ),
    );
    this.registerOutputs({ vms: mapValues(this.vms, (vm) => vm.host) });
  }

  /**
   * A topology from a YAML file: `hosts`, `vms` and `links`, written as the object that the constructor takes.
   * @throws TopologyError with all faults; also for what YAML itself does not allow
   */
  static fromFile(name: string, path: string, opts?: pulumi.ComponentResourceOptions): Topology {
    const document = parseDocument(readFileSync(path, "utf8"), { uniqueKeys: true });
    if (document.errors.length > 0)
      throw new TopologyError(
        name,
        document.errors.map((error) => ({ path, reason: error.message })),
      );
    return new Topology(name, document.toJS() as TopologyArgs, opts);
  }

  #plug(end: string): { vm: Vm; nic: string } {
    const [vm = "", nic = ""] = end.split(":");
    return { vm: need(this.vms[vm]), nic };
  }
}

function mapValues<T, R>(record: Readonly<Record<string, T>>, map: (value: T, key: string) => R): Record<string, R> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value, key)]));
}

/** Validation has seen to it. */
function need<T>(value: T | undefined): T {
  if (value === undefined) throw new TypeError("not in the topology");
  return value;
}
