/** The npm packages of package-lock.json. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { withLock } from "./cache.mjs";
import { root } from "./node.mjs";
import { run } from "./run.mjs";

/** @param {{ say(l: string): void, done(l: string): void }} step installs them unless node_modules holds them already */
export async function ensurePackages(step) {
  if (await areInstalled()) return;
  await withLock("npm", async () => {
    if (await areInstalled()) return;
    step.say("installing the npm packages: about a minute");
    await run("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"], {
      cwd: root,
      what: "npm ci",
      next: "is the npm registry reachable?",
    });
    step.done("npm packages installed");
  });
}

/** npm writes down what it has laid out; a package that is optional (another platform's) may be missing from it. */
async function areInstalled() {
  const read = async (file) => JSON.parse(await readFile(join(root, file), "utf8").catch(() => "{}")).packages;
  const [wanted, held] = await Promise.all([read("package-lock.json"), read("node_modules/.package-lock.json")]);
  if (!wanted || !held) return false;
  return Object.entries(wanted).every(
    ([path, p]) => !path.startsWith("node_modules/") || p.optional || p.peer || p.link || held[path]?.version === p.version,
  );
}
