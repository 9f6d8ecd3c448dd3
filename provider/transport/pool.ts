import type { HostEndpoint } from "../schemas/host";
import { type ConnectOptions, type Reached, reach } from "./connect";

/** One connection per host for all resources of a process; made when first needed, and again after it broke. */
export class AgentPool {
  readonly #open = new Map<string, Promise<Reached>>();

  constructor(private readonly options: ConnectOptions = {}) {}

  async reach(endpoint: HostEndpoint, options: ConnectOptions = {}): Promise<Reached> {
    const key = JSON.stringify([endpoint.name, endpoint.connection, endpoint.dataAddress, endpoint.ports, endpoint.limits]);
    const known = this.#open.get(key);
    if (known) {
      const reached = await known;
      if (!reached.agent.isClosed) return reached;
      if (this.#open.get(key) === known) this.#open.delete(key);
      return await this.reach(endpoint, options);
    }
    const opening = reach(endpoint, { ...this.options, ...options });
    this.#open.set(key, opening);
    try {
      const reached = await opening;
      void reached.agent.closed.then(() => {
        if (this.#open.get(key) === opening) this.#open.delete(key);
      });
      return reached;
    } catch (error) {
      if (this.#open.get(key) === opening) this.#open.delete(key);
      throw error;
    }
  }

  /** Ends all conversations; agents and VMs go on. */
  async close(): Promise<void> {
    const all = await Promise.allSettled(this.#open.values());
    this.#open.clear();
    for (const one of all) if (one.status === "fulfilled") one.value.agent.close();
  }
}
