import { setTimeout as sleep } from "node:timers/promises";

/** Keeps a stream below a rate; what may go at once is 20 ms of it. */
export class Pacer {
  readonly #bytesPerMs: number;
  #dueMs = 0;

  /** @param megabitsPerSecond undefined: no limit */
  constructor(megabitsPerSecond: number | undefined) {
    this.#bytesPerMs = megabitsPerSecond === undefined ? Infinity : (megabitsPerSecond * 1e6) / 8 / 1000;
  }

  /** Resolves when so many bytes may be sent. */
  async take(bytes: number): Promise<void> {
    if (this.#bytesPerMs === Infinity) return;
    const now = performance.now();
    this.#dueMs = Math.max(this.#dueMs, now - 20) + bytes / this.#bytesPerMs;
    if (this.#dueMs > now) await sleep(this.#dueMs - now);
  }
}
