/** QEMU's control channel (docs/interop/qmp-spec of QEMU): JSON lines over a Unix socket. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { until } from "../../../provider/lib/time";

interface Reply {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { class: string; desc: string };
  readonly event?: string;
  readonly data?: Record<string, unknown>;
}
export interface QmpEvent {
  readonly name: string;
  readonly data: Record<string, unknown>;
  /** When it came here. */
  readonly atMs: number;
}

const CONNECT_MS = 10_000;

/** A client of one QEMU process. */
export class Qmp implements Disposable {
  readonly events: QmpEvent[] = [];
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  #id = 0;

  private constructor(private readonly socket: Socket) {}

  static async open(path: string): Promise<Qmp> {
    const socket = await dial(path);
    const qmp = new Qmp(socket);
    createInterface({ input: socket }).on("line", (line) => qmp.#take(JSON.parse(line) as Reply));
    await qmp.ask("qmp_capabilities");
    return qmp;
  }

  /** @throws Error with what QEMU said */
  async ask<T>(command: string, args: object = {}): Promise<T> {
    const id = ++this.#id;
    const reply = new Promise<Reply>((resolve, reject) => {
      this.#waiting.set(id, resolve);
      this.socket.once("close", () => reject(new Error(`${command}: QEMU ended`)));
    });
    this.socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    const { error, return: value } = await reply;
    if (error) throw new Error(`QEMU: ${command} ${JSON.stringify(args)}: ${error.desc}`);
    return value as T;
  }

  /** Waits for an event that fits, one that has come already included. */
  async event(fits: (event: QmpEvent) => boolean, timeoutMs: number, what: string): Promise<QmpEvent> {
    const there = this.events.find(fits);
    if (there) return there;
    return await new Promise((resolve, reject) => {
      const done = (settle: () => void): void => {
        clearTimeout(timer);
        this.#listeners.delete(listener);
        settle();
      };
      const listener = (event: QmpEvent): void => (fits(event) ? done(() => resolve(event)) : undefined);
      const timer = setTimeout(() => done(() => reject(new Error(`QEMU: no ${what} in ${timeoutMs / 1000} s`))), timeoutMs);
      timer.unref(); // The socket keeps us running as long as somebody waits.
      this.#listeners.add(listener);
    });
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }

  #take(reply: Reply): void {
    if (reply.id !== undefined) this.#waiting.get(reply.id)?.(reply);
    if (reply.id !== undefined) this.#waiting.delete(reply.id);
    if (reply.event === undefined) return;
    const event = { name: reply.event, data: reply.data ?? {}, atMs: performance.now() };
    this.events.push(event);
    for (const listener of this.#listeners) listener(event);
  }
}

/** Connects as soon as somebody listens there. */
export async function dial(path: string): Promise<Socket> {
  return await until(CONNECT_MS, `somebody to listen at ${path}`, async () => {
    const socket = connect(path);
    socket.setNoDelay();
    try {
      await once(socket, "connect");
      socket.on("error", () => undefined);
      return socket;
    } catch {
      return undefined;
    }
  });
}
