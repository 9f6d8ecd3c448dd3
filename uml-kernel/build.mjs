/**
 * `npm run kernel:build [-- --source PATH] [--fresh]`: the UML kernel, from source to a stripped static binary in the cache.
 * The binary is kept under its build id: a hash of everything that goes into it. What is there already is not built again.
 */
import { chmod, copyFile, mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { cachePath, sha256OfFile, withLock, writeFileAtomic } from "../scripts/lib/cache.mjs";
import { runMain, SetupError } from "../scripts/lib/errors.mjs";
import { isExecutable, run } from "../scripts/lib/run.mjs";
import { step as newStep, size } from "../scripts/lib/ui.mjs";
import { compile } from "./lib/compile.mjs";
import { configure, readFragments } from "./lib/config.mjs";
import { hashParts } from "./lib/hash.mjs";
import { applyPatches, readPatches } from "./lib/patches.mjs";
import { findSource, versionOf } from "./lib/source.mjs";
import { buildTools, compilerFacts } from "./lib/tools.mjs";
import { openTree } from "./lib/tree.mjs";

/** Raised when the way of building changes what comes out, which no hash of the inputs would show. */
const RECIPE = "mobitopolo kernel 2";
const here = dirname(fileURLToPath(import.meta.url));

/**
 * The kernel of this checkout, built if the cache lacks it.
 * @param {{ source?: string, fresh?: boolean, step?: ReturnType<typeof newStep> }} [options] `source`: a kernel tree or tarball; `fresh`: forget the last build's objects
 * @returns {Promise<{ path: string, id: string, buildId: string, version: string }>} `id`: SHA-256 of the file, `buildId`: what `linux --build-id` prints
 */
export async function ensureKernel(options = {}) {
  const step = options.step ?? newStep("kernel");
  const pin = JSON.parse(await readFile(join(here, "source.json"), "utf8"));
  const fragments = await readFragments(join(here, "config"));
  const patches = await readPatches(join(here, "patches"));
  const compiler = await compilerFacts();
  return withLock(
    "kernel",
    async () => {
      const source = await findSource(pin, options.source, step);
      const buildId = hashParts([RECIPE, source.id, ...fragments.map((f) => f.text), ...patches.map((p) => p.text), compiler.text]);
      const home = cachePath("kernel", buildId);
      const known = JSON.parse(await readFile(join(home, "info.json"), "utf8").catch(() => "null"));
      if (!options.fresh && known && (await isExecutable(join(home, "linux")))) {
        step.say(`Linux ${known.version}, build ${buildId.slice(0, 12)}: there already`);
        return { path: join(home, "linux"), id: known.sha256, buildId, version: known.version };
      }
      return build({ step, pin, source, fragments, patches, compiler, buildId, home, fresh: options.fresh ?? false });
    },
    step.say,
  );
}

async function build({ step, pin, source, fragments, patches, compiler, buildId, home, fresh }) {
  const startedMs = Date.now();
  const tools = await buildTools(step);
  const tree = await openTree(source, step, fresh);
  const version = await versionOf(pin, tree.dir);
  await applyPatches(tree, patches, step);
  await configure(tree, fragments, tools, step);
  const objects = await compile(tree, tools, buildId, step);
  await mkdir(home, { recursive: true });
  const built = join(home, "linux.new");
  await copyFile(join(tree.dir, "linux"), built);
  await run("strip", ["--strip-all", built], { what: "stripping the kernel" });
  await chmod(built, 0o755);
  await checkBuildId(built, buildId);
  const sha256 = await sha256OfFile(built);
  const bytes = (await readFile(built)).length;
  await rename(built, join(home, "linux"));
  const facts = {
    buildId,
    sha256,
    bytes,
    version,
    source: source.what,
    compiler: compiler.name,
    patches: patches.map((p) => p.name),
    objects,
    builtMs: Date.now(),
    seconds: Math.round((Date.now() - startedMs) / 1000),
  };
  await writeFileAtomic(join(home, "info.json"), `${JSON.stringify(facts, null, 2)}\n`);
  await forgetOldBuilds(buildId);
  step.done(`Linux ${version} with ${patches.length} patches, build ${buildId.slice(0, 12)}, ${size(bytes)}`);
  return { path: join(home, "linux"), id: sha256, buildId, version };
}

/** The id is how two hosts know that they run the same kernel: a binary that does not know its own is of no use. */
async function checkBuildId(file, buildId) {
  const { stdout } = await run(file, ["--build-id"], { what: "linux --build-id", timeoutMs: 10_000 });
  if (stdout.trim() !== buildId)
    throw new SetupError(`the built kernel says build id ${stdout.trim().slice(0, 80) || "nothing"} instead of ${buildId}`, {
      next: "see MOBI_BUILD_ID in arch/um/mobi/Makefile of the patches",
    });
}

/** Keeps the last few builds: running VMs have their own copy in their host's store. */
async function forgetOldBuilds(current) {
  const found = [];
  for (const name of await readdir(cachePath("kernel"))) {
    if (!/^[0-9a-f]{64}$/.test(name) || name === current) continue;
    const info = JSON.parse(await readFile(cachePath("kernel", name, "info.json"), "utf8").catch(() => "{}"));
    found.push({ name, builtMs: info.builtMs ?? 0 });
  }
  found.sort((a, b) => b.builtMs - a.builtMs);
  for (const { name } of found.slice(7)) await rm(cachePath("kernel", name), { recursive: true, force: true });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  runMain(async () => {
    const { values } = parseArgs({ options: { source: { type: "string" }, fresh: { type: "boolean" } } });
    console.log((await ensureKernel(values)).path);
  });
}
