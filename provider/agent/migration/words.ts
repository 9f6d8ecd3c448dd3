/**
 * Pages that have changed a little, by the words that are others now: for each page a bit for each of its 512 words of 8 bytes, the lowest bit of the first
 * byte for the first, then the words whose bit is set.
 */
import { StreamError } from "./stream";

const wordBytes = 8;
const bitmapBytes = 64;
const pageBytes = 8 * wordBytes * bitmapBytes;

/** @throws StreamError where the bytes are not those of so many pages */
export function checkWords(data: Buffer, pages: number): void {
  let at = 0;
  for (let page = 0; page < pages && at + bitmapBytes <= data.length; page++) {
    let words = 0;
    for (let i = 0; i < bitmapBytes; i += 4) for (let bits = data.readUInt32LE(at + i); bits !== 0; bits &= bits - 1) words++;
    at += bitmapBytes + words * wordBytes;
    if (page === pages - 1 && at === data.length) return;
  }
  throw new StreamError(`${data.length} bytes are not the changed words of ${pages} pages`);
}

/** Puts the words into their pages. @param at where in `data` these pages' part begins @returns where it ends */
export function putWords(pages: Buffer, data: Buffer, at: number): number {
  let from = at;
  for (let page = 0; page < pages.length; page += pageBytes) {
    const bitmap = from;
    from += bitmapBytes;
    for (let i = 0; i < bitmapBytes; i += 4) {
      for (let bits = data.readUInt32LE(bitmap + i); bits !== 0; bits &= bits - 1) {
        const word = 8 * i + 31 - Math.clz32(bits & -bits);
        data.copy(pages, page + word * wordBytes, from, from + wordBytes);
        from += wordBytes;
      }
    }
  }
  return from;
}
