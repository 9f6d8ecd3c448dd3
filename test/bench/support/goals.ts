/** What moves of ours should reach; each goal is looked at in the cases that a run had. */
import type { CaseResult, Result } from "./report";

export interface Goal {
  readonly goal: string;
  readonly case: string;
  /** Null: the case had no result to tell it by. */
  readonly value: number | null;
  readonly reached: boolean;
}

const IDLE_GAP_MS = 5;
const GAP_TIMES = 8;
const BYTES_TIMES = 8;
const INCOMPRESSIBLE_BYTES_TIMES = 2;
const SLOW_IDLE = { totalS: 10, bytes: 6e6 };
const SLOW_BUSY_GAP_MS = 150;
const SPEED_KEPT = { least: 0.8, fromS: 2 };
const FLAT = { ms: 1, part: 0.3 };

/** The goals of every case, in the cases' order, then those over several cases. */
export function goalsOf(result: Result): Goal[] {
  return [...result.cases.filter((c) => c.ours.runs.length > 0).flatMap(goalsOfCase), ...flatness(result)];
}

function goalsOfCase(c: CaseResult): Goal[] {
  const { ours, qemu, ratio } = c;
  const goals: Goal[] = [];
  const most = (goal: string, value: number | null, limit: number): void =>
    void goals.push({ goal: `${goal} at most ${limit}`, case: c.name, value, reached: value !== null && value <= limit });
  const least = (goal: string, value: number | null, limit: number, otherwise = false): void =>
    void goals.push({ goal: `${goal} at least ${limit}`, case: c.name, value, reached: value === null ? otherwise : value >= limit });

  if (c.name === "idle, unlimited") most("gap, ms,", ours.gapMs, IDLE_GAP_MS);
  if (qemu && ratio) {
    // Where QEMU does not come to an end, ending is more than any ratio.
    const oursAlone = qemu.gapMs === null && ours.guestOk === true;
    least("QEMU's gap over ours", ratio.gap, GAP_TIMES, oursAlone);
    least("QEMU's bytes over ours", ratio.bytes, c.load.dirty === "pages" ? INCOMPRESSIBLE_BYTES_TIMES : BYTES_TIMES, oursAlone);
  }
  if (c.link.asked.mbps === 8 && c.load.dirty === undefined) {
    most("duration, s,", ours.totalS, SLOW_IDLE.totalS);
    most("bytes", ours.bytes, SLOW_IDLE.bytes);
  }
  if (c.link.asked.mbps === 8 && c.load.dirty !== undefined) most("gap, ms,", ours.gapMs, SLOW_BUSY_GAP_MS);
  if (c.link.asked.mbps === 100 && (ours.totalS ?? 0) >= SPEED_KEPT.fromS && ours.speedKept !== undefined)
    least("part of its speed that a program keeps", ours.speedKept, SPEED_KEPT.least);
  return goals;
}

/** The gap does not grow with touched memory: within 1 ms, or 30 %, of the smallest. */
function flatness({ touched }: Result): Goal[] {
  const gaps = touched.map((c) => c.ours.gapMs).filter((gap) => gap !== null);
  if (gaps.length < 2) return [];
  const smallest = Math.min(...gaps);
  const growth = Math.max(...gaps) - smallest;
  const sizes = touched.map((c) => c.touchedMib);
  return [
    {
      goal: `growth of the gap, ms, at most ${FLAT.ms} or ${FLAT.part * 100} %`,
      case: `touched ${Math.min(...sizes)} to ${Math.max(...sizes)} MiB`,
      value: Number(growth.toFixed(2)),
      reached: growth <= Math.max(FLAT.ms, FLAT.part * smallest),
    },
  ];
}
