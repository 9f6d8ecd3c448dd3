import type { Wiring } from "../../schemas/link";
import type { VmSpec } from "../../schemas/vm";
import type { AgentContext } from "../context";
import { GuestChannel } from "../guest/channel";
import { Sessions } from "../guest/sessions";
import { mtuOf } from "../link/wire";
import { ConsoleTee } from "./console";
import type { Control } from "./control";
import type { VmPaths } from "./paths";
import type { VmProcess } from "./process";

/** A VM process that runs, and all that this agent has open to it. */
export class LiveVm implements Disposable {
  #guest: GuestChannel | undefined;
  #console: ConsoleTee | undefined;
  readonly sessions = new Sessions(() => this.#guest);
  /** Host CPU that it is pinned to. */
  cpu: number | undefined;

  constructor(
    readonly process: VmProcess,
    readonly control: Control,
    private readonly paths: VmPaths,
  ) {
    this.cpu = process.record.cpu;
  }

  get guest(): GuestChannel | undefined {
    return this.#guest;
  }

  get console(): ConsoleTee | undefined {
    return this.#console;
  }

  /**
   * Opens console and guest channel: when the guest runs here, not in a process that waits.
   * @param guestAfter the guest's agent is spoken to then, and who asks for it waits until it answers; default: at once
   */
  openChannels(context: AgentContext, guestAfter?: Promise<void>): void {
    this.#console ??= new ConsoleTee(this.paths.consoleSocket, this.paths.console);
    this.#guest ??= new GuestChannel(
      this.paths.guest,
      {
        hello: (hello) => {
          context.log.info({ vm: this.control.vm, sessions: hello.sessions.length }, "guest agent said hello");
          this.sessions.hello(hello);
        },
        frame: (frame) => this.sessions.frame(frame),
        lost: (reason) => context.log.debug({ vm: this.control.vm, reason }, "the guest channel ended; it is opened again"),
      },
      guestAfter,
    );
  }

  /** Sets the guest's host name, addresses, routes. Returns its faults. @throws DeadlineError where no guest agent answers */
  async configure(spec: VmSpec, wirings: readonly Wiring[], limitMs: number): Promise<readonly string[]> {
    if (!this.#guest) throw new Error("the guest channel is not open");
    const nics = spec.nics.map((nic, index) => ({
      index,
      name: nic.name,
      addresses: nic.addresses,
      mtu: mtuOf(nic, wirings),
      ...(nic.routes && { routes: nic.routes }),
    }));
    return await this.#guest.configure({ hostname: spec.name, nics, runcmd: spec.runcmd }, limitMs);
  }

  [Symbol.dispose](): void {
    this.#guest?.[Symbol.dispose]();
    this.#console?.[Symbol.dispose]();
    this.control[Symbol.dispose]();
  }
}
