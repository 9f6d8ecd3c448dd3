import { createHash, type Hash } from "node:crypto";
import type { TLSSocket } from "node:tls";
import { promisify } from "node:util";
import { zstdDecompress, zstdDecompressSync } from "node:zlib";
import { release } from "../../lib/release";
import { type Fact, factMessage, parseMessage, type Ready } from "./messages";
import { encodeStreamFrame, encodeStreamJson, type Frame, frameType, maxPayloadBytes, type StreamDecoder, StreamError } from "./stream";

const decompress = promisify(zstdDecompress);
/** Frames that came, but are not yet applied. */
const queueBytes = 8 << 20;
/** What a frame costs to keep, beside its payload: so that a great many empty ones are not free. */
const keepBytes = 512;
/** Unpacked before their turn. A few bytes unpack to a mebibyte, so the queue's own size is no bound for it. */
const maxUnpackedEarly = 6;
/** Up to here the way to another thread and back costs more than the work. */
const atOnceBytes = 16 << 10;
/** On another thread, what a frame holds comes out in one piece: each is a way there and back. Here, in pieces that the host need not make new memory for. */
const optionsFor = (chunkSize: number) => ({ maxOutputLength: maxPayloadBytes, chunkSize });

async function unpack({ codec, payload }: Frame): Promise<Buffer> {
  if (codec === 0) return payload;
  if (payload.length <= atOnceBytes) return zstdDecompressSync(payload, optionsFor(64 << 10));
  return await decompress(payload, optionsFor(maxPayloadBytes));
}

export interface ReceiverEvents {
  /**
   * Applies one numbered frame; in order, one after the other. The payload is gone afterwards. `digest`: over all before it. What it returns is the answer to
   * that frame.
   */
  apply(type: number, payload: Buffer, digest: () => string): Promise<Buffer | undefined>;
  fact(fact: Fact): void;
  /** The stream cannot go on: what came is wrong or could not be applied. */
  failed(error: Error): void;
}

/** The target's end of a migration stream, over all its connections. */
export class Receiver {
  #stream = "";
  #taken = 0;
  #applied = 0;
  #digest: Hash = createHash("sha256");
  #tail: Promise<void> = Promise.resolve();
  #queued = 0;
  #unpackedEarly = 0;
  #socket: TLSSocket | undefined;
  #failed = false;

  constructor(
    private readonly events: ReceiverEvents,
    private readonly self: { readonly journalId: string; readonly ports: Readonly<Record<string, number>> },
    /** An earlier agent took the begin of the stream: it is joined where the source goes on. */
    private joins = false,
  ) {}

  get connected(): boolean {
    return this.#socket !== undefined && !this.#socket.destroyed;
  }

  /** Takes a connection whose HELLO was read. An older one is closed. */
  async serve(
    socket: TLSSocket,
    stream: string,
    decoder: StreamDecoder,
    first: readonly Frame[],
    also: () => Pick<Ready, "isFilling" | "basis"> = () => ({}),
  ): Promise<{ anew: boolean }> {
    this.#socket?.destroy();
    this.#socket = socket;
    socket.pause();
    await this.#tail.catch(() => undefined);
    const anew = this.#stream !== "" && this.#stream !== stream;
    if (this.#stream !== stream) {
      this.#stream = stream;
      this.#applied = 0;
      this.#digest = createHash("sha256");
    }
    this.#taken = this.#applied;
    socket.write(encodeStreamJson(frameType.ready, 0, { ...this.self, received: this.#applied, ...also() }));
    const take = (frames: readonly Frame[]): void => {
      try {
        for (const frame of frames) this.#take(socket, frame);
      } catch (error) {
        this.#fail(error);
      }
    };
    take(first);
    const hear = (chunk: Buffer): void => {
      try {
        take(decoder.push(chunk));
      } catch (error) {
        // What follows has no meaning any more, and must not pile up.
        socket.off("data", hear).resume();
        this.#fail(error);
      }
    };
    socket.on("data", hear);
    socket.resume();
    return { anew };
  }

  tell(fact: Fact): void {
    if (this.connected) this.#socket?.write(encodeStreamJson(frameType.fact, 0, fact));
  }

  /** What the guest, which runs, lacks or stands for. */
  ask(type: typeof frameType.lacks | typeof frameType.wants, payload: Buffer): void {
    if (this.connected) this.#socket?.write(encodeStreamFrame(type, 0, payload));
  }

  end(): void {
    this.#socket?.end();
    const socket = this.#socket;
    setTimeout(() => socket?.destroy(), 2000).unref();
  }

  #take(socket: TLSSocket, frame: Frame): void {
    if (socket !== this.#socket) return;
    if (frame.type === frameType.fact) {
      this.events.fact(parseMessage(factMessage, frame.payload));
      return;
    }
    if (this.#failed) return;
    if (frame.sequence === 0) throw new StreamError(`a source does not send frames of type ${frame.type} here`);
    if (this.joins) this.#applied = this.#taken = frame.sequence - 1;
    this.joins = false;
    if (frame.sequence <= this.#taken) return;
    if (frame.sequence !== this.#taken + 1) throw new StreamError(`frame ${frame.sequence} came after ${this.#taken}`);
    this.#taken = frame.sequence;
    const kept = frame.payload.length + keepBytes;
    this.#queued += kept;
    if (this.#queued > queueBytes) socket.pause();
    const early = this.#unpackedEarly < maxUnpackedEarly ? unpack(frame) : undefined;
    early?.catch(() => undefined);
    if (early) this.#unpackedEarly += 1;
    this.#tail = this.#tail
      .then(async () => {
        if (early) this.#unpackedEarly -= 1;
        if (this.#failed || frame.sequence !== this.#applied + 1) return;
        const payload = await (early ?? unpack(frame));
        const answer = await this.events.apply(frame.type, payload, () => this.#digest.copy().digest("hex"));
        this.#digest.update(Buffer.from([frame.type, frame.codec])).update(frame.payload);
        if (payload !== frame.payload) release(payload.buffer);
        this.#applied = frame.sequence;
        this.#queued -= kept;
        const ack = Buffer.alloc(8);
        ack.writeBigUInt64BE(BigInt(this.#applied));
        // First: what is acknowledged is not asked again.
        if (answer && !socket.destroyed) socket.write(encodeStreamFrame(frameType.held, 0, Buffer.concat([ack, answer])));
        if (!socket.destroyed) socket.write(encodeStreamFrame(frameType.ack, 0, ack));
        if (this.#queued <= queueBytes && socket.isPaused()) socket.resume();
      })
      .catch((error: unknown) => this.#fail(error));
  }

  #fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.events.failed(error instanceof Error ? error : new Error(String(error)));
  }
}
