/** From what a person says (or the stack's state tells) to the hosts that are asked. */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { z } from "zod";
import { name } from "../schemas/common";
import { connection, type HostEndpoint, hostLimits, portRange } from "../schemas/host";
import { type MigrationPolicy, migrationPolicy } from "../schemas/vm";
import { CliError } from "./errors";
import { type Deployment, stackState } from "./project";

/** How to reach one host's agent. */
export interface HostRef extends HostEndpoint {
  /** Where SSH finds the host, if its connection does not say. */
  readonly address?: string;
}

/** A link as the stack declared it: names of VMs and NICs by uuid. */
export interface LinkRef {
  readonly uuid: string;
  readonly name: string;
}

/** Options that all commands share. */
export interface ScopeOptions {
  readonly hosts?: string;
  readonly local?: readonly string[];
  readonly stack?: string;
  readonly cwd?: string;
}

/** The hosts that a command works on, and what the stack calls its links. */
export interface Scope {
  readonly hosts: readonly HostRef[];
  readonly links: readonly LinkRef[];
  /** How each VM moves, by uuid, as the stack declares it. */
  readonly policies?: ReadonlyMap<string, MigrationPolicy>;
  /** `project/stack`, if the state of one was read. */
  readonly source?: string;
}

const hostRef = z.object({
  name,
  connection,
  address: z.string().optional(),
  dataAddress: z.string().optional(),
  ports: portRange.optional(),
  limits: hostLimits.optional(),
});
const hostsFile = z.object({ hosts: z.record(name, hostRef.omit({ name: true })) });

/** The command line speaks with agents only and never starts one: the data plane's address and ports are not used by it. */
const endpointOf = (host: z.infer<typeof hostRef>): HostRef => ({
  ...host,
  connection: "ssh" in host.connection ? { ssh: { host: host.address, ...host.connection.ssh } } : host.connection,
  dataAddress: host.dataAddress ?? host.address ?? "127.0.0.1",
  ports: host.ports ?? { from: 20000, to: 29999 },
});

/** `--local` and `--hosts` win over the Pulumi project of the current folder. */
export async function resolveScope(options: ScopeOptions): Promise<Scope> {
  const named = [...localHosts(options.local ?? []), ...(options.hosts === undefined ? [] : hostsOfFile(options.hosts))];
  if (named.length > 0) return { hosts: named, links: [] };
  const state = await stackState(options.cwd ?? process.cwd(), options.stack);
  const hosts = hostsOfState(state.deployment);
  if (hosts.length === 0) {
    throw new CliError("no-hosts", `stack ${state.stack} of project ${state.project} has no hosts`, "bring it up first: pulumi up");
  }
  return {
    hosts,
    links: linksOfState(state.deployment),
    policies: policiesOfState(state.deployment),
    source: `${state.project}/${state.stack}`,
  };
}

function localHosts(names: readonly string[]): HostRef[] {
  return names.map((n) => {
    if (!name.safeParse(n).success) throw new CliError("bad-input", `--local ${n}: not a host's name`);
    return endpointOf({ name: n, connection: { local: {} } });
  });
}

/** YAML or JSON: `hosts: {tokyo: {connection: {local: {}}}, …}`, as a Topology has it. */
function hostsOfFile(path: string): HostRef[] {
  const parsed = hostsFile.safeParse(parse(readFileSync(path, "utf8")));
  if (!parsed.success) {
    throw new CliError(
      "bad-input",
      `${path}: ${z.prettifyError(parsed.error)}`,
      "its form: hosts: {tokyo: {connection: {ssh: {user: me}}, address: 192.0.2.1}}",
    );
  }
  return Object.entries(parsed.data.hosts).map(([n, host]) => endpointOf({ name: n, ...host }));
}

const TYPE_PREFIX = "pulumi-nodejs:dynamic/mobitopolo:";

function hostsOfState(state: Deployment): HostRef[] {
  return resourcesOf(state, "Host").flatMap((r) => {
    const parsed = hostRef.safeParse(r.outputs);
    return parsed.success ? [endpointOf(parsed.data)] : [];
  });
}

function policiesOfState(state: Deployment): Map<string, MigrationPolicy> {
  return new Map(
    resourcesOf(state, "Vm").flatMap((r) => {
      const parsed = migrationPolicy.safeParse(r.outputs?.migration);
      return parsed.success && r.id !== undefined ? [[r.id, parsed.data] as const] : [];
    }),
  );
}

function linksOfState(state: Deployment): LinkRef[] {
  return resourcesOf(state, "Link").map((r) => ({ uuid: r.id ?? "", name: r.urn.slice(r.urn.lastIndexOf("::") + 2) }));
}

function resourcesOf(state: Deployment, type: string): NonNullable<Deployment["resources"]> {
  return (state.resources ?? []).filter((r) => r.type === TYPE_PREFIX + type);
}
