/** What the provider does in `pulumi up`, done by hand: the same claims, facts and moves (reconcile/), without Pulumi. */
import type { Row } from "../reconcile/engine";
import { Fleet as Courier } from "../reconcile/fleet";
import { AgentPool } from "../transport/pool";
import { CliError } from "./errors";
import type { Scope } from "./hosts";

/** Where a command writes; tests give their own. */
export interface Terminal {
  /** What was asked for. */
  out(line: string): void;
  /** What goes on meanwhile. */
  note(line: string): void;
}

export const terminal: Terminal = {
  out: (line) => void process.stdout.write(`${line}\n`),
  note: (line) => void process.stderr.write(`${line}\n`),
};

/** Hosts as the courier knows them; agents are only talked to, never started. */
export class CourierFleet implements AsyncDisposable {
  readonly courier: Courier;
  readonly row: Row;
  readonly #pool = new AgentPool({ start: false });

  constructor(
    readonly scope: Scope,
    resource: string,
    tell: (text: string) => void,
  ) {
    this.row = { progress: tell, say: tell, warn: (text) => tell(`warning: ${text}`) };
    const context = { pool: this.#pool, assets: noAssets, row: () => this.row };
    this.courier = new Courier(context, resource, { __hosts: scope.hosts });
  }

  /** @throws CliError no-such-host */
  need(host: string): string {
    if (this.courier.get(host)) return host;
    throw new CliError("no-such-host", `no host ${host} here; there are ${this.courier.names.join(", ")}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.close();
  }
}

/** Kernels and images come from the hosts' stores only. */
function noAssets(): never {
  throw new Error("the command line brings no kernel and no image of its own");
}
