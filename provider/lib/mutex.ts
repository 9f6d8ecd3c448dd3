/** One after the other: `using` the result of `lock()` ends the turn. */
export class Mutex {
  #tail: Promise<void> = Promise.resolve();

  async lock(): Promise<Disposable> {
    const before = this.#tail;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#tail = promise;
    await before;
    return { [Symbol.dispose]: resolve };
  }

  /** Runs `work` in its turn. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    using _turn = await this.lock();
    return await work();
  }
}
