/** Chance that can be repeated: one seed, one course of events. */

/** `--seed N` (to mocha itself: `--seed=N`), or MOBITOPOLO_SEED; else a new one. Printed, so that a failure can be had again. */
export function chooseSeed(what: string): number {
  const word = process.argv.find((one) => one.startsWith("--seed="))?.slice("--seed=".length);
  const at = process.argv.indexOf("--seed");
  const given = word ?? (at > 0 ? process.argv[at + 1] : process.env.MOBITOPOLO_SEED);
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  if (!Number.isSafeInteger(seed)) throw new Error(`--seed must be a whole number, not ${given}`);
  console.error(`      ${what}: --seed ${seed}`);
  return seed;
}

/** mulberry32: small, and good enough to choose faults by. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 ≤ x < 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number, 0 ≤ n < limit. */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  of<T>(choices: readonly T[]): T {
    const choice = choices[this.below(choices.length)];
    if (choice === undefined) throw new Error("nothing to choose from");
    return choice;
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.below(256)));
  }
}
