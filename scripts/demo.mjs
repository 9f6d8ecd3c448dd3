/**
 * `npm run demo`: the example follow-me on two local hosts, its handler moved there and back during a copy.
 * The last line is for programs: demo: {"moves":2,"downtimeMs":[…],…}. Exit 0 only if everything it says is as it should be.
 */
import { spawn } from "node:child_process";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { pulumiCommand } from "./lib/cli.mjs";
import { runMain, SetupError } from "./lib/errors.mjs";
import { run } from "./lib/run.mjs";
import { size, step } from "./lib/ui.mjs";
import { setup } from "./setup.mjs";

const REPO = join(dirname(fileURLToPath(import.meta.url)), "..");
const STACK = "demo";
/** The copy must outlast two moves on any machine: it pauses after each small block until it gets a line. */
const COPY = [
  "blockcopy",
  "copy",
  "--from",
  "10.2.0.1:7001",
  "--out",
  "/root/copy",
  "--block",
  "4096",
  "--pace-us",
  "30000",
  "--pace-until-line",
];
const PROBE = ["blockcopy", "probe", "10.2.0.1:7002", "--interval-ms", "1"];
const ROUTE = ["florida", "tokyo"];

const ui = step("demo");
const running = new Set();
let interrupted = false;

runMain(async () => {
  await setup();
  const pulumi = await tool();
  process.on("SIGINT", () => stop(130));
  process.on("SIGTERM", () => stop(143));
  let report;
  try {
    await bringUp(pulumi);
    report = await moveDuringCopy(pulumi);
  } finally {
    await takeDown(pulumi);
  }
  if (interrupted) return interrupted;
  process.stdout.write(`demo: ${JSON.stringify(report)}\n`);
  return isGood(report) ? 0 : 1;
});

async function bringUp(pulumi) {
  await leaveNothing(pulumi);
  await pulumi(["stack", "init", STACK, "--no-select"]);
  ui.say("pulumi up: hosts tokyo and florida; VMs contents, handler (tokyo), client (florida); two links");
  await pulumi(["config", "set", "handlerHost", "tokyo", "--stack", STACK]);
  await up(pulumi);
}

async function moveDuringCopy(pulumi) {
  const copy = guest("client", COPY);
  const probe = guest("client", PROBE);
  await Promise.all([copy.line(), probe.line()]);
  const wanted = (await guest("contents", ["sha256sum", "/srv/contents"]).text()).slice(0, 64);
  ui.say("the client copies the contents through the handler, and probes the handler 1000 times a second");

  const moves = [];
  for (const host of ROUTE) {
    const seen = probe.lines.length;
    ui.say(`pulumi config set handlerHost ${host} && pulumi up`);
    await pulumi(["config", "set", "handlerHost", host, "--stack", STACK]);
    await up(pulumi);
    // Two more windows of the probe: a gap that the move began may end after it.
    await probe.line();
    await probe.line();
    const { lastMigration, host: at } = await handler();
    if (at !== host) throw new SetupError(`the handler should be on ${host}, but is on ${at}`);
    const downtimeMs = Math.max(...probe.lines.slice(seen).map((l) => JSON.parse(l).maxGapMs));
    moves.push({ downtimeMs, bytes: lastMigration.bytes, seconds: lastMigration.seconds });
    ui.say(
      `the handler is on ${host}: ${size(lastMigration.bytes)} in ${lastMigration.seconds.toFixed(1)} s, the client saw a gap of ${downtimeMs.toFixed(1)} ms`,
    );
  }

  const during = !copy.ended;
  if (!during) ui.say("the copy ended before the second move did: nothing is shown by it");
  else ui.say("the copy goes on to its end, without pauses now");
  probe.stop();
  await copy.say("\n");
  const result = JSON.parse((await copy.all()).at(-1));
  const sum = (await guest("client", ["sha256sum", "/root/copy"]).text()).slice(0, 64);
  return {
    moves: moves.length,
    downtimeMs: moves.map((m) => round(m.downtimeMs)),
    bytes: moves.map((m) => m.bytes),
    seconds: moves.map((m) => round(m.seconds)),
    copyChecksumOk: during && sum === wanted && result.sha256 === wanted,
    connectionsKept: during && copy.code === 0 && result.connections === 1 && result.reconnects === 0,
  };
}

async function takeDown(pulumi) {
  for (const child of running) child.kill("SIGTERM");
  ui.say("pulumi destroy");
  await leaveNothing(pulumi);
  ui.done("nothing is left of it");
}

