import { until } from "../lib/time";
import type { MoveFacts } from "../protocol/methods";
import { moveCancel, moveWatch } from "../protocol/methods";
import type { MigrationPolicy } from "../schemas/vm";
import { AgentError } from "../transport/errors";
import type { Row } from "./engine";
import { ReconcileError } from "./errors";
import type { Fleet } from "./fleet";
import { fillingTarget, finishFilling, refuseWithoutSource } from "./vmFill";
import { isPastReturn, type Observation, observe, openAttempts, overrule, relay, type Sighting } from "./vmObserve";

interface Unsettled {
  readonly fleet: Fleet;
  readonly vm: string;
  readonly resource: string;
  readonly row: Row;
  readonly observation: Observation;
  /** The host that is wanted: an attempt towards it is left alone, for move() attaches to it. Absent: only resolve doubt, as refresh does. */
  readonly wanted?: string;
  /** Its `migration` inputs. */
  readonly policy?: MigrationPolicy;
  /** The VM is to be destroyed: attempts before their release are cancelled. */
  readonly abandon?: boolean;
}

const settleMs = 60_000;

/**
 * Brings what earlier runs left unfinished to an end, as far as facts allow: relays them, cancels attempts that lead elsewhere, waits for those
 * past their point of no return. Starts nothing.
 * @throws ReconcileError where only a host that is away knows
 */
export async function settle(job: Unsettled): Promise<Observation> {
  let seen = job.observation;
  const again = async () =>
    await observe(job.fleet, job.vm, hostsOf(seen), { claim: seen.sightings.some(({ gen }) => gen !== undefined), row: job.row });
  // Each turn ends an attempt or changes a fact; there are few.
  for (let turn = 0; turn < 8; turn++) {
    if ((await relay(job.vm, seen, { query: false })) || (await overrule(job.vm, seen))) seen = await again();
    const [open] = openAttempts(seen).filter(({ fact }) => fact.peer?.host !== job.wanted || isPastReturn(fact) || isRefused(seen, fact));
    if (!open || (job.wanted === undefined && !job.abandon && !isPastReturn(open.fact))) return await quiet(job, seen, again);
    await end(job, open.source, open.fact, seen);
    seen = await again();
  }
  throw new ReconcileError(
    job.resource,
    "finish the move that an earlier run began",
    "its two sides do not come to an end",
    "next: `mobitopolo status` shows what each says; run the same command again",
  );
}

/** One attempt: undone if it may be, else awaited, else decided by the target's word. */
async function end(job: Unsettled, source: Sighting, fact: MoveFacts, seen: Observation): Promise<void> {
  const { attempt } = fact;
  job.row.progress(`finishing the move to ${fact.peer?.host ?? "another host"} that an earlier run began`);
  if (!isPastReturn(fact) && (await cancelled(job.vm, source, attempt))) return;
  const partial = fact.header === "released" ? fillingTarget(seen, attempt) : undefined;
  if (partial) return await finishFilling(job, source, partial, attempt);
  const ended = await source.reached.agent
    .call(moveWatch, { vm: job.vm, attempt }, { timeoutMs: settleMs })
    .catch((error: unknown) => (error instanceof AgentError ? undefined : Promise.reject(error)));
  if (ended && ended.fault?.running !== "in-doubt") return;
  if (await relay(job.vm, seen, { query: true })) return;
  throw new ReconcileError(
    job.resource,
    "find out where it runs",
    `the move to ${fact.peer?.host ?? "?"} passed its point of no return, and that host does not answer`,
    `The copy on ${source.host} stays frozen until it does. Next: bring ${fact.peer?.host ?? "it"} back and run the same command; if it is gone for good: mobitopolo recover`,
  );
}

/** Its target has given it up: attaching to it would lead nowhere. */
const isRefused = ({ sightings }: Observation, { attempt }: MoveFacts): boolean =>
  sightings.some(({ facts }) => facts.some((fact) => fact.attempt === attempt && fact.in === "GONE"));

/** False if the agent says that it is too late. */
async function cancelled(vm: string, source: Sighting, attempt: string): Promise<boolean> {
  try {
    await source.reached.agent.call(moveCancel, { vm, attempt });
    return true;
  } catch (error) {
    if (error instanceof AgentError) return false;
    throw error;
  }
}

/** Waits while a target that runs the guest already is still settling. */
async function quiet(job: Unsettled, seen: Observation, again: () => Promise<Observation>): Promise<Observation> {
  if (!isSettling(seen)) return seen;
  refuseWithoutSource(job.resource, seen);
  job.row.progress("settling");
  return await until(settleMs, `${job.resource} to settle`, async () => {
    const now = await again();
    await relay(job.vm, now, { query: false });
    return isSettling(now) ? undefined : now;
  });
}

const isSettling = ({ sightings }: Observation): boolean => sightings.some(({ report }) => report?.state === "settling");
const hostsOf = ({ sightings, away }: Observation): string[] => [...sightings.map(({ host }) => host), ...away.keys()];
