/** The batches that come last before a guest goes on: kept for its process while they are small, and put into place where they are not. */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { type Run, RunBatch } from "../../../provider/agent/migration/runs";
import { lastPages, MemorySink } from "../../../provider/agent/migration/sinks";
import { StreamError } from "../../../provider/agent/migration/stream";

const page = 4096;
const pages = 64;

describe("the batches that come last", () => {
  let folder: string;
  let sink: MemorySink;
  const at = (name: string): string => join(folder, name);
  /** As a target does. */
  const take = (batch: Buffer): void => {
    if (!sink.keep(batch)) sink.apply(batch);
  };
  const batchOf = (...runs: readonly Run[]): Buffer => {
    const batch = new RunBatch(page);
    for (const run of runs) batch.add(run);
    return batch.take();
  };
  const whole = (first: number, count: number, byte: number): Run => ({ first, count, data: Buffer.alloc(count * page, byte) });
  /** The page's first word becomes that. */
  const word = (first: number, byte: number): Run => {
    const data = Buffer.alloc(64 + 8, byte).fill(0, 0, 64);
    data.writeUInt8(1, 0);
    return { first, count: 1, data, isWords: true };
  };
  const memory = (n: number): Buffer => readFileSync(at("memory")).subarray(n * page, (n + 1) * page);

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "mobi-last-"));
    writeFileSync(at("memory"), "");
    truncateSync(at("memory"), pages * page);
    writeFileSync(at("image"), Buffer.alloc(4 * page, 3));
    sink = await MemorySink.open(at("memory"), at("image"), pages * page);
    take(batchOf(whole(1, 8, 1)));
  });
  afterEach(async () => {
    await sink.close();
    rmSync(folder, { recursive: true });
  });

  it("are put into place where nobody is about to take them", () => {
    take(batchOf(word(2, 9)));
    expect(memory(2).subarray(0, 9).toString("hex")).to.equal(`${"09".repeat(8)}01`);
    expect(sink.finish(Buffer.alloc(page, 5))).to.equal(false);
  });

  it("lie for the guest's process as they came, one after the other", () => {
    sink.keepLast(folder);
    const batches = [batchOf(whole(20, 1, 7), word(2, 9)), batchOf(word(20, 8), { first: 3, count: 1, data: null })];
    for (const batch of batches) take(batch);
    expect(memory(2).readUInt8(0)).to.equal(1);
    expect(sink.finish(Buffer.alloc(page, 5))).to.equal(true);
    expect(readFileSync(at(lastPages)).equals(Buffer.concat(batches))).to.equal(true);
    expect(memory(0).readUInt8(0)).to.equal(5);
  });

  it("are put into place, in order, as soon as one is too large, or names what the process has not", () => {
    for (const next of [
      batchOf(whole(30, 20, 6)),
      batchOf({ first: 30, count: 1, data: null, image: 2 }),
      batchOf({ first: 30, count: 1, data: null, isLate: true }),
    ]) {
      sink.keepLast(folder);
      take(batchOf(whole(20, 1, 7), { first: 3, count: 1, data: null }));
      take(batchOf(word(20, 8), word(2, 9)));
      expect(memory(20).readUInt8(0)).to.not.equal(8);
      take(next);
      expect(memory(20).subarray(0, 9).toString("hex")).to.equal(`${"08".repeat(8)}07`);
      expect(memory(2).readUInt8(0)).to.equal(9);
      expect(memory(3).readUInt8(0)).to.equal(0);
      expect(sink.finish(Buffer.alloc(page, 5))).to.equal(false);
      take(batchOf(whole(1, 30, 1)));
      writeFileSync(at("memory"), Buffer.alloc(page, 0), { flag: "r+" });
    }
  });

  it("are gone where the source begins anew", () => {
    sink.keepLast(folder);
    take(batchOf(whole(20, 1, 7)));
    sink.begin();
    expect(sink.finish(Buffer.alloc(page, 5))).to.equal(false);
    expect(memory(20).readUInt8(0)).to.equal(0);
  });

  it("are refused at once where they change what is not here, or lie outside", () => {
    sink.keepLast(folder);
    for (const wrong of [word(40, 9), word(0, 9), whole(pages, 1, 9), { first: 1, count: 0, data: null }])
      expect(() => take(batchOf(wrong))).to.throw(StreamError);
  });
});
