/** Frames of the migration stream (docs/formats/migration-stream.md): what two agents say inside TLS. */

export const frameType = {
  hello: 1,
  ready: 2,
  ack: 3,
  fact: 4,
  lacks: 5,
  wants: 6,
  held: 7,
  memory: 10,
  disk: 11,
  wirings: 12,
  spec: 13,
  final: 14,
  late: 15,
  memorySums: 16,
  diskSums: 17,
  direct: 18,
} as const;
export type FrameType = (typeof frameType)[keyof typeof frameType];

/** Numbered frames carry the copy; the others may come at any time and twice. */
export const firstNumberedType = frameType.memory;

export const frameHeaderBytes = 20;
/** A data frame holds at most this much before compression; tables and JSON fit beside it. */
export const maxDataBytes = 1 << 20;
export const maxPayloadBytes = maxDataBytes + (64 << 10);
const magic = 0x4d42;

export interface Frame {
  readonly type: FrameType;
  /** 0 raw, 1 zstd. */
  readonly codec: 0 | 1;
  /** From 1 on, for numbered frames; else 0. */
  readonly sequence: number;
  readonly payload: Buffer;
}

/** The other side sent what no agent of ours sends: the connection is not to be used further. */
export class StreamError extends Error {
  override readonly name = "StreamError";
  constructor(readonly reason: string) {
    super(`migration stream: ${reason}`);
  }
}

const knownTypes = new Set<number>(Object.values(frameType));

export function encodeStreamFrame(type: FrameType, sequence: number, payload: Uint8Array, codec: 0 | 1 = 0): Buffer {
  const frame = Buffer.allocUnsafe(frameHeaderBytes + payload.length);
  frame.writeUInt16BE(magic, 0);
  frame.writeUInt8(type, 2);
  frame.writeUInt8(codec, 3);
  frame.writeUInt32BE(payload.length, 4);
  frame.writeBigUInt64BE(BigInt(sequence), 8);
  frame.writeUInt32BE(0, 16);
  frame.set(payload, frameHeaderBytes);
  return frame;
}

export function encodeStreamJson(type: FrameType, sequence: number, value: unknown): Buffer {
  return encodeStreamFrame(type, sequence, Buffer.from(JSON.stringify(value)));
}

/** Cuts bytes into frames. A hostile length is refused before anything is stored for it. */
export class StreamDecoder {
  #parts: Buffer[] = [];
  #bytes = 0;

  /** @throws StreamError */
  push(chunk: Buffer): Frame[] {
    this.#parts.push(chunk);
    this.#bytes += chunk.length;
    const frames: Frame[] = [];
    for (;;) {
      const header = this.#peek(frameHeaderBytes);
      if (!header) return frames;
      const payloadBytes = checkHeader(header);
      if (this.#bytes < frameHeaderBytes + payloadBytes) return frames;
      const whole = this.#take(frameHeaderBytes + payloadBytes);
      frames.push({
        type: whole.readUInt8(2) as FrameType,
        codec: whole.readUInt8(3) as 0 | 1,
        sequence: Number(whole.readBigUInt64BE(8)),
        payload: whole.subarray(frameHeaderBytes),
      });
    }
  }

  #peek(bytes: number): Buffer | undefined {
    if (this.#bytes < bytes) return undefined;
    if ((this.#parts[0]?.length ?? 0) < bytes) this.#parts = [Buffer.concat(this.#parts)];
    return this.#parts[0];
  }

  #take(bytes: number): Buffer {
    const [first] = this.#parts;
    const all = first && first.length >= bytes ? first : Buffer.concat(this.#parts);
    const rest = all === first ? this.#parts.slice(1) : [];
    this.#parts = all.length > bytes ? [all.subarray(bytes), ...rest] : rest;
    this.#bytes -= bytes;
    return all.subarray(0, bytes);
  }
}

function checkHeader(header: Buffer): number {
  const type = header.readUInt8(2);
  const payloadBytes = header.readUInt32BE(4);
  const sequence = header.readBigUInt64BE(8);
  if (header.readUInt16BE(0) !== magic) throw new StreamError("a frame does not begin with its mark");
  if (!knownTypes.has(type)) throw new StreamError(`unknown frame type ${type}`);
  if (header.readUInt8(3) > 1) throw new StreamError(`unknown codec ${header.readUInt8(3)}`);
  if (payloadBytes > maxPayloadBytes) throw new StreamError(`a frame of ${payloadBytes} bytes is too long`);
  if (header.readUInt32BE(16) !== 0) throw new StreamError("reserved bytes are not zero");
  if (sequence > BigInt(Number.MAX_SAFE_INTEGER)) throw new StreamError("a sequence number is out of range");
  if ((sequence === 0n) !== type < firstNumberedType) throw new StreamError(`a frame of type ${type} has the sequence number ${sequence}`);
  return payloadBytes;
}
