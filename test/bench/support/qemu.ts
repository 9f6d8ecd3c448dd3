/** QEMU's side: a guest under TCG with the same programs, a virtio NIC on each host's switch and a virtio disk over the same image. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { within } from "../../../provider/lib/time";
import { imagePath } from "../../contract/support/agents";
import type { Case, QemuSettings } from "./cases";
import type { Guest } from "./guest";
import { ADDRESS, type HostName, type Lab } from "./lab";
import { dial, Qmp } from "./qmp";
import { MOVE_LIMIT_S, MoveFailed, type Side, type Started } from "./side";
import { ANSWER_END, makeInitramfs, programOnHost } from "./userland";

/** What scripts/lib/qemu.mjs gives. */
export interface QemuProgram {
  readonly path: string;
  readonly img: string;
  readonly version: string;
  readonly dataDirs: readonly string[];
  readonly env: Record<string, string>;
  readonly kernel: { readonly path: string; readonly release: string; readonly modules: string };
}

const DISK_MIB = 64;
const BOOT_MS = 60_000;
const ANSWER_MS = 60_000;
const MIGRATION_PORT = 4444;
const NBD_PORT = 4445;
const READY_MS = 120_000;

/** QEMU's side with one of a case's settings. */
export function qemuSide(qemu: QemuProgram, settings: QemuSettings): Side {
  return {
    name: `QEMU, ${settings.name}`,
    async start(undo: AsyncDisposableStack, lab: Lab, c: Case): Promise<Started> {
      const initramfs = makeInitramfs(lab.folder, imagePath(), qemu.kernel.modules);
      const source = undo.use(await Machine.start(qemu, lab, "source", c, initramfs));
      const target = undo.use(await Machine.start(qemu, lab, "target", c, initramfs, "-incoming", "defer"));
      const guest = await source.guest();
      await guest.booted();
      return {
        guest,
        onPeer: async (argv, take) => startOnPeer(undo, lab, argv, take),
        async move() {
          await prepareTarget(target.qmp, settings);
          const downtimeMs = await migrate(source.qmp, target.qmp, settings);
          return { guest: await target.guest(), reported: { downtimeMs } };
        },
      };
    },
  };
}

/** One QEMU process on one of the hosts. */
class Machine implements AsyncDisposable {
  private constructor(
    readonly qmp: Qmp,
    private readonly child: ChildProcess,
    private readonly folder: string,
  ) {}

