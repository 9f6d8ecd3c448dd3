import { spawn } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { z } from "zod";
import { readJson } from "../lib/files";
import { AgentFault } from "./errors";

/** `agent.json`, and the line that a start prints: how to reach the agent. */
export const announcement = z.object({ socket: z.string(), pid: z.int(), agentId: z.string(), version: z.string(), protocol: z.int() });
export type Announcement = z.infer<typeof announcement>;

/** Descriptor on which a daemon tells its starter that it listens, or why it does not. */
const reportFd = 3;
const startLimitMs = 25_000;

/**
 * V8 without what would run beside a guest that freezes or goes on, or while it is waited for: no helpers (garbage is collected by the thread that made it,
 * when it does), nothing optimized (a move is over before that pays), all compiled at the start and kept, and no collection of all garbage before there is
 * more than an agent makes in days (docs/decisions/who-goes-first.md).
 */
const nodeOptions = [
  "--single-threaded-gc",
  "--no-opt",
  "--no-maglev",
  "--no-lazy",
  "--no-flush-bytecode",
  "--no-memory-reducer",
  "--initial-old-space-size=64",
];

/** Starts this program again, in a session of its own, and awaits its word. */
export async function startDaemon(argv: readonly string[], stateDir: string): Promise<Announcement> {
  const log = openSync(join(stateDir, "agent.log"), "a", 0o600);
  const child = spawn(
    process.execPath,
    [...nodeOptions, ...process.execArgv, process.argv[1] ?? "", ...argv.filter((word) => word !== "--daemon")],
    {
      cwd: "/",
      detached: true,
      stdio: ["ignore", log, log, "pipe"],
      env: { ...process.env, MOBITOPOLO_DAEMON: "1" },
    },
  );
  closeSync(log);
  const report = child.stdio[reportFd];
  let text = "";
  const timer = setTimeout(() => child.kill("SIGKILL"), startLimitMs);
  if (report && "setEncoding" in report) {
    report.setEncoding("utf8");
    for await (const chunk of report) text += String(chunk);
  }
  clearTimeout(timer);
  child.unref();
  const said: unknown = text === "" ? { fault: `it ended at once; see ${join(stateDir, "agent.log")}` } : JSON.parse(text);
  const fault = z.object({ fault: z.string() }).safeParse(said);
  if (fault.success) throw new AgentFault("failed", "start the agent", fault.data.fault);
  return announcement.parse(said);
}

/** The daemon's word to its starter: once. */
export function tellStarter(word: Announcement | { fault: string }): void {
  if (process.env.MOBITOPOLO_DAEMON !== "1") {
    if ("socket" in word) process.stdout.write(`${JSON.stringify(word)}\n`);
    return;
  }
  try {
    writeSync(reportFd, `${JSON.stringify(word)}\n`);
    closeSync(reportFd);
  } catch {
    // The starter has gone: the agent runs on without it.
  }
}

/** The agent that runs with this state folder, if it answers. */
export async function findRunning(stateDir: string): Promise<Announcement | undefined> {
  const known = await readJson(join(stateDir, "agent.json"), (value) => announcement.parse(value)).catch(() => undefined);
  return known && (await answers(known.socket)) ? known : undefined;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
