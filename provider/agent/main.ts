/** One unprivileged process per host: it owns VM processes (which outlive it), disks, links and moves. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { mkdirPrivate, writeJson } from "../lib/files";
import { until, within } from "../lib/time";
import { PROTOCOL_VERSION } from "../protocol/methods";
import { type AgentContext, type AgentOptions, openContext } from "./context";
import { type Announcement, findRunning, startDaemon, tellStarter } from "./daemon";
import { AgentFault } from "./errors";
import { lockState, type StateLock } from "./lock";
import { openLog } from "./log";
import { Moves } from "./migration/moves";
import { readOptions } from "./options";
import { type Agent, handlers } from "./server/methods";
import { type Handler, serve } from "./server/rpc";
import { Store } from "./store/store";
import { startBalancing } from "./vm/balance";
import { startClearing } from "./vm/basis";
import { Vms } from "./vm/vms";
import { giveWayToGuests } from "./vm/weight";

declare const MOBITOPOLO_VERSION: string | undefined;

async function main(argv: readonly string[]): Promise<void> {
  const { daemon, options } = readOptions(argv);
  process.umask(0o077);
  await mkdirPrivate(options.stateDir);
  if (daemon) process.stdout.write(`${JSON.stringify(await startDaemon(argv, options.stateDir))}\n`);
  else await runAgent(options);
}

/** Serves until it is told to end. */
async function runAgent(options: AgentOptions): Promise<void> {
  process.on("SIGHUP", () => undefined);
  const lock = await lockOrFind(options.stateDir);
  if (!("release" in lock)) return tellStarter(lock);
  const log = openLog(join(options.stateDir, "agent.log"), process.env.MOBITOPOLO_LOG ?? "info");
  process.on("unhandledRejection", (error) => log.error({ err: error }, "a failure that nobody awaited"));
  const context = await openContext(options, version(), log);
  const store = await Store.open(options.stateDir);
  const vms = await Vms.open(context, store);
  const moves = new Moves(context, vms);
  const sockets = new Set<Socket>();
  const server = createServer();
  const end = async (): Promise<void> => {
    log.info("the agent ends; VMs go on");
    server.close();
    await rm(join(options.stateDir, "agent.json"), { force: true });
    await rm(socketPath(context), { force: true });
    moves.end();
    lock.release();
    // Answers that are on their way still go out.
    const flushed = [...sockets].map((socket) => new Promise<void>((resolve) => socket.once("close", resolve).end()));
    await within(500, "the clients' end", Promise.all(flushed)).catch(() => undefined);
    process.exit(0);
  };
  const agent: Agent = {
    context,
    store,
    vms,
    moves,
    end: () => void end(),
    retire: async () => {
      await rm(context.runDir, { recursive: true, force: true });
      for (const name of ["journal", "vms", "identity.json"]) await rm(join(options.stateDir, name), { recursive: true, force: true });
      await end();
    },
  };
  process.once("SIGTERM", agent.end);
  process.once("SIGINT", agent.end);
  await moves.recover();
  const all = handlers(agent);
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    serve(socket, all, context);
  });
  tellStarter(await listen(server, context, all));
  startBalancing(vms);
  startClearing(context, vms);
  // A session of its own: not that of whoever typed the command.
  if (process.env.MOBITOPOLO_DAEMON === "1") await giveWayToGuests();
}

async function listen(server: Server, context: AgentContext, all: readonly Handler[]): Promise<Announcement> {
  const socket = socketPath(context);
  await rm(socket, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(socket, resolve);
  });
  const announced = { socket, pid: process.pid, agentId: context.agentId, version: context.version, protocol: PROTOCOL_VERSION };
  await writeJson(join(context.stateDir, "agent.json"), announced);
  context.log.info({ ...announced, host: context.hostName, address: context.address, methods: all.length }, "the agent listens");
  return announced;
}

/** The lock, or the agent that has it. One that is about to end is waited for. */
async function lockOrFind(stateDir: string): Promise<StateLock | Announcement> {
  return await until(20_000, "taking the state folder, or finding the agent that has it", async () => {
    try {
      return lockState(stateDir);
    } catch (error) {
      if (!(error instanceof AgentFault) || error.code !== "busy") throw error;
      return await findRunning(stateDir);
    }
  });
}

function socketPath(context: AgentContext): string {
  return join(context.runDir, "agent.sock");
}

/** Package version and the program's own hash: the provider tells by it which of two agents is newer. */
function version(): string {
  const own = createHash("sha256")
    .update(readFileSync(process.argv[1] ?? __filename))
    .digest("hex")
    .slice(0, 12);
  return `${typeof MOBITOPOLO_VERSION === "string" ? MOBITOPOLO_VERSION : "0.0.0"}+${own}`;
}

main(process.argv.slice(2)).catch((error: unknown) => {
  const text = error instanceof Error ? error.message : String(error);
  tellStarter({ fault: text });
  process.stderr.write(`${text}\n`);
  process.exit(1);
});
