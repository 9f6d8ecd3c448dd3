/**
 * `npm run bench:migrate [-- --json] [--quick] [--case NAME]… [--side ours|qemu] [--runs N]`: moves of ours and of QEMU's, alternately, seen by a peer.
 * Three hosts as network namespaces; each run has new hosts, new guests and a new link. Needs root, or unprivileged user namespaces.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpus, loadavg } from "node:os";
import { parseArgs } from "node:util";
import { mayMakeTaps } from "./support/cable";
import { CASES, type Case, QUICK, TOUCHED } from "./support/cases";
import { goalsOf } from "./support/goals";
import { isAsAsked, Lab, type LinkMeasured } from "./support/lab";
import { ours } from "./support/ours";
import { type QemuProgram, qemuSide } from "./support/qemu";
import { type CaseResult, type Result, summarize, type TouchedResult, table } from "./support/report";
import { measure, type Outcome, type Side } from "./support/side";

const FULL_RUNS = 3;
/** A measurement on a busy machine measures the machine. */
const QUIET_LOAD = 1.5;

interface Options {
  readonly json: boolean;
  readonly side: string | undefined;
  /** For all cases; undefined: each case has its number. */
  readonly runs: number | undefined;
  readonly cases: readonly Case[];
  readonly touched: readonly Case[];
}

/** What there is so far: a run that is interrupted says that much. */
const result: { machine: Result["machine"]; cases: CaseResult[]; touched: TouchedResult[] } = {
  machine: { cpus: `${cpus().length} × ${cpus()[0]?.model}`, qemu: "", taps: mayMakeTaps() },
  cases: [],
  touched: [],
};
let current: AsyncDisposableStack | undefined;
let interrupted = false;

const options = readOptions();
main().catch((error: Error) => {
  // What an interruption breaks is no news.
  if (interrupted) return;
  say(error.stack ?? error.message);
  process.exit(1);
});
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    interrupted = true;
    say(`${signal}: ending what runs`);
    void (current?.disposeAsync() ?? Promise.resolve()).finally(() => {
      print();
      process.exit(130);
    });
  });

