/** `npm run test:faults -- [--moves N] [--seed S] [--fault NAME] [--point NAME] [--json]`: moves of a VM, each with one fault in it. Ctrl-C ends it after a move. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { defaultAssets } from "../../provider/lib/assets";
import { messageOf } from "../../provider/lib/errors";
import { agentProgram } from "../contract/support/agents";
import { chooseSeed, Random } from "../fuzz/support/random";
import { type Fault, faults, type Point } from "./faults";
import { World } from "./support/scene";
import { type Turn, turn } from "./support/turn";

const inside = "MOBITOPOLO_FAULTS_INSIDE";
const kinds = ["twoCopies", "lostGuests", "corruptions", "unrecovered"] as const;

/** A mount namespace of our own, for disks that can be filled; an ordinary user gets a user namespace for it. */
async function enterNamespace(): Promise<number> {
  const asRoot = process.getuid?.() === 0;
  const args = [
    ...(asRoot ? [] : ["--user", "--map-root-user"]),
    "--mount",
    process.execPath,
    ...process.execArgv,
    ...process.argv.slice(1),
  ];
  // A group of its own: Ctrl-C is for this program, not for hosts and engines in the middle of a move.
  const child = spawn("unshare", args, { stdio: "inherit", detached: true, env: { ...process.env, [inside]: "1", MOBITOPOLO_HOLDS: "1" } });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  return await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? 1));
  });
}

/** Every fault comes by before one comes again; its point is chosen. */
function* plan(moves: number, random: Random, only: { fault?: string | undefined; point?: string | undefined }): Generator<[Fault, Point]> {
  const wanted = faults.filter(
    ({ name, points }) => (only.fault ?? name) === name && points.some((point) => (only.point ?? point) === point),
  );
  if (wanted.length === 0) throw new Error(`no such fault; there are ${faults.map(({ name }) => `"${name}"`).join(", ")}`);
  let left: Fault[] = [];
  for (let i = 0; i < moves; i++) {
    if (left.length === 0) left = [...wanted];
    const [fault] = left.splice(random.below(left.length), 1);
    if (fault) yield [fault, random.of(fault.points.filter((point) => (only.point ?? point) === point))];
  }
}

async function main(): Promise<number> {
  const options = { moves: { type: "string" }, seed: { type: "string" }, fault: { type: "string" }, point: { type: "string" } } as const;
  const { values } = parseArgs({ options: { ...options, json: { type: "boolean" } } });
  const moves = Number(values.moves ?? 12);
  const random = new Random(chooseSeed("faults"));
  const agent = await agentProgram();
  const id = createHash("sha256").update(readFileSync(agent)).digest("hex");
  // A bundle that the tests make calls itself 0.0.0: as an older one it would be replaced by each run.
  const world = await World.make({ ...defaultAssets(), version: "0.0.0", agent: { id, path: agent } });
  const turns: Turn[] = [];
  let isInterrupted = false;
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.on(signal, () => {
      if (!isInterrupted) console.error(`${signal}: ends after this move`);
      isInterrupted = true;
    });
  try {
    for (const [fault, point] of plan(moves, random, values)) {
      if (isInterrupted) break;
      const done = await turn(world, fault, point);
      turns.push(done);
      report(turns.length, done);
      if (kinds.some((kind) => done[kind].length > 0)) for (const host of world.hosts) tail(host.name, host.log());
      // A world that did not recover says nothing about the next fault.
      if (done.unrecovered.length > 0 || done.lostGuests.length > 0) break;
    }
  } catch (error) {
    // The test itself failed, not a move: what was found so far is told all the same.
    for (const host of world.hosts) tail(host.name, host.log());
    console.error(error instanceof Error ? error.stack : messageOf(error));
  } finally {
    await world[Symbol.asyncDispose]();
  }
  const counts = Object.fromEntries(kinds.map((kind) => [kind, turns.filter((one) => one[kind].length > 0).length]));
  const result = { moves: turns.length, ...counts, byFault: summary(turns) };
  if (values.json) console.log(JSON.stringify(result));
  else console.table(result.byFault);
  return turns.length === moves && kinds.every((kind) => counts[kind] === 0) ? 0 : 1;
}

/** Of each fault: how often, how often the move succeeded all the same, and what it cost. */
function summary(turns: readonly Turn[]): Record<string, object> {
  const names = [...new Set(turns.map(({ fault }) => fault))].sort();
  return Object.fromEntries(
    names.map((name) => {
      const own = turns.filter(({ fault }) => fault === name);
      const count = (of: (one: Turn) => boolean): number => own.filter(of).length;
      return [
        name,
        {
          moves: own.length,
          moved: count(({ first }) => first === "moved"),
          ramLost: count(({ ramLost }) => ramLost),
          rolledBack: count(({ rolledBack }) => rolledBack),
          points: own.map(({ point }) => point).join(" "),
          seconds: Math.round(own.reduce((sum, { seconds }) => sum + seconds, 0)),
        },
      ];
    }),
  );
}

function report(number: number, { fault, point, first, seconds, ...found }: Turn): void {
  const cost = [found.ramLost && "RAM lost", found.rolledBack && "rolled back"].filter(Boolean).join(", ");
  console.error(`${number}: ${fault} at ${point}: ${first}${cost && `; ${cost}`} (${seconds.toFixed(1)} s)`);
  for (const kind of kinds) for (const what of found[kind]) console.error(`   ${kind}: ${what}`);
}

function tail(name: string, log: string): void {
  console.error(`--- the agent of ${name}:\n${log.split("\n").slice(-40).join("\n")}`);
}

(process.env[inside] ? main() : enterNamespace()).then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    console.error(error instanceof Error ? error.stack : messageOf(error));
    process.exitCode = 1;
  },
);
