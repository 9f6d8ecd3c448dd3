import { isMarkedAsUntransferable } from "node:worker_threads";

/** Less is cheap to leave to V8. */
const leastBytes = 16 << 10;

/**
 * Gives memory back at once; whatever still refers to it is empty from then on. What Node shares among small buffers, which it marks so, stays.
 *
 * V8 looks for what is left behind only when there are 64 MB of it, and then has the thread for 2 to 5 ms: while gigabytes pass through an agent that is
 * often, and beside guests that are to answer within a millisecond too long.
 */
export function release(memory: ArrayBufferLike): void {
  if (!(memory instanceof ArrayBuffer) || memory.byteLength < leastBytes || memory.detached || isMarkedAsUntransferable(memory)) return;
  memory.transfer(0);
}
