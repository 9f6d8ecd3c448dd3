import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MessageConnection, ResponseError } from "vscode-jsonrpc/node";
import type { Assets } from "../../../../provider/lib/assets";
import { connectionOver } from "../../../../provider/lib/rpc";
import * as protocol from "../../../../provider/protocol/methods";
import type { Wiring } from "../../../../provider/schemas/link";
import type { LastMigration } from "../../../../provider/schemas/vm";
import { versionOf } from "../../../../provider/transport/programs";
import { assetsOf, hostNamed } from "./props";

interface FakeVm {
  report: protocol.VmReport;
  facts: protocol.MoveFacts[];
}
type Outcome = "moved" | "failed" | "in-doubt" | "lost-then-moved";

/** Hosts that say what agents say, over real Unix sockets, and only pretend to run VMs: what the provider does with the answers is under test. */
export class FakeWorld implements AsyncDisposable {
  readonly hosts = new Map<string, FakeAgent>();
  readonly #folder = mkdtempSync(join(tmpdir(), "mobi-fake-"));
  /** How the next moves end. */
  outcome: Outcome = "moved";
  attempts = 0;

  /** @param assets what the provider under test brings: the agents are of its version */
  constructor(readonly assets: Assets = assetsOf("a")) {}

  async add(name: string): Promise<FakeAgent> {
    const agent = new FakeAgent(this, name, join(this.#folder, name));
    this.hosts.set(name, agent);
    await agent.listen();
    return agent;
  }

  /** As `__hosts` has them. */
  get known(): object[] {
    return [...this.hosts.values()].map(({ name, folder }) => ({ ...hostNamed(name), connection: { local: { stateDir: folder } } }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.hosts.values()) await agent.close();
    rmSync(this.#folder, { recursive: true });
  }
}

export class FakeAgent {
  readonly vms = new Map<string, FakeVm>();
  readonly links = new Map<string, { wiring: Wiring; port: number; peer?: object | undefined }>();
  readonly store = new Set<string>();
  /** Methods called, in order. */
  readonly calls: string[] = [];
  /** VMs come into being but do not boot. */
  bootFails = false;
  /** Methods that fail. */
  readonly broken = new Map<string, protocol.RpcFault["code"]>();
  agentId: string;
  #gen = 0;
  readonly #server = createServer((socket) => this.#serve(socket));
  readonly #sockets = new Set<Socket>();

  constructor(
    readonly world: FakeWorld,
    readonly name: string,
    readonly folder: string,
  ) {
    this.agentId = `agent-${name}`;
  }

  async listen(): Promise<void> {
    mkdirSync(this.folder, { recursive: true });
    const socket = join(this.folder, "agent.sock");
    await new Promise<void>((resolve) => this.#server.listen(socket, resolve));
    writeFileSync(join(this.folder, "agent.json"), JSON.stringify({ socket, pid: process.pid }));
  }

  /** The host is gone, as after a power cut. */
  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    rmSync(join(this.folder, "agent.json"), { force: true });
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }

  put(report: Partial<protocol.VmReport> & Pick<protocol.VmReport, "uuid" | "spec" | "owner">): FakeVm {
    const vm: FakeVm = { report: { state: "running", home: "yes", nics: [], cpuFlags: ["sse2"], ...report }, facts: [] };
    this.vms.set(report.uuid, vm);
    return vm;
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    const rpc = connectionOver(socket);
    socket.on("error", () => rpc.dispose());
    this.#answer(rpc, socket);
    rpc.listen();
  }

  #on<P, R>(rpc: MessageConnection, method: { type: { method: string } }, answer: (params: P) => R | Promise<R>): void {
    rpc.onRequest(method.type.method, async (params: P) => {
      this.calls.push(method.type.method);
      const code = this.broken.get(method.type.method);
      if (code)
        return new ResponseError<protocol.RpcFault>(1, `${method.type.method} is broken`, { code, host: this.name, step: "pretend" });
      return await answer(params);
    });
  }

  #answer(rpc: MessageConnection, socket: Socket): void {
    const { vms } = this;
    const find = (uuid: string): FakeVm => {
      const vm = vms.get(uuid);
      if (!vm) throw new ResponseError<protocol.RpcFault>(1, "no such VM", { code: "not-found", host: this.name, step: "find it" });
      return vm;
    };
    const { version, agent } = this.world.assets;
    const { dataAddress: address, ports } = hostNamed(this.name);
    this.#on(rpc, protocol.hello, () => ({
      agentId: this.agentId,
      protocol: 1,
      version: versionOf(version, agent.id),
      hostName: this.name,
      uid: 0,
      bootId: "b",
      address,
      ports,
    }));
    this.#on(rpc, protocol.hostFacts, () => ({
      cpuModel: "m",
      cpus: 2,
      cpuFlags: ["sse2", "avx"],
      xstateBytes: 832,
      memoryMiB: 1,
      memoryFreeMiB: 1,
      diskFreeMiB: 1,
      kernelRelease: "k",
      runDir: "",
      stateDir: "",
      warnings: [],
      vms: vms.size,
    }));
    this.#on(rpc, protocol.retireHost, () => {
      if (vms.size > 0) return { removed: false, vms: [...vms.keys()] };
      setImmediate(() => void this.close());
      return { removed: true, vms: [] };
    });
    this.#on(rpc, protocol.storeMissing, ({ ids }: { ids: string[] }) => ({ missing: ids.filter((id) => !this.store.has(id)) }));
    this.#on(rpc, protocol.storeImport, ({ id }: { id: string }) => {
      this.store.add(id);
      return {};
    });
    this.#on(rpc, protocol.storePath, ({ id }: { id: string }) => {
      if (!this.store.has(id))
        throw new ResponseError<protocol.RpcFault>(1, "not here", { code: "missing-blob", host: this.name, step: "find it" });
      return { path: `/store/${id}`, bytes: 1 };
    });
    this.#on(rpc, protocol.vmClaim, () => ({ gen: ++this.#gen }));
    this.#on(rpc, protocol.vmGet, ({ vm }: { vm: string }) => ({ vm: vms.get(vm)?.report ?? null }));
    this.#on(rpc, protocol.vmEnsure, ({ spec, owner, running }: { spec: protocol.VmReport["spec"]; owner: string; running: boolean }) => {
      const was = vms.get(spec.uuid);
      const state = running ? "running" : "stopped";
      const vm = was ?? this.put({ uuid: spec.uuid, spec, owner });
      vm.report = { ...vm.report, spec, state, nics: spec.nics.map(({ name }) => ({ nic: name, counters: { lastHeardMs: 1 } })) };
      if (this.bootFails)
        throw new ResponseError<protocol.RpcFault>(1, "the kernel ended with code 1", {
          code: "failed",
          host: this.name,
          step: "boot the VM",
        });
      return { vm: vm.report, created: !was, booted: !was };
    });
    this.#on(rpc, protocol.vmDestroy, ({ vm }: { vm: string }) => ({ existed: vms.delete(vm) }));
    this.#on(rpc, protocol.linkEnsure, ({ wiring }: { wiring: Wiring }) => {
      const key = `${wiring.link} ${wiring.vm}`;
      const port = this.links.get(key)?.port ?? 20_001 + this.links.size;
      this.links.set(key, { wiring, port, peer: wiring.peer });
      return { address, port };
    });
    this.#on(rpc, protocol.linkPeer, ({ vm, nic, peer }: { vm: string; nic: string; peer: object }) => {
      for (const link of this.links.values()) if (link.wiring.vm === vm && link.wiring.nic === nic) link.peer = peer;
      return {};
    });
    this.#on(rpc, protocol.linkGet, ({ link, vm }: { link: string; vm: string }) => {
      const held = this.links.get(`${link} ${vm}`);
      return held ? { wiring: held.wiring, address, port: held.port } : { wiring: null };
    });
    this.#on(rpc, protocol.linkRemove, ({ link, vm }: { link: string; vm: string }) => ({ existed: this.links.delete(`${link} ${vm}`) }));
    this.#on(rpc, protocol.moveFacts, ({ vm }: { vm: string }) => ({ facts: vms.get(vm)?.facts ?? [] }));
    this.#on(rpc, protocol.moveBegin, ({ vm, to }: { vm: string; to: { host: string; agentId: string } }) => {
      const { report, facts } = find(vm);
      const attempt = `m${++this.world.attempts}`;
      facts.splice(0, facts.length, { attempt, out: "INIT", header: "run", journalId: this.agentId, peer: to });
      return {
        needs: {
          attempt,
          spec: report.spec,
          owner: report.owner,
          memoryBytes: 1,
          diskBytes: 1,
          cpuFlags: [],
          xstateBytes: 1,
          epochTarget: 2,
          from: { host: this.name, agentId: this.agentId },
        },
        attached: false,
      };
    });
    this.#on(rpc, protocol.movePlan, () => ({
      needs: {},
      prediction: {
        memoryBytes: 50 << 20,
        diskBytes: 1 << 20,
        compression: 0.3,
        dirtyBytesPerS: 4 << 20,
        linkMbps: 100,
        linkFrom: "an earlier move",
        bytes: 15 << 20,
        seconds: 1.5,
        downtimeMs: 20,
        rounds: 3,
      },
    }));
    this.#on(rpc, protocol.vmOverrule, ({ vm, floor }: { vm: string; floor: number }) => {
      const removed = (vms.get(vm)?.report.floor ?? 0) < floor && vms.delete(vm);
      return { removed };
    });
    this.#on(rpc, protocol.moveOffer, () => ({ port: 20_050, journalId: this.agentId, missing: [] }));
    this.#on(rpc, protocol.moveStart, () => ({}));
    this.#on(rpc, protocol.moveCancel, ({ vm }: { vm: string }) => {
      find(vm).facts.length = 0;
      return {};
    });
    this.#on(rpc, protocol.moveTell, ({ vm, fact }: { vm: string; fact: string }) => ({ facts: this.#told(vm, fact) }));
    this.#on(rpc, protocol.moveWatch, ({ vm, attempt }: { vm: string; attempt: string }) => this.#end(vm, attempt, rpc, socket));
  }

  #told(uuid: string, fact: string): protocol.MoveFacts[] {
    const vm = this.vms.get(uuid);
    if (!vm) return [];
    const [mine] = vm.facts;
    if (fact === "GONE" && mine) {
      vm.facts.splice(0, 1, { ...mine, out: "ABORTED", header: "run" });
      vm.report = { ...vm.report, state: "running" };
    }
    if (fact === "SETTLED" && mine) this.#retire(vm, mine);
    if (fact === "ABORTED" && mine?.in) vm.facts.splice(0, 1);
    if (fact === "QUERY" && mine?.in) vm.facts.splice(0, 1, { ...mine, in: mine.in === "SETTLED" ? "SETTLED" : "GONE" });
    return vm.facts;
  }

  #retire(vm: FakeVm, fact: protocol.MoveFacts): void {
    const movedTo = fact.peer?.host ?? "?";
    vm.report = { ...vm.report, home: "no", state: "stopped", movedTo };
    vm.facts.splice(0, 1, { ...fact, out: "CLOSED", movedTo });
  }

  #end(uuid: string, attempt: string, rpc: MessageConnection, socket: Socket): protocol.MoveProgress {
    const vm = this.vms.get(uuid);
    const [fact] = vm?.facts ?? [];
    if (!vm || !fact?.peer)
      throw new ResponseError<protocol.RpcFault>(1, "no such attempt", { code: "not-found", host: this.name, step: "watch it" });
    const target = this.world.hosts.get(fact.peer.host);
    const base = { vm: uuid, attempt, round: 3, bytesSent: 14_889_779 };
    void rpc.sendNotification(protocol.moveProgress, { ...base, phase: "precopy", pagesLeft: 12 });
    const result: LastMigration = {
      attempt,
      from: this.name,
      to: fact.peer.host,
      result: "moved",
      bytes: 14_889_779,
      seconds: 1.8,
      rounds: 3,
      downtimeMs: 23,
    };
    switch (this.world.outcome) {
      case "failed":
        vm.facts.splice(0, 1, { ...fact, out: "ABORTED" });
        return { ...base, phase: "failed", fault: { message: "the target's disk is full", running: "source" } };
      case "in-doubt":
        vm.facts.splice(0, 1, { ...fact, out: "OPEN", header: "released" });
        vm.report = { ...vm.report, state: "in-doubt" };
        return { ...base, phase: "failed", fault: { message: "the target fell silent", running: "in-doubt" } };
      default:
        target
          ?.put({ ...vm.report, lastMigration: result })
          .facts.push({ attempt, in: "SETTLED", journalId: target.agentId, peer: { host: this.name, agentId: this.agentId } });
        this.#retire(vm, fact);
        if (this.world.outcome === "lost-then-moved") socket.destroy();
        return { ...base, phase: "done", result };
    }
  }
}
