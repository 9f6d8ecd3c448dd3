/** The provider's own reconcile code, driven as Pulumi's engine drives it: check, diff, create, update, read; and killed at will. */
import type { Assets } from "../../../provider/lib/assets";
import * as protocol from "../../../provider/protocol/methods";
import { PartialFailure } from "../../../provider/reconcile/errors";
import type { Context } from "../../../provider/reconcile/fleet";
import { clean, type Props, type Reconciler } from "../../../provider/reconcile/handler";
import { linkReconciler } from "../../../provider/reconcile/link";
import { vmReconciler } from "../../../provider/reconcile/vm";
import type { HostEndpoint } from "../../../provider/schemas/host";
import type { ConnectOptions, Reached } from "../../../provider/transport/connect";
import { AgentPool } from "../../../provider/transport/pool";
import type { AgentConnection } from "../../../provider/transport/rpc";
import type { Link } from "./relay";

/** What the state file has of a resource. */
export interface Resource {
  readonly kind: "Vm" | "Link";
  id?: string;
  inputs: Props;
  outs: Props;
}

/** Connections of one provider process; the stream of a move goes over the relay. */
class TestPool extends AgentPool {
  dead = false;

  constructor(
    assets: Assets,
    private readonly link: Link,
  ) {
    super({ assets });
  }

  override async reach(endpoint: HostEndpoint, options?: ConnectOptions): Promise<Reached> {
    // Of a killed process nothing goes on.
    if (this.dead) return await new Promise<never>(() => undefined);
    const { agent, machine } = await super.reach(endpoint, options);
    return { machine, agent: this.#overRelay(agent, endpoint.dataAddress) };
  }

  #overRelay(agent: AgentConnection, address: string): AgentConnection {
    const call: AgentConnection["call"] = async (method, params, options) => {
      const answer = await agent.call(method, params, options);
      if (method.type.method !== protocol.moveOffer.type.method) return answer;
      const offer = answer as { port: number; missing: string[] };
      return offer.missing.length > 0 ? answer : ({ ...offer, port: await this.link.before(address, offer.port) } as typeof answer);
    };
    return new Proxy(agent, {
      get: (target, name) => {
        if (name === "call") return call;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }
}

/** One process that runs the provider. */
export class Provider {
  readonly #pool: TestPool;
  readonly #reconcilers: Readonly<Record<Resource["kind"], Reconciler>>;
  readonly said: string[] = [];

  constructor(assets: Assets, link: Link) {
    this.#pool = new TestPool(assets, link);
    const say = (text: string): void => void this.said.push(text);
    const context: Context = { pool: this.#pool, assets: () => assets, row: () => ({ progress: () => undefined, say, warn: say }) };
    this.#reconcilers = { Vm: vmReconciler(context), Link: linkReconciler(context) };
  }

  /** As SIGKILL would: its connections end, and it does nothing more. */
  async kill(): Promise<void> {
    this.#pool.dead = true;
    await this.#pool.close();
  }

  async reach(endpoint: HostEndpoint): Promise<AgentConnection> {
    return (await this.#pool.reach(endpoint)).agent;
  }

  /** One resource's part of an `up`. What a step that failed half-way has changed is in `resource` when this throws. */
  async up(resource: Resource, wanted: Props): Promise<void> {
    const reconciler = this.#reconcilers[resource.kind];
    const { inputs, failures } = reconciler.check(resource.inputs, clean(wanted));
    if (failures?.length) throw new Error(`check: ${JSON.stringify(failures)}`);
    const news = clean(inputs as Props);
    try {
      if (resource.id === undefined) {
        const { id, outs } = await reconciler.create(news);
        Object.assign(resource, { id, inputs: news, outs: clean(outs) });
      } else if (reconciler.diff(resource.id, resource.outs, news).changes) {
        const outs = clean(await reconciler.update(resource.id, resource.outs, news));
        Object.assign(resource, { inputs: news, outs });
      } else resource.inputs = news;
    } catch (error) {
      if (error instanceof PartialFailure && !this.#pool.dead) Object.assign(resource, { inputs: news, outs: clean(error.properties) });
      throw error;
    }
  }

  /** @throws Error where it says that the resource is gone */
  async refresh(resource: Resource): Promise<void> {
    if (resource.id === undefined) return;
    const found = await this.#reconcilers[resource.kind].read(resource.id, resource.outs);
    if (!found) throw new Error(`refresh says that ${resource.kind} ${resource.id} is gone`);
    Object.assign(resource, { outs: clean(found.props), inputs: { ...resource.inputs, ...clean(found.inputs) } });
  }

  async destroy(resource: Resource): Promise<void> {
    if (resource.id !== undefined) await this.#reconcilers[resource.kind].delete(resource.id, resource.outs);
  }
}