/** Removes the demo's stack with all that it has, also what an earlier run left. */
async function leaveNothing(pulumi) {
  const { stdout } = await pulumi(["stack", "ls", "--json"], { evenIfInterrupted: true });
  if (!JSON.parse(stdout).some((s) => s.name.split("/").at(-1) === STACK)) return;
  await pulumi(["destroy", "--yes", "--skip-preview", "--stack", STACK, "--non-interactive"], { evenIfInterrupted: true, show: true });
  await pulumi(["stack", "rm", "--yes", "--stack", STACK], { evenIfInterrupted: true });
}

const isGood = (report) => report.moves === ROUTE.length && report.copyChecksumOk && report.connectionsKept;
const round = (value) => Math.round(value * 100) / 100;

/** @returns what `mobitopolo status` says of the handler */
async function handler() {
  const { env } = await pulumiCommand({ cwd: REPO });
  const { stdout } = await run("node", [join(REPO, "provider/dist/cli/main.js"), "-C", REPO, "-s", STACK, "status", "--json"], {
    env,
    what: "mobitopolo status",
  });
  return JSON.parse(stdout).vms.find((vm) => vm.name === "handler");
}

const up = (pulumi) => pulumi(["up", "--yes", "--skip-preview", "--stack", STACK, "--non-interactive"], { show: true });

/** The Pulumi CLI. In a process group of its own: Ctrl-C comes to it once, from us, and we wait until it has tidied up. */
async function tool() {
  const { command, env } = await pulumiCommand({ cwd: REPO });
  return (args, { show = false, evenIfInterrupted = false } = {}) =>
    new Promise((resolve, reject) => {
      if (interrupted && !evenIfInterrupted) return reject(new SetupError("interrupted"));
      const child = spawn(command, args, { cwd: REPO, env, detached: true, stdio: ["ignore", "pipe", "pipe"] });
      if (!evenIfInterrupted) running.add(child);
      const output = { stdout: "", text: "" };
      for (const name of ["stdout", "stderr"]) {
        createInterface({ input: child[name] }).on("line", (line) => {
          output.text += `${line}\n`;
          if (name === "stdout") output.stdout += `${line}\n`;
          if (show && isWorthShowing(line)) ui.say(`  ${line.trim()}`);
        });
      }
      child.on("error", reject);
      child.on("close", (code) => {
        running.delete(child);
        if (code === 0) resolve(output);
        else reject(new SetupError(interrupted ? "interrupted" : `pulumi ${args.join(" ")} ended with ${code}:\n${output.text}`));
      });
    });
}

/** Finished rows of VMs and the lasting lines; not each row that begins. */
const isWorthShowing = (line) => /mobitopolo:Vm.* (created|updated|deleted) |\berror\b/.test(line);

/** A program in a VM, through the `mobitopolo` command. */
function guest(vm, argv) {
  const lines = [];
  const waiting = [];
  const program = { lines, ended: false, code: undefined };
  const started = pulumiCommand({ cwd: REPO }).then(({ env }) => {
    const child = spawn("node", [join(REPO, "provider/dist/cli/main.js"), "-C", REPO, "-s", STACK, "exec", "-T", vm, "--", ...argv], {
      env,
      detached: true,
      stdio: ["pipe", "pipe", "inherit"],
    });
    running.add(child);
    child.stdin.on("error", () => {});
    createInterface({ input: child.stdout }).on("line", (line) => {
      lines.push(line);
      for (const wake of waiting.splice(0)) wake();
    });
    const closed = new Promise((resolve) =>
      child.on("close", (code) => {
        running.delete(child);
        Object.assign(program, { ended: true, code });
        for (const wake of waiting.splice(0)) wake();
        resolve();
      }),
    );
    return { child, closed };
  });
  /** The next line that comes. */
  program.line = async () => {
    await started;
    if (!program.ended) await new Promise((wake) => waiting.push(wake));
    if (program.ended && program.code !== 0) throw new SetupError(`${argv[0]} ${argv[1] ?? ""} in ${vm} ended with ${program.code}`);
    return lines.at(-1);
  };
  /** All lines, when it has ended well. */
  program.all = async () => {
    await (await started).closed;
    if (program.code !== 0) throw new SetupError(`${argv[0]} ${argv[1] ?? ""} in ${vm} ended with ${program.code}`);
    return lines;
  };
  program.text = async () => (await program.all()).join("\n");
  program.say = async (text) => {
    if (!program.ended) (await started).child.stdin.write(text);
  };
  program.stop = () => started.then(({ child }) => child.kill("SIGTERM"));
  return program;
}

/** Ctrl-C: what runs is told once; the finally above takes everything down. */
function stop(code) {
  if (interrupted) return;
  interrupted = code;
  ui.say("interrupted: taking everything down");
  for (const child of running) child.kill("SIGINT");
}
