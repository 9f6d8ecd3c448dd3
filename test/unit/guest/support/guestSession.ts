import { expect } from "chai";
import { type ExitReport, type Frame, type GuestClient, TYPE, u64 } from "./guestClient";

let lastId = 0x1000;

/** What an exec on the host keeps of a session; it outlives streams. */
export class GuestSession {
  readonly id = ++lastId;
  stdout = "";
  stderr = "";
  /** The next output byte that is expected: every byte comes once, in order. */
  offset = 0;
  private inputOffset = 0;

  constructor(public client: GuestClient) {}

  open(request: {
    argv: string[];
    env?: Record<string, string>;
    cwd?: string;
    user?: string;
    pty?: { rows: number; cols: number; term: string };
  }): this {
    this.client.send(TYPE.open, this.id, JSON.stringify(request));
    return this;
  }

  input(text: string | Uint8Array): void {
    this.client.send(TYPE.stdin, this.id, u64(this.inputOffset, text));
    this.inputOffset += Buffer.byteLength(text);
  }

  endInput(): void {
    this.client.send(TYPE.stdin, this.id, u64(this.inputOffset));
  }

  ack(): void {
    this.client.send(TYPE.ack, this.id, u64(this.offset));
  }

  attach(client: GuestClient, from = this.offset): void {
    this.client = client;
    client.send(TYPE.attach, this.id, u64(from));
  }

  close(): void {
    this.client.send(TYPE.close, this.id);
  }

  /** Takes the next frame of this session that is output or its end, and checks the output's place. */
  async step(): Promise<Frame> {
    const frame = await this.client.next(
      (f) => f.session === this.id && (f.type === TYPE.stdout || f.type === TYPE.stderr || f.type === TYPE.exit),
    );
    if (frame.type !== TYPE.exit) {
      expect(Number(frame.payload.readBigUInt64BE(0)), "offset of the output").to.equal(this.offset);
      const bytes = frame.payload.subarray(8);
      this.offset += bytes.length;
      if (frame.type === TYPE.stdout) this.stdout += bytes.toString("latin1");
      else this.stderr += bytes.toString("latin1");
    }
    return frame;
  }

  /** Reads, acknowledging all, until the program's end. */
  async finish(): Promise<ExitReport> {
    for (;;) {
      const frame = await this.step();
      if (frame.type === TYPE.exit) {
        this.close();
        return JSON.parse(frame.payload.toString()) as ExitReport;
      }
      this.ack();
    }
  }

  /** Reads, acknowledging all, until stdout fits. */
  async untilOutput(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.stdout)) {
      const frame = await this.step();
      if (frame.type === TYPE.exit) throw new Error(`ended with ${frame.payload.toString()} after ${this.stdout}${this.stderr}`);
      this.ack();
    }
  }
}
