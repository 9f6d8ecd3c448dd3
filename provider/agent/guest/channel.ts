import { createConnection, type Socket } from "node:net";
import { z } from "zod";
import { type Deferred, deferred, until, within } from "../../lib/time";
import { encodeFrame, encodeJson, type GuestFrame, GuestFrameParser, guestFrame } from "./frames";

const hello = z.object({
  version: z.literal(1),
  bootId: z.string(),
  sessions: z.array(z.object({ id: z.int(), received: z.number(), sent: z.number() })).default([]),
});
/** What the guest agent says first: its boot, and the sessions that live in it. */
export type GuestHello = z.infer<typeof hello>;

const configured = z.object({ ok: z.boolean(), faults: z.array(z.string()).optional() });

/** What CONFIGURE carries. */
export interface GuestConfiguration {
  readonly hostname: string;
  readonly nics: readonly {
    readonly index: number;
    readonly name: string;
    readonly addresses: readonly string[];
    readonly mtu: number;
    readonly routes?: readonly { to: string; via: string }[];
  }[];
  readonly runcmd: readonly string[];
}

/** The stream to the guest agent ended before its answer came. */
class StreamEndedError extends Error {
  override readonly name = "StreamEndedError";
  constructor() {
    super("the guest channel ended");
  }
}

const helloAgainMs = 1000;

/**
 * The agent's end of a guest's channel. It connects again when the stream ends while the VM lives, says HELLO until it is answered (the guest agent may start
 * late, or not exist), and hands on the frames of sessions.
 */
export class GuestChannel implements Disposable {
  #socket: Socket | undefined;
  #ready: Deferred<GuestHello> = deferred();
  #result: Deferred<z.infer<typeof configured>> | undefined;
  #ended = false;
  #helloTimer: NodeJS.Timeout | undefined;

  /** @param after the first connection is made then; default: at once */
  constructor(
    private readonly path: string,
    private readonly events: { hello(hello: GuestHello): void; frame(frame: GuestFrame): void; lost(reason: string): void },
    after?: Promise<void>,
  ) {
    if (after) void after.then(() => this.#ended || this.#connect());
    else this.#connect();
  }

  /** The guest's HELLO on the stream of now. @throws DeadlineError */
  async hello(limitMs: number): Promise<GuestHello> {
    return await within(limitMs, "the guest agent's HELLO", this.#ready.promise);
  }

  /** Sets host name, addresses and routes. Returns the guest's faults, in its words. @throws DeadlineError */
  async configure(configuration: GuestConfiguration, limitMs: number): Promise<readonly string[]> {
    return await until(limitMs, "the guest agent's configuration", async () => {
      try {
        await this.hello(limitMs);
        this.#result = deferred();
        this.send(encodeJson(guestFrame.configure, 0, configuration));
        const { ok, faults } = await within(limitMs, "the guest agent's configuration", this.#result.promise);
        return ok ? [] : (faults ?? ["the guest agent named no fault"]);
      } catch (error) {
        // The stream ended meanwhile and is made anew: CONFIGURE is idempotent.
        if (error instanceof StreamEndedError && !this.#ended) return undefined;
        throw error;
      }
    });
  }

  /** False where there is no stream: the frame is lost, and the session must be attached again. */
  send(frame: Buffer): boolean {
    if (!this.#socket || this.#socket.destroyed) return false;
    this.#socket.write(frame);
    return true;
  }

  [Symbol.dispose](): void {
    this.#ended = true;
    clearTimeout(this.#helloTimer);
    this.#socket?.destroy();
    this.#ready.reject(new StreamEndedError());
    this.#result?.reject(new StreamEndedError());
  }

  #connect(): void {
    const socket = createConnection(this.path);
    const parser = new GuestFrameParser();
    this.#socket = socket;
    socket.once("connect", () => this.#sayHello(socket));
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const frame of parser.push(chunk)) this.#take(frame);
      } catch (error) {
        socket.destroy(error instanceof Error ? error : undefined);
      }
    });
    let reason = "it was closed";
    socket.on("error", (error) => {
      reason = error.message;
    });
    socket.once("close", () => this.#again(reason));
  }

  #sayHello(socket: Socket): void {
    clearTimeout(this.#helloTimer);
    if (this.#ended || socket.destroyed) return;
    socket.write(encodeFrame(guestFrame.hello, 0, Buffer.from("MOBIGUEST1")));
    this.#helloTimer = setTimeout(() => this.#sayHello(socket), helloAgainMs);
  }

  #again(reason: string): void {
    clearTimeout(this.#helloTimer);
    if (this.#ended) return;
    this.#ready.reject(new StreamEndedError());
    this.#ready = deferred();
    this.#result?.reject(new StreamEndedError());
    this.events.lost(reason);
    setTimeout(() => this.#ended || this.#connect(), 200).unref();
  }

  #take(frame: GuestFrame): void {
    if (frame.session !== 0) {
      this.events.frame(frame);
      return;
    }
    const value: unknown = JSON.parse(frame.payload.toString("utf8"));
    if (frame.type === guestFrame.result) this.#result?.resolve(configured.parse(value));
    if (frame.type !== guestFrame.hello) return;
    clearTimeout(this.#helloTimer);
    const said = hello.parse(value);
    this.#ready.resolve(said);
    this.events.hello(said);
  }
}
