/** Breadth-first over every order of what can happen: so the trace of a violation is a shortest one. */
import { isRunning, Violation } from "./deeds";
import type { Rules } from "./rules";
import { describeWorld, pack, unpack, type World } from "./state";
import { type Budget, stepsOf } from "./steps";

export interface Exploration {
  readonly states: number;
  readonly transitions: number;
  /** Longest way that things go by themselves. */
  readonly longestRun: number;
}

/** What broke, and how it came to it. */
export class Found extends Error {
  override readonly name = "Found";
  constructor(
    readonly what: string,
    readonly trace: readonly string[],
    world: World,
  ) {
    super(`${what}, after ${trace.length} steps:\n  ${trace.join("\n  ")}\n  ${describeWorld(world)}`);
  }
}

const first: World = {
  moves: [],
  reboots: 0,
  kills: 0,
  used: 1,
  hosts: [
    {
      home: "yes",
      floor: 1,
      out: undefined,
      in: [],
      tombstone: false,
      copy: { state: "run", m: 0, epoch: 1 },
      alive: true,
      disk: "durable",
      agentUp: true,
      job: undefined,
      taking: 0,
    },
    {
      home: "no",
      floor: 0,
      out: undefined,
      in: [],
      tombstone: false,
      copy: { state: "none", m: 0, epoch: 0 },
      alive: false,
      disk: "none",
      agentUp: true,
      job: undefined,
      taking: 0,
    },
  ],
};

/** @throws Found at the first broken promise */
export function explore(rules: Rules, budget: Budget): Exploration {
  const keys: string[] = [pack(first)];
  const numbers = new Map<string, number>([[keys[0] ?? "", 0]]);
  const from: number[] = [-1];
  const labels: string[] = ["start"];
  const progress: number[][] = [];
  let transitions = 0;
  const traceTo = (state: number): string[] => {
    const trace: string[] = [];
    for (let at = state; at > 0; at = from[at] ?? 0) trace.unshift(labels[at] ?? "");
    return trace;
  };
  for (let at = 0; at < keys.length; at++) {
    const world = unpack(keys[at] ?? "");
    const onward: number[] = [];
    try {
      for (const step of stepsOf(world, rules, budget)) {
        const key = pack(step.next);
        if (key === keys[at]) continue;
        transitions += 1;
        let number = numbers.get(key);
        if (number === undefined) {
          number = keys.length;
          keys.push(key);
          numbers.set(key, number);
          from.push(at);
          labels.push(step.label);
          checkState(step.next);
        }
        if (step.kind === "progress") onward.push(number);
      }
      if (onward.length === 0) checkEnd(world);
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      throw new Found(error.message, traceTo(at), world);
    }
    progress.push(onward);
  }
  return {
    states: keys.length,
    transitions,
    longestRun: longest(progress, (state) => new Found("things turn in a circle by themselves", traceTo(state), unpack(keys[state] ?? ""))),
  };
}

function checkState({ hosts, kills, reboots }: World): void {
  if (hosts.filter(isRunning).length > 1) throw new Violation("two copies run");
  if (hosts.filter(({ home, out }) => home === "yes" && out?.state !== "OPEN").length > 1) throw new Violation("two custodians");
  if (!hosts.some(({ disk }) => disk === "durable")) throw new Violation("the last complete disk is gone");
  const whole = hosts.some(({ copy }) => ["run", "frozen", "released"].includes(copy.state));
  if (!whole && kills + reboots === 0) throw new Violation("the last complete memory is gone, and no process or host died");
}

/** Where nothing goes on by itself, all must be well: one host has the VM, and it runs there or may be booted. */
function checkEnd({ hosts }: World): void {
  const custodians = hosts.filter(({ home }) => home === "yes");
  if (custodians.length !== 1) throw new Violation(`it ends with ${custodians.length} custodians`);
  for (const { home, alive, copy, out, in: all } of hosts) {
    if (out?.state === "INIT" || out?.state === "OPEN") throw new Violation(`it ends with an attempt in ${out.state}`);
    if (all.at(-1)?.state === "RESERVED") throw new Violation("it ends with a reserved copy");
    if (home === "yes" && alive && copy.state !== "run") throw new Violation(`it ends with a copy in ${copy.state}`);
    if (home !== "yes" && alive) throw new Violation("it ends with a process of a VM that went away");
  }
}

/** Longest path in the graph of what goes on by itself. @throws what `circle` makes where it has a circle */
function longest(graph: readonly (readonly number[])[], circle: (state: number) => Error): number {
  const ways = new Int32Array(graph.length);
  for (const nexts of graph) for (const next of nexts) ways[next] = (ways[next] ?? 0) + 1;
  const depth = new Int32Array(graph.length);
  const ready: number[] = [];
  for (let i = 0; i < graph.length; i++) if (ways[i] === 0) ready.push(i);
  let done = 0;
  let deepest = 0;
  for (let state = ready.pop(); state !== undefined; state = ready.pop(), done++) {
    const here = depth[state] ?? 0;
    deepest = Math.max(deepest, here);
    for (const next of graph[state] ?? []) {
      depth[next] = Math.max(depth[next] ?? 0, here + 1);
      ways[next] = (ways[next] ?? 0) - 1;
      if (ways[next] === 0) ready.push(next);
    }
  }
  if (done < graph.length) throw circle(ways.findIndex((count) => count > 0));
  return deepest;
}
