import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { TLSSocket } from "node:tls";
import { constants, createZstdCompress, zstdCompressSync } from "node:zlib";
import { release } from "../../lib/release";
import { type Deferred, deferred } from "../../lib/time";
import { type Fact, factMessage, parseMessage, readyMessage } from "./messages";
import { Pacer } from "./pacer";
import { encodeStreamFrame, encodeStreamJson, type Frame, type FrameType, frameType, StreamDecoder, StreamError } from "./stream";

/** Tables as large as the payload needs, and its outcome in one piece: each piece is a way to the other thread and back. */
const zstdOptions = (bytes: number) => ({
  params: { [constants.ZSTD_c_compressionLevel]: 1 },
  pledgedSrcSize: bytes,
  chunkSize: Math.max(constants.Z_MIN_CHUNK, bytes),
});
/** Sent, but not yet known to be applied: what is kept for a new connection. */
const windowBytes = 16 << 20;
/** Frames that are being compressed: libuv's pool has four threads. */
const maxCompressing = 6;
/** Payloads below this are sent as they are. */
const compressFromBytes = 128;
/** A connection on which nothing moves for so long, while something is to be acknowledged, is given up for a new one. */
const stallMs = 20_000;
/** Up to here the way to another thread and back costs more than the work: the last frames of a frozen guest are such. */
const atOnceBytes = 64 << 10;
/** Of payloads of at least so much, the part that was left of the last one says what the next will come to. */
const tellingBytes = 64 << 10;
const wellPacked = 1 / 8;
/** To pack and unpack so little takes longer than a link carries it whose round trip, with all that the target does in it, was once as short as this. */
const soonBytes = 16 << 10;
const nearMs = 1.5;

async function pack(payload: Buffer): Promise<Buffer | undefined> {
  if (payload.length < compressFromBytes) return undefined;
  const options = zstdOptions(payload.length);
  return payload.length <= atOnceBytes ? zstdCompressSync(payload, options) : await compress(payload, options);
}

/** On another thread. What comes out is a small part of the room that was made for it. */
async function compress(payload: Buffer, options: ReturnType<typeof zstdOptions>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of createZstdCompress(options).end(payload)) parts.push(part);
  const whole = Buffer.concat(parts);
  for (const { buffer } of parts) release(buffer);
  return whole;
}

export interface SenderEvents {
  fact(fact: Fact): void;
  /** The guest runs there: pages that it lacks, and pages that it stands for. */
  lacks(payload: Buffer): void;
  wants(payload: Buffer): void;
  /** The connection ended and could not be made again in time. */
  lost(error: Error): void;
}

/**
 * The source's end of a migration stream. Frames are numbered, kept until the target has applied them, and sent again on a new connection of the
 * same job: a cut link costs time, not the move.
 */
export class Sender {
  #socket: TLSSocket | undefined;
  #sequence = 0;
  readonly #unacked: { sequence: number; bytes: Buffer; sentMs: number }[] = [];
  #unackedBytes = 0;
  #compressing = 0;
  /** From a frame to its acknowledgement: the shortest time, and the last. */
  nearestMs = Infinity;
  lastTripMs = 0;
  /** How many there were. */
  trips = 0;
  #tail: Promise<void> = Promise.resolve();
  #changed: Deferred<void> = deferred();
  #failure: Error | undefined;
  #ended = false;
  readonly #digest = createHash("sha256");
  readonly #pacer: Pacer;
  /** The target's journal, as it said at the connection. */
  journalId: string | undefined;
  /** Where it hears the VM's NICs, by their names. */
  ports: Readonly<Record<string, number>> = {};
  /** The guest runs there and lacks pages. */
  isFilling = false;
  /** Of what it has something still, from an earlier visit of the VM. */
  basis: { readonly memory: boolean; readonly disk: boolean } = { memory: false, disk: false };
  /** Frames that are answered, and the answers; null: it went with its connection. */
  readonly #questions = new Map<number, Buffer | null | undefined>();
  /** Bytes given to the connection, sent again ones too; and those that came back. */
  bytesOnWire = 0;
  /** Payloads that were packed and sent, and what has become of them. */
  readonly packed = { from: 0, to: 0 };
  /** What is sent now becomes much smaller. */
  packsWell = false;
  /** When the connection last took or brought bytes, or had nothing to do. */
  #movedAtMs = 0;
  #toTake = 0;
  readonly #watch: NodeJS.Timeout;

  constructor(
    private readonly dialOnce: () => Promise<TLSSocket>,
    private readonly hello: { m: string; vm: string; stream: string },
    private readonly events: SenderEvents,
    private readonly limits: { bandwidthMbps?: number | undefined; reconnectMs: number },
  ) {
    this.#pacer = new Pacer(limits.bandwidthMbps);
    this.#watch = setInterval(() => this.#endStall(), stallMs / 10).unref();
  }

