import type { MigrationPolicy } from "../../schemas/vm";

/** What one pre-copy round was. */
export interface Round {
  /** Bytes on the wire. */
  readonly bytes: number;
  /** From the round's first question to the target's having it all. */
  readonly ms: number;
  /** Of that, looking for changed pages. */
  readonly scanMs: number;
}

/** A migration policy with every default settled. */
export interface RoundPolicy {
  readonly maxDowntimeMs: number;
  readonly deadlineMs: number;
  /** @default throttle */
  readonly onNoConvergence?: NonNullable<MigrationPolicy["onNoConvergence"]>;
}

export function roundPolicyOf({ maxDowntimeMs = 50, deadlineS = 300, onNoConvergence = "throttle" }: MigrationPolicy): RoundPolicy {
  return { maxDowntimeMs, deadlineMs: deadlineS * 1000, onNoConvergence };
}

/** What was done so far about rounds that do not get smaller. */
export interface Course {
  /** Of its own time, what the guest gets: 1 is all of it. */
  readonly share: number;
  /** Downtime that is allowed by now. */
  readonly allowedMs: number;
  /** Rounds before this one were made under another course. */
  readonly since: number;
}

export interface Verdict {
  readonly next: "round" | "final" | "give up";
  /** The final copy leaves for later what may travel late. */
  readonly late?: boolean;
  readonly why: "fits" | "fits a longer downtime" | "not shrinking" | "deadline" | "go on" | "throttle" | "extend" | "post-copy";
  /** What the final copy is estimated to take. */
  readonly estimateMs: number;
  /** How the guest's memory changes and what the link carries, in bytes per millisecond. */
  readonly dirtyRate: number;
  readonly linkRate: number;
  /** For the rounds that follow. */
  readonly course: Course;
}

/** Freeze, release, header, and the resume on the target. */
const fixedMs = 3;
/** More rounds than this under one course gain nothing: the guest is as quiet as it gets. */
const maxRounds = 40;
/** So many rounds may pass without getting smaller. */
const lulls = 4;
/** Smaller rounds than this say nothing about the link's rate. */
export const measurableBytes = 256 << 10;
/** From this part of the link's rate on, a guest is not waited for: rounds would hardly shrink. */
const hopeless = 0.8;
/** The part of the link's rate that a throttled guest is to use: each round is then a quarter of the one before. */
const wantedRatio = 0.25;
/** One step takes no more than this from the guest at once. */
const steepest = 8;
/** Less than this of its time helps nobody. */
const leastShare = 0.02;

/** The course at a move's start. */
export const plainCourse = ({ maxDowntimeMs }: RoundPolicy): Course => ({ share: 1, allowedMs: maxDowntimeMs, since: 0 });

/**
 * After each round: another one, or the last copy? The guest dirties memory at the rate that the last round found over the time of the round before it;
 * what it dirties while a round runs is what the next one carries. Pure: what changes from round to round is the course.
 */
export function judge(rounds: readonly Round[], policy: RoundPolicy, elapsedMs: number, course: Course = plainCourse(policy)): Verdict {
  const last = rounds.at(-1);
  const before = rounds.at(-2);
  if (!last) throw new Error("no round to judge");
  const late = elapsedMs >= policy.deadlineMs;
  const atDeadline = policy.onNoConvergence === "abort" ? "give up" : "final";
  const how = policy.onNoConvergence ?? "throttle";
  const linkRate = rate(rounds);
  if (!before) {
    const known = { estimateMs: Infinity, dirtyRate: 0, linkRate, course };
    return late ? { next: atDeadline, why: "deadline", late: how === "postcopy", ...known } : { next: "round", why: "go on", ...known };
  }
  const dirtyRate = last.bytes / Math.max(before.ms, 1);
  const sendMs = (dirtyRate * Math.max(last.ms, 1)) / linkRate;
  const estimateMs = sendMs + scanMs(rounds) + fixedMs;
  const known = { estimateMs, dirtyRate, linkRate, course };
  if (estimateMs <= course.allowedMs)
    return { next: "final", why: course.allowedMs > policy.maxDowntimeMs ? "fits a longer downtime" : "fits", ...known };
  if (late) return { next: atDeadline, why: "deadline", late: how === "postcopy", ...known };
  const own = rounds.slice(Math.max(course.since - 1, 0));
  const stuck = isStuck(own) || own.length >= maxRounds;
  const outrun = (how === "throttle" || how === "postcopy") && last.bytes >= measurableBytes && dirtyRate > hopeless * linkRate;
  // A round that carries what was dirtied before the last step says nothing about that step.
  if (rounds.length - course.since < 2 && course.since > 0) return { next: "round", why: "go on", ...known };
  if (!stuck && !outrun) return { next: "round", why: "go on", ...known };
  return withStep(known, policy, rounds.length, sendMs);
}

