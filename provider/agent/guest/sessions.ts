import { randomInt } from "node:crypto";
import { z } from "zod";
import { type Deferred, deferred } from "../../lib/time";
import { AgentFault } from "../errors";
import type { GuestChannel, GuestHello } from "./channel";
import { encodeFrame, encodeJson, type GuestFrame, guestFrame, withOffset } from "./frames";

/** Who hears of a session: one connection of a CLI. */
export interface SessionListener {
  output(event: { session: number; stream: "stdout" | "stderr"; offset: number; data: string }): Promise<void>;
  exit(event: { session: number; code?: number; signal?: number; error?: string }): void;
  lost(event: { session: number; movedTo?: string; reason: string }): void;
}

interface Session {
  readonly id: number;
  listener: SessionListener;
  /** Input bytes below this are in the guest. */
  received: number;
  readonly inputs: { end: number; done: Deferred<void> }[];
  /** Output is handed on and acknowledged in order. */
  tail: Promise<void>;
  /** The listener has all output below this. */
  delivered: number;
}

const exitFacts = z.object({ code: z.number().optional(), signal: z.number().optional(), error: z.string().optional() });
const maxChunk = 32768;

/** The programs that run in one guest by `exec`. They live in the guest: this is only the way to them. */
export class Sessions {
  readonly #open = new Map<number, Session>();
  #known = new Map<number, number>();

  constructor(private readonly channel: () => GuestChannel | undefined) {}

  /** Starts a program. */
  start(
    what: { argv: string[]; env?: Record<string, string>; cwd?: string; pty?: { rows: number; cols: number; term: string } },
    listener: SessionListener,
  ): number {
    const id = randomInt(1, 2 ** 32);
    this.#open.set(id, blankSession(id, listener, 0));
    this.#send(encodeJson(guestFrame.open, id, what), "start a program in the guest");
    return id;
  }

  /** Hears a session again from `outputOffset` on; tells how much input the guest has, where it said so. */
  attach(id: number, outputOffset: number, listener: SessionListener): number | undefined {
    const session = this.#open.get(id) ?? blankSession(id, listener, outputOffset);
    session.listener = listener;
    session.delivered = outputOffset;
    session.received = Math.max(session.received, this.#known.get(id) ?? 0);
    this.#open.set(id, session);
    this.#send(encodeFrame(guestFrame.attach, id, withOffset(outputOffset)), "find a program in the guest again");
    return this.#known.get(id);
  }

  /** Resolves when the guest has taken the bytes. */
  async input(id: number, offset: number, data: Buffer, end: boolean): Promise<void> {
    const session = this.#get(id);
    for (let at = 0; at < data.length; at += maxChunk) {
      this.#send(
        encodeFrame(guestFrame.stdin, id, withOffset(offset + at, data.subarray(at, at + maxChunk))),
        "write to a program in the guest",
      );
    }
    if (end) this.#send(encodeFrame(guestFrame.stdin, id, withOffset(offset + data.length)), "end a program's input");
    if (offset + data.length <= session.received) return;
    const done = deferred<void>();
    session.inputs.push({ end: offset + data.length, done });
    await done.promise;
  }

  control(id: number, what: { resize?: { rows: number; cols: number }; signal?: number; close?: boolean }): void {
    this.#get(id);
    if (what.resize) {
      const payload = Buffer.alloc(4);
      payload.writeUInt16BE(what.resize.rows, 0);
      payload.writeUInt16BE(what.resize.cols, 2);
      this.#send(encodeFrame(guestFrame.resize, id, payload), "resize a terminal");
    }
    if (what.signal !== undefined)
      this.#send(encodeFrame(guestFrame.signal, id, Buffer.from([what.signal])), "signal a program in the guest");
    if (what.close) {
      this.#send(encodeFrame(guestFrame.close, id), "close a session");
      this.#forget(id, new AgentFault("failed", "write to a program in the guest", "the session was closed"));
    }
  }

