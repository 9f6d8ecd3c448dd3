import type { Server, TLSSocket } from "node:tls";
import type { z } from "zod";
import { errnoOf } from "../../lib/errors";
import type { AgentContext } from "../context";
import { AgentFault } from "../errors";
import { helloMessage, parseMessage } from "./messages";
import { type Frame, frameType, StreamDecoder } from "./stream";
import { listenTls } from "./tls";

const helloLimitMs = 10_000;

/** Takes a connection whose HELLO was read; the decoder and the frames behind it go along. */
export type Accept = (socket: TLSSocket, hello: z.infer<typeof helloMessage>, decoder: StreamDecoder, rest: readonly Frame[]) => void;

/** The one port on which an agent hears sources. It is open while an attempt has a key. */
export class MoveListener {
  #server: Server | undefined;
  #port = 0;
  readonly #keys = new Map<string, Buffer>();
  #opening: Promise<void> | undefined;

  constructor(
    private readonly context: AgentContext,
    private readonly accept: Accept,
  ) {}

  /** Lets an attempt in. Returns the port. @throws AgentFault no-port */
  async admit(m: string, key: Buffer): Promise<number> {
    this.#keys.set(m, key);
    this.#opening ??= this.#open();
    try {
      await this.#opening;
    } catch (error) {
      this.#opening = undefined;
      throw error;
    }
    return this.#port;
  }

  /** No more connections for this attempt; those that are open stay. */
  dismiss(m: string): void {
    this.#keys.delete(m);
    if (this.#keys.size > 0) return;
    this.#server?.close();
    this.#server = undefined;
    this.#opening = undefined;
  }

  end(): void {
    this.#keys.clear();
    this.#server?.close();
  }

  async #open(): Promise<void> {
    const { from, to } = this.context.ports;
    const server = listenTls(
      (m) => this.#keys.get(m),
      (socket, m) => this.#greet(socket, m),
      (error) => this.context.log.warn({ reason: error.message }, "a connection without the job's key was refused"),
    );
    // From the range's end downwards: NICs take theirs from its begin.
    for (let port = to; port >= from; port--) {
      if (await tryListen(server, port, this.context.bindAddress)) {
        this.#server = server;
        this.#port = port;
        return;
      }
    }
    throw new AgentFault("no-port", "listen for a move", `no TCP port of ${from}–${to} on ${this.context.bindAddress} is free`, {
      next: "widen the Host's `ports`",
    });
  }

  #greet(socket: TLSSocket, m: string): void {
    const decoder = new StreamDecoder();
    const timer = setTimeout(() => socket.destroy(), helloLimitMs);
    socket.once("close", () => clearTimeout(timer));
    const hear = (chunk: Buffer): void => {
      try {
        const [first, ...rest] = decoder.push(chunk);
        if (!first) return;
        socket.off("data", hear);
        clearTimeout(timer);
        if (first.type !== frameType.hello) throw new Error("a connection that does not begin with HELLO");
        const hello = parseMessage(helloMessage, first.payload);
        if (hello.m !== m) throw new Error(`the key is that of ${m}, not of ${hello.m}`);
        if (!this.#keys.has(hello.m)) throw new Error(`nobody waits for ${hello.m}`);
        this.accept(socket, hello, decoder, rest);
      } catch (error) {
        this.context.log.warn({ m, reason: error instanceof Error ? error.message : String(error) }, "a migration connection was closed");
        socket.destroy();
      }
    };
    socket.on("data", hear);
  }
}

async function tryListen(server: Server, port: number, address: string): Promise<boolean> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ port, host: address, exclusive: true }, () => {
        server.off("error", reject);
        resolve();
      });
    });
    return true;
  } catch (error) {
    if (errnoOf(error) === "EADDRINUSE" || errnoOf(error) === "EACCES") return false;
    throw error;
  }
}
