import { setTimeout as sleep } from "node:timers/promises";

/** A step did not end in time. */
export class DeadlineError extends Error {
  override readonly name = "DeadlineError";
  constructor(
    readonly what: string,
    readonly limitMs: number,
  ) {
    super(`${what} did not end within ${limitMs} ms`);
  }
}

/** Awaits `promise` for at most `limitMs`; later results of it are dropped. */
export async function within<T>(limitMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new DeadlineError(what, limitMs)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Tries until `attempt` gives something other than undefined, with growing pauses (5 ms to 200 ms), for at most `limitMs`.
 * For what cannot be awaited as an event: a socket that another process is about to make.
 */
export async function until<T>(limitMs: number, what: string, attempt: () => Promise<T | undefined>, signal?: AbortSignal): Promise<T> {
  const end = performance.now() + limitMs;
  for (let pauseMs = 5; ; pauseMs = Math.min(pauseMs * 1.5, 200)) {
    signal?.throwIfAborted();
    const result = await attempt();
    if (result !== undefined) return result;
    if (performance.now() + pauseMs > end) throw new DeadlineError(what, limitMs);
    await sleep(pauseMs, undefined, { signal });
  }
}

/** A promise with its two ends at hand. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: unknown): void;
}

/** Like Promise.withResolvers, but a rejection that nobody awaits is no crash. */
export function deferred<T>(): Deferred<T> {
  const made = Promise.withResolvers<T>();
  made.promise.catch(() => undefined);
  return made;
}
