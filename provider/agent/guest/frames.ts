/** Frames of docs/formats/guest-channel.md. */
export const guestFrame = {
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

const headerBytes = 12;
const maxPayload = 65536;
const guestTypes: ReadonlySet<number> = new Set([
  guestFrame.hello,
  guestFrame.result,
  guestFrame.stdout,
  guestFrame.stderr,
  guestFrame.ack,
  guestFrame.exit,
]);

export interface GuestFrame {
  readonly session: number;
  readonly type: number;
  readonly payload: Buffer;
}

export function encodeFrame(type: number, session: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const frame = Buffer.alloc(headerBytes + payload.length);
  frame.writeUInt32BE(payload.length, 0);
  frame.writeUInt32BE(session, 4);
  frame.writeUInt8(type, 8);
  frame.set(payload, headerBytes);
  return frame;
}

export function encodeJson(type: number, session: number, value: unknown): Buffer {
  return encodeFrame(type, session, Buffer.from(JSON.stringify(value)));
}

/** `u64 offset`, then bytes. */
export function withOffset(offset: number, bytes: Uint8Array = Buffer.alloc(0)): Buffer {
  const payload = Buffer.alloc(8 + bytes.length);
  payload.writeBigUInt64BE(BigInt(offset), 0);
  payload.set(bytes, 8);
  return payload;
}

/** The guest said what is no frame. */
export class GuestFrameError extends Error {
  override readonly name = "GuestFrameError";
}

/** Cuts a byte stream into frames. Before the first HELLO it scans: an old stream's rest may lie before it. */
export class GuestFrameParser {
  #rest: Buffer = Buffer.alloc(0);
  #inStep = false;

  /** @throws GuestFrameError once in step: the stream must then be opened anew */
  push(chunk: Buffer): GuestFrame[] {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const frames: GuestFrame[] = [];
    while (this.#rest.length >= headerBytes) {
      const payloadBytes = this.#rest.readUInt32BE(0);
      const type = this.#rest.readUInt8(8);
      const sane = payloadBytes <= maxPayload && guestTypes.has(type) && this.#rest.readUIntBE(9, 3) === 0;
      if (!this.#inStep && (!sane || !this.#isHello(payloadBytes, type))) {
        if (sane && this.#isHello(payloadBytes, type) === undefined) break;
        this.#rest = this.#rest.subarray(1);
        continue;
      }
      if (!sane) throw new GuestFrameError(`type ${type} with ${payloadBytes} bytes is no frame of a guest agent`);
      if (this.#rest.length < headerBytes + payloadBytes) break;
      this.#inStep = true;
      frames.push({
        session: this.#rest.readUInt32BE(4),
        type,
        payload: Buffer.from(this.#rest.subarray(headerBytes, headerBytes + payloadBytes)),
      });
      this.#rest = this.#rest.subarray(headerBytes + payloadBytes);
    }
    return frames;
  }

  /** A guest's HELLO is session 0 and JSON; undefined: more bytes are needed to tell. */
  #isHello(payloadBytes: number, type: number): boolean | undefined {
    if (type !== guestFrame.hello || this.#rest.readUInt32BE(4) !== 0 || payloadBytes < 2) return false;
    if (this.#rest.length < headerBytes + payloadBytes)
      return this.#rest.length > headerBytes && this.#rest[headerBytes] !== 0x7b ? false : undefined;
    return this.#rest[headerBytes] === 0x7b && this.#rest[headerBytes + payloadBytes - 1] === 0x7d;
  }
}
