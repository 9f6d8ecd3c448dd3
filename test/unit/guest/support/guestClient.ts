/** The host's end of the guest channel, written from docs/formats/guest-channel.md alone: what the agent in provider/ does, it does not share. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";

export const TYPE = {
  hello: 1,
  configure: 2,
  result: 3,
  open: 10,
  stdin: 11,
  stdout: 12,
  stderr: 13,
  ack: 14,
  resize: 15,
  signal: 16,
  exit: 17,
  close: 18,
  attach: 19,
} as const;

export interface Frame {
  readonly type: number;
  readonly session: number;
  readonly payload: Buffer;
}

/** How long a test waits for a frame that should come at once. */
const PATIENCE_MS = 10_000;
const HEADER_BYTES = 12;

export function encode(type: number, session: number, payload: Uint8Array | string = ""): Buffer {
  const body = Buffer.from(payload);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(body.length, 0);
  header.writeUInt32BE(session, 4);
  header.writeUInt8(type, 8);
  return Buffer.concat([header, body]);
}

export function u64(value: number | bigint, rest: Uint8Array | string = ""): Buffer {
  const head = Buffer.alloc(8);
  head.writeBigUInt64BE(BigInt(value));
  return Buffer.concat([head, Buffer.from(rest)]);
}

/** One stream of the channel. */
export class GuestClient {
  /** Frames that came and that nobody has taken. */
  readonly frames: Frame[] = [];
  readonly closed: Promise<unknown>;
  private bytes = Buffer.alloc(0);
  private readonly waiting = new Set<() => void>();

  private constructor(readonly socket: Socket) {
    this.closed = once(socket, "close");
    socket.on("error", () => {});
    socket.on("data", (bytes) => this.take(bytes));
    socket.on("close", () => this.wake());
  }

  static async connect(path: string): Promise<GuestClient> {
    const socket = connect(path);
    await once(socket, "connect");
    return new GuestClient(socket);
  }

  /** Connects and says HELLO; the answer's JSON. */
  static async greeted(path: string): Promise<{ client: GuestClient; hello: Hello }> {
    const client = await GuestClient.connect(path);
    return { client, hello: await client.hello() };
  }

  async hello(): Promise<Hello> {
    this.send(TYPE.hello, 0, "MOBIGUEST1");
    return JSON.parse((await this.next((f) => f.type === TYPE.hello)).payload.toString()) as Hello;
  }

  send(type: number, session: number, payload?: Uint8Array | string): void {
    this.socket.write(encode(type, session, payload));
  }

  /** Takes the first frame that fits, waiting for it. */
  async next(fits: (frame: Frame) => boolean, timeoutMs = PATIENCE_MS): Promise<Frame> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const index = this.frames.findIndex(fits);
      if (index >= 0) return this.frames.splice(index, 1)[0] as Frame;
      if (this.socket.destroyed) throw new Error("the stream is closed");
      await this.change(deadline - Date.now());
    }
  }

  /** Resolves when a frame comes or the stream closes. */
  private async change(timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    let wake: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        wake = resolve;
        this.waiting.add(resolve);
        const held = this.frames.map((f) => `${f.type}:${f.payload.toString("latin1").slice(0, 80)}`);
        timer = setTimeout(() => reject(new Error(`no such frame came; others: ${held.join(" ")}`)), Math.max(0, timeoutMs));
      });
    } finally {
      clearTimeout(timer);
      if (wake) this.waiting.delete(wake);
    }
  }

  private wake(): void {
    for (const wake of this.waiting) wake();
  }

  async close(): Promise<void> {
    this.socket.destroy();
    await this.closed;
  }

  private take(bytes: Buffer): void {
    this.bytes = Buffer.concat([this.bytes, bytes]);
    while (this.bytes.length >= HEADER_BYTES) {
      const length = this.bytes.readUInt32BE(0);
      if (this.bytes.length < HEADER_BYTES + length) break;
      if (length > 65536 || this.bytes.readUInt32BE(8) & 0xffffff) throw new Error("the guest sent a malformed frame");
      const payload = Buffer.from(this.bytes.subarray(HEADER_BYTES, HEADER_BYTES + length));
      this.frames.push({ type: this.bytes.readUInt8(8), session: this.bytes.readUInt32BE(4), payload });
      this.bytes = this.bytes.subarray(HEADER_BYTES + length);
    }
    this.wake();
  }
}

export interface Hello {
  readonly version: number;
  readonly bootId: string;
  readonly sessions: readonly { readonly id: number; readonly received: number; readonly sent: number }[];
}

export interface ExitReport {
  readonly code?: number;
  readonly signal?: number;
  readonly error?: string;
}
