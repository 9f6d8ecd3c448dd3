import { expect } from "chai";
import { decodeRuns, RunBatch } from "../../../provider/agent/migration/runs";
import { StreamError } from "../../../provider/agent/migration/stream";
import { checkWords, putWords, wordRuns } from "../../../provider/agent/migration/words";

const page = 4096;

/** As the scanner writes it: the words of `now` that are not those of `was`. */
function wordsOf(was: Buffer, now: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < now.length; at += page) {
    const bitmap = Buffer.alloc(64);
    const words: Buffer[] = [];
    for (let word = 0; word < 512; word++) {
      const from = at + 8 * word;
      if (was.compare(now, from, from + 8, from, from + 8) === 0) continue;
      bitmap[word >> 3] = (bitmap[word >> 3] ?? 0) | (1 << (word & 7));
      words.push(now.subarray(from, from + 8));
    }
    parts.push(bitmap, ...words);
  }
  return Buffer.concat(parts);
}

describe("changed words of pages", () => {
  const was = Buffer.alloc(3 * page, 7);
  const now = Buffer.from(was);
  for (const at of [0, 8, 31 * 8, 32 * 8, 63 * 8, 64 * 8 + 3, page - 1, page, 2 * page + 511 * 8]) now.writeUInt8(9, at);
  const words = wordsOf(was, now);

  it("make the pages what they are, also when they come twice", () => {
    checkWords(words, 3);
    const pages = Buffer.from(was);
    const { runs, end } = wordRuns(words, 0, 3);
    expect(end).to.equal(words.length);
    for (let time = 0; time < 2; time++) {
      putWords(pages, words, runs);
      expect(pages.equals(now)).to.equal(true);
    }
  });

  it("can be put into some of the pages first", () => {
    const pages = Buffer.from(was);
    const one = wordRuns(words, 0, 1);
    putWords(pages.subarray(0, page), words, one.runs);
    const rest = wordRuns(words, one.end, 2);
    putWords(pages.subarray(page), words, rest.runs);
    expect(rest.end).to.equal(words.length);
    expect(pages.equals(now)).to.equal(true);
  });

  it("are told as what lies together in the pages and in the data", () => {
    const ends = Buffer.from(was);
    ends.fill(9, page - 16, page + 8);
    const data = wordsOf(was, ends);
    // The second page's bitmap lies between its word and the first page's.
    expect(wordRuns(data, 0, 3).runs).to.deep.equal([
      { to: page - 16, from: 64, bytes: 16 },
      { to: page, from: 64 + 16 + 64, bytes: 8 },
    ]);
  });

  it("travel in a batch, and are refused where they are not those of so many pages", () => {
    const batch = new RunBatch(page);
    batch.add({ first: 4, count: 3, data: words, isWords: true });
    batch.add({ first: 9, count: 1, data: now.subarray(0, page) });
    const payload = batch.take();
    expect(decodeRuns(payload, page, 16, 1)).to.deep.equal([
      { first: 4, count: 3, data: words, isWords: true },
      { first: 9, count: 1, data: now.subarray(0, page) },
    ]);
    for (const [data, count] of [
      [words, 2],
      [words, 4],
      [words.subarray(0, -1), 3],
      [words.subarray(0, 63), 1],
      [Buffer.alloc(0), 1],
    ] as const) {
      batch.add({ first: 4, count, data, isWords: true });
      const wrong = batch.take();
      expect(() => decodeRuns(wrong, page, 16, 1)).to.throw(StreamError, "are not the changed words of");
    }
    // Blocks of a disk have none.
    expect(() => decodeRuns(payload, page, 16)).to.throw(StreamError, "unknown kind");
  });
});