  /** Connects for the first time; later connections are made by itself. */
  async connect(tries: number): Promise<void> {
    for (let left = tries; ; left -= 1) {
      try {
        await this.#open();
        return;
      } catch (error) {
        if (left <= 1 || this.#failure) throw this.#failure ?? error;
      }
      await sleep(300);
    }
  }

  get unackedBytes(): number {
    return this.#unackedBytes;
  }

  /**
   * Sends a numbered frame, in order; resolves when the next may be made. The payload is given away.
   * @param how `soon`: a guest waits for it; little goes before anything else is done, and as it is where the target is near
   * @returns its number
   * @throws what ended the stream
   */
  async send(type: FrameType, payload: Buffer, how: "small" | "soon" = "small"): Promise<number> {
    await this.#until(() => this.#unackedBytes < windowBytes && this.#compressing < maxCompressing);
    this.#compressing += 1;
    const sequence = ++this.#sequence;
    const goesAtOnce = how === "soon" && payload.length <= atOnceBytes;
    const asItIs = how === "soon" && payload.length <= soonBytes && this.nearestMs < nearMs;
    const packed = asItIs ? undefined : pack(payload);
    this.#tail = this.#tail
      .then(async () => {
        const made = await packed;
        const smaller = made && made.length < payload.length ? made : undefined;
        const bytes = encodeStreamFrame(type, sequence, smaller ?? payload, smaller ? 1 : 0);
        this.packed.from += payload.length;
        if (payload.length >= tellingBytes) this.packsWell = bytes.length < payload.length * wellPacked;
        release(payload.buffer);
        if (made) release(made.buffer);
        this.packed.to += bytes.length;
        await this.#emit(bytes, sequence);
      })
      .finally(() => {
        this.#compressing -= 1;
        this.#tick();
      });
    this.#tail.catch((error: unknown) => this.#fail(error instanceof Error ? error : new Error(String(error))));
    // Whoever sends it has more to do than to wait, but that can wait.
    if (goesAtOnce) await this.#tail;
    return sequence;
  }

  /** Sends a numbered frame that is answered. The answer is undefined where it was lost with its connection: it is not given twice. */
  async ask(type: FrameType, payload: Buffer): Promise<{ readonly answer: Promise<Buffer | undefined> }> {
    const sequence = await this.send(type, payload);
    this.#questions.set(sequence, undefined);
    const answer = this.#until(() => this.#questions.get(sequence) !== undefined).then(() => {
      const given = this.#questions.get(sequence) ?? undefined;
      this.#questions.delete(sequence);
      return given;
    });
    // Who asks may have ended before.
    answer.catch(() => undefined);
    return { answer };
  }

  /** Digest over all numbered frames so far. */
  async digest(): Promise<string> {
    await this.#tail;
    return this.#digest.copy().digest("hex");
  }

  /** Resolves when at most so many bytes are sent but not applied. */
  async drained(maxBytes: number): Promise<void> {
    await this.#until(() => this.#compressing === 0 && this.#unackedBytes <= maxBytes);
  }

  /** Says a fact, if a connection is there. After a last word no connection is made again. */
  tell(fact: Fact): void {
    if (fact.fact === "ABORTED" || fact.fact === "CLOSED") this.#ended = true;
    this.#write(encodeStreamJson(frameType.fact, 0, fact));
  }

  /** No frame goes out any more, and whoever waits is told why; facts can still be said. */
  abort(error: Error): void {
    this.#failure ??= error;
    this.#tick();
  }

  /** No more of it. What was said last is still sent. */
  end(): void {
    this.#ended = true;
    this.#failure ??= new Error("the migration stream was closed");
    clearInterval(this.#watch);
    this.#socket?.end();
    setTimeout(() => this.#socket?.destroy(), 2000).unref();
    this.#tick();
  }

  async #emit(bytes: Buffer, sequence: number): Promise<void> {
    this.#digest.update(bytes.subarray(2, 4)).update(bytes.subarray(20));
    this.#unacked.push({ sequence, bytes, sentMs: performance.now() });
    this.#unackedBytes += bytes.length;
    await this.#pacer.take(bytes.length);
    this.#write(bytes);
    const socket = this.#socket;
    while (socket === this.#socket && socket?.writableNeedDrain && !socket.destroyed && !this.#failure) await this.#changed.promise;
  }

  #write(bytes: Buffer): void {
    const socket = this.#socket;
    if (!socket || socket.destroyed) return;
    this.bytesOnWire += bytes.length;
    socket.write(bytes);
  }

  async #open(): Promise<void> {
    const socket = await this.dialOnce();
    const decoder = new StreamDecoder();
    const ready = deferred<Frame>();
    socket.write(encodeStreamJson(frameType.hello, 0, { protocol: 6, ...this.hello }));
    socket.on("data", (chunk: Buffer) => {
      this.#movedAtMs = performance.now();
      this.bytesOnWire += chunk.length;
      try {
        for (const frame of decoder.push(chunk)) {
          if (frame.type === frameType.ready) ready.resolve(frame);
          else this.#take(frame);
        }
      } catch (error) {
        socket.destroy(error instanceof Error ? error : undefined);
      }
    });
    socket.on("drain", () => this.#tick());
    socket.once("close", () => {
      this.#tick();
      ready.reject(new Error("the target closed the connection before it was ready"));
      if (this.#socket === socket) void this.#again();
    });
    const answer = await Promise.race([
      ready.promise,
      sleep(10_000, undefined, { ref: false }).then(() => Promise.reject(new Error("the target did not become ready in 10 s"))),
    ]).catch((error: unknown) => {
      socket.destroy();
      throw error;
    });
    const {
      journalId,
      received,
      ports = {},
      isFilling = false,
      basis = { memory: false, disk: false },
    } = parseMessage(readyMessage, answer.payload);
    this.isFilling = isFilling;
    this.basis = basis;
    for (const sequence of this.#questions.keys()) if (sequence <= received) this.#answer(sequence, null);
    this.journalId = journalId;
    this.ports = ports;
    this.#acknowledge(received);
    this.#socket = socket;
    this.#movedAtMs = performance.now();
    for (const { bytes } of this.#unacked) this.#write(bytes);
  }

  async #again(): Promise<void> {
    this.#socket = undefined;
    const end = performance.now() + this.limits.reconnectMs;
    let last: unknown = new Error("the connection ended");
    for (let pauseMs = 50; !this.#ended && performance.now() < end; pauseMs = Math.min(2 * pauseMs, 2000)) {
      try {
        return await this.#open();
      } catch (error) {
        last = error;
      }
      await sleep(pauseMs, undefined, { ref: false });
    }
    if (!this.#ended) this.#fail(last instanceof Error ? last : new Error(String(last)));
  }

  #take(frame: Frame): void {
    if (frame.type === frameType.ack) {
      if (frame.payload.length !== 8) throw new StreamError("an acknowledgement has the wrong length");
      this.#acknowledge(Number(frame.payload.readBigUInt64BE(0)));
    } else if (frame.type === frameType.fact) {
      this.events.fact(parseMessage(factMessage, frame.payload));
    } else if (frame.type === frameType.lacks) this.events.lacks(frame.payload);
    else if (frame.type === frameType.wants) this.events.wants(frame.payload);
    else if (frame.type === frameType.held) {
      if (frame.payload.length < 8) throw new StreamError("an answer names no question");
      this.#answer(Number(frame.payload.readBigUInt64BE(0)), frame.payload.subarray(8));
    } else throw new StreamError(`a target does not send frames of type ${frame.type}`);
  }

  /** What is not asked any more is not heard. */
  #answer(sequence: number, answer: Buffer | null): void {
    if (!this.#questions.has(sequence) || this.#questions.get(sequence) !== undefined) return;
    this.#questions.set(sequence, answer);
    this.#tick();
  }

  #acknowledge(sequence: number): void {
    const now = performance.now();
    for (let [first] = this.#unacked; first && first.sequence <= sequence; [first] = this.#unacked) {
      this.#unacked.shift();
      this.#unackedBytes -= first.bytes.length;
      // An answer comes before: there is none.
      this.#answer(first.sequence, null);
      this.lastTripMs = now - first.sentMs;
      this.trips += 1;
      this.nearestMs = Math.min(this.nearestMs, this.lastTripMs);
    }
    this.#tick();
  }

  /** A link that swallows everything tells nobody of it. */
  #endStall(): void {
    const socket = this.#socket;
    const toTake = socket?.writableLength ?? 0;
    if (toTake !== this.#toTake || this.#unackedBytes === 0) this.#movedAtMs = performance.now();
    this.#toTake = toTake;
    if (performance.now() - this.#movedAtMs > stallMs) socket?.destroy();
  }

  #fail(error: Error): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#tick();
    this.events.lost(error);
  }

  #tick(): void {
    const { resolve } = this.#changed;
    this.#changed = deferred();
    resolve();
  }

  async #until(met: () => boolean): Promise<void> {
    for (;;) {
      if (this.#failure) throw this.#failure;
      if (met()) return;
      await this.#changed.promise;
    }
  }
}
