/**
 * `npm run pulumi -- ARG…`: the Pulumi CLI with the right Node, backend and passphrase. In a fresh clone it sets up what is missing,
 * and the stack `dev` is made where none is selected.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { pulumiCommand } from "./lib/cli.mjs";
import { runMain } from "./lib/errors.mjs";
import { ensurePackages } from "./lib/packages.mjs";
import { run } from "./lib/run.mjs";
import { step } from "./lib/ui.mjs";
import { setup } from "./setup.mjs";

const RUNS_THE_PROGRAM = ["up", "update", "preview", "pre", "refresh", "destroy", "watch"];
const WANTS_A_STACK = [...RUNS_THE_PROGRAM, "config", "state", "cancel", "import", "logs", "history", "console"];

runMain(async () => {
  const args = process.argv.slice(2);
  const verb = args.find((a) => !a.startsWith("-")) ?? "";
  const cwd = projectFolder();
  if (RUNS_THE_PROGRAM.includes(verb)) await setup();
  else await ensurePackages(step("npm"));
  const { command, env } = await pulumiCommand({ cwd });
  if (WANTS_A_STACK.includes(verb) && !namesStack(args)) await selectStack(command, cwd, env);
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env, stdio: "inherit" });
    // Ctrl-C reaches the CLI from the terminal; ending before it would leave it alone with its cancel.
    process.on("SIGINT", () => {});
    process.on("SIGTERM", () => child.kill("SIGTERM"));
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? (signal === "SIGINT" ? 130 : 143)));
  });
});

/** npm runs scripts in the repo's root; a project in a folder below is meant where the command was given. */
function projectFolder() {
  const given = process.env.INIT_CWD ?? process.cwd();
  for (let dir = given; dir !== dirname(dir); dir = dirname(dir)) if (existsSync(join(dir, "Pulumi.yaml"))) return dir;
  return process.cwd();
}

const namesStack = (args) =>
  Boolean(process.env.PULUMI_STACK) ||
  args.some((a) => a === "-s" || a === "--stack" || a.startsWith("--stack=") || a === "--help" || a === "-C" || a === "--cwd");

async function selectStack(command, cwd, env) {
  const { code } = await run(command, ["stack", "--show-name", "--non-interactive"], { cwd, env, ok: [0, 1, 255], what: "pulumi stack" });
  if (code !== 0)
    await run(command, ["stack", "select", "dev", "--create", "--non-interactive"], { cwd, env, what: "making the stack dev" });
}
