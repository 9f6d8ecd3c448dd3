/** LACKS and WANTS of the migration stream: which pages a target's running guest has not got, and which it stands for. */
import { StreamError } from "./stream";

const rangeBytes = 12;
const pageNumberBytes = 8;
/** So many fit a frame. What is left out is told when these have come. */
const maxRanges = 65_536;
/** More at once than a guest's disk asks for. */
const maxPages = 4096;

interface Range {
  readonly first: number;
  readonly count: number;
}

/** @returns the payload, and how many pages it names */
export function encodeRanges(ranges: Iterable<Range>): { payload: Buffer; pages: number } {
  const told: Range[] = [];
  for (const range of ranges) {
    if (told.length === maxRanges) break;
    told.push(range);
  }
  const payload = Buffer.alloc(told.length * rangeBytes);
  for (const [i, { first, count }] of told.entries()) {
    payload.writeBigUInt64BE(BigInt(first), i * rangeBytes);
    payload.writeUInt32BE(count, i * rangeBytes + 8);
  }
  return { payload, pages: told.reduce((sum, { count }) => sum + count, 0) };
}

/** @throws StreamError */
export function decodeRanges(payload: Buffer, pages: number): Range[] {
  if (payload.length % rangeBytes !== 0 || payload.length > maxRanges * rangeBytes)
    throw new StreamError("a list of lacking pages has no such length");
  const ranges: Range[] = [];
  // Each page once at most: a small list cannot make much work.
  let left = pages;
  for (let at = 0; at < payload.length; at += rangeBytes) {
    const first = payload.readBigUInt64BE(at);
    const count = payload.readUInt32BE(at + 8);
    left -= count;
    if (left < 0) throw new StreamError("a list of lacking pages names more than there is");
    if (count === 0 || first === 0n || first + BigInt(count) > BigInt(pages))
      throw new StreamError(`lacking pages, ${count} at ${first}, lie outside of ${pages}`);
    ranges.push({ first: Number(first), count });
  }
  return ranges;
}

export function encodePages(pages: readonly number[]): Buffer {
  const payload = Buffer.alloc(pages.length * pageNumberBytes);
  for (const [i, page] of pages.entries()) payload.writeBigUInt64BE(BigInt(page), i * pageNumberBytes);
  return payload;
}

/** @throws StreamError */
export function decodePages(payload: Buffer, pages: number): number[] {
  if (payload.length % pageNumberBytes !== 0 || payload.length > maxPages * pageNumberBytes)
    throw new StreamError("a list of wanted pages has no such length");
  const wanted: number[] = [];
  for (let at = 0; at < payload.length; at += pageNumberBytes) {
    const page = payload.readBigUInt64BE(at);
    if (page === 0n || page >= BigInt(pages)) throw new StreamError(`a wanted page, ${page}, lies outside of ${pages}`);
    wanted.push(Number(page));
  }
  return wanted;
}
