import { deferred } from "../../lib/time";
import type { MoveNeeds } from "../../protocol/methods";
import type { Wiring } from "../../schemas/link";
import { mtuOf } from "../link/wire";
import { configure } from "../vm/ensure";
import type { Vm } from "../vm/vm";
import { heldAt } from "./holds";
import { settleIncoming } from "./settle";

/** A SETTLED that could not be written is tried again. */
const againMs = 5_000;

/** What a target does when its guest runs: all that must be durable, then SETTLED; as often as it takes. */
export class Settling {
  /** The guest has had time to answer its frames: then its agent is spoken to. */
  readonly calm = deferred<void>();
  #written: Promise<unknown> = Promise.resolve();
  /** The guest runs, but SETTLED could not be written yet. */
  #unsettled: MoveNeeds["spec"] | undefined;
  #again: NodeJS.Timeout | undefined;

  /**
   * @param closeSinks after which nothing of the copy is written any more; returns when its disk is synced
   * @param settled is told once
   */
  constructor(
    private readonly vm: Vm,
    private readonly m: string,
    private readonly sinks: { sync(): Promise<void>; close(): Promise<void> },
    private readonly settled: () => void,
    /** What the process knows. */
    public wirings: readonly Wiring[],
  ) {}

  /** Not awaited: a sync would hold up the frames behind this one. Settling waits for it. */
  wired(wirings: readonly Wiring[]): void {
    this.wirings = wirings;
    this.#write(this.#written.then(() => this.vm.writeWirings(wirings)));
  }

  /** For an agent that comes later. Not awaited: the guest may stand for a page by now. */
  noted(spec: MoveNeeds["spec"]): void {
    if (this.vm.file) this.#write(Promise.all([this.#written, this.vm.writeFile({ ...this.vm.file, spec })]));
  }

  async settle(spec: MoveNeeds["spec"]): Promise<void> {
    this.#unsettled = undefined;
    clearTimeout(this.#again);
    try {
      if (this.vm.file) await this.vm.writeFile({ ...this.vm.file, spec });
      await this.#written;
      // settleIncoming() syncs it where an earlier agent had it open.
      await this.sinks.sync();
      this.calm.resolve();
      await this.sinks.close();
      await heldAt(this.vm.context, "started");
      await settleIncoming(this.vm, this.m);
      await heldAt(this.vm.context, "settled");
      this.settled();
      const changed = spec.nics.some((nic) => mtuOf(nic, this.vm.wirings) !== nic.mtu);
      if (changed) await configure(this.vm);
    } catch (error) {
      this.vm.context.log.error({ vm: this.vm.uuid, m: this.m, err: error }, "settling failed; the guest runs, it is tried again");
      this.calm.resolve();
      if (this.vm.journal.incoming(this.m)?.state !== "RESERVED") return;
      this.#unsettled = spec;
      this.#again = setTimeout(() => void this.again(), againMs).unref();
    }
  }

  /** A disk that was full may have room by now: also for what was not awaited then. */
  async again(): Promise<void> {
    const spec = this.#unsettled;
    if (!spec || this.vm.job?.m !== this.m) return;
    this.#write(this.vm.writeWirings(this.wirings));
    await this.settle(spec);
  }

  end(): void {
    clearTimeout(this.#again);
  }

  #write(written: Promise<unknown>): void {
    this.#written = written;
    this.#written.catch(() => undefined);
  }
}
