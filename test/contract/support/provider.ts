/** The provider's own code (reconcile/) against the agents of a test, with all that it would show of its row. */

import { moveOffer } from "../../../provider/protocol/methods";
import type { Props } from "../../../provider/reconcile/handler";
import { vmReconciler } from "../../../provider/reconcile/vm";
import type { HostEndpoint } from "../../../provider/schemas/host";
import type { MigrationPolicy, VmSpec } from "../../../provider/schemas/vm";
import type { Reached } from "../../../provider/transport/connect";
import { AgentPool } from "../../../provider/transport/pool";
import type { AgentConnection } from "../../../provider/transport/rpc";
import type { TestAgent } from "./agents";
import { type Swallowing, swallowing } from "./relay";

/** As a Host's outputs have it. */
export const endpointOf = ({ name, stateDir, address }: TestAgent): HostEndpoint => ({
  name,
  connection: { local: { stateDir } },
  dataAddress: address,
  ports: { from: 21_000, to: 21_999 },
});

/** A provider process: `kill` ends its conversations, as its end would. */
export class TestProvider {
  readonly said: string[] = [];
  readonly progress: string[] = [];
  /** The streams of its moves go through one of these each, if it was asked for. */
  readonly relays: Swallowing[] = [];
  readonly #pool: AgentPool;
  readonly vms;

  constructor(
    private readonly agents: readonly TestAgent[],
    private readonly options: { relayed?: boolean } = {},
  ) {
    this.#pool = options.relayed ? new RelayedPool(this.relays) : new AgentPool({ start: false });
    const row = {
      say: (text: string) => this.said.push(text),
      warn: (text: string) => this.said.push(text),
      progress: (text: string) => this.progress.push(text),
    };
    const assets = (): never => {
      throw new Error("a test brings its kernel itself");
    };
    this.vms = vmReconciler({ pool: this.#pool, assets, row: () => row });
  }

  /** A Vm's properties on that host. */
  props(spec: VmSpec, host: TestAgent, migration: MigrationPolicy = {}): Props {
    const { imageId, kernelId, nics, ...rest } = spec;
    const hosts = this.agents.map((agent) => ({ ...endpointOf(agent), ...(this.options.relayed && { dataAddress: "127.0.0.4" }) }));
    return {
      ...rest,
      host: host.name,
      image: `sha256:${imageId}`,
      kernel: `sha256:${kernelId}`,
      nics: nics.map(({ mtu: _, ...nic }) => nic),
      migration,
      running: true,
      __hosts: hosts,
      __owner: "test",
    };
  }

  async up(spec: VmSpec, from: TestAgent, to: TestAgent, migration?: MigrationPolicy): Promise<Props> {
    return await this.vms.update(spec.uuid, this.props(spec, from, migration), this.props(spec, to, migration));
  }

  async refresh(spec: VmSpec, host: TestAgent): Promise<Props | undefined> {
    return (await this.vms.read(spec.uuid, this.props(spec, host)))?.props;
  }

  async kill(): Promise<void> {
    await this.#pool.close();
    for (const relay of this.relays) await relay[Symbol.asyncDispose]();
  }
}

/** Puts a relay before the port that a target offers. */
class RelayedPool extends AgentPool {
  constructor(private readonly relays: Swallowing[]) {
    super({ start: false });
  }

  override async reach(...words: Parameters<AgentPool["reach"]>): Promise<Reached> {
    const reached = await super.reach(...words);
    const { relays } = this;
    const agent = new Proxy(reached.agent, {
      get(target, key) {
        if (key === "call")
          return async (method: Parameters<AgentConnection["call"]>[0], ...rest: [never]) => {
            const answer = await target.call(method, ...rest);
            if (method.type.method !== moveOffer.type.method) return answer;
            const offer = answer as { port: number };
            const relay = await swallowing(target.hello.address, offer.port);
            relays.push(relay);
            return { ...offer, port: relay.port };
          };
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    return { ...reached, agent };
  }
}
