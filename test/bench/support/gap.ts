/** What a peer sees of a guest: its silence, as `blockcopy probe` prints it, 1 ms apart, and whether a copy of `blockcopy copy` goes on. */
import { setTimeout as delay } from "node:timers/promises";
import { until } from "../../../provider/lib/time";
import { SERVED_AT } from "./guest";
import { GUEST_ADDRESS } from "./lab";

export const PROBE = ["blockcopy", "probe", `${GUEST_ADDRESS}:7002`, "--interval-ms", "1"];
/** It ends when its connection does. */
export const COPY = ["blockcopy", "copy", "--from", SERVED_AT, "--block", "16384", "--pace-us", "1000", "--mib", "1000000"];

interface Line {
  readonly received: number;
  readonly maxGapMs: number;
}
interface Copied {
  readonly bytes: number;
  readonly maxTripMs: number;
}

/** So long after a move the peer still listens: a late fault must be seen. */
const AFTER_MS = 1000;
const HEARD_MS = 30_000;

/** Lines of JSON, as they come. */
class Lines<T> {
  readonly all: (T & { readonly atMs: number })[] = [];
  #rest = "";

  feed(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("{")) this.all.push({ ...(JSON.parse(line) as T), atMs: performance.now() });
  }

  /** Waits for two more, in the second of which a figure has grown: what came before now may be told in the first. @throws DeadlineError */
  async grow(what: string, figure: (line: T) => number, by: number): Promise<void> {
    const last = (): number => figure(this.all.at(-1) ?? ({} as T)) || 0;
    const [before, count] = [last(), this.all.length + 2];
    await until(HEARD_MS, what, async () => (this.all.length >= count && last() > before + by ? true : undefined));
  }

  /** The greatest that was told of since then. */
  protected most(sinceMs: number, figure: (line: T) => number): number {
    return Math.max(...this.all.filter((line) => line.atMs >= sinceMs).map(figure));
  }
}

/** The lines of one probe. */
export class GapWatch extends Lines<Line> {
  /** Waits until the guest answers now, then a second more. @throws DeadlineError */
  async settled(): Promise<void> {
    for (const pauseMs of [0, AFTER_MS]) {
      await delay(pauseMs);
      await this.grow("an answer of the guest to its peer's probes", ({ received }) => received, 20);
    }
  }

  /** The longest silence that was told of since then. */
  longestMs(sinceMs: number): number {
    return this.most(sinceMs, ({ maxGapMs }) => maxGapMs);
  }
}

/** The lines of a client that copies. */
export class CopyWatch extends Lines<Copied> {
  /** @throws DeadlineError */
  async goesOn(): Promise<void> {
    await this.grow("more of the client's copy, over the connection that it had before", ({ bytes }) => bytes, 16_384);
  }

  /** The longest that a block was waited for since then. */
  longestMs(sinceMs: number): number {
    return this.most(sinceMs, ({ maxTripMs }) => maxTripMs);
  }
}
