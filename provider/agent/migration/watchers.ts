import type { MoveProgress } from "../../protocol/methods";

type Listener = (progress: MoveProgress) => void;

/**
 * Those who watch a move. While the guest stands they are told nothing, and all of it in order afterwards: telling them, and all that they do about it, takes
 * longer than most of what there is to do then.
 */
export class Watchers {
  readonly #listeners = new Set<Listener>();
  #untold: MoveProgress[] | undefined;

  /** Told from here on, and how it is now. @returns ends it */
  add(listener: Listener, now: MoveProgress): () => void {
    this.#listeners.add(listener);
    listener(now);
    return () => this.#listeners.delete(listener);
  }

  tell(progress: MoveProgress): void {
    if (this.#untold) this.#untold.push(progress);
    else for (const listener of this.#listeners) listener(progress);
  }

  keepForLater(): void {
    this.#untold ??= [];
  }

  tellAll(): void {
    const untold = this.#untold ?? [];
    this.#untold = undefined;
    for (const progress of untold) this.tell(progress);
  }
}
