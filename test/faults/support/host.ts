/** A host as the faults see it: processes to be killed, a disk to be filled, files to be read. It never asks the agent. */
import { execFileSync } from "node:child_process";
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statfsSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { errnoOf } from "../../../provider/lib/errors";
import { until } from "../../../provider/lib/time";
import type { KnownHost } from "../../../provider/schemas/host";

const runWords: readonly (number | undefined)[] = [1, 2];
const dayNs = 86_400n * 1_000_000_000n;

export class TestHost implements Disposable {
  readonly stateDir: string;
  #isADayAhead = true;

  constructor(
    readonly name: string,
    readonly address: string,
    folder: string,
    /** Of its own file system, which can be filled. */
    diskMiB: number,
  ) {
    this.stateDir = join(folder, name);
    mkdirSync(this.stateDir, { mode: 0o700 });
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${diskMiB}M,mode=0700`, "tmpfs", this.stateDir]);
    this.#setClock();
  }

  /** For the agents of all hosts: each has a clock of its own (clock.c), a day ahead at first. Their VMs have the machine's. */
  static preloadClocks(folder: string): void {
    const library = join(folder, "clock.so");
    execFileSync("gcc", ["-O2", "-shared", "-fPIC", "-o", library, join(__dirname, "clock.c")]);
    process.env.LD_PRELOAD = library;
  }

  /** To the machine's time, or a day ahead of it again. */
  jumpClock(): void {
    this.#isADayAhead = !this.#isADayAhead;
    this.#setClock();
  }

  /** By what its agent wrote last. */
  get clockIsADayAhead(): boolean {
    const last = [...this.log().matchAll(/^\{"level":\d+,"time":"([^"]+)"/gm)].at(-1)?.[1] ?? "";
    return Date.parse(last) > Date.now() + 3_600_000;
  }

  /** As a Topology hands it to its VMs. */
  get known(): KnownHost {
    return {
      name: this.name,
      connection: { local: { stateDir: this.stateDir } },
      dataAddress: this.address,
      ports: { from: 22_000, to: 22_999 },
    };
  }

  /** The agent's own folder on a tmpfs; undefined before its first start. */
  get runDir(): string | undefined {
    const path = join(this.stateDir, "identity.json");
    if (!existsSync(path)) return undefined;
    const { agentId } = JSON.parse(readFileSync(path, "utf8")) as { agentId: string };
    return join("/dev/shm", `mobitopolo-${process.getuid?.() ?? 0}`, agentId);
  }

  async killAgent(): Promise<void> {
    const { pid } = JSON.parse(readFileSync(join(this.stateDir, "agent.json"), "utf8")) as { pid: number };
    await kill(pid);
  }

  /** The VM's kernel process, if one is here. */
  async killKernel(vm: string): Promise<void> {
    const pid = this.#kernelOf(vm);
    if (pid !== undefined) await kill(pid);
  }

  /** All processes of the host end, what lay on tmpfs is gone, and the next boot has another number. */
  async reboot(): Promise<void> {
    await this.killAgent();
    for (const vm of this.#vms()) await this.killKernel(vm);
    if (this.runDir) rmSync(this.runDir, { recursive: true, force: true });
    process.env.MOBITOPOLO_BOOT_ID = crypto.randomUUID();
  }

  fillDisk(): void {
    const { bavail, bsize } = statfsSync(this.stateDir);
    const file = openSync(join(this.stateDir, "filler"), "w");
    const portion = Buffer.alloc(1 << 20);
    try {
      for (let left = bavail * bsize; left > 0; left -= portion.length) writeSync(file, portion, 0, Math.min(left, portion.length));
    } catch (error) {
      if (errnoOf(error) !== "ENOSPC") throw error;
    } finally {
      closeSync(file);
    }
  }

  freeDisk(): void {
    rmSync(join(this.stateDir, "filler"), { force: true });
  }

  /** VMs whose memory file says `run` or `runPartial` and has a process: read from the header's word itself. */
  running(): string[] {
    return this.#vms().filter((vm) => unlessGone(() => this.#kernelOf(vm) !== undefined && runWords.includes(this.#word(vm))) === true);
  }

  /** The next move that comes by this point stops there. */
  hold(point: string): void {
    rmSync(join(this.stateDir, "held"), { force: true });
    writeFileSync(join(this.stateDir, "hold-at"), point);
  }

  /** Resolves when a move stands at its point. */
  async held(limitMs: number): Promise<true> {
    return await until(limitMs, `${this.name} to come to its point`, async () =>
      existsSync(join(this.stateDir, "held")) ? true : undefined,
    );
  }

  letGo(): void {
    rmSync(join(this.stateDir, "hold-at"), { force: true });
  }

  log(): string {
    const path = join(this.stateDir, "agent.log");
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }

  [Symbol.dispose](): void {
    for (const vm of this.#vms()) {
      const pid = unlessGone(() => this.#kernelOf(vm));
      if (pid !== undefined) process.kill(pid, "SIGKILL");
    }
    const agent = join(this.stateDir, "agent.json");
    if (existsSync(agent)) signal((JSON.parse(readFileSync(agent, "utf8")) as { pid: number }).pid);
    if (this.runDir) rmSync(this.runDir, { recursive: true, force: true });
    execFileSync("umount", ["-l", this.stateDir]);
  }

  /** In place: the file is mapped by the agent. */
  #setClock(): void {
    const ns = Buffer.alloc(8);
    ns.writeBigInt64LE(this.#isADayAhead ? dayNs : 0n);
    const file = openSync(join(this.stateDir, "clock"), constants.O_RDWR | constants.O_CREAT, 0o600);
    writeSync(file, ns, 0, ns.length, 0);
    closeSync(file);
  }

  #vms(): string[] {
    const folder = this.runDir;
    return folder && existsSync(folder) ? readdirSync(folder).filter((name) => name.length === 36) : [];
  }

  /** Its process, if that very one lives. */
  #kernelOf(vm: string): number | undefined {
    const path = join(this.runDir ?? "", vm, "process.json");
    if (!existsSync(path)) return undefined;
    const { pid } = JSON.parse(readFileSync(path, "utf8")) as { pid: number };
    return lives(pid) && readFileSync(`/proc/${pid}/cmdline`, "latin1").includes(vm) ? pid : undefined;
  }

  #word(vm: string): number {
    const file = openSync(join(this.runDir ?? "", vm, "memory"), "r");
    try {
      const word = Buffer.alloc(4);
      readSync(file, word, 0, 4, 8);
      return word.readUInt32LE();
    } finally {
      closeSync(file);
    }
  }
}

/** A zombie is no process: who inherits it reaps it when it likes. */
function lives(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

function signal(pid: number): void {
  if (lives(pid)) process.kill(pid, "SIGKILL");
}

async function kill(pid: number): Promise<void> {
  signal(pid);
  await until(5000, `the end of process ${pid}`, async () => (lives(pid) ? undefined : true));
}

/** What `look` finds; undefined where files or process went meanwhile, for the agent works on. */
function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes(errnoOf(error) ?? "")) return undefined;
    throw error;
  }
}