/**
 * Within a round: at the rate that was measured, the next ones would hardly be smaller, so the guest is slowed down now and not at the round's end. At once by
 * as much as that rate asks for. A guest that writes all of a set again and again hides its rate from `judge`: no round is larger than the set.
 * @returns undefined: as before
 */
export function throttleNow(dirtyRate: number, rounds: readonly Round[], policy: RoundPolicy, course: Course): Course | undefined {
  const linkRate = rate(rounds);
  if ((policy.onNoConvergence ?? "throttle") !== "throttle" || course.share < 1 || dirtyRate <= hopeless * linkRate) return undefined;
  return { ...course, share: Math.max(leastShare, (wantedRatio * linkRate) / dirtyRate), since: rounds.length };
}

/** It does not converge: the next step that the policy names. */
function withStep(known: Omit<Verdict, "next" | "why">, policy: RoundPolicy, since: number, sendMs: number): Verdict {
  const { course, dirtyRate, linkRate, estimateMs } = known;
  if (policy.onNoConvergence === "abort") return { next: "give up", why: "not shrinking", ...known };
  if (policy.onNoConvergence === "postcopy") return { next: "final", why: "post-copy", late: true, ...known };
  // Throttling helps only where what the guest writes is what takes the time.
  if (policy.onNoConvergence !== "extend" && course.share > leastShare && sendMs > course.allowedMs / 2) {
    const wanted = (course.share * wantedRatio * linkRate) / dirtyRate;
    const share = Math.max(leastShare, Math.min(Math.max(wanted, course.share / steepest), course.share / 2));
    return { next: "round", why: "throttle", ...known, course: { ...course, share, since } };
  }
  const allowedMs = 2 * course.allowedMs;
  // Of the same course: as long as it is stuck, every further round may double it.
  const extended = { ...known, course: { ...course, allowedMs } };
  return estimateMs <= allowedMs
    ? { next: "final", why: "fits a longer downtime", ...extended }
    : { next: "round", why: "extend", ...extended };
}

/** None of the last rounds was clearly smaller than the smallest before them. A few are waited for: a guest that writes in bursts has lulls. */
function isStuck(rounds: readonly Round[]): boolean {
  if (rounds.length <= lulls + 1) return false;
  const smallest = (some: readonly Round[]): number => Math.min(...some.map((round) => round.bytes));
  return smallest(rounds.slice(-lulls)) > 0.9 * smallest(rounds.slice(0, -lulls));
}

/** Bytes per millisecond that the link has shown. A round's time is taken as a whole: where the link is slow, the search waits for it too. */
function rate(rounds: readonly Round[]): number {
  const telling = rounds.filter((round) => round.bytes >= measurableBytes);
  const rates = (telling.length > 0 ? telling : rounds).map((round) => round.bytes / Math.max(round.ms, 0.1));
  return Math.max(...rates, 1);
}

/** What looking for changed pages takes by itself: the shortest seen, for in a long round it also waited for the link. */
function scanMs(rounds: readonly Round[]): number {
  return Math.min(...rounds.map((round) => round.scanMs));
}
