/** `npm run build`: TypeScript of all layers to dist/, and the agent as one file. */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { sha256OfFile, withLock, writeFileAtomic } from "./lib/cache.mjs";
import { runMain, SetupError } from "./lib/errors.mjs";
import { pinnedNode, root, withPinnedNode } from "./lib/node.mjs";
import { run } from "./lib/run.mjs";
import { step as newStep } from "./lib/ui.mjs";

const agentFile = join(root, "provider/dist/agent.cjs");
const stampFile = join(root, "provider/dist/.stamp");

/** @typedef {{ id: string, path: string }} Agent `id`: SHA-256 of the bundle, the agent's version */

/** @param {ReturnType<typeof newStep>} step @returns {Promise<Agent>} */
export async function build(step = newStep("build")) {
  return withLock(
    `build-${createHash("sha256").update(root).digest("hex").slice(0, 12)}`,
    async () => {
      const stamp = await stampOfSources();
      await compileTypes();
      await bundleAgent();
      const agent = { id: await sha256OfFile(agentFile), path: agentFile };
      await tellAssets(agent);
      await writeFileAtomic(stampFile, stamp);
      step.done(`compiled; agent ${agent.id.slice(0, 12)}`);
      return agent;
    },
    step.say,
  );
}

/** The same, but nothing is done when no source has changed since. @param {ReturnType<typeof newStep>} step @returns {Promise<Agent>} */
export async function buildIfChanged(step = newStep("build")) {
  const [was, is] = await Promise.all([readFile(stampFile, "utf8").catch(() => ""), stampOfSources()]);
  if (was !== is || !(await stat(agentFile).catch(() => null))) return build(step);
  return { id: await sha256OfFile(agentFile), path: agentFile };
}

async function compileTypes() {
  const tsc = createRequire(join(root, "package.json")).resolve("typescript/bin/tsc");
  await run(pinnedNode().path, [tsc, "-b", root], { cwd: root, env: withPinnedNode(), what: "tsc -b" });
}

async function bundleAgent() {
  const { build: esbuild } = await import("esbuild");
  await mkdir(join(root, "provider/dist"), { recursive: true });
  const { version } = JSON.parse(await readFile(join(root, "provider/package.json"), "utf8"));
  const result = await esbuild({
    entryPoints: [join(root, "provider/agent/main.ts")],
    outfile: agentFile,
    absWorkingDir: root,
    bundle: true,
    platform: "node",
    target: "node24",
    format: "cjs",
    minify: false,
    sourcemap: false,
    legalComments: "none",
    logLevel: "silent",
    metafile: true,
    define: { MOBITOPOLO_VERSION: JSON.stringify(version) },
  }).catch((error) => {
    throw new SetupError(
      `bundling the agent failed: ${error.errors?.map((e) => `${e.location?.file}:${e.location?.line} ${e.text}`).join(" | ") ?? error.message}`,
    );
  });
  const alien = Object.keys(result.metafile.inputs).filter((f) => /node_modules\/(@pulumi|ssh2)\//.test(f));
  if (alien.length) throw new SetupError(`the agent would carry ${alien[0]}`, { next: "an agent imports neither Pulumi nor ssh2" });
}

/** A new agent after `npm run build` is what the provider brings from then on. */
async function tellAssets(agent) {
  const file = join(root, "provider/dist/assets.json");
  const assets = JSON.parse(await readFile(file, "utf8").catch(() => "null"));
  if (assets) await writeFileAtomic(file, `${JSON.stringify({ ...assets, agent }, null, 2)}\n`);
}

/** Names, sizes and times of all that goes into the build: reading 200 files' facts costs milliseconds, running tsc seconds. */
async function stampOfSources() {
  const hash = createHash("sha256");
  const look = async (path) => {
    for (const entry of (await readdir(join(root, path), { withFileTypes: true }).catch(() => [])).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      if (entry.name === "dist" || entry.name === "node_modules") continue;
      const below = join(path, entry.name);
      if (entry.isDirectory()) await look(below);
      else await add(below);
    }
  };
  const add = async (path) => {
    const facts = await stat(join(root, path)).catch(() => null);
    if (facts) hash.update(`${path} ${facts.size} ${facts.mtimeMs}\n`);
  };
  for (const path of ["tsconfig.json", "tsconfig.base.json", "package-lock.json"]) await add(path);
  for (const path of ["provider", "components"]) await look(path);
  return hash.digest("hex");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  runMain(async () => {
    await build();
  });
}
