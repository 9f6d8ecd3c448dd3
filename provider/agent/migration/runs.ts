import { release } from "../../lib/release";
import type { Bits } from "./bits";
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
/** What stands before a run's words. */
const lengthBytes = 4;

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
  const length = Buffer.alloc(lengthBytes);
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
  // A guest may stand while this runs, in an agent whose engine optimizes nothing: a view's numbers are built in, a Buffer's are JavaScript.
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const count = view.getUint32(0);
  if (count > maxRuns || 4 + count * runBytes > payload.length) throw new StreamError(`a batch claims ${count} runs`);
  const runs: Run[] = [];
  let at = 4 + count * runBytes;
  /** Where the next so many bytes begin. */
  const take = (bytes: number): number => {
    if (at + bytes > payload.length) throw new StreamError("a batch holds less than its runs claim");
    at += bytes;
    return at - bytes;
  };
  let left = units;
  for (let i = 0, head = 4; i < count; i++, head += runBytes) {
    const first = uint64(view, head);
    const length = view.getUint32(head + 8);
    const kind = view.getUint32(head + 12);
    if (length === 0 || first + length > units) throw new StreamError(`a run of ${length} at ${first} lies outside of ${units}`);
    // Each unit stands in a batch once at most: a small batch cannot make much work.
    left -= length;
    if (left < 0) throw new StreamError("a batch names more than there is");
    if (kind === kinds.data) {
      const from = take(length * unitBytes);
      runs.push({ first, count: length, data: payload.subarray(from, at) });
    } else if (kind === kinds.zero) runs.push({ first, count: length, data: null });
    else if (kind === kinds.late && imagePages !== undefined) runs.push({ first, count: length, data: null, isLate: true });
    else if (kind === kinds.image && imagePages !== undefined) {
      const image = uint64(view, take(imageRunBytes));
      if (image + length > imagePages)
        throw new StreamError(`a run of ${length} at ${image} of the image lies outside of its ${imagePages}`);
      runs.push({ first, count: length, data: null, image });
    } else if (kind === kinds.words && imagePages !== undefined) {
      const from = take(view.getUint32(take(lengthBytes)));
      const data = payload.subarray(from, at);
      checkWords(data, length);
      runs.push({ first, count: length, data, isWords: true });
    } else throw new StreamError(`a run of unknown kind ${kind}`);
  }
  if (at !== payload.length) throw new StreamError("a batch holds more than its runs claim");
  return runs;
}

/**
 * Whether a batch says of its runs that they bring pages, make them zero, or change what is there, and of no more than `pages`. Only its table is looked at:
 * what it holds is checked by whoever puts it into place.
 * @param there what is there; pages that it brings are added
 */
export function bringsOrChanges(payload: Buffer, pages: number, there: Bits): boolean {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const count = payload.length < 4 ? 0 : view.getUint32(0);
  if (count === 0 || 4 + count * runBytes > payload.length) return false;
  let left = pages;
  for (let i = 0, head = 4; i < count; i++, head += runBytes) {
    const first = uint64(view, head);
    const length = view.getUint32(head + 8);
    const kind = view.getUint32(head + 12);
    left -= length;
    if (first === 0 || length === 0 || first + length > pages || left < 0) return false;
    if (kind === kinds.zero) continue;
    if (kind !== kinds.data && kind !== kinds.words) return false;
    for (let page = first; page < first + length; page++) {
      if (kind === kinds.data) there.set(page, true);
      else if (!there.has(page)) return false;
    }
  }
  return true;
}

/** Larger ones than a number can tell apart are far outside of every copy. */
function uint64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}
