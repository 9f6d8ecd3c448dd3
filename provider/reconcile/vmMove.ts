import { randomBytes } from "node:crypto";
import { messageOf } from "../lib/errors";
import {
  type MoveNeeds,
  type MovePrediction,
  type MoveProgress,
  moveBegin,
  moveCancel,
  moveOffer,
  movePlan,
  moveProgress,
  moveStart,
  moveWatch,
} from "../protocol/methods";
import type { LastMigration, MigrationPolicy } from "../schemas/vm";
import type { Reached } from "../transport/connect";
import { isAway } from "../transport/errors";
import type { Row } from "./engine";
import { ReconcileError } from "./errors";
import { type Blob, ensureBlobs } from "./vmBlobs";

export interface Move {
  /** As a person knows it, as "VM handler". */
  readonly resource: string;
  readonly vm: string;
  readonly gen: number;
  readonly policy: MigrationPolicy;
  readonly source: Reached;
  readonly target: Reached;
  /** Numeric address where the target listens. */
  readonly targetAddress: string;
  readonly blobs: readonly Blob[];
  readonly others: readonly (() => Promise<Reached>)[];
  readonly row: Row;
  /** Hears of each step of the job, where text on the row is not enough. */
  readonly onProgress?: (progress: MoveProgress) => void;
  readonly onPrediction?: (prediction: MovePrediction) => void;
}

/** Where the guest is when a move has not succeeded. */
export class MoveFailure extends ReconcileError {
  constructor(
    move: Move,
    reason: string,
    readonly running: "source" | "target" | "in-doubt",
    next: string,
    options?: ErrorOptions,
  ) {
    super(move.resource, `move it from ${move.source.agent.host} to ${move.target.agent.host}`, reason, next, options);
  }
}

/**
 * Moves a running VM. All of it is a job of the source's agent; here it is prepared and watched. Repeating it finds the same attempt again.
 * @throws MoveFailure, saying where the guest runs
 */
export async function move(job: Move): Promise<LastMigration> {
  const { vm, gen, source, target } = job;
  job.row.progress(`preflight: ${source.agent.host} → ${target.agent.host}`);
  await foresee(job);
  const { needs } = await source.agent.call(moveBegin, { vm, gen, to: { host: target.agent.host, agentId: target.agent.hello.agentId } });
  try {
    await prepare(job, needs);
  } catch (error) {
    await cancel(job, needs.attempt);
    throw new MoveFailure(job, messageOf(error), "source", `It runs on ${source.agent.host} as before.`, { cause: error });
  }
  const end = await watch(job, needs.attempt);
  if (end.phase === "done" && end.result) return end.result;
  const running = end.fault?.running ?? "in-doubt";
  throw new MoveFailure(job, end.fault?.message ?? end.result?.error ?? "the agent did not say why", running, whereabouts(job, running));
}

/** What it will come to, said before it begins. Only a service: an older agent, or one that works at this very move already, does not tell. */
async function foresee({ vm, policy, source, target, row, onPrediction }: Move): Promise<void> {
  try {
    const to = { host: target.agent.host, agentId: target.agent.hello.agentId };
    const { prediction } = await source.agent.call(movePlan, { vm, to, policy }, { timeoutMs: 10_000 });
    row.say(predictionText(to.host, prediction));
    onPrediction?.(prediction);
  } catch (error) {
    if (isAway(error)) throw error;
  }
}

/** Before anything changes for the guest: the target has all that it needs, and waits. */
async function prepare(job: Move, needs: MoveNeeds): Promise<void> {
  const { vm, source, target, targetAddress: address } = job;
  const wanted = new Set([needs.spec.imageId, needs.spec.kernelId]);
  const known = new Map(job.blobs.map((blob) => [blob.id, blob]));
  const blobs: Blob[] = [...wanted].map((id) => known.get(id) ?? { id, what: id === needs.spec.imageId ? "image" : "kernel" });
  await ensureBlobs(job.resource, target, blobs, [async () => source, ...job.others], job.row);
  // Handed to both agents over SSH or a socket of the user's own; it opens the migration stream of this attempt and no other.
  const key = randomBytes(32).toString("hex");
  const offer = await target.agent.call(moveOffer, { needs, key }, { timeoutMs: 60_000 });
  if (offer.missing.length > 0)
    throw new ReconcileError(
      job.resource,
      `prepare ${target.agent.host}`,
      `its store lost ${offer.missing.join(", ")} meanwhile`,
      "run the same command again",
    );
  await source.agent.call(moveStart, {
    vm,
    attempt: needs.attempt,
    key,
    policy: job.policy,
    target: { host: target.agent.host, address, port: offer.port, journalId: offer.journalId },
    ...(source.agent.endpoint.limits?.moves !== undefined && { atOnce: source.agent.endpoint.limits.moves }),
  });
}

