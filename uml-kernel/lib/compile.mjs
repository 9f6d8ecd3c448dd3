/** make, with a line of progress. */
import { readFile, stat } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { cachePath, writeFileAtomic } from "../../scripts/lib/cache.mjs";
import { run } from "../../scripts/lib/run.mjs";
import { duration } from "../../scripts/lib/ui.mjs";
import { WITHOUT } from "./tools.mjs";

/** Objects of a full build, before one has been counted. */
const USUAL_OBJECTS = 830;

/**
 * @param {import("./tree.mjs").Tree} tree @param {NodeJS.ProcessEnv} env @param {string} buildId @param {{ say(l: string): void, progress(l: string): void }} step
 * @returns {Promise<number>} objects compiled
 */
export async function compile(tree, env, buildId, step) {
  const record = cachePath("kernel", "objects.json");
  const known = JSON.parse(await readFile(record, "utf8").catch(() => "null"));
  // A tree that was built before compiles only what has changed: nobody knows how much that is.
  const usual = (await stat(join(tree.dir, "linux")).catch(() => null)) ? undefined : (known ?? USUAL_OBJECTS);
  const jobs = availableParallelism();
  const beganMs = Date.now();
  let objects = 0;
  step.say(`compiling with ${jobs} jobs`);
  const onLine = (line) => {
    if (!/^\s+(CC|AS)\s/.test(line)) return;
    objects++;
    const spentMs = Date.now() - beganMs;
    if (!usual) return step.progress(`compiling what has changed: ${objects} objects`);
    const left = objects < usual && objects > 20 ? `, about ${duration((spentMs / objects) * (usual - objects))} left` : "";
    step.progress(`compiling: ${objects} of about ${usual} objects${left}`);
  };
  await run("make", ["ARCH=um", ...WITHOUT, `-j${jobs}`, `MOBI_BUILD_ID=${buildId}`, "linux"], {
    cwd: tree.dir,
    env,
    onLine,
    what: "compiling the kernel",
  });
  if (usual && objects > usual / 2) await writeFileAtomic(record, JSON.stringify(objects));
  return objects;
}
