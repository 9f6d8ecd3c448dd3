/** A client of a VM process's `control.sock` (docs/formats/vm-process.md), for tests. */
import { createConnection, type Socket } from "node:net";
import { LineReader } from "./lines";

/** The process answered `error`. */
export class ControlError extends Error {
  override readonly name = "ControlError";
  constructor(
    readonly verb: string,
    /** As `bad-state`. */
    readonly code: string,
    readonly text: string,
  ) {
    super(`${verb}: ${code} ${text}`);
  }
}

/** Values of a reply, percent-decoded. */
export type Reply = Record<string, string>;

export class ControlClient implements AsyncDisposable {
  private tag = 0;
  private constructor(
    private readonly socket: Socket,
    readonly lines: LineReader,
    /** The greeting, without its newline. */
    readonly greeting: string,
  ) {}

  /** Connects and takes the greeting. */
  static async connect(path: string): Promise<ControlClient> {
    const socket = createConnection({ path, allowHalfOpen: true });
    const lines = new LineReader(socket);
    return new ControlClient(socket, lines, await lines.next());
  }

  /** One request and its reply. @throws ControlError */
  async request(verb: string, args: Record<string, string | number | bigint> = {}): Promise<Reply> {
    const tag = this.send(verb, args);
    const [found, result, ...rest] = (await this.lines.next()).split(" ");
    if (found !== tag) throw new Error(`the reply is for ${found}, not for ${tag}`);
    if (result === "ok") return parseReply(rest);
    throw new ControlError(verb, rest[0] ?? "", rest.slice(1).join(" "));
  }

  /** Sends a request without waiting for its reply; returns the tag. */
  send(verb: string, args: Record<string, string | number | bigint> = {}): string {
    const tag = `t${++this.tag}`;
    const words = Object.entries(args).map(([key, value]) => `${key}=${encode(String(value))}`);
    this.raw(`${[tag, verb, ...words].join(" ")}\n`);
    return tag;
  }

  /** Bytes as they are. */
  raw(bytes: string | Uint8Array): void {
    this.socket.write(bytes);
  }

  /** No more requests; replies still come. */
  end(): void {
    this.socket.end();
  }

  /** Takes no more replies from the socket. */
  pause(): void {
    this.socket.pause();
  }

  /** The connection goes at once. */
  close(): void {
    this.socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

function parseReply(words: string[]): Reply {
  return Object.fromEntries(
    words.map((word) => {
      const at = word.indexOf("=");
      return [word.slice(0, at), decodeURIComponent(word.slice(at + 1))];
    }),
  );
}

/** All that is not `[!-~]`, and `%`, as %XX. */
export function encode(value: string): string {
  return [...Buffer.from(value)]
    .map((byte) => (byte > 32 && byte < 127 && byte !== 37 ? String.fromCharCode(byte) : `%${byte.toString(16).padStart(2, "0")}`))
    .join("");
}

/** The code of the error that it ends with. */
export async function refused(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ControlError) return error.code;
    throw error;
  }
  return "allowed";
}
