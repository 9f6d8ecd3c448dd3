/** Finds the Pulumi project of the current folder and the state of its selected stack. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { parse } from "yaml";
import { z } from "zod";
import { CliError } from "./errors";

const projectFile = z.object({ name: z.string(), backend: z.object({ url: z.string() }).optional() });

/** The parts of a stack's checkpoint that are of use here (apitype.DeploymentV3). */
export const deployment = z.object({
  resources: z
    .array(
      z.object({ type: z.string(), urn: z.string(), id: z.string().optional(), outputs: z.record(z.string(), z.unknown()).optional() }),
    )
    .optional(),
});
export type Deployment = z.infer<typeof deployment>;

/** The state of one stack and where it came from. */
export interface StackState {
  readonly project: string;
  readonly stack: string;
  readonly deployment: Deployment;
}

interface Project {
  readonly file: string;
  readonly name: string;
  readonly backendUrl?: string;
}

/**
 * The selected stack's state. A local backend is read directly (no CLI, no passphrase is needed for what we read); for any other the Pulumi CLI on PATH exports it.
 * @throws CliError `no-project` or `no-stack`
 */
export async function stackState(cwd: string, wanted?: string): Promise<StackState> {
  const project = findProject(cwd);
  const url = process.env.PULUMI_BACKEND_URL ?? project.backendUrl;
  if (url?.startsWith("file:")) return localState(project, backendFolder(url, dirname(project.file)), wanted);
  return exportedState(project, wanted);
}

function findProject(cwd: string): Project {
  for (let folder = resolve(cwd); ; folder = dirname(folder)) {
    for (const file of ["Pulumi.yaml", "Pulumi.yml"].map((n) => join(folder, n))) {
      if (!existsSync(file)) continue;
      const { name, backend } = projectFile.parse(parse(readFileSync(file, "utf8")));
      return { file, name, ...(backend && { backendUrl: backend.url }) };
    }
    if (folder === dirname(folder)) {
      throw new CliError(
        "no-project",
        `no Pulumi.yaml in ${cwd} or above it`,
        "go to a Pulumi project's folder, or name hosts by --hosts FILE or --local NAME",
      );
    }
  }
}

/** `file://./.pulumi-state` is relative to the project's folder, `file://~` and `file:///abs` are what they say. */
function backendFolder(url: string, projectFolder: string): string {
  const path = url.slice("file://".length);
  if (path.startsWith("~")) return join(homedir(), path.slice(1));
  return path.startsWith("/") ? fileURLToPath(url) : resolve(projectFolder, path);
}

function localState(project: Project, backend: string, wanted: string | undefined): StackState {
  const folder = join(backend, ".pulumi", "stacks", project.name);
  const stacks = existsSync(folder)
    ? readdirSync(folder)
        .filter((f) => f.endsWith(".json"))
        .map((f) => basename(f, ".json"))
    : [];
  const stack = wanted ?? selectedStack(project, stacks);
  if (stack === undefined || !stacks.includes(stack)) {
    const known = stacks.length === 0 ? "it has none" : `it has ${stacks.join(", ")}`;
    throw new CliError(
      "no-stack",
      stack === undefined
        ? `project ${project.name} has no selected stack; ${known}`
        : `project ${project.name} has no stack ${stack}; ${known}`,
      stacks.length === 0 ? "bring one up first: pulumi up" : "choose one: --stack NAME",
    );
  }
  const checkpoint = z
    .object({ checkpoint: z.object({ latest: deployment.nullish() }) })
    .parse(JSON.parse(readFileSync(join(folder, `${stack}.json`), "utf8")));
  return { project: project.name, stack, deployment: checkpoint.checkpoint.latest ?? {} };
}

/** The stack that `pulumi stack select` noted in PULUMI_HOME, or the only one there is. */
function selectedStack(project: Project, stacks: readonly string[]): string | undefined {
  if (process.env.PULUMI_STACK) return process.env.PULUMI_STACK;
  if (stacks.length === 1) return stacks[0];
  const key = createHash("sha1").update(realpathSync(project.file)).digest("hex");
  const settings = pulumiHomes()
    .map((home) => join(home, "workspaces", `${project.name}-${key}-workspace.json`))
    .find((file) => existsSync(file));
  if (settings === undefined) return undefined;
  const { stack } = z.object({ stack: z.string().optional() }).parse(JSON.parse(readFileSync(settings, "utf8")));
  return stack === undefined ? undefined : basename(stack);
}

/** The CLI that `npm run pulumi` sets up has a home of its own in the project's cache. */
function pulumiHomes(): string[] {
  if (process.env.PULUMI_HOME) return [process.env.PULUMI_HOME];
  const cache = process.env.MOBITOPOLO_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "mobitopolo");
  return [join(cache, "pulumi-home"), join(homedir(), ".pulumi")];
}

async function exportedState(project: Project, wanted: string | undefined): Promise<StackState> {
  const args = ["stack", "export", "--cwd", dirname(project.file), ...(wanted === undefined ? [] : ["--stack", wanted])];
  try {
    const { stdout } = await promisify(execFile)("pulumi", args, { maxBuffer: 256 * 1024 * 1024 });
    const exported = z.object({ deployment: deployment.nullish() }).parse(JSON.parse(stdout));
    return { project: project.name, stack: wanted ?? "(selected)", deployment: exported.deployment ?? {} };
  } catch (cause) {
    throw new CliError(
      "no-stack",
      `the stack's state could not be read by \`pulumi ${args.join(" ")}\``,
      "see that this command works, or name hosts by --hosts FILE",
      { cause },
    );
  }
}
