import { createWriteStream, type WriteStream } from "node:fs";
import { open, readFile, writeFile } from "node:fs/promises";
import { createConnection, type Socket } from "node:net";
import { unless } from "../../lib/errors";

const keepBytes = 256 * 1024;
const limitBytes = 4 * keepBytes;

/**
 * Writes what the guest says on its console to a bounded log, and hands it on. A new connection gets the guest's ring first (the last 256 KiB, which travel with the
 * VM), so the log is begun anew with each.
 */
export class ConsoleTee implements Disposable {
  #socket: Socket;
  readonly #listeners = new Set<(text: string) => void>();
  #log: WriteStream | undefined;
  #bytes = 0;
  #ended = false;

  constructor(
    private readonly socketPath: string,
    private readonly logPath: string,
  ) {
    this.#socket = this.#connect();
  }

  /** Hears what follows, until the returned function is called. */
  follow(listener: (text: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Types into the guest's console. */
  type(bytes: Buffer): void {
    this.#socket.write(bytes);
  }

  [Symbol.dispose](): void {
    this.#ended = true;
    this.#socket.destroy();
  }

  #connect(): Socket {
    const socket = createConnection(this.socketPath);
    socket.once("connect", () => {
      this.#log?.end();
      this.#log = createWriteStream(this.logPath, { flags: "w", mode: 0o600 });
      this.#log.on("error", () => undefined);
      this.#bytes = 0;
    });
    socket.on("data", (chunk: Buffer) => this.#take(chunk));
    socket.on("error", () => undefined);
    socket.once("close", () => {
      if (this.#ended) return void this.#log?.end();
      setTimeout(() => {
        if (!this.#ended) this.#socket = this.#connect();
      }, 500).unref();
    });
    return socket;
  }

  #take(chunk: Buffer): void {
    this.#log?.write(chunk);
    this.#bytes += chunk.length;
    const text = chunk.toString("utf8");
    for (const listener of this.#listeners) listener(text);
    if (this.#bytes > limitBytes) this.#shorten();
  }

  /** Keeps the last part: a guest must not fill its host's disk. */
  #shorten(): void {
    this.#bytes = keepBytes;
    const old = this.#log;
    const next = createWriteStream(this.logPath, { flags: "a", mode: 0o600 });
    next.on("error", () => undefined);
    next.cork();
    this.#log = next;
    old?.end(() => {
      readFile(this.logPath)
        .then((all) => writeFile(this.logPath, all.subarray(-keepBytes)))
        .catch(() => undefined)
        .finally(() => next.uncork());
    });
  }
}

/** The last part of a log; empty if there is none. */
export async function tailOf(path: string, maxBytes = keepBytes): Promise<string> {
  const file = await unless(open(path, "r"), "ENOENT");
  if (!file) return "";
  try {
    const { size } = await file.stat();
    const from = Math.max(0, size - maxBytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(size - from), 0, size - from, from);
    return buffer.toString("utf8", 0, bytesRead);
  } finally {
    await file.close();
  }
}

/** The last lines of a text. */
export function lastLines(text: string, lines: number | undefined): string {
  if (lines === undefined) return text;
  const all = text.split("\n");
  const open_ = all.at(-1) === "" ? 1 : 0;
  return all.slice(Math.max(0, all.length - open_ - lines)).join("\n");
}