async function cancel(job: Move, attempt: string): Promise<void> {
  try {
    await job.source.agent.call(moveCancel, { vm: job.vm, attempt });
  } catch (error) {
    // Nothing was started, so the source's journal says INIT: the next run's claim makes the agent drop it.
    if (!isAway(error)) job.row.warn(`the prepared move could not be cancelled: ${messageOf(error)}`);
  }
}

async function watch(job: Move, attempt: string): Promise<MoveProgress> {
  const { source, vm, row } = job;
  using _progress = source.agent.on(moveProgress, (progress) => {
    if (progress.vm !== vm || progress.attempt !== attempt) return;
    row.progress(progressText(progress));
    job.onProgress?.(progress);
  });
  try {
    return await source.agent.call(moveWatch, { vm, attempt }, { timeoutMs: 0 });
  } catch (error) {
    throw new MoveFailure(job, messageOf(error), "in-doubt", whereabouts(job, "in-doubt"), { cause: error });
  }
}

function whereabouts({ source, target }: Move, running: "source" | "target" | "in-doubt"): string {
  switch (running) {
    case "source":
      return `It runs on ${source.agent.host} as before.`;
    case "target":
      return `It runs on ${target.agent.host}.`;
    case "in-doubt":
      return `The agents go on with it by themselves. Next: run \`pulumi up\` again; it finds out and finishes.`;
  }
}

/** One line of a move under way. The first word is its phase. */
export function progressText({ phase, round, bytesSent, pagesLeft, downtimeMs, ahead, guestShare }: MoveProgress): string {
  if (phase === "queued") return `queued: ${ahead ?? 0} move${ahead === 1 ? "" : "s"} of this host before it`;
  const name = phase === "precopy" ? `pre-copy round ${round}` : phase;
  const left = pagesLeft === undefined ? "" : `, ${pagesLeft} pages left`;
  const slow = guestShare === undefined ? "" : `, guest at ${Math.round(100 * guestShare)} % of its speed`;
  const down = downtimeMs === undefined ? "" : `, down ${Math.round(downtimeMs)} ms`;
  return `${name}: ${mebibytes(bytesSent)} sent${left}${slow}${down}`;
}

/** "expected on the way to florida: 14.2 MiB in 1.8 s, down 23 ms (1000 Mbit/s, an assumption; the guest changes 4.0 MiB/s)" */
export function predictionText(
  host: string,
  { bytes, seconds, downtimeMs, linkMbps, linkFrom, dirtyBytesPerS, how }: MovePrediction,
): string {
  const dirty = dirtyBytesPerS === undefined ? "how fast it changes is not known" : `the guest changes ${mebibytes(dirtyBytesPerS)}/s`;
  const what = how === undefined ? "" : `; ${how === "throttled" ? "it will be throttled" : how}`;
  return `expected on the way to ${host}: ${mebibytes(bytes)} in ${seconds.toFixed(1)} s, down ${Math.round(downtimeMs)} ms (${Number(linkMbps.toPrecision(3))} Mbit/s, ${linkFrom}; ${dirty})${what}`;
}

/** "moved tokyo → florida: 14.2 MiB in 1.8 s, down 23 ms, 3 rounds" */
export function resultText({ from, to, bytes, seconds, rounds, downtimeMs }: LastMigration): string {
  return `moved ${from} → ${to}: ${mebibytes(bytes)} in ${seconds.toFixed(1)} s, down ${Math.round(downtimeMs)} ms, ${rounds} round${rounds === 1 ? "" : "s"}`;
}

const mebibytes = (bytes: number): string => `${(bytes / (1 << 20)).toFixed(1)} MiB`;
