/** A program in a guest, seen from here: its streams go on when its VM moves or an agent is replaced. */
import { setTimeout as delay } from "node:timers/promises";
import { execControl, execExit, execInput, execLost, execOutput, execResume, execStart } from "../protocol/methods";
import type { AgentConnection } from "../transport/rpc";
import { CliError } from "./errors";
import type { Fleet, Located } from "./fleet";

/** What to run, as exec.open takes it. */
export interface Program {
  readonly argv: string[];
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  readonly pty?: { rows: number; cols: number; term: string };
}

/** How the program ended: its exit code, or the signal that killed it. */
export interface Exit {
  readonly code?: number;
  readonly signal?: number;
}

/** The session's events for the command that shows it. */
export interface SessionEvents {
  output(stream: "stdout" | "stderr", bytes: Buffer): void;
  /** The VM is elsewhere now; streams go on. */
  moved?(host: string): void;
}

/** How long a moved VM may take to answer at its new host (a move's frozen part, or an agent that restarts). */
const FIND_AGAIN_MS = 60_000;
const RETRY_MS = 100;
/** Input of one request; the agent holds 64 KiB that the guest has not taken. */
const INPUT_CHUNK_BYTES = 32 * 1024;

interface Chunk {
  readonly offset: number;
  readonly bytes: Buffer;
  readonly end: boolean;
  taken: boolean;
}

/** One open program. Made by `start`; `exit` settles once. */
export class GuestSession {
  readonly exit: Promise<Exit>;
  readonly #settle: { resolve(exit: Exit): void; reject(error: unknown): void };
  #agent: AgentConnection;
  #host: string;
  #id = 0;
  #received = 0;
  #sent = 0;
  #done = false;
  /** Input that no agent has confirmed as taken by the guest, oldest first. */
  readonly #pending: Chunk[] = [];
  #unsubscribe: (() => void)[] = [];
  #recovering: Promise<void> | undefined;
  /** Aborted when the agent that we talk to has lost the VM: what it was asked may never be answered. */
  #left = new AbortController();

  private constructor(
    readonly fleet: Fleet,
    readonly vm: string,
    host: string,
    agent: AgentConnection,
    readonly events: SessionEvents,
  ) {
    this.#agent = agent;
    this.#host = host;
    const { promise, resolve, reject } = Promise.withResolvers<Exit>();
    this.exit = promise;
    this.#settle = { resolve, reject };
  }

  /** Starts the program in the VM. @throws what exec.open answers; the program's own failure to start comes as `exit`'s rejection */
  static async start(fleet: Fleet, at: Located, program: Program, events: SessionEvents): Promise<GuestSession> {
    const agent = await fleet.agent(at.host.name);
    const session = new GuestSession(fleet, at.vm.uuid, at.host.name, agent, events);
    session.#listen();
    session.#id = (await agent.call(execStart, { vm: at.vm.uuid, ...program })).session;
    for (const late of session.#early.splice(0)) late();
    return session;
  }

  /** Resolves when the guest has taken these bytes: the caller reads no further before. */
  async write(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; at += INPUT_CHUNK_BYTES) await this.#input(bytes.subarray(at, at + INPUT_CHUNK_BYTES), false);
  }

  /** End of input. */
  async end(): Promise<void> {
    await this.#input(Buffer.alloc(0), true);
  }

  async resize(rows: number, cols: number): Promise<void> {
    await this.#control({ resize: { rows, cols } });
  }

  async signal(signal: number): Promise<void> {
    await this.#control({ signal });
  }

  /** Gives the session up: the guest hangs the program up. */
  async close(): Promise<void> {
    await this.#control({ close: true });
    this.#finish();
  }

