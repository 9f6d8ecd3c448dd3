/** Real agents for contract tests: the bundled program, one process per host, on loopback addresses, with real kernels. */
import { execFile } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { createReadStream, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { build } from "esbuild";
import type { NotificationType, RequestType } from "vscode-jsonrpc";
import type { MessageConnection } from "vscode-jsonrpc/node";
import { defaultAssets } from "../../../provider/lib/assets";
import { connectionOver } from "../../../provider/lib/rpc";
import type { RpcFault } from "../../../provider/protocol/methods";
import * as protocol from "../../../provider/protocol/methods";
import type { Wiring } from "../../../provider/schemas/link";
import type { MigrationPolicy, VmSpec } from "../../../provider/schemas/vm";

const run = promisify(execFile);

export const kernelPath = (): string => process.env.MOBITOPOLO_KERNEL ?? defaultAssets().kernel.path;
export const imagePath = (): string => process.env.MOBITOPOLO_IMAGE ?? defaultAssets().image.path;

let program: Promise<string> | undefined;

/** The agent as one bundled file, made once per test run. */
export function agentProgram(): Promise<string> {
  program ??= (async () => {
    if (process.env.MOBITOPOLO_AGENT) return process.env.MOBITOPOLO_AGENT;
    const folder = mkdtempSync(join(tmpdir(), "mobi-agent-"));
    process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
    const outfile = join(folder, "agent.cjs");
    await build({
      entryPoints: [join(__dirname, "../../../provider/agent/main.ts")],
      bundle: true,
      platform: "node",
      target: "node22",
      format: "cjs",
      outfile,
      logLevel: "error",
    });
    return outfile;
  })();
  return program;
}

interface Method<P, R> {
  readonly type: RequestType<P, R, RpcFault>;
}

/** One agent and a connection to it. */
export class TestAgent implements AsyncDisposable {
  private constructor(
    readonly name: string,
    readonly address: string,
    readonly stateDir: string,
    readonly pid: number,
    readonly socket: string,
    readonly rpc: MessageConnection,
    readonly agentId: string,
  ) {}

  /** Starts (or finds) the agent of that state folder; `wrapper`: a command in front of it, as `nsenter …`. */
  static async start(
    name: string,
    address: string,
    stateDir = mkdtempSync(join(tmpdir(), `mobi-${name}-`)),
    more: readonly string[] = [],
    wrapper: readonly string[] = [],
  ): Promise<TestAgent> {
    const [command = process.execPath, ...before] = [...wrapper, process.execPath];
    const { stdout } = await run(command, [
      ...before,
      await agentProgram(),
      "--daemon",
      "--name",
      name,
      "--state",
      stateDir,
      "--address",
      address,
      "--ports",
      "21000-21999",
      ...more,
    ]);
    const { socket, pid, agentId } = JSON.parse(stdout) as { socket: string; pid: number; agentId: string };
    const rpc = connectionOver(createConnection(socket));
    rpc.listen();
    return new TestAgent(name, address, stateDir, pid, socket, rpc, agentId);
  }

  async call<P, R>(method: Method<P, R>, params: P): Promise<R> {
    const closed = new Promise<never>((_, reject) => this.rpc.onClose(() => reject(new Error(`the agent of ${this.name} ended`))));
    return await Promise.race([this.rpc.sendRequest<R>(method.type.method, params), closed]);
  }

  on<P>(type: NotificationType<P>, handler: (event: P) => void): () => void {
    const registered = this.rpc.onNotification(type.method, handler);
    return () => registered.dispose();
  }

  /** Ends the agent, not its VMs; `kill`: by SIGKILL. Start it again with its state folder. */
  async stop(how: "shutdown" | "kill" = "shutdown"): Promise<void> {
    const closed = new Promise<void>((resolve) => this.rpc.onClose(resolve));
    if (how === "kill") process.kill(this.pid, "SIGKILL");
    else await this.call(protocol.shutdown, {});
    await closed;
  }

  /** Ends the agent and its VMs, and removes its state. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      const { vms } = await this.call(protocol.vmList, {});
      for (const vm of vms) {
        const { gen } = await this.call(protocol.vmClaim, { vm: vm.uuid });
        await this.call(protocol.vmDestroy, { vm: vm.uuid, owner: vm.owner, gen });
      }
      const { removed, vms: left } = await this.call(protocol.retireHost, {});
      if (!removed)
        throw new Error(`${this.name} keeps ${JSON.stringify(await Promise.all(left.map((vm) => this.call(protocol.moveFacts, { vm }))))}`);
    } finally {
      // A test that failed leaves an agent with what it failed at.
      if (existsSync(`/proc/${this.pid}`)) process.kill(this.pid, "SIGTERM");
    }
    this.rpc.dispose();
    await rm(dirname(this.socket), { recursive: true, force: true });
    await rm(this.stateDir, { recursive: true, force: true });
  }

  /** Puts kernel and image into the agent's store. */
  async provide(kernel = kernelPath(), image = imagePath()): Promise<{ kernelId: string; imageId: string }> {
    const kernelId = await sha256(kernel);
    const imageId = await sha256(image);
    await this.call(protocol.storeImport, { id: kernelId, path: kernel });
    await this.call(protocol.storeImport, { id: imageId, path: image });
    return { kernelId, imageId };
  }

  async log(): Promise<string> {
    return await readFile(join(this.stateDir, "agent.log"), "utf8");
  }
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

/** A VM's spec with usual values. */
export function specOf(blobs: { kernelId: string; imageId: string }, change: Partial<VmSpec> = {}): VmSpec {
  const uuid = randomUUID();
  return {
    uuid,
    name: `vm-${uuid.slice(0, 4)}`,
    ...blobs,
    memoryMiB: 64,
    diskMiB: 64,
    cpu: "auto",
    userspace: "seccomp",
    nics: [],
    runcmd: [],
    labels: {},
    ...change,
  };
}

/** Creates and boots a VM. */
export async function boot(agent: TestAgent, spec: VmSpec, owner = "test"): Promise<protocol.VmReport> {
  const { gen } = await agent.call(protocol.vmClaim, { vm: spec.uuid });
  const { vm } = await agent.call(protocol.vmEnsure, { spec, owner, running: true, gen });
  return vm;
}

/** Runs a command in the guest to its end. */
export async function exec(
  agent: Pick<TestAgent, "call" | "on">,
  vm: string,
  ...argv: string[]
): Promise<{ stdout: string; stderr: string; code?: number; signal?: number; error?: string }> {
  const out = { stdout: "", stderr: "" };
  const early: { session: number; stream: "stdout" | "stderr"; data: string }[] = [];
  let session: number | undefined;
  const take = (event: { session: number; stream: "stdout" | "stderr"; data: string }): void => {
    if (session === undefined) early.push(event);
    else if (event.session === session) out[event.stream] += Buffer.from(event.data, "base64").toString();
  };
  const off = agent.on(protocol.execOutput, take);
  const ended = new Promise<{ code?: number; signal?: number; error?: string }>((resolve, reject) => {
    const offExit = agent.on(protocol.execExit, (event) => {
      if (session !== undefined && event.session !== session) return;
      offExit();
      resolve(event);
    });
    agent.on(protocol.execLost, (event) => (event.session === session ? reject(new Error(`lost: ${event.reason}`)) : undefined));
  });
  ({ session } = await agent.call(protocol.execStart, { vm, argv }));
  for (const event of early.splice(0)) take(event);
  const { code, signal, error } = await ended;
  off();
  return { ...out, ...(code !== undefined && { code }), ...(signal !== undefined && { signal }), ...(error !== undefined && { error }) };
}

/** A whole move, as the provider does it. */
export async function move(vm: string, from: TestAgent, to: TestAgent, policy: MigrationPolicy = {}): Promise<protocol.MoveProgress> {
  const { gen } = await from.call(protocol.vmClaim, { vm });
  const { needs } = await from.call(protocol.moveBegin, { vm, gen, to: { host: to.name, agentId: to.agentId } });
  const key = createHash("sha256").update(randomUUID()).digest("hex");
  const offer = async (): Promise<{ port: number; journalId: string; missing: string[] }> =>
    await to.call(protocol.moveOffer, { needs, key });
  let { port, journalId, missing } = await offer();
  for (const id of missing) {
    const { path } = await from.call(protocol.storePath, { id });
    await to.call(protocol.storeImport, { id, path });
  }
  if (missing.length > 0) ({ port, journalId, missing } = await offer());
  await from.call(protocol.moveStart, {
    vm,
    attempt: needs.attempt,
    key,
    policy,
    target: { host: to.name, address: to.address, port, journalId },
  });
  return await from.call(protocol.moveWatch, { vm, attempt: needs.attempt });
}

/** A sealed link between the NICs `net` of two VMs, wherever they are. */
export async function wire(...ends: [[TestAgent, string], [TestAgent, string]]): Promise<void> {
  const link = randomUUID();
  const key = createHash("sha256").update(link).digest("hex");
  const idOf = (vm: string): string =>
    createHash("sha256")
      .update(link + vm)
      .digest("hex")
      .slice(0, 16);
  const places = await Promise.all(
    ends.map(async ([agent, vm], i) => {
      const peer = ends[1 - i]?.[1] ?? "";
      const wiring: Wiring = { link, vm, nic: "net", mtu: 1400, seal: true, keyId: 1, key, selfId: idOf(vm), peerId: idOf(peer) };
      return await agent.call(protocol.linkEnsure, { wiring });
    }),
  );
  for (const [i, [agent, vm]] of ends.entries()) {
    const peer = places[1 - i];
    if (peer) await agent.call(protocol.linkPeer, { vm, nic: "net", peer });
  }
}

/** A zombie is no process: who inherits it reaps it when it likes. */
export function lives(pid: number | undefined): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}
