import { createConnection, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { type Deferred, deferred, until, within } from "../../lib/time";

/** A verb that the VM process refused, or a channel that ended. */
export class ControlError extends Error {
  override readonly name = "ControlError";
  /** @param code of docs/formats/vm-process.md, or `closed` */
  constructor(
    readonly verb: string,
    readonly code: string,
    readonly reason: string,
  ) {
    super(`${verb}: ${reason} (${code})`);
  }
}

export type Fields = Readonly<Record<string, string>>;

/** One connection to a VM process's control channel (docs/formats/vm-process.md). */
export class Control implements Disposable {
  readonly #waiting = new Map<string, { verb: string; answer: Deferred<Fields> }>();
  readonly #closed = deferred<void>();
  #nextTag = 1;

  private constructor(
    private readonly socket: Socket,
    readonly vm: string,
  ) {}

  /** Connects as soon as the process listens. @throws DeadlineError, ControlError */
  static async connect(path: string, limitMs: number, signal?: AbortSignal): Promise<Control> {
    const socket = await until(limitMs, `connecting to ${path}`, () => tryConnect(path), signal);
    const lines = createInterface({ input: socket, crlfDelay: Infinity });
    const banner = deferred<string>();
    lines.once("line", (line) => banner.resolve(line));
    socket.once("close", () => banner.reject(new ControlError("connect", "closed", "the VM process closed the channel")));
    try {
      const found = /^mobi-control 1 build=[0-9a-f]{64} vm=(\S*)$/.exec(
        await within(limitMs, "the banner of the control channel", banner.promise),
      );
      if (!found) throw new ControlError("connect", "failed", `an unknown banner: ${await banner.promise}`);
      const control = new Control(socket, found[1] ?? "");
      lines.on("line", (line) => control.#take(line));
      socket.once("close", () => control.#end());
      if (socket.destroyed) control.#end();
      return control;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  /** For a process that may answer nothing yet, not even its greeting. */
  static async attach(path: string, vm: string): Promise<Control> {
    const socket = await tryConnect(path);
    if (!socket) throw new ControlError("connect", "closed", `nobody listens at ${path}`);
    const control = new Control(socket, vm);
    createInterface({ input: socket, crlfDelay: Infinity }).on("line", (line) => control.#take(line));
    socket.once("close", () => control.#end());
    return control;
  }

  /** Resolves when the channel ends: the process died or closed it. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** Says a verb and awaits its one answer. @throws ControlError, DeadlineError */
  async say(verb: string, values: Readonly<Record<string, string | number | undefined>> = {}, limitMs = 5000): Promise<Fields> {
    const tag = (this.#nextTag++).toString(36);
    const words = Object.entries(values).flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${percentEncode(String(value))}`]));
    const answer = deferred<Fields>();
    if (this.socket.destroyed) throw new ControlError(verb, "closed", "the VM process has closed the channel");
    this.#waiting.set(tag, { verb, answer });
    this.socket.write(`${[tag, verb, ...words].join(" ")}\n`);
    try {
      return await within(limitMs, `the VM process's answer to ${verb}`, answer.promise);
    } finally {
      this.#waiting.delete(tag);
    }
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }

  #take(line: string): void {
    const [tag = "", outcome, ...words] = line.split(" ");
    const waiting = this.#waiting.get(tag);
    if (!waiting) return;
    if (outcome === "ok") waiting.answer.resolve(Object.fromEntries(words.filter((w) => w.includes("=")).map(pair)));
    else waiting.answer.reject(new ControlError(waiting.verb, words[0] ?? "failed", words.slice(1).join(" ")));
  }

  #end(): void {
    for (const { verb, answer } of this.#waiting.values())
      answer.reject(new ControlError(verb, "closed", "the VM process ended before it answered"));
    this.#closed.resolve();
  }
}

function tryConnect(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.removeAllListeners("error");
      socket.on("error", () => undefined);
      resolve(socket);
    });
    socket.once("error", () => {
      socket.destroy();
      resolve(undefined);
    });
  });
}

function pair(word: string): [string, string] {
  const at = word.indexOf("=");
  return [word.slice(0, at), percentDecode(word.slice(at + 1))];
}

function percentEncode(value: string): string {
  return Buffer.from(value).reduce(
    (text, byte) =>
      text +
      (byte < 0x21 || byte > 0x7e || byte === 0x25 ? `%${byte.toString(16).toUpperCase().padStart(2, "0")}` : String.fromCharCode(byte)),
    "",
  );
}

function percentDecode(value: string): string {
  if (!value.includes("%")) return value;
  return Buffer.from(
    value.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    "latin1",
  ).toString("utf8");
}
