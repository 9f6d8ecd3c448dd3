import { randomBytes } from "node:crypto";
import { isIP } from "node:net";
import { messageOf } from "../../lib/errors";
import { socketName } from "../link/wire";
import { ControlError } from "../vm/control";
import type { LiveVm } from "../vm/live";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import type { Sender } from "./sender";
import { frameType } from "./stream";

/**
 * The last pages of a guest that stands may go directly from the scanner beside it to the process that waits for it, in sealed datagrams
 * (docs/formats/direct.md): no agent is in their way. The same pages follow by the stream, a little later: whatever is lost comes there.
 */
export interface DirectWay {
  /** Of the waiting process. */
  readonly address: string;
  readonly port: number;
  /** For this one set; hex. */
  readonly key: string;
}

export const keyBytes = 32;

/** Asks the target for a way. All that was sent before is in its place there when this resolves. */
export async function askWay(sender: Sender, address: string): Promise<DirectWay | undefined> {
  if (isIP(address) === 0) return undefined;
  const question = randomBytes(keyBytes);
  const key = question.toString("hex");
  const { answer } = await sender.ask(frameType.direct, question);
  const port = (await answer)?.readUInt16BE(0) ?? 0;
  return port === 0 ? undefined : { address, port, key };
}

/** The target's end of it: what the waiting process may have done by itself. */
export class DirectPlace implements Disposable {
  #port: number | undefined;
  #asked: Promise<boolean> | undefined;

  constructor(
    private readonly vms: Vms,
    private readonly vm: Vm,
    private readonly live: LiveVm,
    private readonly m: string,
    private readonly epoch: number,
  ) {}

  /** @returns the answer to a DIRECT: the port, or 0 where there is no such way here */
  async open(key: Buffer): Promise<Buffer> {
    const answer = Buffer.alloc(2);
    if (this.#port !== undefined) return answer;
    const port = await this.vms.ports.take();
    try {
      const bind = socketName(this.vm.context.bindAddress, port);
      await this.live.control.say("direct", { attempt: this.m, epoch: this.epoch, key: key.toString("hex"), bind });
      this.#port = port;
      answer.writeUInt16BE(port);
    } catch (error) {
      this.vms.ports.free([port]);
      this.vm.context.log.info({ vm: this.vm.uuid, m: this.m, reason: messageOf(error) }, "the last pages come by the stream only");
    }
    return answer;
  }

  /**
   * Ends it. To be asked before anything of the copy is touched.
   * @returns whether the process still waits for its guest, which from here on nobody but this agent brings; false: the guest runs
   */
  async waits(): Promise<boolean> {
    if (this.#port === undefined) return true;
    this.#asked ??= this.#close();
    return await this.#asked;
  }

  async #close(): Promise<boolean> {
    try {
      await this.live.control.say("direct", { attempt: this.m, off: 1 });
    } catch (error) {
      // Who gave no answer may go on with it yet.
      if (!(error instanceof ControlError)) throw error;
      // It hears no such word any more: it is the guest's, or nobody's.
      if ((await this.vm.copyState()) !== "part") return false;
    }
    this[Symbol.dispose]();
    this.#asked = undefined;
    return true;
  }

  /** It is nobody's any more. */
  [Symbol.dispose](): void {
    if (this.#port !== undefined) this.vms.ports.free([this.#port]);
    this.#port = undefined;
  }

  /** How long the guest runs already. */
  async agoMs(): Promise<number> {
    const { resumedAtNs } = await this.live.control.say("status").catch(() => ({ resumedAtNs: undefined }));
    return resumedAtNs === undefined ? 0 : Number(process.hrtime.bigint() - BigInt(resumedAtNs)) / 1e6;
  }
}
