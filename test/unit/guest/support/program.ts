import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";

/** A running program whose stdout is lines of JSON. */
export class Program implements AsyncDisposable {
  readonly lines: Record<string, unknown>[] = [];
  stderr = "";
  /** Exit code, -1 after a signal. */
  readonly ended: Promise<number>;
  readonly process: ChildProcess;
  private readonly waiting = new Set<() => void>();

  constructor(file: string, args: readonly string[]) {
    this.process = spawn(file, args, { stdio: ["pipe", "pipe", "pipe"] });
    const output = this.process.stdout;
    if (!output || !this.process.stderr) throw new Error("no pipes");
    createInterface({ input: output }).on("line", (line) => {
      this.lines.push(JSON.parse(line));
      for (const wake of this.waiting) wake();
    });
    this.process.stderr.on("data", (bytes) => {
      this.stderr += String(bytes);
    });
    this.ended = once(this.process, "close").then(([code]) => (typeof code === "number" ? code : -1));
  }

  /** Waits for the first line that fits; the test's own time limit bounds it. */
  async line(fits: (line: Record<string, unknown>) => boolean): Promise<Record<string, unknown>> {
    for (;;) {
      const found = this.lines.find(fits);
      if (found) return found;
      if (this.process.exitCode !== null) throw new Error(`ended: ${this.stderr}`);
      let wake: (() => void) | undefined;
      await Promise.race([
        this.ended,
        new Promise<void>((resolve) => {
          wake = resolve;
          this.waiting.add(resolve);
        }),
      ]);
      if (wake) this.waiting.delete(wake);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode === null) this.process.kill("SIGKILL");
    await this.ended;
  }
}

/** An address of this machine with a port that nobody has now. */
export async function freeAddress(): Promise<string> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return `127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
}
