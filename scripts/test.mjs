/**
 * `npm test [-- STAGE… [--grep WORD] [--seed N]]`: set-up, then every stage in order; ends with the plain line `N passed, N failed`.
 * A skipped test fails, and so does a stage without any.
 */
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { runMain, SetupError } from "./lib/errors.mjs";
import { pinnedNode, root, withPinnedNode } from "./lib/node.mjs";
import { duration, step } from "./lib/ui.mjs";
import { setup } from "./setup.mjs";

/** A stage that hangs must not take the whole run with it: twice what the longest takes on two cores. */
const STAGE_LIMIT_MS = 40 * 60_000;

const require = createRequire(join(root, "package.json"));
/** Cheap ones first: a fault is found as early as it can be. */
const STAGES = {
  lint: () =>
    check("lint", ["node_modules/.bin/biome", "check", "."]).then((c) => merge(c, check("lint", [process.execPath, "scripts/lint.mjs"]))),
  types: () => check("types", [process.execPath, require.resolve("typescript/bin/tsc"), "-p", "test"]),
  unit: () => mocha("unit"),
  contract: () => mocha("contract"),
  kernel: () => mocha("kernel"),
  e2e: () => mocha("e2e"),
  fuzz: () => mocha("fuzz"),
  faults: () => mocha("faults"),
  bench: () => check("bench", [pinnedNode().path, "--import", "tsx", "test/bench/migrate.ts", "--quick"]),
};

const { values, positionals } = parseArgs({ allowPositionals: true, options: { grep: { type: "string" }, seed: { type: "string" } } });
// Of the stages that go by chance: the same again.
if (values.seed !== undefined) process.env.MOBITOPOLO_SEED = values.seed;

runMain(async () => {
  const wrong = positionals.filter((p) => !(p in STAGES));
  if (wrong.length) throw new SetupError(`no stage ${wrong.join(", ")}`, { next: `there are ${Object.keys(STAGES).join(", ")}` });
  await setup({ sshd: true });
  let total = { passed: 0, failed: 0 };
  const summary = [];
  const failures = [];
  for (const [name, stage] of Object.entries(STAGES)) {
    if (positionals.length && !positionals.includes(name)) continue;
    const beganMs = Date.now();
    step("test").say(`${name} …`);
    const counts = await stage();
    total = { passed: total.passed + counts.passed, failed: total.failed + counts.failed };
    for (const failure of counts.failures ?? []) failures.push(`${name}: ${failure}`);
    summary.push(
      `${name.padEnd(8)} ${String(counts.passed).padStart(5)} passed ${String(counts.failed).padStart(3)} failed   ${duration(Date.now() - beganMs)}`,
    );
  }
  // Once more at the end: of a long run's output often only the end is kept.
  for (const failure of failures) console.log(`\n${failure}`);
  console.log(`\n${summary.join("\n")}\n\n${total.passed} passed, ${total.failed} failed`);
  return total.failed === 0 ? 0 : 1;
});

/** A program whose exit code is the result: counts as one test. */
async function check(what, [command, ...args]) {
  const code = await passThrough(command, args);
  if (code !== 0) console.error(`${what}: ${args[0]} ended with ${code}`);
  return code === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };
}

const merge = async (a, later) => {
  const b = await later;
  return { passed: a.passed + b.passed, failed: a.failed + b.failed };
};

async function mocha(name) {
  const dir = await mkdtemp(join(tmpdir(), "mobitopolo-test-"));
  const file = join(dir, "counts.json");
  try {
    const args = [
      require.resolve("mocha/bin/mocha.js"),
      "--reporter",
      join(root, "scripts/lib/counting-reporter.cjs"),
      `test/${name}/**/*.test.ts`,
    ];
    const code = await passThrough(pinnedNode().path, values.grep ? [...args, "--grep", values.grep] : args, {
      MOBITOPOLO_TEST_COUNTS: file,
    });
    const stats = JSON.parse(await readFile(file, "utf8").catch(() => "null"));
    if (!stats) return { passed: 0, failed: 1 };
    // A pending test is one that was not run: never a pass.
    const failed = stats.failures + stats.pending;
    const nothing = stats.tests === 0 && !values.grep;
    if (nothing) console.error(`test/${name} ran no test`);
    return { passed: stats.passes, failed: failed || (code !== 0 || nothing ? 1 : 0), failures: stats.failed };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** @returns {Promise<number>} the exit code; 1 for an end by a signal, ours at the stage's limit included */
function passThrough(command, args, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, env: { ...withPinnedNode(), ...env }, stdio: ["ignore", "inherit", "inherit"] });
    for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => child.kill(signal));
    const limit = setTimeout(() => {
      console.error(`${args[0]}: not ended after ${duration(STAGE_LIMIT_MS)}, killed`);
      child.kill("SIGKILL");
    }, STAGE_LIMIT_MS);
    child.on("error", reject);
    child.on("close", (code) => {
      clearTimeout(limit);
      resolve(code ?? 1);
    });
  });
}
