/**
 * What to take back if the work is not finished. Registered on the line after each acquire, committed on the last line:
 * `await using undo = new UndoStack(); … undo.add(…); … undo.commit();`
 */
export class UndoStack implements AsyncDisposable {
  #steps: (() => unknown)[] = [];

  /** Runs at disposal, the last added first, unless committed before. */
  add(step: () => unknown): void {
    this.#steps.push(step);
  }

  /** The work is done: nothing will be undone. */
  commit(): void {
    this.#steps = [];
  }

  /** Every step runs, also when one fails; their failures are thrown together. */
  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = [];
    for (const step of this.#steps.splice(0).reverse()) {
      try {
        await step();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0)
      throw new AggregateError(failures, `${failures.length} step(s) of an undo failed: ${failures.map(String).join("; ")}`);
  }
}
