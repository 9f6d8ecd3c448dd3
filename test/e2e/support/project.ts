/** A Pulumi project made for one test: a topology as data, driven by the real CLI on a backend of its own. */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pulumi, type Tool } from "./tools";

const REPO = resolve(__dirname, "../../..");

/** What a run of the CLI did. */
export interface Run {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Both, as they came. */
  readonly text: string;
}

/** Counts of a summary: `{create: 3}`, `{same: 7}`, `{update: 3, same: 4}`. */
export type Changes = Readonly<Record<string, number>>;

/** A topology as components/ takes it; loose, because tests also say wrong things. */
export type TopologyData = Readonly<Record<string, unknown>>;

const PROGRAM = `
const { readFileSync } = require("node:fs");
const { Topology } = require(process.env.MOBITOPOLO_TEST_COMPONENTS ?? "@mobitopolo/components");
new Topology("t", JSON.parse(readFileSync(__dirname + "/topology.json", "utf8")));
`;

/** Options of a project. */
export interface ProjectOptions {
  /** Further environment of every run. */
  readonly env?: NodeJS.ProcessEnv;
  /** Commands in front of the CLI, as `nsenter …`. */
  readonly wrapper?: readonly string[];
}

/** One test's project; disposal destroys its stack and removes its folder. */
export class Project implements AsyncDisposable {
  static readonly stack = "test";

  private constructor(
    readonly folder: string,
    readonly tool: Tool,
    readonly options: ProjectOptions,
  ) {}

  /** Makes the folder and the stack. */
  static async make(topology: TopologyData, options: ProjectOptions = {}): Promise<Project> {
    // Short: the agents' sockets live below it.
    const folder = mkdtempSync("/tmp/mobi-e2e-");
    symlinkSync(join(REPO, "node_modules"), join(folder, "node_modules"));
    mkdirSync(join(folder, "state"));
    writeFileSync(
      join(folder, "Pulumi.yaml"),
      `name: e2e\nruntime: {name: nodejs, options: {typescript: false}}\nmain: index.js\nbackend: {url: "file://${folder}/state"}\n`,
    );
    writeFileSync(join(folder, "package.json"), "{}");
    writeFileSync(join(folder, "index.js"), PROGRAM);
    const project = new Project(folder, await pulumi(folder), options);
    project.setEnv({ MOBITOPOLO_TEST_CWD: folder });
    project.write(topology);
    await project.must("stack", "init", Project.stack);
    return project;
  }

  /** The topology of the next run. */
  write(topology: TopologyData): void {
    writeFileSync(join(this.folder, "topology.json"), JSON.stringify(topology));
  }

  /** `pulumi up`, which must succeed. @returns what it changed */
  async up(): Promise<Changes> {
    return changesOf(await this.must("up", "--yes", "--skip-preview", "--non-interactive"));
  }

  /** `pulumi up`, which must fail. @returns its text */
  async upFails(): Promise<string> {
    const run = await this.run("up", "--yes", "--skip-preview", "--non-interactive");
    if (run.code === 0) throw new Error(`pulumi up succeeded, but a fault was expected:\n${run.text}`);
    return run.text;
  }

  /** `pulumi preview`: its counts. */
  async preview(): Promise<Changes> {
    const run = await this.must("preview", "--json");
    return (JSON.parse(run.stdout) as { changeSummary: Changes }).changeSummary;
  }

  /** `pulumi preview`, which must fail. @returns its text */
  async previewFails(): Promise<string> {
    const run = await this.run("preview", "--non-interactive");
    if (run.code === 0) throw new Error(`pulumi preview succeeded, but a fault was expected:\n${run.text}`);
    return run.text;
  }

  async refresh(): Promise<void> {
    await this.must("refresh", "--yes", "--skip-preview", "--non-interactive");
  }

  async destroy(): Promise<void> {
    await this.must("destroy", "--yes", "--skip-preview", "--non-interactive");
  }

  /** Puts an exported state back, as if what happened since had not been recorded. */
  async restore(checkpoint: string): Promise<void> {
    const file = join(this.folder, "checkpoint.json");
    writeFileSync(file, checkpoint);
    await this.must("stack", "import", "--file", file);
  }

  /** The outputs of all our resources of a type, by the resource's name. */
  resources(type: "Host" | "Vm" | "Link"): Map<string, Record<string, unknown>> {
    const file = join(this.folder, "state", ".pulumi", "stacks", "e2e", `${Project.stack}.json`);
    const state = JSON.parse(readFileSync(file, "utf8")) as {
      checkpoint: { latest: { resources?: { urn: string; type: string; outputs?: Record<string, unknown> }[] } };
    };
    const mine = (state.checkpoint.latest.resources ?? []).filter((r) => r.type === `pulumi-nodejs:dynamic/mobitopolo:${type}`);
    return new Map(mine.map((r) => [r.urn.slice(r.urn.lastIndexOf("::") + 2), r.outputs ?? {}]));
  }

  /** Further environment of all later runs. */
  setEnv(env: NodeJS.ProcessEnv): void {
    Object.assign(this.tool.env, env);
  }

  /** Any command that must succeed. */
  async must(...args: string[]): Promise<Run> {
    const run = await this.run(...args);
    if (run.code !== 0) throw new Error(`pulumi ${args.join(" ")} ended with ${run.code}:\n${run.text}`);
    return run;
  }

  /** Any command of the CLI in this project. */
  run(...args: string[]): Promise<Run> {
    const [command = "", ...rest] = [...(this.options.wrapper ?? []), this.tool.command, ...args];
    return collect(command, rest, this.folder, { ...this.tool.env, ...this.options.env });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const run = await this.run("destroy", "--yes", "--skip-preview", "--non-interactive");
    if (run.code !== 0) process.stderr.write(`${this.folder} is kept, destroy failed:\n${run.text}\n`);
    else rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Runs a program to its end; `input` is its stdin. */
export function collect(
  command: string,
  args: readonly string[],
  cwd: string,
  env: NodeJS.ProcessEnv,
  input: Buffer | string = "",
): Promise<Run> {
  return new Promise((done, failed) => {
    const child = spawn(command, args, { cwd, env, stdio: ["pipe", "pipe", "pipe"] });
    let [stdout, stderr, text] = ["", "", ""];
    child.stdout.setEncoding("utf8").on("data", (s: string) => {
      stdout += s;
      text += s;
    });
    child.stderr.setEncoding("utf8").on("data", (s: string) => {
      stderr += s;
      text += s;
    });
    child.stdin.on("error", () => {}); // It may end without having read all.
    child.stdin.end(input);
    child.once("error", failed);
    child.once("close", (code) => done({ code: code ?? 1, stdout, stderr, text }));
  });
}

/** Reads the summary under «Resources:», as `+ 3 created`, `~ 1 updated`, `4 unchanged`. */
function changesOf(run: Run): Changes {
  const summary = run.text.slice(run.text.lastIndexOf("Resources:"));
  return Object.fromEntries(
    [...summary.matchAll(/(\d+) (created|updated|deleted|replaced|unchanged)/g)].map(([, n, what]) => [what, Number(n)]),
  );
}
