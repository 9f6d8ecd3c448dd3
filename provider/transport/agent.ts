import { createReadStream } from "node:fs";
import { posix } from "node:path";
import { type Readable, Transform } from "node:stream";
import { createGzip } from "node:zlib";
import { z } from "zod";
import type { Assets } from "../lib/assets";
import { messageOf } from "../lib/errors";
import { until } from "../lib/time";
import { PROTOCOL_VERSION, shutdown } from "../protocol/methods";
import type { HostEndpoint } from "../schemas/host";
import { isAway, TransportError } from "./errors";
import type { Machine, MachineFacts } from "./machine";
import { shouldReplace, versionOf } from "./programs";
import { AgentConnection } from "./rpc";

/** What a running agent writes beside its state, and prints when it is started. */
const agentInfo = z.object({
  socket: z.string(),
  pid: z.number().optional(),
  agentId: z.string().optional(),
  version: z.string().optional(),
});

export interface StartOptions {
  readonly assets: Assets;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((text: string) => void) | undefined;
}

/** Folder of the host's state, absolute on that host. */
export function stateDirOf(endpoint: HostEndpoint, facts: MachineFacts): string {
  const given = "local" in endpoint.connection ? endpoint.connection.local.stateDir : endpoint.connection.ssh.stateDir;
  const path = given ?? `~/.local/share/mobitopolo/${endpoint.name}`;
  return path === "~" || path.startsWith("~/")
    ? posix.join(facts.home, path.slice(1))
    : posix.resolve("local" in endpoint.connection ? process.cwd() : facts.home, path);
}

/** The agent that runs there; undefined if none does. */
export async function findAgent(
  machine: Machine,
  endpoint: HostEndpoint,
  stateDir: string,
  client: string,
  signal?: AbortSignal,
): Promise<AgentConnection | undefined> {
  const text = await machine.readText(posix.join(stateDir, "agent.json"));
  if (text === undefined) return undefined;
  const info = agentInfo.safeParse(parseJson(text));
  if (!info.success) return undefined;
  const stream = await machine.connect(info.data.socket);
  if (!stream) return undefined;
  const agent = await AgentConnection.open(endpoint, stream, stateDir, client, signal);
  if (agent.hello.hostName === endpoint.name) return agent;
  agent.close();
  throw new TransportError({
    host: endpoint.name,
    kind: "unfit-host",
    step: `use the state folder ${stateDir}`,
    reason: `it is that of the host ${agent.hello.hostName}`,
    next: "give each Host a state folder of its own (connection.….stateDir)",
  });
}

/** Makes an agent of our program (or a newer one) run there with the wanted addresses, and talks to it. VMs run on whatever happens to agents. */
export async function ensureAgent(
  machine: Machine,
  endpoint: HostEndpoint,
  facts: MachineFacts,
  stateDir: string,
  options: StartOptions,
): Promise<AgentConnection> {
  const ours = versionOf(options.assets.version, options.assets.agent.id);
  const running = await findAgent(machine, endpoint, stateDir, ours, options.signal);
  if (running && fits(running, endpoint, ours)) return running;
  const info = await withProgram(machine, endpoint, facts, stateDir, options, async (argv) => {
    if (running) await stop(running, options);
    return await start(machine, endpoint, argv, options);
  });
  return await until(
    10_000,
    `the agent of host ${endpoint.name} to answer`,
    async () => {
      const stream = await machine.connect(info.socket);
      return stream && (await AgentConnection.open(endpoint, stream, stateDir, ours, options.signal));
    },
    options.signal,
  );
}

function fits(agent: AgentConnection, endpoint: HostEndpoint, ours: string): boolean {
  const { protocol, version } = agent.hello;
  if (protocol > PROTOCOL_VERSION) {
    agent.close();
    throw new TransportError({
      host: endpoint.name,
      kind: "agent-newer",
      step: "talk to its agent",
      reason: `it is of version ${version} and speaks protocol ${protocol}; we are ${ours} and speak ${PROTOCOL_VERSION}`,
      next: "use a newer @mobitopolo/provider",
    });
  }
  const sameData =
    agent.hello.address === endpoint.dataAddress &&
    agent.hello.ports.from === endpoint.ports.from &&
    agent.hello.ports.to === endpoint.ports.to;
  if (sameData && !shouldReplace(version, ours)) return true;
  // A newer agent is not replaced by our older program, not even to give it other addresses.
  return !sameData && version !== ours && !shouldReplace(version, ours);
}

