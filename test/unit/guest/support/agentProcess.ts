/** The guest agent as an ordinary process of the test's machine, on a Unix socket instead of /dev/mobi, compiled with the sanitizers. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, watch } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compiled } from "./compile";

const PATIENCE_MS = 10_000;

export class AgentProcess implements AsyncDisposable {
  readonly socketPath: string;
  private readonly log: Buffer[] = [];

  private constructor(
    readonly folder: string,
    readonly process: ChildProcess,
  ) {
    this.socketPath = join(folder, "guest.sock");
    process.stderr?.on("data", (bytes: Buffer) => this.log.push(bytes));
  }

  static async start(): Promise<AgentProcess> {
    const folder = mkdtempSync(join(tmpdir(), "mobi-agent-"));
    const child = spawn(compiled("mobi-agent"), ["--socket", join(folder, "guest.sock"), "--run", folder], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const agent = new AgentProcess(folder, child);
    await agent.fileAppears("guest.sock");
    return agent;
  }

  get running(): boolean {
    return this.process.exitCode === null && this.process.signalCode === null;
  }

  /** What it said on stderr, a sanitizer's findings among it. */
  get stderr(): string {
    return Buffer.concat(this.log).toString();
  }

  read(name: string): string {
    return readFileSync(join(this.folder, name), "utf8");
  }

  async fileAppears(name: string): Promise<void> {
    const watcher = watch(this.folder);
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        timer = setTimeout(() => reject(new Error(`${name} did not appear: ${this.stderr}`)), PATIENCE_MS);
        const look = () => existsSync(join(this.folder, name)) && resolve();
        watcher.on("change", look);
        this.process.once("exit", () => reject(new Error(`the agent ended: ${this.stderr}`)));
        look();
      });
    } finally {
      clearTimeout(timer);
      watcher.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.running) {
      this.process.kill("SIGKILL");
      await once(this.process, "exit");
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
