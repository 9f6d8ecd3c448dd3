/** Processes that something hangs on (a namespace, a cable); they end with their stdin, so also when we are killed. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";

const run = promisify(execFile);
const READY_MS = 10_000;

export class Holder implements AsyncDisposable {
  private constructor(private readonly child: ChildProcess) {}

  /** Starts a program that says something when it is ready. */
  static async start(command: string, args: readonly string[], what: string): Promise<Holder> {
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    await ready(child, what);
    return new Holder(child);
  }

  /** A network namespace with nothing but its loopback. */
  static async namespace(): Promise<Holder> {
    const noIpv6 = "for f in all default; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done 2>/dev/null";
    const script = `${noIpv6}; ip link set lo up && echo ready && exec cat`;
    return await Holder.start("unshare", ["--net", "sh", "-c", script], "a network namespace (it needs root, or user namespaces)");
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  /** Commands in front of a program that is to run in its namespace. */
  get enter(): readonly string[] {
    return ["nsenter", "-t", String(this.pid), "--net"];
  }

  /** Runs a shell script in its namespace; every command must succeed. @returns its stdout */
  async inside(...commands: string[]): Promise<string> {
    const [command = "", ...args] = [...this.enter, "sh", "-ec", commands.join("\n")];
    return (await run(command, args, { timeout: READY_MS })).stdout;
  }

  /** Closes its stdin, which ends it; after five seconds it is killed. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, "exit");
    this.child.stdin?.end();
    const timer = setTimeout(() => this.child.kill("SIGKILL"), 5000);
    await ended;
    clearTimeout(timer);
  }
}

/** Waits for the first word of a child. */
async function ready(child: ChildProcess, what: string): Promise<void> {
  if (child.stdout === null) throw new Error(`${what} has no stdout`);
  const waiting = new AbortController();
  const { signal } = waiting;
  const timer = setTimeout(() => waiting.abort(new Error(`${what} is not there after ${READY_MS / 1000} s`)), READY_MS);
  const failed = once(child, "exit", { signal }).then(([code]) =>
    Promise.reject(new Error(`${what} ended with ${code} before it was there`)),
  );
  try {
    await Promise.race([once(child.stdout, "data", { signal }), failed]);
  } catch (error) {
    child.kill("SIGKILL");
    throw signal.aborted ? signal.reason : error;
  } finally {
    clearTimeout(timer);
    failed.catch(() => undefined);
    waiting.abort();
  }
}
