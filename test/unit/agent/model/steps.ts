/** What can happen next in the modelled world. Wherever the agent decides by a table or a function, the model asks the very same one. */
import { bit, clone } from "./deeds";
import type { Rules } from "./rules";
import { Deeds } from "./source";
import type { World } from "./state";

/** `progress`: goes on by itself when nothing more fails; `will`: somebody wants something; `fault`: the world's malice. */
export interface Step {
  readonly label: string;
  readonly kind: "progress" | "will" | "fault";
  readonly next: World;
}

export interface Budget {
  readonly moves: number;
  readonly reboots: number;
  readonly kills: number;
}

/** All that can happen next. @throws Violation */
export function stepsOf(world: World, rules: Rules, budget: Budget): Step[] {
  const steps: Step[] = [];
  const may = (label: string, kind: Step["kind"], change: (w: Deeds) => boolean): void => {
    const next = clone(world);
    if (change(new Deeds(next, rules)) !== false) steps.push({ label, kind, next });
  };
  for (const h of [0, 1] as const) {
    const host = world.hosts[h];
    const name = "AB"[h];
    if (host.agentUp) {
      agentSteps(world, h, rules, budget, (label, kind, change) => may(`${name}: ${label}`, kind, change));
      may(`${name}: agent killed`, "fault", (w) => w.crash(h));
    } else {
      may(`${name}: agent recovers`, "progress", (w) => w.recover(h, false));
      may(`${name}: agent recovers, killed half-way`, "fault", (w) => w.recover(h, true));
    }
    if (host.copy.state === "frozen" && host.alive) may(`${name}: dead man thaws`, "fault", (w) => w.thaw(h));
    if (host.alive && world.kills < budget.kills) may(`${name}: VM process killed`, "fault", (w) => w.kill(h));
    if (world.reboots < budget.reboots) may(`${name}: host reboots`, "fault", (w) => w.reboot(h));
  }
  return steps;
}

type May = (label: string, kind: Step["kind"], change: (w: Deeds) => boolean) => void;

function agentSteps(world: World, h: 0 | 1, rules: Rules, budget: Budget, may: May): void {
  const host = world.hosts[h];
  if (world.moves.length < budget.moves) may("begin", "will", (w) => w.begin(h));
  may("cold boot", "will", (w) => w.coldBoot(h));
  if (host.out?.state === "INIT" && !host.job) may("cancel", "progress", (w) => w.undo(h, false));
  if (host.out && host.out.state !== "ABORTED" && !host.job) {
    may("start", "will", (w) => w.start(h));
    may("recover an attempt without job", "progress", (w) => w.undo(h, false));
    may("recover an attempt without job, killed half-way", "fault", (w) => w.undo(h, true));
  }
  if (host.job) {
    may("job goes on", "progress", (w) => w.go(h, false));
    may("job goes on, agent killed half-way", "fault", (w) => w.go(h, true));
    may("job fails", isStuck(world, h, rules) ? "progress" : "fault", (w) => w.fail(h, true));
    may("job fails, and cannot undo", "fault", (w) => w.fail(h, false));
  }
  for (const [i, move] of world.moves.entries()) {
    const m = i + 1;
    if (move.from === h) {
      may(`hears SETTLED m${m}`, "progress", (w) => w.hear(h, m, "SETTLED", false));
      may(`hears GONE m${m}`, "progress", (w) => w.hear(h, m, "GONE", false));
      may(`hears GONE m${m}, killed half-way`, "fault", (w) => w.hear(h, m, "GONE", true));
    } else {
      may(`offered m${m}`, "will", (w) => w.offer(h, m));
      may(`FINAL m${m}`, "progress", (w) => w.final(h, m, false));
      may(`FINAL m${m}, pages follow`, "progress", (w) => w.final(h, m, true));
      may(`gives its partial guest up, m${m}`, "fault", (w) => w.giveUp(h, m, false));
      may(`gives its partial guest up, m${m}, killed half-way`, "fault", (w) => w.giveUp(h, m, true));
      may(`its last page comes, m${m}`, "progress", (w) => w.fill(h, m));
      may(`settles m${m}`, "progress", (w) => w.settle(h, m));
      may(`refuses m${m}`, "fault", (w) => w.refuse(h, m, false));
      may(`refuses m${m}, killed half-way`, "fault", (w) => w.refuse(h, m, true));
      const asks = world.hosts[1 - h]?.out;
      const waits = asks?.m === m && asks.state === "OPEN" && ["released", "none"].includes(world.hosts[1 - h]?.copy.state ?? "");
      if (move.facts & bit("OPEN")) may(`QUERY m${m}`, waits ? "progress" : "fault", (w) => w.answer(h, m, "QUERY"));
      if (move.facts & bit("OPEN")) may(`QUERY m${m}, killed half-way`, "fault", (w) => w.answer(h, m, "QUERY", true));
      const lost = waits && world.hosts[1 - h]?.copy.state === "none" && world.hosts[1 - h]?.agentUp;
      if (lost) may(`LOST m${m}`, "progress", (w) => w.answer(h, m, "LOST"));
      if (move.facts & bit("ABORTED")) may(`ABORTED m${m}`, "progress", (w) => w.answer(h, m, "ABORTED"));
      if (move.facts & bit("CLOSED")) may(`CLOSED m${m}`, "progress", (w) => w.closed(h, m));
    }
  }
}

/** A job before its release that has nobody to send to, or nothing to send: it will find out. */
function isStuck({ hosts }: World, h: 0 | 1, { sourcePhases }: Rules): boolean {
  const { job, alive, copy } = hosts[h];
  if (!job || job.resumed || copy.state === "released") return false;
  const thawed = copy.state === "run" && sourcePhases[job.phase]?.name === "release";
  return !alive || thawed || hosts[h === 0 ? 1 : 0].taking !== job.m;
}