  static async start(qemu: QemuProgram, lab: Lab, host: HostName, c: Case, initramfs: string, ...more: string[]): Promise<Machine> {
    const folder = join(lab.folder, host);
    mkdirSync(folder);
    const env = { ...process.env, ...qemu.env };
    const [disk, base] = [join(folder, "disk.qcow2"), imagePath()];
    execFileSync(qemu.img, ["create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk, `${DISK_MIB}M`], { env });
    const netdev = await lab.guestPort(host);
    const words = [
      ...["-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-smp", "1", "-m", `${c.memoryMiB}M`],
      ...qemu.dataDirs.flatMap((dir) => ["-L", dir]),
      ...["-kernel", qemu.kernel.path, "-initrd", initramfs, "-append", "console=ttyS1 quiet panic=-1"],
      ...["-serial", `unix:${folder}/shell.sock,server=on,wait=off`, "-serial", `file:${folder}/console.log`],
      ...["-qmp", `unix:${folder}/qmp.sock,server=on,wait=off`],
      ...["-blockdev", `driver=raw,node-name=base,read-only=on,file.driver=file,file.filename=${base}`],
      ...["-blockdev", `driver=qcow2,node-name=disk,backing=base,file.driver=file,file.filename=${disk}`],
      ...["-device", "virtio-blk-pci,drive=disk"],
      ...["-netdev", netdev, "-device", "virtio-net-pci,netdev=net,mac=02:00:00:00:09:01,romfile="],
      ...more,
    ];
    // It must not outlive us, whatever ends us.
    const [command = "", ...args] = [...lab.enter(host), "setpriv", "--pdeathsig", "KILL", qemu.path, ...words];
    const child = spawn(command, args, { env, stdio: ["ignore", "inherit", "inherit"] });
    try {
      return new Machine(await Qmp.open(join(folder, "qmp.sock")), child, folder);
    } catch (error) {
      child.kill("SIGKILL");
      throw new Error(`QEMU on ${host} does not answer: ${qemu.path} ${words.join(" ")}`, { cause: error });
    }
  }

  /** The guest's shell, which is at the serial port of the process that it runs in. */
  async guest(): Promise<SerialGuest> {
    return new SerialGuest(await dial(join(this.folder, "shell.sock")), () => readFileSync(join(this.folder, "console.log"), "utf8"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.qmp[Symbol.dispose]();
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await ended;
  }
}

/** A shell at the far end of a serial line. */
class SerialGuest implements Guest {
  #text = "";
  #wake: () => void = () => undefined;

  constructor(
    private readonly socket: Socket,
    private readonly consoleLog: () => string,
  ) {
    socket.setEncoding("utf8").on("data", (s: string) => {
      this.#text += s;
      this.#wake();
    });
  }

  /** The init script's first word. */
  async booted(): Promise<void> {
    const { text, code } = await this.#answer("the guest to boot", BOOT_MS);
    if (code !== 0) throw new Error(`the guest has no NIC or no disk: ${text}`);
  }

  async sh(script: string): Promise<string> {
    this.#text = "";
    this.socket.write(`${script}\n`);
    const { text, code } = await this.#answer(script, ANSWER_MS);
    if (code !== 0) throw new Error(`«${script}» ended with ${code}: ${text}`);
    return text;
  }

  async #answer(what: string, limitMs: number): Promise<{ text: string; code: number }> {
    const end = new RegExp(`${ANSWER_END} (\\d+)\\r?\\n`);
    const come = (async () => {
      for (;;) {
        const found = end.exec(this.#text);
        if (found) return { text: this.#text.slice(0, found.index).replaceAll("\r", ""), code: Number(found[1]) };
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    })();
    return await within(limitMs, what, come).catch((error: Error) => {
      throw new Error(`${error.message}; the guest said «${this.#text.slice(-300)}», its console «${this.consoleLog().slice(-600)}»`);
    });
  }
}

function startOnPeer(undo: AsyncDisposableStack, lab: Lab, argv: readonly string[], take: (stdout: string) => void): void {
  const [name = "", ...words] = argv;
  const [command = "", ...args] = [...lab.enter("peer"), programOnHost(lab.folder, name), ...words];
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  child.stdout.setEncoding("utf8").on("data", take);
  undo.defer(() => void child.kill("SIGTERM"));
}

async function prepareTarget(target: Qmp, settings: QemuSettings): Promise<void> {
  const address = { type: "inet", data: { host: ADDRESS.target, port: String(NBD_PORT) } };
  await target.ask("nbd-server-start", { addr: address });
  await target.ask("block-export-add", { type: "nbd", id: "disk", "node-name": "disk", writable: true });
  await set(target, settings);
  await target.ask("migrate-incoming", { uri: `tcp:${ADDRESS.target}:${MIGRATION_PORT}` });
}

async function set(qmp: Qmp, settings: QemuSettings): Promise<void> {
  const capabilities = ["events", "pause-before-switchover", ...settings.capabilities];
  await qmp.ask("migrate-set-capabilities", { capabilities: capabilities.map((capability) => ({ capability, state: true })) });
  await qmp.ask("migrate-set-parameters", settings.parameters);
}

/** As libvirt does it: the disk is mirrored (what differs from the image), then the memory goes, and between stop and switch-over the mirror ends. */
async function migrate(source: Qmp, target: Qmp, settings: QemuSettings): Promise<number> {
  const server = { type: "inet", host: ADDRESS.target, port: String(NBD_PORT) };
  await source.ask("blockdev-add", { driver: "nbd", "node-name": "remote", server, export: "disk" });
  await source.ask("blockdev-mirror", { "job-id": "mirror", device: "disk", target: "remote", sync: "top" });
  await source.event((e) => e.name === "BLOCK_JOB_READY", READY_MS, "mirrored disk");
  await set(source, settings);
  const stage = (status: string) => source.event((e) => e.name === "MIGRATION" && e.data.status === status, MOVE_LIMIT_S * 1000, status);
  const failed = stage("failed").then(
    () => true,
    () => false,
  );
  await source.ask("migrate", { uri: `tcp:${ADDRESS.target}:${MIGRATION_PORT}` });
  const stopped = await Promise.race([
    stage("pre-switchover").then(() => "stopped", notDone),
    failed.then((is) => (is ? "failed" : notDone())),
  ]);
  if (stopped === "failed") throw new MoveFailed(await errorOf(source));
  await source.ask("block-job-cancel", { device: "mirror" });
  await source.event((e) => e.name === "BLOCK_JOB_COMPLETED" || e.name === "BLOCK_JOB_CANCELLED", READY_MS, "end of the mirror");
  // The target's device takes its disk when the guest goes on; the server would still hold it.
  await target.ask("nbd-server-stop");
  await source.ask("migrate-continue", { state: "pre-switchover" });
  await stage("completed");
  await target.event((e) => e.name === "RESUME", READY_MS, "resumed guest");
  return (await source.ask<{ downtime: number }>("query-migrate")).downtime;
}

function notDone(): never {
  throw new MoveFailed(`not done in ${MOVE_LIMIT_S} s`);
}

async function errorOf(source: Qmp): Promise<string> {
  return (await source.ask<{ "error-desc"?: string }>("query-migrate"))["error-desc"] ?? "it failed";
}
