/**
 * Who goes first on a CPU that a guest wants too. Each VM is a session of its own, and so a scheduling group of its own where the host makes them
 * (sched(7), "The autogroup feature"); elsewhere none of this does anything.
 */
import { readdirSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { killProcess, type VmProcess } from "./process";

/** Less than a third for an agent, beside one guest. */
const usualNice = 4;
/** What guests leave. With more, the guest that is copied stood for up to 80 ms at a time, though it asked for little. */
const backNice = 19;
/** Not less: its end is waited for. */
const leavingNice = 10;
/** What a guest that goes on has to itself, to announce itself and answer what has waited. */
export const guestsTurnMs = 10;
/** The host takes one such word in so long, of all sessions; of root any. */
const hostTakesMs = 100;
const againMs = hostTakesMs / 2;
const lookMs = 250;
/** So long that the scanner, which is of this session, mostly comes to stand meanwhile: only then has a guest the CPU. */
const napMs = 0.3;

let isOwnSession = false;
let wanted = usualNice;
let writing: Promise<void> | undefined;
let standing = 0;
let look: NodeJS.Timeout | undefined;

/** What this session computes gives way to guests. Only for an agent that has a session to itself. */
export async function giveWayToGuests(): Promise<void> {
  isOwnSession = true;
  await want(usualNice);
}

/**
 * For the time of long work the agent takes what guests leave, and no less than it needs to get on: where they leave next to nothing, it has its usual
 * share again.
 */
export function standBack(): Disposable {
  if (!isOwnSession) return { [Symbol.dispose]: () => undefined };
  if (standing++ === 0) {
    void want(backNice);
    let before = cpuTimes();
    look = setInterval(() => {
      const now = cpuTimes();
      if (isStarved(before, now)) {
        clearInterval(look);
        void want(usualNice);
      }
      before = now;
    }, lookMs).unref();
  }
  let isOver = false;
  return {
    [Symbol.dispose]() {
      if (isOver) return;
      isOver = true;
      if (--standing > 0) return;
      clearInterval(look);
      void want(usualNice);
    },
  };
}

/** Resolves when the host has taken what was wanted last, or after 0.2 s. */
export async function standsAgain(): Promise<void> {
  await Promise.race([writing, sleep(2 * hostTakesMs, undefined, { ref: false })]);
}

const nap = new Int32Array(new SharedArrayBuffer(4));

/**
 * In long work, within a millisecond or so: a guest that waits for this CPU has it now. Where the host looks only at its tick who goes first, it would
 * wait up to 4 ms for that.
 */
function letGuestsGo(): void {
  if (standing > 0) Atomics.wait(nap, 0, 0, napMs);
}

/** Work of so many bytes takes a quarter of a millisecond or so. */
const turnBytes = 256 << 10;

/** Long work in turns, after each of which guests have theirs. */
export class Turns {
  #bytes = 0;

  worked(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < turnBytes) return;
    this.#bytes = 0;
    letGuestsGo();
  }
}

/** Ends a process that its guest has left: taking its memory apart must not hold up that guest. Best effort, as all here. */
export async function endAside(left: VmProcess): Promise<void> {
  await writeFile(`/proc/${left.record.pid}/autogroup`, `${leavingNice}`).catch(() => undefined);
  await killProcess(left);
}

/** Of all threads of a process: how long they ran, and how long they waited for a CPU. */
export interface CpuTimes {
  readonly atMs: number;
  readonly ranMs: number;
  readonly waitedMs: number;
}

/** Whether it mostly waited in between, and not just now and then. */
export function isStarved(before: CpuTimes, now: CpuTimes): boolean {
  const waitedMs = now.waitedMs - before.waitedMs;
  return waitedMs > (now.atMs - before.atMs) / 2 && waitedMs > 3 * (now.ranMs - before.ranMs);
}

/** schedstat: nanoseconds run, nanoseconds waited, turns (Documentation/scheduler/sched-stats.rst). */
function cpuTimes(): CpuTimes {
  let [ranMs, waitedMs] = [0, 0];
  for (const task of tasks()) {
    try {
      const [ran = 0, waited = 0] = readFileSync(`/proc/self/task/${task}/schedstat`, "latin1").split(" ").map(Number);
      ranMs += ran / 1e6;
      waitedMs += waited / 1e6;
    } catch {
      // It has ended, or the host keeps no such account.
    }
  }
  return { atMs: performance.now(), ranMs, waitedMs };
}

function tasks(): string[] {
  try {
    return readdirSync("/proc/self/task");
  } catch {
    return [];
  }
}

/** Resolves when the host has taken it, or never will. */
async function want(nice: number): Promise<void> {
  wanted = nice;
  writing ??= tell();
  await writing;
}

async function tell(): Promise<void> {
  for (let told: number | undefined; told !== wanted; ) {
    const next = wanted;
    const taken = await writeFile("/proc/self/autogroup", `${next}`).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code !== "EAGAIN",
    );
    if (taken) told = next;
    else await sleep(againMs, undefined, { ref: false });
  }
  // In the same breath as the last look at what is wanted: who wants something else now tells it anew.
  writing = undefined;
}
