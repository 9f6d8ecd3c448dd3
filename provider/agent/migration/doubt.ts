import type { MoveProgress } from "../../protocol/methods";

/** A watcher is told "in doubt" after this much silence, and the time that the last bytes may take; the job itself goes on. */
const silenceMs = 10_000;

/** What a watcher is told where only the target's word can say which copy runs. */
export function inDoubt(target: string, message: string): Partial<MoveProgress> {
  const next = `run \`pulumi up\` or \`pulumi refresh\` when ${target} is back`;
  return { phase: "failed", fault: { message: `${target}: ${message} (${next})`, running: "in-doubt" } };
}

/** Says "in doubt" when nothing was heard of a released copy for too long. */
export class Doubt implements Disposable {
  #timer: NodeJS.Timeout | undefined;

  /** @param lastBytes that may still be on their way */
  begin(lastBytes: number, bandwidthMbps: number | undefined, say: (silence: string) => void): void {
    const afterMs = silenceMs + (2 * 8 * lastBytes) / (1000 * (bandwidthMbps ?? Infinity));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => say(`nothing was heard of it for ${Math.round(afterMs / 1000)} s after the release`), afterMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
