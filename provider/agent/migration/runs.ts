import { release } from "../../lib/release";
import { maxDataBytes, StreamError } from "./stream";
import { checkWords } from "./words";

/** Neighbouring pages or blocks: with their bytes, by the words that have changed, as neighbouring pages of the base image, or become zero. */
export interface Run {
  readonly first: number;
  readonly count: number;
  readonly data: Buffer | null;
  /** `data` is of words.ts. */
  readonly isWords?: boolean;
  /** Not here yet: they come when the guest runs. */
  readonly isLate?: boolean;
  /** The first of the image's pages that these are. */
  readonly image?: number;
}

const kinds = { data: 1, zero: 2, image: 3, words: 4, late: 5 } as const;
/** What stands for the bytes of a run that the image has. */
const imageRunBytes = 8;

const runBytes = 16;
const maxRuns = 4096;
/** A frame of what does not become much smaller holds so much: a slow link is not taken for long. */
const usualDataBytes = 256 << 10;

/** Collects runs of units (pages, blocks) until a frame is full. */
export class RunBatch {
  #runs: Run[] = [];
  dataBytes = 0;

  constructor(private readonly unitBytes: number) {}

  /** True when the batch should be sent. @param packsWell there may be as much in it as a frame can hold: each has a cost of its own, whatever it holds */
  add(run: Run, packsWell = false): boolean {
    this.#runs.push(run);
    this.dataBytes += run.data?.length ?? (run.image === undefined ? 0 : imageRunBytes);
    return (
      this.dataBytes + 64 * this.unitBytes > maxDataBytes ||
      this.#runs.length >= maxRuns ||
      this.dataBytes >= (packsWell ? maxDataBytes : usualDataBytes)
    );
  }

  get isEmpty(): boolean {
    return this.#runs.length === 0;
  }

  /** The payload, uncompressed; the batch is empty afterwards, and so are buffers that were added whole. */
  take(): Buffer {
    const table = Buffer.alloc(4 + this.#runs.length * runBytes);
    table.writeUInt32BE(this.#runs.length, 0);
    for (const [i, run] of this.#runs.entries()) {
      table.writeBigUInt64BE(BigInt(run.first), 4 + i * runBytes);
      table.writeUInt32BE(run.count, 12 + i * runBytes);
      table.writeUInt32BE(kindOf(run), 16 + i * runBytes);
    }
    const payload = Buffer.concat([table, ...this.#runs.flatMap(bytesOf)]);
    for (const { data } of this.#runs) if (data && data.length === data.buffer.byteLength) release(data.buffer);
    this.#runs = [];
    this.dataBytes = 0;
    return payload;
  }
}

function kindOf({ data, isWords, isLate, image }: Run): number {
  if (isLate) return kinds.late;
  if (data) return isWords === true ? kinds.words : kinds.data;
  return image === undefined ? kinds.zero : kinds.image;
}

function bytesOf({ data, isWords, image }: Run): Buffer[] {
  if (data && isWords === true) return [lengthOf(data), data];
  if (data) return [data];
  if (image === undefined) return [];
  const number = Buffer.alloc(imageRunBytes);
  number.writeBigUInt64BE(BigInt(image));
  return [number];
}

function lengthOf(data: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return length;
}

/**
 * Reads a batch; every number is checked against what the copy can hold.
 * @param imagePages of memory: pages of the base image. Blocks of a disk come with their bytes or as zeros only.
 * @throws StreamError
 */
export function decodeRuns(payload: Buffer, unitBytes: number, units: number, imagePages?: number): Run[] {
  if (payload.length < 4) throw new StreamError("a batch is cut short");
  const count = payload.readUInt32BE(0);
  if (count > maxRuns || 4 + count * runBytes > payload.length) throw new StreamError(`a batch claims ${count} runs`);
  const runs: Run[] = [];
  let at = 4 + count * runBytes;
  const take = (bytes: number): Buffer => {
    if (at + bytes > payload.length) throw new StreamError("a batch holds less than its runs claim");
    at += bytes;
    return payload.subarray(at - bytes, at);
  };
  let left = units;
  for (let i = 0; i < count; i++) {
    const first = payload.readBigUInt64BE(4 + i * runBytes);
    const length = payload.readUInt32BE(12 + i * runBytes);
    const kind = payload.readUInt32BE(16 + i * runBytes);
    if (length === 0 || first + BigInt(length) > BigInt(units))
      throw new StreamError(`a run of ${length} at ${first} lies outside of ${units}`);
    // Each unit stands in a batch once at most: a small batch cannot make much work.
    left -= length;
    if (left < 0) throw new StreamError("a batch names more than there is");
    const run = { first: Number(first), count: length };
    if (kind === kinds.data) runs.push({ ...run, data: take(length * unitBytes) });
    else if (kind === kinds.zero) runs.push({ ...run, data: null });
    else if (kind === kinds.late && imagePages !== undefined) runs.push({ ...run, data: null, isLate: true });
    else if (kind === kinds.image && imagePages !== undefined) {
      const image = take(imageRunBytes).readBigUInt64BE();
      if (image + BigInt(length) > BigInt(imagePages))
        throw new StreamError(`a run of ${length} at ${image} of the image lies outside of its ${imagePages}`);
      runs.push({ ...run, data: null, image: Number(image) });
    } else if (kind === kinds.words && imagePages !== undefined) {
      const data = take(take(4).readUInt32BE());
      checkWords(data, length);
      runs.push({ ...run, data, isWords: true });
    } else throw new StreamError(`a run of unknown kind ${kind}`);
  }
  if (at !== payload.length) throw new StreamError("a batch holds more than its runs claim");
  return runs;
}
