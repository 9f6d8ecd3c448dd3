/** The `mobitopolo` command, as a person uses it: in the test's project. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { collect, Project, type Run } from "./project";

const MAIN = resolve(__dirname, "../../../provider/dist/cli/main.js");

/** What `status --json` says, as far as tests look at it. */
export interface Status {
  readonly hosts: { name: string; state: string; error?: string; facts?: { runDir: string; stateDir: string } }[];
  readonly vms: {
    name: string;
    uuid: string;
    host: string;
    state: string;
    pid?: number;
    epoch?: number;
    uptimeMs?: number;
    lastMigration?: { bytes: number; seconds: number; rounds: number; downtimeMs: number };
  }[];
  readonly links: { uuid: string; ends: { vm: string; nic: string; host: string; counters: Record<string, number> }[] }[];
}

/** Runs the command to its end. */
export function mobitopolo(project: Project, ...args: string[]): Promise<Run> {
  const [command = "", ...rest] = commandLine(project, args);
  return collect(command, rest, project.folder, project.tool.env);
}

/** The same with something on stdin. */
export function mobitopoloWith(project: Project, input: Buffer | string, ...args: string[]): Promise<Run> {
  const [command = "", ...rest] = commandLine(project, args);
  return collect(command, rest, project.folder, project.tool.env, input);
}

/** `mobitopolo status --json`. */
export async function status(project: Project): Promise<Status> {
  return JSON.parse((await mobitopolo(project, "status", "--json")).stdout) as Status;
}

/** The VM as status shows it. */
export async function vmOf(project: Project, name: string): Promise<Status["vms"][number]> {
  const all = await status(project);
  const vm = all.vms.find((v) => v.name === name);
  if (vm === undefined) throw new Error(`status shows no VM ${name}: ${JSON.stringify(all.hosts.map((h) => h.error ?? h.name))}`);
  return vm;
}

/** Runs a program in a VM; it must end with 0. @returns its stdout */
export async function inGuest(project: Project, vm: string, ...argv: string[]): Promise<string> {
  const run = await mobitopolo(project, "exec", "-T", vm, "--", ...argv);
  if (run.code !== 0) throw new Error(`${argv.join(" ")} in ${vm} ended with ${run.code}: ${run.stderr}${run.stdout}`);
  return run.stdout;
}

/** A program in a VM that goes on meanwhile and says one line of JSON now and then. */
export class GuestProgram<Line> {
  readonly lines: Line[] = [];
  readonly #child: ChildProcess;
  readonly #closed: Promise<number>;
  #wake: (() => void)[] = [];
  #stderr = "";

  constructor(
    project: Project,
    readonly vm: string,
    readonly argv: readonly string[],
  ) {
    const [command = "", ...rest] = commandLine(project, ["exec", "-T", vm, "--", ...argv]);
    const child = spawn(command, rest, { cwd: project.folder, env: project.tool.env, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    child.stderr.setEncoding("utf8").on("data", (s: string) => {
      this.#stderr += s;
    });
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.lines.push(JSON.parse(line) as Line);
      for (const wake of this.#wake.splice(0)) wake();
    });
    this.#closed = once(child, "close").then(([code]) => {
      for (const wake of this.#wake.splice(0)) wake();
      return code as number;
    });
  }

  /** Waits for a line that comes from now on. */
  async next(): Promise<Line> {
    const before = this.lines.length;
    if (this.#child.exitCode === null) await new Promise<void>((wake) => this.#wake.push(wake));
    const line = this.lines[before];
    if (line === undefined) throw new Error(`${this.argv.join(" ")} in ${this.vm} ended with ${this.#child.exitCode}: ${this.#stderr}`);
    return line;
  }

  /** Ends it as a person would. @returns its exit code, 128 + signal if one ended it */
  async stop(): Promise<number> {
    if (this.#child.exitCode === null) this.#child.kill("SIGTERM");
    return this.#closed;
  }

  /** Waits until it ends by itself. @returns its exit code */
  ended(): Promise<number> {
    return this.#closed;
  }
}

function commandLine(project: Project, args: readonly string[]): string[] {
  return [...(project.options.wrapper ?? []), "node", MAIN, "-s", Project.stack, ...args];
}
