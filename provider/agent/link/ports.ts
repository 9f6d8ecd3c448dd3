import { createSocket } from "node:dgram";
import { isIPv6 } from "node:net";
import { AgentFault } from "../errors";

/** UDP ports of one host's range: given to NICs, checked before they are given. */
export class Ports {
  readonly #used = new Set<number>();
  #next: number;

  constructor(
    private readonly range: { readonly from: number; readonly to: number },
    private readonly bindAddress: string,
  ) {
    this.#next = range.from;
  }

  /** A VM that is known holds these. */
  hold(ports: Iterable<number>): void {
    for (const port of ports) this.#used.add(port);
  }

  free(ports: Iterable<number>): void {
    for (const port of ports) this.#used.delete(port);
  }

  /** A port that nobody on this address uses now. @throws AgentFault no-port */
  async take(): Promise<number> {
    const count = this.range.to - this.range.from + 1;
    for (let i = 0; i < count; i++) {
      const port = this.#next;
      this.#next = port === this.range.to ? this.range.from : port + 1;
      if (this.#used.has(port)) continue;
      this.#used.add(port);
      if (await isFree(port, this.bindAddress)) return port;
      this.#used.delete(port);
    }
    throw new AgentFault("no-port", "find a UDP port", `all of ${this.range.from}–${this.range.to} on ${this.bindAddress} are taken`, {
      next: "widen the Host's `ports`",
    });
  }

  /** One for each name that has none. */
  async takeFor(names: readonly string[], have: Readonly<Record<string, number>>): Promise<Record<string, number>> {
    const ports: Record<string, number> = {};
    for (const name of names) ports[name] = have[name] ?? (await this.take());
    return ports;
  }
}

async function isFree(port: number, address: string): Promise<boolean> {
  const socket = createSocket(isIPv6(address) ? "udp6" : "udp4");
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ port, address, exclusive: true }, resolve);
    });
    return true;
  } catch {
    return false;
  } finally {
    socket.close();
  }
}
