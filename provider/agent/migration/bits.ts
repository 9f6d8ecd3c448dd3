/** A set of units of a copy (pages, blocks): a bit for each, the lowest of a byte first. */
export class Bits {
  readonly bytes: Buffer;
  count = 0;

  /** @param bytes a set that was written down; its bits are counted */
  constructor(
    readonly size: number,
    bytes?: Buffer,
  ) {
    this.bytes = bytes ?? Buffer.alloc(8 * Math.ceil(size / 64));
    for (let unit = this.next(0); unit !== undefined; unit = this.next(unit + 1)) this.count += 1;
  }

  has(i: number): boolean {
    return ((this.bytes[i >> 3] ?? 0) & (1 << (i & 7))) !== 0;
  }

  set(i: number, on: boolean): void {
    if (this.has(i) === on) return;
    this.count += on ? 1 : -1;
    this.bytes[i >> 3] = (this.bytes[i >> 3] ?? 0) ^ (1 << (i & 7));
  }

  clear(): void {
    this.bytes.fill(0);
    this.count = 0;
  }

  /** The first one in the set from there on. */
  next(from: number): number | undefined {
    for (let i = from; i < this.size; i++) {
      if ((i & 7) === 0) while (i < this.size && this.bytes[i >> 3] === 0) i += 8;
      if (i < this.size && this.has(i)) return i;
    }
    return undefined;
  }

  /** Neighbours in the set, in order. */
  *runs(): Generator<{ first: number; count: number }> {
    for (let first = this.next(0); first !== undefined; ) {
      let end = first + 1;
      while (end < this.size && this.has(end)) end += 1;
      yield { first, count: end - first };
      first = this.next(end);
    }
  }
}
