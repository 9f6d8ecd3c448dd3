import { isIP } from "node:net";
import type { Assets } from "../lib/assets";
import { type KnownHost, knownHost } from "../schemas/host";
import { containsUnknown } from "../schemas/unknown";
import type { Reached } from "../transport/connect";
import type { AgentPool } from "../transport/pool";
import type { Row } from "./engine";
import { ReconcileError } from "./errors";
import type { Props } from "./handler";

/** What the reconcilers work with; tests give their own. */
export interface Context {
  readonly pool: AgentPool;
  readonly assets: () => Assets;
  readonly row: (urn: unknown) => Row;
}

/** The hosts that a resource knows: those of its hidden input `__hosts`, the newest word about each. */
export class Fleet {
  readonly #hosts: Map<string, KnownHost>;

  constructor(
    private readonly context: Context,
    private readonly resource: string,
    ...props: Props[]
  ) {
    this.#hosts = new Map(props.flatMap(knownHosts).map((host) => [host.name, host]));
  }

  get names(): string[] {
    return [...this.#hosts.keys()];
  }

  get(name: string): KnownHost | undefined {
    return this.#hosts.get(name);
  }

  /** @throws TransportError where it cannot be reached; ReconcileError where nobody told us how */
  async reach(name: string, row?: Row, signal?: AbortSignal): Promise<Reached> {
    const host = this.#hosts.get(name);
    if (!host)
      throw new ReconcileError(
        this.resource,
        `reach host ${name}`,
        "nothing says how",
        "next: give the Vm all Hosts that it may run on (`hosts`), as a Topology does",
      );
    const { cpuFlags: _flags, xstateBytes: _bytes, ...endpoint } = host;
    return await this.context.pool.reach(endpoint, { signal, onProgress: row && ((text) => row.progress(`${name}: ${text}`)) });
  }
}

/** The hosts in `__hosts` whose endpoints are known. In a preview some are not, and what a host's state lacks altogether is "unknown" too. */
export function knownHosts(props: Props): KnownHost[] {
  const list: unknown[] = Array.isArray(props.__hosts) ? props.__hosts : [];
  return list.flatMap((entry) => {
    if (typeof entry !== "object" || entry === null) return [];
    const known = Object.fromEntries(Object.entries(entry).filter(([, value]) => !containsUnknown(value)));
    const parsed = knownHost.strip().safeParse(known);
    return parsed.success ? [parsed.data] : [];
  });
}

/** 127.0.0.0/8 or ::1: frames and streams of such a host never leave its machine. */
export function isLoopback(address: string): boolean {
  return isIP(address) === 4 ? address.startsWith("127.") : address === "::1";
}