async function main(): Promise<void> {
  const qemu = await qemuProgram();
  if (process.getuid?.() !== 0) return await asRootOfOwnNamespace();
  result.machine.qemu = `QEMU ${qemu.version}, TCG, guest kernel ${qemu.kernel.release}`;
  for (const c of options.cases) result.cases.push(...(await compare([c], qemu)));
  if (options.touched.length > 0)
    result.touched.push(...(await compare(options.touched, qemu)).map((found) => ({ touchedMib: found.load.touchMib ?? 0, ...found })));
  print();
  const wrong = [...result.cases, ...result.touched].filter(isWrong);
  for (const c of wrong)
    say(`${c.name}: a move of ours failed or damaged its guest, or could not be measured: ${JSON.stringify(c.ours.runs)}`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
}

function print(): void {
  if (interrupted && result.cases.length + result.touched.length === 0) return;
  process.stdout.write(options.json ? `${JSON.stringify({ ...result, goals: goalsOf(result) })}\n` : `${table(result)}\n`);
}

const isWrong = (c: CaseResult): boolean =>
  c.ours.guestOk === false ||
  c.ours.runs.some((run) => "failed" in run) ||
  [c.qemu, ...(c.qemuOtherSettings ?? [])].some((side) => side?.runs.some((run) => "failed" in run && run.broken === true));

/** Alternately, so that what else the machine does meets both; for the same reason cases that are held against each other, of as many runs, in turns. */
async function compare(cases: readonly Case[], program: QemuProgram): Promise<CaseResult[]> {
  const wanted = options.runs ?? cases[0]?.runs ?? FULL_RUNS;
  const seen = cases.map((c) => ({
    c,
    own: { side: ours, runs: [] as Outcome[] },
    qemu: (options.side === "ours" ? [] : c.qemu).map((settings) => ({
      settings,
      side: qemuSide(program, settings),
      runs: [] as Outcome[],
    })),
    links: [] as LinkMeasured[],
    loads: [] as number[],
  }));
  for (let run = 1; run <= wanted; run += 1)
    for (const { c, own, qemu, links, loads } of seen)
      for (const { side, runs } of options.side === "qemu" ? qemu : [own, ...qemu]) {
        say(`${c.name}: ${side.name}, run ${run} of ${wanted}`);
        loads.push(loadavg()[0] ?? 0);
        runs.push(await runOnce(side, c, links.length === 0 ? links : undefined));
      }
  return seen.map(({ c, own, qemu, links, loads }) => {
    const busiest = Math.max(...loads);
    if (busiest > QUIET_LOAD) say(`${c.name}: the machine was busy (load up to ${busiest.toFixed(1)}): its gaps say more about that`);
    return summarize(c, { ours: own.runs, qemu }, links, loads);
  });
}

async function runOnce(side: Side, c: Case, links: LinkMeasured[] | undefined): Promise<Outcome> {
  const undo = new AsyncDisposableStack();
  current = undo;
  try {
    const lab = undo.use(await Lab.make(c.link));
    if (links) {
      const found = await lab.measure();
      if (!isAsAsked(c.link, found)) say(`  the link is not as it should be, the machine may be too busy: ${JSON.stringify(found)}`);
      links.push(found);
    }
    const outcome = await measure(side, undo, lab, c);
    say(
      `  ${"failed" in outcome ? outcome.failed : `gap ${outcome.gapMs.toFixed(1)} ms, ${outcome.totalS.toFixed(2)} s, ${(outcome.bytes / 1e6).toFixed(2)} MB${outcome.guestOk ? "" : `, ${outcome.why}`}`}`,
    );
    return outcome;
  } catch (error) {
    if (interrupted) throw error;
    // The other cases may have more luck; an hour's work is not thrown away.
    say(`  ${error instanceof Error ? error.stack : error}`);
    return { failed: error instanceof Error ? error.message : String(error), broken: true, afterS: 0, bytes: 0 };
  } finally {
    await undo.disposeAsync();
    current = undefined;
  }
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      json: { type: "boolean", default: false },
      quick: { type: "boolean", default: false },
      case: { type: "string", multiple: true },
      runs: { type: "string" },
      side: { type: "string" },
    },
  });
  const all = [...CASES, ...TOUCHED];
  const wanted = values.case ?? (values.quick ? QUICK : all.map((c) => c.name));
  // A part of a name will do.
  const unknown = wanted.filter((name) => !all.some((c) => c.name.startsWith(name)));
  if (unknown.length > 0) throw new Error(`no case ${unknown.join(", ")}; there are: ${all.map((c) => c.name).join("; ")}`);
  const chosen = (c: Case): boolean => wanted.some((name) => c.name.startsWith(name));
  const runs = values.runs !== undefined ? Number(values.runs) : values.quick ? 1 : undefined;
  if (runs !== undefined && (!Number.isInteger(runs) || runs < 1 || runs > 20)) throw new Error("--runs: 1 to 20");
  return { json: values.json, side: values.side, runs, cases: CASES.filter(chosen), touched: TOUCHED.filter(chosen) };
}

/** As an ordinary user: again, as the root of a user namespace, in which network namespaces may be made. */
async function asRootOfOwnNamespace(): Promise<void> {
  const again = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn("unshare", ["--user", "--map-root-user", ...again], { stdio: "inherit" });
  const ended = once(child, "exit");
  current = new AsyncDisposableStack();
  current.defer(async () => {
    child.kill("SIGTERM");
    await ended;
  });
  const [code] = await ended;
  process.exitCode = code ?? 1;
}

async function qemuProgram(): Promise<QemuProgram> {
  const scripts: { qemuProgram(options: { say(line: string): void }): Promise<QemuProgram> } = await import("../../scripts/lib/qemu.mjs");
  return await scripts.qemuProgram({ say });
}

function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}
