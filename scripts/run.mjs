/** `node scripts/run.mjs FILE ARG…`: set-up, then the file (TypeScript or JavaScript) under the pinned Node. */
import { spawn } from "node:child_process";
import { runMain, SetupError } from "./lib/errors.mjs";
import { pinnedNode, root, withPinnedNode } from "./lib/node.mjs";
import { setup } from "./setup.mjs";

runMain(async () => {
  const [file, ...args] = process.argv.slice(2);
  if (!file) throw new SetupError("no file to run");
  await setup();
  return passThrough(pinnedNode().path, ["--import", "tsx", file, ...args]);
});

/** Runs a program on our own terminal; signals reach it and its end is ours. @returns {Promise<number>} */
function passThrough(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, env: withPinnedNode(), stdio: "inherit" });
    for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? (signal === "SIGINT" ? 130 : 143)));
  });
}