  async #control(what: { resize?: { rows: number; cols: number }; signal?: number; close?: boolean }): Promise<void> {
    while (this.#recovering !== undefined) await this.#recovering;
    if (!this.#done) await this.#agent.call(execControl, { vm: this.vm, session: this.#id, ...what });
  }

  async #input(bytes: Buffer, end: boolean): Promise<void> {
    const chunk: Chunk = { offset: this.#sent, bytes, end, taken: false };
    this.#sent += bytes.length;
    this.#pending.push(chunk);
    while (!chunk.taken && !this.#done) {
      while (this.#recovering !== undefined) await this.#recovering;
      const agent = this.#agent;
      try {
        await this.#send(agent, chunk);
      } catch (error) {
        if (agent === this.#agent && this.#recovering === undefined) await this.#whyFailed(agent, error);
      }
    }
  }

  /** A request failed although nothing told of a loss yet: such news comes first or at once after, else it is a true fault. */
  async #whyFailed(agent: AgentConnection, error: unknown): Promise<void> {
    await delay(RETRY_MS);
    if (this.#done || agent !== this.#agent || this.#recovering !== undefined) return;
    const found = await this.fleet.locate(this.vm);
    if (found.host.name === this.#host) throw error;
    this.#lost(found.host.name);
  }

  async #send(agent: AgentConnection, chunk: Chunk): Promise<void> {
    await agent.call(
      execInput,
      {
        vm: this.vm,
        session: this.#id,
        offset: chunk.offset,
        data: chunk.bytes.toString("base64"),
        ...(chunk.end && { end: true }),
        // A program may leave its input unread for as long as it likes.
      },
      { timeoutMs: 0, signal: this.#left.signal },
    );
    chunk.taken = true;
    const at = this.#pending.indexOf(chunk);
    if (at >= 0) this.#pending.splice(at, 1);
  }

  /** Notifications may overtake the answer of exec.open: they wait for the session's number. */
  readonly #early: (() => void)[] = [];

  #listen(): void {
    const agent = this.#agent;
    const mine =
      <T extends { vm: string; session: number }>(handler: (event: T) => void) =>
      (event: T): void => {
        if (event.vm !== this.vm) return;
        if (this.#id === 0) this.#early.push(() => event.session === this.#id && handler(event));
        else if (event.session === this.#id) handler(event);
      };
    const subscriptions = [
      agent.on(
        execOutput,
        mine((event) => this.#output(event.stream, event.offset, Buffer.from(event.data, "base64"))),
      ),
      agent.on(
        execExit,
        mine((event) => this.#exited(event)),
      ),
      agent.on(
        execLost,
        mine((event) => this.#lost(event.movedTo, event.reason)),
      ),
    ];
    this.#unsubscribe = subscriptions.map((s) => () => s[Symbol.dispose]());
    void agent.closed.then(() => {
      if (agent === this.#agent && !this.#done) this.#lost(undefined, "the agent's connection ended");
    });
  }

  #output(stream: "stdout" | "stderr", offset: number, bytes: Buffer): void {
    const known = Math.max(0, this.#received - offset);
    if (known >= bytes.length) return;
    this.#received = offset + bytes.length;
    this.events.output(stream, bytes.subarray(known));
  }

  #exited(event: { code?: number; signal?: number; error?: string }): void {
    if (this.#done) return;
    this.#finish();
    if (event.error !== undefined) this.#settle.reject(new CliError("lost", `the program could not be run: ${event.error}`));
    else
      this.#settle.resolve({
        ...(event.code !== undefined && { code: event.code }),
        ...(event.signal !== undefined && { signal: event.signal }),
      });
  }

  #finish(): void {
    this.#done = true;
    for (const off of this.#unsubscribe.splice(0)) off();
  }

  #lost(movedTo: string | undefined, reason = "the VM moved"): void {
    if (this.#done || this.#recovering !== undefined) return;
    const left = this.#left;
    this.#left = new AbortController();
    this.#recovering = this.#findAgain(movedTo, reason)
      .catch((error: unknown) => {
        this.#finish();
        this.#settle.reject(error);
      })
      .finally(() => {
        this.#recovering = undefined;
      });
    left.abort(new CliError("lost", reason));
  }

  /** Attaches where the VM is now and hands in the input again that nobody confirmed. */
  async #findAgain(movedTo: string | undefined, reason: string): Promise<void> {
    const deadline = Date.now() + FIND_AGAIN_MS;
    for (const off of this.#unsubscribe.splice(0)) off();
    const before = this.#host;
    let last: unknown;
    while (Date.now() < deadline && !this.#done) {
      try {
        const host = movedTo ?? (await this.fleet.locate(this.vm)).host.name;
        const agent = await this.fleet.agent(host);
        this.#agent = agent;
        this.#host = host;
        this.#listen();
        await agent.call(execResume, { vm: this.vm, session: this.#id, outputOffset: this.#received });
        if (before !== host) this.events.moved?.(host);
        return;
      } catch (error) {
        last = error;
        for (const off of this.#unsubscribe.splice(0)) off();
        // A VM that moved on at once, or back, is not where it was said to be.
        movedTo = undefined;
        await delay(RETRY_MS);
      }
    }
    throw new CliError(
      "lost",
      `the session was lost (${reason}) and not found again within ${FIND_AGAIN_MS / 1000} s`,
      "see where the VM is: mobitopolo status",
      { cause: last },
    );
  }
}
