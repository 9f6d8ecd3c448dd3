import { type Deferred, deferred } from "../../lib/time";

/** So often may others go before one that waits. */
const patience = 8;

interface Entry {
  /** The links of the VM: two that share one talk to each other. */
  readonly links: ReadonlySet<string>;
  readonly go: Deferred<void>;
  readonly tell: (ahead: number) => void;
  overtaken: number;
}

/** Outgoing moves of one host share its link: so many copy at once, the others wait. VMs that are linked with each other go one after the other. */
export class MoveQueue {
  readonly #running = new Set<Entry>();
  #waiting: Entry[] = [];
  #latest: ReadonlySet<string> = new Set();

  constructor(public atOnce: number) {}

  /** Resolves when it is this move's turn; disposing the result ends the turn. `tell` hears how many come before, while it waits. @throws the signal's reason */
  async turn(links: ReadonlySet<string>, signal: AbortSignal, tell: (ahead: number) => void): Promise<Disposable> {
    signal.throwIfAborted();
    const entry: Entry = { links, go: deferred(), tell, overtaken: 0 };
    const giveUp = (): void => entry.go.reject(signal.reason);
    signal.addEventListener("abort", giveUp, { once: true });
    this.#waiting.push(entry);
    this.#admit();
    try {
      await entry.go.promise;
    } catch (error) {
      this.#leave(entry);
      throw error;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
    return { [Symbol.dispose]: () => this.#leave(entry) };
  }

  #leave(entry: Entry): void {
    this.#running.delete(entry);
    this.#waiting = this.#waiting.filter((one) => one !== entry);
    this.#admit();
  }

  #admit(): void {
    while (this.#running.size < this.atOnce && this.#waiting.length > 0) {
      const next = this.#next();
      for (const other of this.#waiting.slice(0, this.#waiting.indexOf(next))) other.overtaken += 1;
      this.#waiting = this.#waiting.filter((one) => one !== next);
      this.#running.add(next);
      this.#latest = next.links;
      next.go.resolve();
    }
    for (const [index, entry] of this.#waiting.entries()) entry.tell(this.#running.size + index);
  }

  /** A neighbour of what moves now or was the last to begin, else whoever waits longest. */
  #next(): Entry {
    const [first] = this.#waiting;
    if (!first) throw new Error("nobody waits");
    if (first.overtaken >= patience) return first;
    const near = [this.#latest, ...[...this.#running].map(({ links }) => links)];
    return this.#waiting.find(({ links }) => near.some((set) => [...links].some((link) => set.has(link)))) ?? first;
  }
}