  /** The stream is new: what the guest has may be told again. */
  hello(hello: GuestHello): void {
    this.#known = new Map(hello.sessions.map((one) => [one.id, one.received]));
    for (const session of this.#open.values()) {
      this.#acknowledged(session, this.#known.get(session.id) ?? session.received);
      this.channel()?.send(encodeFrame(guestFrame.attach, session.id, withOffset(session.delivered)));
    }
  }

  frame(frame: GuestFrame): void {
    const session = this.#open.get(frame.session);
    if (!session) return;
    if (frame.type === guestFrame.stdout || frame.type === guestFrame.stderr) this.#output(session, frame);
    else if (frame.type === guestFrame.ack && frame.payload.length >= 8)
      this.#acknowledged(session, Number(frame.payload.readBigUInt64BE(0)));
    else if (frame.type === guestFrame.exit) this.#exit(session, frame);
  }

  /** The VM left or its guest died: every listener is told. */
  lose(reason: string, movedTo?: string): void {
    for (const session of [...this.#open.values()]) {
      session.listener.lost({ session: session.id, reason, ...(movedTo !== undefined && { movedTo }) });
      this.#forget(session.id, new AgentFault("failed", "write to a program in the guest", reason));
    }
    this.#known.clear();
  }

  /** Forgets what a connection that ended was listening to; the programs go on until somebody attaches or the guest gives up. */
  drop(listener: SessionListener): void {
    for (const session of this.#open.values()) {
      if (session.listener === listener)
        this.#forget(session.id, new AgentFault("failed", "write to a program in the guest", "the connection ended"));
    }
  }

  #output(session: Session, frame: GuestFrame): void {
    if (frame.payload.length < 8) return;
    const offset = Number(frame.payload.readBigUInt64BE(0));
    const bytes = frame.payload.subarray(8);
    const stream = frame.type === guestFrame.stdout ? "stdout" : "stderr";
    session.tail = session.tail
      .then(async () => {
        if (offset + bytes.length > session.delivered) {
          const fresh = bytes.subarray(Math.max(0, session.delivered - offset));
          await session.listener.output({
            session: session.id,
            stream,
            offset: offset + bytes.length - fresh.length,
            data: fresh.toString("base64"),
          });
          session.delivered = offset + bytes.length;
        }
        this.channel()?.send(encodeFrame(guestFrame.ack, session.id, withOffset(session.delivered)));
      })
      .catch(() => undefined);
  }

  #exit(session: Session, frame: GuestFrame): void {
    const facts = exitFacts.catch({ error: "the guest agent told no exit" }).parse(parseJson(frame.payload));
    session.tail = session.tail.then(() => {
      session.listener.exit({ session: session.id, ...facts });
      this.channel()?.send(encodeFrame(guestFrame.close, session.id));
      this.#forget(session.id, new AgentFault("failed", "write to a program in the guest", "the program has ended"));
    });
  }

  #acknowledged(session: Session, offset: number): void {
    session.received = Math.max(session.received, offset);
    for (const input of session.inputs.splice(0)) {
      if (input.end <= session.received) input.done.resolve();
      else session.inputs.push(input);
    }
  }

  #forget(id: number, fault: AgentFault): void {
    for (const input of this.#open.get(id)?.inputs ?? []) input.done.reject(fault);
    this.#open.delete(id);
  }

  #get(id: number): Session {
    const session = this.#open.get(id);
    if (!session)
      throw new AgentFault("not-found", "find a program in the guest", `no session ${id} is open here`, { next: "attach to it first" });
    return session;
  }

  #send(frame: Buffer, step: string): void {
    if (!this.channel()?.send(frame))
      throw new AgentFault("bad-state", step, "the VM's guest channel is not open", {
        next: "see `mobitopolo status`; the VM may be moving or stopped",
      });
  }
}

function blankSession(id: number, listener: SessionListener, delivered: number): Session {
  return { id, listener, received: 0, inputs: [], tail: Promise.resolve(), delivered };
}

function parseJson(payload: Buffer): unknown {
  try {
    return JSON.parse(payload.toString("utf8"));
  } catch {
    return undefined;
  }
}