async function stop(agent: AgentConnection, { signal, onProgress }: StartOptions): Promise<void> {
  onProgress?.(`replacing the agent ${agent.hello.version} (VMs run on)`);
  try {
    await agent.call(shutdown, {}, { timeoutMs: 20_000, signal });
  } catch (error) {
    // It may end before its answer is out.
    if (!isAway(error)) throw error;
  }
  await Promise.race([agent.closed, new Promise((resolve) => setTimeout(resolve, 5_000).unref())]);
  agent.close();
}

/** Brings Node and the agent's program there where they are missing, and says how to call it. */
async function withProgram<T>(
  machine: Machine,
  endpoint: HostEndpoint,
  facts: MachineFacts,
  stateDir: string,
  options: StartOptions,
  use: (argv: string[]) => Promise<T>,
): Promise<T> {
  const { assets, onProgress } = options;
  if (facts.system !== "Linux x86_64")
    throw new TransportError({
      host: endpoint.name,
      kind: "unfit-host",
      step: "start the agent",
      reason: `it is ${facts.system}`,
      next: "a host is Linux on x86-64",
    });
  const folder = posix.join(stateDir, "program");
  await machine.mkdirPrivate(folder);
  const program = posix.join(folder, `agent-${assets.agent.id.slice(0, 16)}.cjs`);
  if (!(await machine.exists(program))) await machine.put(program, 0o600, createReadStream(assets.agent.path));
  const node = facts.node ?? (machine.isLocal ? assets.node.path : posix.join(folder, `node-${assets.node.id.slice(0, 16)}`));
  if (facts.node === undefined && !machine.isLocal && !(await machine.exists(node))) await sendNode(machine, node, assets, onProgress);
  return await use([
    node,
    program,
    "--daemon",
    "--name",
    endpoint.name,
    "--state",
    stateDir,
    "--address",
    endpoint.dataAddress,
    "--ports",
    `${endpoint.ports.from}-${endpoint.ports.to}`,
    ...limitsOf(endpoint),
  ]);
}

const limitsOf = ({ limits }: HostEndpoint): string[] => [
  ...(limits?.memoryMiB === undefined ? [] : ["--memory-mib", String(limits.memoryMiB)]),
  ...(limits?.diskMiB === undefined ? [] : ["--disk-mib", String(limits.diskMiB)]),
];

async function start(
  machine: Machine,
  endpoint: HostEndpoint,
  argv: string[],
  { signal, onProgress }: StartOptions,
): Promise<z.infer<typeof agentInfo>> {
  onProgress?.("starting the agent");
  const ran = await machine.run(argv, { timeoutMs: 30_000, signal });
  const info = agentInfo.safeParse(parseJson(ran.stdout.trim().split("\n").at(-1) ?? ""));
  if (ran.code === 0 && info.success) return info.data;
  const reason = ran.stderr.trim().split("\n").at(-1) || `it ended with code ${ran.code} and said nothing`;
  throw new TransportError({
    host: endpoint.name,
    kind: "agent-start",
    step: "start the agent",
    reason,
    next: `look at agent.log in ${posix.dirname(posix.dirname(argv[1] ?? ""))}`,
  });
}

/** The runtime travels compressed as every host can unpack it; the lowest level costs seconds less than it would save on most links. */
async function sendNode(machine: Machine, node: string, assets: Assets, onProgress?: (text: string) => void): Promise<void> {
  const packed = createReadStream(assets.node.path).compose(createGzip({ level: 1 }));
  await machine.put(
    node,
    0o700,
    counted(packed, (mebibytes) => onProgress?.(`sending Node.js: ${mebibytes} MiB`)),
    { gunzip: true },
  );
  const works = await machine.run([node, "--version"], { timeoutMs: 20_000 });
  if (works.code !== 0)
    throw new TransportError({
      host: machine.host,
      kind: "unfit-host",
      step: "run Node.js",
      reason: works.stderr.trim() || `code ${works.code}`,
      next: "it needs glibc, libstdc++ and libgcc_s (Debian: libstdc++6)",
    });
}

/** Passes a stream on and tells of every 4 MiB. */
export function counted(stream: Readable, tell: (mebibytes: number) => void): Readable {
  let bytes = 0;
  let told = 0;
  return stream.compose(
    new Transform({
      transform(chunk: Buffer, _encoding, done) {
        bytes += chunk.length;
        if (bytes - told >= 4 << 20) tell(Math.round((told = bytes) / (1 << 20)));
        done(undefined, chunk);
      },
    }),
  );
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    return { unreadable: messageOf(error) };
  }
}
