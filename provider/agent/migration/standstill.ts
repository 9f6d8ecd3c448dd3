/** How long a guest stands, and on what the time goes. */
export class Standstill {
  readonly marks: Record<string, number> = {};
  /** 0 until it has ended. */
  totalMs = 0;
  #sinceMs: number | undefined;

  begin(): void {
    this.#sinceMs = performance.now();
  }

  /** A copy that stood before this agent came has no beginning here, and no marks. */
  mark(what: string): void {
    if (this.#sinceMs !== undefined) this.marks[what] = Math.round(10 * (performance.now() - this.#sinceMs)) / 10;
  }

  /** @param agoMs it ended so long ago */
  end(what: string, agoMs: number): void {
    if (this.#sinceMs === undefined) return;
    this.totalMs = performance.now() - this.#sinceMs - agoMs;
    this.marks[what] = Math.round(10 * this.totalMs) / 10;
  }
}
