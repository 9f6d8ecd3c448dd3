/** The silence that a peer hears: what `blockcopy probe` prints, 1 ms apart, wherever it runs. */
import { setTimeout as delay } from "node:timers/promises";
import { until } from "../../../provider/lib/time";
import { GUEST_ADDRESS } from "./lab";

export const PROBE = ["blockcopy", "probe", `${GUEST_ADDRESS}:7002`, "--interval-ms", "1"];

interface Line {
  readonly received: number;
  readonly maxGapMs: number;
  readonly atMs: number;
}

/** So long after a move the peer still listens: a late fault must be seen. */
const AFTER_MS = 1000;
const HEARD_MS = 30_000;

/** The lines of one probe. */
export class GapWatch {
  readonly #lines: Line[] = [];
  #rest = "";

  /** Takes output of the probe as it comes. */
  feed(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines)
      if (line.startsWith("{")) this.#lines.push({ ...(JSON.parse(line) as Omit<Line, "atMs">), atMs: performance.now() });
  }

  /** Waits until the guest answers now, then a second more. @throws DeadlineError */
  async settled(): Promise<void> {
    for (const pauseMs of [0, AFTER_MS]) {
      await delay(pauseMs);
      const before = this.#lines.at(-1)?.received ?? 0;
      // Two lines: what came before now may be told in the first.
      const lines = this.#lines.length + 2;
      await until(HEARD_MS, "an answer of the guest to its peer's probes", async () =>
        this.#lines.length >= lines && (this.#lines.at(-1)?.received ?? 0) > before + 20 ? true : undefined,
      );
    }
  }

  /** The longest silence that was told of since then. */
  longestMs(sinceMs: number): number {
    return Math.max(...this.#lines.filter((line) => line.atMs >= sinceMs).map((line) => line.maxGapMs));
  }
}
