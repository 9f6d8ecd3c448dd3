/** A real VM process for kernel tests: its folder, its sockets, its end. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, watch } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultAssets } from "../../../provider/lib/assets";
import { ControlClient } from "./control";
import { LineReader, PATIENCE_MS } from "./lines";
import { BLOCK_BYTES, createOverlay } from "./overlay";

/** `MOBITOPOLO_KERNEL`, else the kernel that set-up made. */
export const kernelPath = (): string => process.env.MOBITOPOLO_KERNEL ?? defaultAssets().kernel.path;
/** `MOBITOPOLO_IMAGE`, else the image that set-up made; with a shell in /bin/sh. */
export const imagePath = (): string => process.env.MOBITOPOLO_IMAGE ?? defaultAssets().image.path;

export interface VmOptions {
  /** Default: a new one, removed at dispose. With files of an earlier VM in it: they are used again. */
  readonly folder?: string;
  readonly memoryMiB?: number;
  readonly diskBytes?: number;
  /** The base of the disk. Default: the image. */
  readonly base?: string;
  /** The process may not write any file beyond this size, as on a full disk. */
  readonly fileLimitBytes?: number;
  /** @default "seccomp" */
  readonly userspace?: "seccomp" | "ptrace";
  /** @default 1 */
  readonly epoch?: number;
  /** Host CPU; default: not pinned. */
  readonly cpu?: number;
  /** `incoming`: waits for `go` instead of booting. */
  readonly incoming?: boolean;
  /** The process's environment, which has no effect on a guest. @default only HOME */
  readonly env?: Readonly<Record<string, string>>;
  /** The process's working folder when it starts. @default the test's */
  readonly cwd?: string;
  /** The process runs as this user and has what files of the folder that one needs. Without root: as this user of a user namespace. */
  readonly asUser?: number;
  /** More of the command line, as `init=/sbin/init` (default: a shell). */
  readonly args?: readonly string[];
}

const DEFAULT_DISK_BYTES = 4096 * BLOCK_BYTES;

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class Vm implements AsyncDisposable {
  /** The process's end. */
  readonly exited: Promise<Exit>;
  private readonly open: { destroy(): void }[] = [];
  private reading: Promise<void> | undefined;

  private constructor(
    readonly folder: string,
    readonly process: ChildProcess,
    private readonly ownFolder: boolean,
  ) {
    this.exited = once(process, "exit").then(([code, signal]) => ({ code, signal }));
  }

  /** Starts the process; returns at once. */
  static start(options: VmOptions = {}): Vm {
    const folder = options.folder ?? newFolder();
    prepareFiles(folder, options);
    for (const name of ["control.sock", "console.sock", "guest.sock"]) rmSync(join(folder, "run", name), { force: true });
    const log = openSync(join(folder, "vm.log"), "a");
    const own: VmOptions & { readonly program?: string } = options.asUser === undefined ? options : withOwnFiles(folder, options);
    const [program, words] = asUser(own, ...limited(own, own.program ?? kernelPath(), commandLine(folder, own)));
    const child = spawn(program, words, {
      stdio: ["ignore", log, log],
      detached: true,
      env: options.env ?? { HOME: folder },
      cwd: options.cwd,
    });
    return new Vm(folder, child, options.folder === undefined);
  }

  /** Starts it and waits for its control socket. */
  static async boot(options: VmOptions = {}): Promise<Vm> {
    const vm = Vm.start(options);
    await vm.socketReady("control.sock");
    return vm;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  log(): string {
    return readFileSync(this.path("vm.log"), "utf8");
  }

  async control(): Promise<ControlClient> {
    const client = await ControlClient.connect(this.path("run/control.sock"));
    this.open.push({ destroy: () => client.close() });
    return client;
  }

  /** A client of console.sock or guest.sock. */
  async stream(name: "console.sock" | "guest.sock"): Promise<{ socket: Socket; reader: LineReader }> {
    await this.socketReady(name);
    const socket = connect(this.path(`run/${name}`));
    const reader = new LineReader(socket);
    this.open.push(socket);
    try {
      await once(socket, "connect");
    } catch (cause) {
      throw new Error(`${name}: ${(cause as Error).message}; the VM's log ends with:\n${this.log().slice(-3000)}`, { cause });
    }
    return { socket, reader };
  }

  /** Types a command at the guest's shell on the console and returns its output (needs `init=/bin/sh`, the default). */
  async shell(command: string, timeoutMs = PATIENCE_MS): Promise<string> {
    this.reading ??= this.startReading();
    await this.reading;
    const { socket, reader } = await this.stream("console.sock");
    try {
      const mark = `m${process.hrtime.bigint()}`;
      // The marks are put together by the shell, so that an echo of the command is none.
      socket.write(`echo ${mark}'<'; ${command}; echo ${mark}">$?"\n`, "latin1");
      const match = await reader.until(new RegExp(`${mark}<\\r?\\n([\\s\\S]*)${mark}>(\\d+)`), timeoutMs);
      if (match[2] !== "0") throw new Error(`${command}: exit ${match[2]}: ${match[1]}`);
      return (match[1] ?? "").replaceAll("\r\n", "\n");
    } finally {
      socket.destroy();
    }
  }

  /** Starts a command in the guest that runs on by itself; what it says is in /tmp/out. */
  async background(command: string): Promise<void> {
    await this.shell(`(${command}) </dev/null >/tmp/out 2>&1 & true`);
  }

  /**
   * A plain reader of commands instead of the interactive shell: busybox's takes the end of a background job (a signal
   * while it reads a key) for the end of its input.
   */
  private async startReading(): Promise<void> {
    const { socket, reader } = await this.stream("console.sock");
    try {
      socket.write(`stty -echo; exec sh -c 'echo rea""dy; while IFS= read -r line; do eval "$line"; done'\n`);
      await reader.until(/ready\r?\n/);
    } finally {
      socket.destroy();
    }
  }

  /** How its process ended, told half a second later at most; `runs` if it has not. */
  async state(): Promise<string> {
    const ended = this.exited.then(({ code, signal }) => `ended (${signal ?? code})`);
    return Promise.race([ended, new Promise<string>((resolve) => setTimeout(resolve, 500, "runs"))]);
  }

  /** As the host's kernel kills it: nothing is flushed. */
  async kill(): Promise<void> {
    this.process.kill("SIGKILL");
    await this.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.open) one.destroy();
    if (this.process.exitCode === null && this.process.signalCode === null) await this.kill();
    if (this.ownFolder) rmSync(this.folder, { recursive: true, force: true });
  }

  /** Waits for a socket of the run folder to be made. @throws Error with the log if the process ends first */
  private async socketReady(name: string): Promise<void> {
    await fileAppears(
      this.path("run"),
      name,
      this.exited.then((exit) => {
        throw new Error(`the VM process ended (${exit.code ?? exit.signal}):\n${this.log().slice(-3000)}`);
      }),
    );
  }
}

