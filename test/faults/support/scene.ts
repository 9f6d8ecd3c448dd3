/** Three hosts, a VM that moves between two of them, and its peer on the third. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Assets } from "../../../provider/lib/assets";
import * as protocol from "../../../provider/protocol/methods";
import type { Props } from "../../../provider/reconcile/handler";
import type { MigrationPolicy } from "../../../provider/schemas/vm";
import type { AgentConnection } from "../../../provider/transport/rpc";
import { shell, startChecks, startStream } from "./guest";
import { TestHost } from "./host";
import { Provider, type Resource } from "./provider";
import { Link } from "./relay";

/** What a fault can reach. */
export interface Scene {
  readonly source: TestHost;
  readonly target: TestHost;
  readonly link: Link;
  readonly vm: string;
  readonly killProvider: () => Promise<void>;
}

const diskMiB = 400;
const resource = (kind: Resource["kind"]): Resource => ({ kind, inputs: {}, outs: {} });

export class World implements AsyncDisposable {
  readonly link = new Link();
  readonly #folder = mkdtempSync(join(tmpdir(), "mobi-faults-"));
  readonly hosts: readonly [TestHost, TestHost];
  readonly third: TestHost;
  readonly vm = resource("Vm");
  readonly peer = resource("Vm");
  readonly cable = resource("Link");
  provider: Provider;
  /** Written to the disk at the first boot, and never again. */
  readonly marker = crypto.randomUUID();
  #port = 7100;

  private constructor(
    private readonly assets: Assets,
    net: number,
  ) {
    this.hosts = [
      new TestHost("one", `127.${net}.0.1`, this.#folder, diskMiB),
      new TestHost("two", `127.${net}.0.2`, this.#folder, diskMiB),
    ];
    this.third = new TestHost("three", `127.${net}.0.3`, this.#folder, diskMiB);
    this.provider = new Provider(assets, this.link);
  }

  static async make(assets: Assets): Promise<World> {
    const world = new World(assets, 100 + (process.pid % 100));
    try {
      TestHost.preloadClocks(world.#folder);
      await world.up(world.hosts[0]);
      if (!world.hosts[0].clockIsADayAhead) throw new Error("its agent does not have the clock that the test made for it");
      await shell(await world.home(), world.id, `echo ${world.marker} >/root/marker; sync`);
      await startChecks(await world.home(), world.id);
      await world.restream();
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  get id(): string {
    return String(this.vm.id);
  }

  /** As `pulumi up` with the VM on that host. */
  async up(host: TestHost, migration: MigrationPolicy = {}): Promise<void> {
    await this.provider.up(this.vm, { ...this.#wanted("a", host.name, 1), migration });
    if (this.peer.id === undefined) await this.provider.up(this.peer, this.#wanted("b", this.third.name, 2));
    const end = ({ id, outs }: Resource): object => ({ vm: id, instance: outs.instance, host: outs.host, nic: "net" });
    await this.provider.up(this.cable, { ends: [end(this.vm), end(this.peer)], ...this.#hidden("Link", "cable") });
  }

  /** Another run, as it begins by another `pulumi` command. */
  async nextRun(): Promise<void> {
    await this.provider.kill();
    this.provider = new Provider(this.assets, this.link);
  }

  /** The agent that has the VM, by the state. */
  async home(): Promise<AgentConnection> {
    const host = this.hosts.find(({ name }) => name === this.vm.outs.host);
    if (!host) throw new Error(`the state has the VM on ${String(this.vm.outs.host)}`);
    return await this.provider.reach(host.known);
  }

  /** Hosts on which a copy of the VM runs, by the memory files themselves. */
  running(): string[] {
    return this.hosts.filter((host) => host.running().includes(this.id)).map(({ name }) => name);
  }

  /** Frames that the peer got from an incarnation that another had followed already: somebody spoke who should be no more. */
  async staleFrames(): Promise<number> {
    const agent = await this.provider.reach(this.third.known);
    const { vm } = await agent.call(protocol.vmGet, { vm: String(this.peer.id) });
    const count = vm?.nics[0]?.counters.dropOldEpoch;
    if (count === undefined) throw new Error(`the peer counts no frames: ${JSON.stringify(vm?.nics)}`);
    return count;
  }

  /** A new TCP stream between the guests. */
  async restream(): Promise<void> {
    const peer = await this.provider.reach(this.third.known);
    await startStream([await this.home(), this.id], [peer, String(this.peer.id)], ++this.#port);
  }

  #wanted(name: string, host: string, n: number): Props {
    const nics = [{ name: "net", addresses: [`10.9.0.${n}/24`] }];
    return { name, host, memoryMiB: 48, diskMiB: 96, nics, ...this.#hidden("Vm", name) };
  }

  #hidden(type: string, name: string): Props {
    const urn = `urn:pulumi:faults::faults::pulumi-nodejs:dynamic/mobitopolo:${type}::${name}`;
    return { __urn: urn, __hosts: [...this.hosts, this.third].map(({ known }) => known), __provider: "faults" };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.provider.kill();
    for (const host of [...this.hosts, this.third]) host[Symbol.dispose]();
    await this.link[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
