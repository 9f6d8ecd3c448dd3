/** The agents of all hosts of a scope: connected once each, asked together. */

import { type HostFacts, hostFacts, type VmReport, vmList } from "../protocol/methods";
import type { NicStats } from "../schemas/link";
import { connectAgent } from "../transport/connect";
import type { AgentConnection } from "../transport/rpc";
import { CliError, explain } from "./errors";
import type { HostRef, Scope } from "./hosts";

/** What one host answered, or why it did not. */
export interface HostAnswer {
  readonly host: HostRef;
  readonly version?: string;
  readonly facts?: HostFacts;
  readonly vms: readonly VmReport[];
  readonly error?: string;
}

/** A VM and the host that has it. */
export interface Located {
  readonly host: HostRef;
  readonly vm: VmReport;
}

/** How long one host may take to answer before it counts as unreachable, unless the caller says otherwise. */
const ANSWER_MS = 15_000;

/** Connections are kept until `close`; a lost one is made anew at the next use. */
export class Fleet implements AsyncDisposable {
  readonly #connections = new Map<string, Promise<AgentConnection>>();

  constructor(readonly scope: Scope) {}

  /** The connection to a host's agent. @throws CliError `no-such-host`; TransportError */
  async agent(hostName: string): Promise<AgentConnection> {
    const host = this.scope.hosts.find((h) => h.name === hostName);
    if (host === undefined) {
      throw new CliError("no-such-host", `no host ${hostName} here; there are ${this.scope.hosts.map((h) => h.name).join(", ")}`);
    }
    const known = this.#connections.get(hostName);
    if (known !== undefined) return known;
    const connecting = connectAgent(host, { start: false, signal: AbortSignal.timeout(ANSWER_MS) });
    this.#connections.set(hostName, connecting);
    const forget = (): void => {
      if (this.#connections.get(hostName) === connecting) this.#connections.delete(hostName);
    };
    connecting.then((connection) => connection.closed.then(forget, forget), forget);
    return connecting;
  }

  /** Every host's facts and VMs; a host that does not answer is in the list with its error. */
  async survey(): Promise<HostAnswer[]> {
    return Promise.all(
      this.scope.hosts.map(async (host): Promise<HostAnswer> => {
        try {
          const agent = await this.agent(host.name);
          const [facts, list] = await Promise.all([
            agent.call(hostFacts, {}, { timeoutMs: ANSWER_MS }),
            agent.call(vmList, {}, { timeoutMs: ANSWER_MS }),
          ]);
          return { host, version: agent.hello.version, facts, vms: list.vms };
        } catch (error) {
          return { host, vms: [], error: explain(error) };
        }
      }),
    );
  }

  /**
   * The host that has the VM now, by the VM's name or uuid.
   * @throws CliError `no-such-vm`, `ambiguous-vm`, `unreachable`
   */
  async locate(nameOrUuid: string): Promise<Located> {
    const answers = await this.survey();
    const found = answers.flatMap(({ host, vms }) => vms.filter((vm) => isCalled(vm, nameOrUuid)).map((vm) => ({ host, vm })));
    const uuids = new Set(found.map(({ vm }) => vm.uuid));
    if (uuids.size > 1) {
      throw new CliError("ambiguous-vm", `${uuids.size} VMs are called ${nameOrUuid}: ${[...uuids].join(", ")}`, "give the uuid");
    }
    const here = found.filter(({ vm }) => vm.movedTo === undefined && vm.home !== "no").concat(found)[0];
    if (here !== undefined && here.vm.movedTo === undefined) return here;
    const silent = answers.filter((a) => a.error !== undefined);
    if (here !== undefined) {
      throw new CliError(
        "unreachable",
        `${nameOrUuid} went from ${here.host.name} to ${here.vm.movedTo}, which does not answer`,
        "see why: mobitopolo status",
      );
    }
    if (silent.length > 0) {
      throw new CliError(
        "unreachable",
        `no host that answers has a VM ${nameOrUuid}; silent: ${silent.map((a) => `${a.host.name} (${a.error})`).join(", ")}`,
      );
    }
    const names = [...new Set(answers.flatMap((a) => a.vms).map((vm) => vm.spec.name))].sort();
    throw new CliError(
      "no-such-vm",
      `no VM ${nameOrUuid} on ${this.scope.hosts.map((h) => h.name).join(", ")}`,
      names.length === 0 ? "there are no VMs; bring some up: pulumi up" : `there are ${names.join(", ")}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const all = [...this.#connections.values()];
    this.#connections.clear();
    await Promise.allSettled(all.map(async (connection) => (await connection).close()));
  }
}

function isCalled(vm: VmReport, nameOrUuid: string): boolean {
  return vm.home !== "destroyed" && (vm.uuid === nameOrUuid || vm.spec.name === nameOrUuid);
}

/** One end of a link as its VM's agent sees it. */
export interface LinkEndReport {
  readonly vm: string;
  readonly nic: string;
  readonly host: string;
  readonly stats: NicStats;
}

/** The links of all VMs by uuid, with the ends that answered. */
export function linksOf(answers: readonly HostAnswer[]): Map<string, LinkEndReport[]> {
  const links = new Map<string, LinkEndReport[]>();
  for (const { host, vms } of answers) {
    for (const vm of vms) {
      if (vm.movedTo !== undefined) continue;
      for (const stats of vm.nics) {
        if (stats.link === undefined) continue;
        links.set(stats.link, [...(links.get(stats.link) ?? []), { vm: vm.spec.name, nic: stats.nic, host: host.name, stats }]);
      }
    }
  }
  return links;
}