/** `linux tool ...`: its output. @throws Error with its stderr */
export function tool(...words: string[]): string {
  return execFileSync(kernelPath(), ["tool", ...words], { encoding: "utf8", stdio: "pipe" });
}

/** A folder for a VM, on a file system that allows what a guest's memory needs. */
export function newFolder(): string {
  return mkdtempSync(join(process.env.MOBITOPOLO_TEST_DIR ?? tmpdir(), "mobi-vm-"));
}

/** The command line with `ulimit -f` before it. */
function limited(options: VmOptions, program: string, words: string[]): [string, string[]] {
  if (options.fileLimitBytes === undefined) return [program, words];
  return ["/bin/sh", ["-c", `ulimit -f ${options.fileLimitBytes / 512}; exec "$0" "$@"`, program, ...words]];
}

/** The command line with what makes it another user's process before it. */
function asUser({ asUser: uid }: VmOptions, program: string, words: string[]): [string, string[]] {
  if (uid === undefined) return [program, words];
  if (process.getuid?.() === 0) return ["setpriv", [`--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", program, ...words]];
  return ["unshare", ["--user", `--map-user=${uid}`, `--map-group=${uid}`, program, ...words]];
}

/** A folder that belongs to the other user, kernel and base included: root's own lie where nobody else may look. */
function withOwnFiles(folder: string, options: VmOptions): VmOptions & { program?: string } {
  const [program, base] = [join(folder, "linux"), join(folder, "base")];
  execFileSync("cp", ["--sparse=always", kernelPath(), program]);
  execFileSync("cp", ["--sparse=always", basePath(options), base]);
  if (process.getuid?.() === 0) execFileSync("chown", ["-R", `${options.asUser}:${options.asUser}`, folder]);
  return { ...options, base, program };
}

const basePath = (options: VmOptions): string => options.base ?? imagePath();

function prepareFiles(folder: string, options: VmOptions): void {
  mkdirSync(join(folder, "run"), { recursive: true, mode: 0o700 });
  const memory = join(folder, "memory");
  // A cold boot has new memory; only `incoming` goes on with what is there.
  if (!options.incoming) rmSync(memory, { force: true });
  if (!existsSync(memory)) tool("create", memory, String(memoryMiB(options) * 1048576));
  const overlay = join(folder, "disk.overlay");
  if (!existsSync(overlay)) createOverlay(overlay, basePath(options), options.diskBytes ?? DEFAULT_DISK_BYTES);
}

const memoryMiB = (options: VmOptions): number => options.memoryMiB ?? 64;

function commandLine(folder: string, options: VmOptions): string[] {
  const common = [
    `mobi.run=${join(folder, "run")}`,
    `mobi.memory=${join(folder, "memory")}`,
    `mobi.disk=${join(folder, "disk.overlay")}`,
    `mobi.base=${basePath(options)}`,
    `seccomp=${options.userspace === "ptrace" ? "off" : "on"}`,
    ...(options.cpu === undefined ? [] : [`mobi.cpu=${options.cpu}`]),
  ];
  if (options.incoming) return ["incoming", ...common, ...(options.args ?? [])];
  return [
    ...common,
    `mem=${memoryMiB(options)}M`,
    `mobi.epoch=${options.epoch ?? 1}`,
    "mobi.vm=00000000-0000-4000-8000-000000000001",
    "root=/dev/mbda",
    "rw",
    ...(options.args ?? ["init=/bin/sh"]),
  ];
}

/** Resolves when the folder has a file of that name; rejects when `failed` does, or after a while. */
async function fileAppears(folder: string, name: string, failed: Promise<never>): Promise<void> {
  const watcher = watch(folder);
  let timer: NodeJS.Timeout | undefined;
  try {
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${name} did not appear in ${folder}`)), PATIENCE_MS);
    });
    const there = new Promise<void>((resolve) => {
      const look = () => existsSync(join(folder, name)) && resolve();
      watcher.on("change", look);
      look();
    });
    await Promise.race([there, failed, late]);
  } finally {
    clearTimeout(timer);
    watcher.close();
    failed.catch(() => {});
  }
}
