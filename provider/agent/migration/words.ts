/**
 * Pages that have changed a little, by the words that are others now: for each page a bit for each of its 512 words of 8 bytes, the lowest bit of the first
 * byte for the first, then the words whose bit is set.
 */
import { StreamError } from "./stream";

const wordBytes = 8;
const bitmapBytes = 64;
const pageBytes = 8 * wordBytes * bitmapBytes;

/** How many bits are set in each byte. */
const bitsOf = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

/** @throws StreamError where the bytes are not those of so many pages */
export function checkWords(data: Buffer, pages: number): void {
  let at = 0;
  for (let page = 0; page < pages && at + bitmapBytes <= data.length; page++) {
    let words = 0;
    for (let i = at; i < at + bitmapBytes; i++) words += bitsOf[data[i] ?? 0] ?? 0;
    at += bitmapBytes + words * wordBytes;
    if (page === pages - 1 && at === data.length) return;
  }
  throw new StreamError(`${data.length} bytes are not the changed words of ${pages} pages`);
}

/** Neighbouring words that are others now: where they begin in the pages, and where in the data they are. */
export interface WordRun {
  readonly to: number;
  readonly from: number;
  bytes: number;
}

/** What has changed in so many pages. @param at where in `data` their part begins @returns where it ends, too */
export function wordRuns(data: Buffer, at: number, pages: number): { runs: WordRun[]; end: number } {
  const runs: WordRun[] = [];
  let last: WordRun | undefined;
  let from = at;
  for (let page = 0; page < pages; page++) {
    const bitmap = from;
    from += bitmapBytes;
    for (let i = 0; i < bitmapBytes; i++) {
      for (let bits = data[bitmap + i] ?? 0; bits !== 0; bits &= bits - 1) {
        const to = page * pageBytes + (8 * i + 31 - Math.clz32(bits & -bits)) * wordBytes;
        if (last && last.to + last.bytes === to && last.from + last.bytes === from) last.bytes += wordBytes;
        else {
          last = { to, from, bytes: wordBytes };
          runs.push(last);
        }
        from += wordBytes;
      }
    }
  }
  return { runs, end: from };
}

/** Puts the words into their pages. */
export function putWords(pages: Buffer, data: Buffer, runs: readonly WordRun[]): void {
  for (const { to, from, bytes } of runs) data.copy(pages, to, from, from + bytes);
}
