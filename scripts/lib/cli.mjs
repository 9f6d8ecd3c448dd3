/** The Pulumi CLI: one on PATH, else the cache, else Pulumi's release, else built from its published Go modules. */
import { createWriteStream } from "node:fs";
import { chmod, copyFile, cp, mkdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { cachePath, makeDirAtomic, withLock } from "./cache.mjs";
import { SetupError } from "./errors.mjs";
import { root, withPinnedNode } from "./node.mjs";
import { isExecutable, run, which } from "./run.mjs";
import { step as newStep, size } from "./ui.mjs";

const MODULE = "github.com/pulumi/pulumi/pkg/v3";
const hostDir = join(root, "scripts/pulumi-language-nodejs");
const goDir = join(root, "scripts/pulumi-cli");

/**
 * How to run Pulumi from a script or test. Sets the CLI up where it is missing.
 * @param {{ cwd?: string, say?: (line: string) => void }} [options] `cwd`: where it will run (for the state folder of its Pulumi.yaml)
 * @returns {Promise<{ command: string, env: NodeJS.ProcessEnv }>}
 */
export async function pulumiCommand({ cwd = process.cwd(), say } = {}) {
  const command = await ensureCli(say ? { say, progress: say, done: say } : undefined);
  await makeStateFolder(cwd);
  const env = withPinnedNode();
  env.PATH = `${dirname(command)}:${env.PATH}`;
  // The local backend encrypts secrets with a passphrase: empty unless the user has one.
  if (env.PULUMI_CONFIG_PASSPHRASE === undefined && !env.PULUMI_CONFIG_PASSPHRASE_FILE) env.PULUMI_CONFIG_PASSPHRASE = "";
  env.PULUMI_SKIP_UPDATE_CHECK ??= "true";
  env.MOBITOPOLO_ROOT = root;
  if (command.startsWith(cachePath())) env.PULUMI_HOME ??= cachePath("pulumi-home");
  return { command, env };
}

/** @returns {Promise<string>} the version we pin, as "3.259.0": that of the Go module */
async function pinnedVersion() {
  const text = await readFile(join(goDir, "go.mod"), "utf8");
  return new RegExp(`${MODULE} v([\\d.]+)`).exec(text)[1];
}

/** @param {ReturnType<typeof newStep>} [step] @returns {Promise<string>} the absolute path of `pulumi` */
export async function ensureCli(step = newStep("pulumi")) {
  const version = await pinnedVersion();
  const installed = await which("pulumi");
  if (installed && !installed.startsWith(cachePath()) && (await isUsable(installed, version, step))) return installed;
  const dir = cachePath("pulumi", version);
  const command = join(dir, "pulumi");
  const ready = async () => (await isExecutable(command)) && (await hostIsCurrent(dir));
  if (await ready()) return command;
  return withLock(
    "pulumi",
    async () => {
      if (await ready()) return command;
      if (!(await isExecutable(command))) await install(dir, version, step);
      await addHosts(dir);
      return command;
    },
    step.say,
  );
}

async function isUsable(file, version, step) {
  const { stdout } = await run(file, ["version"], {
    what: "pulumi version",
    timeoutMs: 20_000,
    env: { ...process.env, PULUMI_SKIP_UPDATE_CHECK: "true" },
  }).catch(() => ({ stdout: "" }));
  const major = /^v?(\d+)\./.exec(stdout.trim())?.[1];
  if (major === version.split(".")[0]) return true;
  step.say(`${file} is ${stdout.trim() || "not usable"}, not version ${version.split(".")[0]}: not used`);
  return false;
}

async function install(dir, version, step) {
  try {
    await downloadRelease(dir, version, step);
  } catch (error) {
    step.say(`Pulumi's release ${version} can't be had (${error.cause?.code ?? error.message}): building it from its Go modules`);
    await buildFromModules(dir, version, step);
  }
}

async function downloadRelease(dir, version, step) {
  const url = `https://get.pulumi.com/releases/sdk/pulumi-v${version}-linux-x64.tar.gz`;
  const response = await fetch(url, { signal: AbortSignal.timeout(15 * 60_000) });
  if (!response.ok || !response.body) throw new SetupError(`${url} answered ${response.status}`);
  const total = Number(response.headers.get("content-length") ?? 0);
  await makeDirAtomic(dir, async (temporary) => {
    const file = join(temporary, "release.tar.gz");
    let bytes = 0;
    const body = Readable.fromWeb(response.body).on("data", (chunk) => {
      bytes += chunk.length;
      step.progress(`fetching Pulumi ${version}: ${size(bytes)} of ${size(total)}`);
    });
    await pipeline(body, createWriteStream(file));
    await run(
      "tar",
      [
        "-xzf",
        file,
        "--strip-components=1",
        "-C",
        temporary,
        "pulumi/pulumi",
        "pulumi/pulumi-language-nodejs",
        "pulumi/pulumi-resource-pulumi-nodejs",
      ],
      { what: "unpacking Pulumi" },
    );
    await rm(file);
  });
  step.done(`Pulumi ${version}, release`);
}

/** The module's own sums (go.sum) check what is fetched; module and build caches go with the build, they are 3 GB. */
async function buildFromModules(dir, version, step) {
  const go = await which("go", `${process.env.PATH}:/usr/local/go/bin:/usr/lib/go/bin`);
  if (!go)
    throw new SetupError(`neither Pulumi ${version} nor Go to build it is here`, {
      next: "install Pulumi (pulumi.com/docs/install) or Go, and run this again",
    });
  const scratch = cachePath("pulumi", `${version}.build`);
  await rm(scratch, { recursive: true, force: true });
  await mkdir(scratch, { recursive: true });
  const env = {
    ...process.env,
    CGO_ENABLED: "0",
    GOFLAGS: "-modcacherw -mod=readonly -buildvcs=false",
    GOTOOLCHAIN: "local",
    GOWORK: "off",
    GOTMPDIR: scratch,
    GOMODCACHE: join(scratch, "mod"),
    GOCACHE: join(scratch, "build"),
  };
  const ldflags = `-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v${version}`;
  try {
    let packages = 0;
    let modules = 0;
    const onLine = (line) => {
      if (line.startsWith("go: downloading")) step.progress(`fetching Go modules: ${++modules}`);
      else if (/^[\w.-]+(\/|$)/.test(line)) step.progress(`compiling: ${++packages} of about ${USUAL_PACKAGES} packages`);
    };
    step.say("building Pulumi: 3 to 5 minutes on 2 cores");
    const args = [
      "build",
      "-v",
      "-trimpath",
      "-tags",
      "osusergo,grpcnotrace",
      "-ldflags",
      ldflags,
      "-o",
      join(scratch, "pulumi"),
      `${MODULE}/cmd/pulumi`,
    ];
    await run(go, args, { cwd: goDir, env, onLine, what: "building Pulumi", next: "is the Go module proxy reachable?" });
    await mkdir(dir, { recursive: true });
    await rename(join(scratch, "pulumi"), join(dir, "pulumi"));
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  step.done(`Pulumi ${version}, built from its Go modules`);
}
const USUAL_PACKAGES = 1650;

/** A release brings its own hosts; beside our own build go the small language host and the SDK's starter of dynamic providers. */
async function addHosts(dir) {
  const starter = "pulumi-resource-pulumi-nodejs";
  if (!(await isExecutable(join(dir, starter)))) {
    await copyFile(join(root, "node_modules/@pulumi/pulumi", starter), join(dir, starter));
    await chmod(join(dir, starter), 0o755);
  }
  if (!(await hostIsCurrent(dir))) await cp(hostDir, dir, { recursive: true });
}

async function hostIsCurrent(dir) {
  const text = (d) => readFile(join(d, "host.mjs"), "utf8").catch(() => undefined);
  if ((await text(dir)) === undefined) return isExecutable(join(dir, "pulumi-language-nodejs"));
  return (await text(dir)) === (await text(hostDir));
}

/** A `file://./…` backend wants its folder to be there. */
async function makeStateFolder(cwd) {
  for (let dir = cwd; ; dir = dirname(dir)) {
    const text = await readFile(join(dir, "Pulumi.yaml"), "utf8").catch(() => undefined);
    const url = text && /^\s*url:\s*["']?file:\/\/(\.\/[^"'\s]*)/m.exec(text)?.[1];
    if (url) await mkdir(join(dir, url), { recursive: true });
    if (text !== undefined || dirname(dir) === dir) return;
  }
}
