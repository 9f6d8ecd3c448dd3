import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../../lib/errors";
import { ControlError } from "../vm/control";

/** What a stop is called in the header's `attempt`: no attempt has this name, so nothing can release such a copy. */
const attempt = "throttle";
/** A stop is not longer than this while that is enough: a peer hardly sees it. */
const gentleStopMs = 5;
/** Between two stops; timers are not finer. */
const leastRunMs = 1;
const smoothing = 0.2;
/** After the last stop the guest answers whoever waits, so that the freeze that follows is a silence of its own. */
const answersMs = 2;

/** What a throttle needs of a VM process. */
export interface Throttled {
  say(verb: string, values?: Readonly<Record<string, string | number | undefined>>, limitMs?: number): Promise<unknown>;
}

/**
 * How long a guest stands and runs in turn to get this share of its time. Pure.
 * @param longestMs what its user allows as a pause
 * @param laterMs so much later than asked for it stands: it runs for that, too
 */
export function dutyOf(share: number, longestMs: number, laterMs = 0): { stopMs: number; runMs: number } {
  const gentle = (gentleStopMs * share) / (1 - share) - laterMs;
  if (gentle >= leastRunMs) return { stopMs: gentleStopMs, runMs: gentle };
  const stopMs = Math.round(((leastRunMs + laterMs) * (1 - share)) / share);
  return { stopMs: Math.max(gentleStopMs, Math.min(stopMs, Math.round(longestMs))), runMs: leastRunMs };
}

/**
 * Slows a guest down: it is frozen for some milliseconds, again and again, and its clock stands meanwhile, so that what it does per second of its own stays.
 * Each stop ends by itself (the freeze's dead man is its timer), and at once when this agent dies: nothing is ever left to be lifted.
 */
export class Throttle {
  #share = 1;
  #loop: Promise<void> | undefined;
  #lifted = false;
  /** Stops made, for the log. */
  stops = 0;

  constructor(
    private readonly control: Throttled,
    private readonly longestMs: number,
    private readonly warn: (reason: string) => void,
  ) {}

  /** From now on the guest gets this part of its time. */
  set(share: number): void {
    this.#share = share;
    if (share < 1 && !this.#lifted) this.#loop ??= this.#run();
  }

  /** Resolves when the guest runs freely. For good. */
  async lift(): Promise<void> {
    this.#lifted = true;
    const loop = this.#loop;
    this.#loop = undefined;
    if (!loop) return;
    await loop;
    await this.#thaw();
    await sleep(answersMs);
  }

  async #run(): Promise<void> {
    let laterMs = 0;
    let dueMs: number | undefined;
    while (!this.#lifted) {
      const { stopMs, runMs } = dutyOf(this.#share, this.longestMs, laterMs);
      try {
        await this.control.say("freeze", { attempt, deadmanMs: stopMs });
        const now = performance.now();
        // Timers are late, and to stop takes time; one time says little of the next.
        if (dueMs !== undefined) laterMs += smoothing * (Math.max(0, now - dueMs) - laterMs);
        dueMs = now + stopMs + runMs;
        this.stops += 1;
        await sleep(stopMs + runMs);
      } catch (error) {
        dueMs = undefined;
        // A stop that is not over yet, or the process has ended: the move sees to that.
        if (!(error instanceof ControlError) || error.code === "closed") return this.warn(messageOf(error));
        await sleep(leastRunMs);
      }
    }
  }

  async #thaw(): Promise<void> {
    try {
      await this.control.say("thaw", { attempt });
    } catch (error) {
      // It has thawed by itself, which is the rule.
      if (!(error instanceof ControlError)) this.warn(messageOf(error));
    }
  }
}
