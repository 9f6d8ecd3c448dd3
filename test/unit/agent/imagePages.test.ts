import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { ImagePages } from "../../../provider/agent/migration/imagePages";
import { RunBatch } from "../../../provider/agent/migration/runs";
import { MemorySink } from "../../../provider/agent/migration/sinks";

const page = 4096;

describe("pages that the base image has", () => {
  let folder: string;
  const at = (name: string): string => join(folder, name);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "mobi-image-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  /** 300 pages, more than are read at once: noise, and from page 100 on ten empty ones. */
  function image(): Buffer {
    const bytes = randomBytes(300 * page);
    bytes.fill(0, 100 * page, 110 * page);
    writeFileSync(at("image"), bytes);
    return bytes;
  }

  it("are named, in runs, and nothing else is", async () => {
    const bytes = image();
    const near = Buffer.from(bytes.subarray(50 * page, 51 * page));
    // One bit, at a place that no hash looks at.
    near[100] = (near[100] ?? 0) ^ 1;
    const data = Buffer.concat([randomBytes(page), bytes.subarray(20 * page, 24 * page), near, bytes.subarray(280 * page, 281 * page)]);
    const pages = await ImagePages.of(at("image"));
    const runs = [...(pages?.split({ first: 1000, count: 7, data }) ?? [])];
    expect(runs.map(({ first, count, image: from, data: own }) => [first, count, from, own?.length])).to.deep.equal([
      [1000, 1, undefined, page],
      [1001, 4, 20, undefined],
      [1005, 1, undefined, page],
      [1006, 1, 280, undefined],
    ]);
  });

  it("are found wherever the bytes lie in their buffer", async () => {
    const bytes = image();
    const pages = await ImagePages.of(at("image"));
    for (const offset of [0, 1, 4, 7]) {
      const data = Buffer.from(new ArrayBuffer(offset + 3 * page), offset, 3 * page);
      bytes.copy(data, 0, 150 * page, 153 * page);
      expect([...(pages?.split({ first: 8, count: 3, data }) ?? [])], `at ${offset}`).to.deep.equal([
        { first: 8, count: 3, data: null, image: 150 },
      ]);
    }
  });

  it("come to the target's copy as they are", async () => {
    const bytes = image();
    writeFileSync(at("memory"), "");
    truncateSync(at("memory"), 400 * page);
    const data = Buffer.concat([bytes.subarray(120 * page, 220 * page), randomBytes(3 * page)]);
    const pages = await ImagePages.of(at("image"));
    const batch = new RunBatch(page);
    for (const run of pages?.split({ first: 7, count: 103, data }) ?? []) batch.add(run);
    const payload = batch.take();
    expect(payload.length).to.be.lessThan(4 * page);
    const sink = await MemorySink.open(at("memory"), at("image"), 400 * page);
    sink.apply(payload);
    await sink.close();
    expect(
      readFileSync(at("memory"))
        .subarray(7 * page, 110 * page)
        .equals(data),
    ).to.equal(true);
  });
});
