/** Text of a socket, waited for: by line or until a pattern has come. */
import type { Socket } from "node:net";

/** How long a test waits for something that should come at once. */
export const PATIENCE_MS = 20_000;

/** The other end closed before what was waited for had come. */
export class StreamEndedError extends Error {
  override readonly name = "StreamEndedError";
  constructor(
    /** What had come instead. */
    readonly text: string,
  ) {
    super(`the stream ended after ${JSON.stringify(text.slice(-2000))}`);
  }
}

/** Collects what a socket sends (as latin1, so that bytes stay bytes). */
export class LineReader {
  private text = "";
  private ended = false;
  private wake: (() => void) | undefined;

  constructor(socket: Socket) {
    const changed = () => this.wake?.();
    socket.on("data", (bytes) => {
      this.text += bytes.toString("latin1");
      changed();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.ended = true;
      changed();
    });
    socket.on("end", () => {
      this.ended = true;
      changed();
    });
  }

  /** The next line, without its newline. @throws StreamEndedError */
  async next(timeoutMs = PATIENCE_MS): Promise<string> {
    const match = await this.until(/^([^\n]*)\n/, timeoutMs);
    return match[1] ?? "";
  }

  /** Waits for the pattern and takes all up to its end. @throws StreamEndedError */
  async until(pattern: RegExp, timeoutMs = PATIENCE_MS): Promise<RegExpExecArray> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const match = pattern.exec(this.text);
      if (match) {
        this.text = this.text.slice(match.index + match[0].length);
        return match;
      }
      if (this.ended) throw new StreamEndedError(this.text);
      await this.change(deadline - Date.now(), pattern);
    }
  }

  /** Waits for exactly so many bytes and takes them. @throws StreamEndedError */
  async bytes(count: number, timeoutMs = PATIENCE_MS): Promise<Buffer> {
    const deadline = Date.now() + timeoutMs;
    while (this.text.length < count) {
      if (this.ended) throw new StreamEndedError(this.text);
      await this.change(deadline - Date.now(), `${count} bytes`);
    }
    const taken = Buffer.from(this.text.slice(0, count), "latin1");
    this.text = this.text.slice(count);
    return taken;
  }

  /** Resolves when the other end has closed. */
  async end(timeoutMs = PATIENCE_MS): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!this.ended) await this.change(deadline - Date.now(), "the stream's end");
  }

  private async change(timeoutMs: number, what: RegExp | string): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        this.wake = resolve;
        timer = setTimeout(
          () => reject(new Error(`waited in vain for ${what}; had ${JSON.stringify(this.text.slice(-2000))}`)),
          Math.max(0, timeoutMs),
        );
      });
    } finally {
      clearTimeout(timer);
      this.wake = undefined;
    }
  }
}
