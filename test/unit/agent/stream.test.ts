import { expect } from "chai";
import { decodeFinal, encodeFinal } from "../../../provider/agent/migration/messages";
import { decodeRuns, type Run, RunBatch } from "../../../provider/agent/migration/runs";
import {
  encodeStreamFrame,
  type Frame,
  frameType,
  maxPayloadBytes,
  StreamDecoder,
  StreamError,
} from "../../../provider/agent/migration/stream";

/** Seeded, so that a failure can be repeated. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function sampleStream(): Buffer {
  const pages = new RunBatch(4096);
  pages.add({ first: 5, count: 2, data: Buffer.alloc(8192, 7) });
  pages.add({ first: 100, count: 3, data: null });
  return Buffer.concat([
    encodeStreamFrame(frameType.hello, 0, Buffer.from("{}")),
    encodeStreamFrame(frameType.memory, 1, pages.take()),
    encodeStreamFrame(frameType.fact, 0, Buffer.from('{"fact":"ABORTED"}')),
    encodeStreamFrame(frameType.disk, 2, Buffer.alloc(70000, 1)),
  ]);
}

describe("the migration stream's decoder", () => {
  it("gives the same frames however the bytes are cut", () => {
    const bytes = sampleStream();
    const whole = new StreamDecoder().push(bytes);
    expect(whole.map((f) => [f.type, f.sequence, f.payload.length])).to.deep.equal([
      [1, 0, 2],
      [10, 1, 8192 + 36],
      [4, 0, 18],
      [11, 2, 70000],
    ]);
    for (const size of [1, 3, 19, 20, 21, 4096]) {
      const decoder = new StreamDecoder();
      const frames: Frame[] = [];
      for (let at = 0; at < bytes.length; at += size) frames.push(...decoder.push(bytes.subarray(at, at + size)));
      expect(frames.map((f) => f.payload.toString("latin1"))).to.deep.equal(whole.map((f) => f.payload.toString("latin1")));
    }
  });

  it("refuses a hostile length before the bytes come", () => {
    const frame = encodeStreamFrame(frameType.memory, 1, Buffer.alloc(0));
    for (const length of [maxPayloadBytes + 1, 0x7fffffff, 0xffffffff]) {
      frame.writeUInt32BE(length, 4);
      expect(() => new StreamDecoder().push(Buffer.from(frame))).to.throw(StreamError, "too long");
    }
  });

  it("ends in frames or a StreamError for 10,000 mangled streams, never otherwise", () => {
    const random = randomOf(20091122);
    const good = sampleStream();
    let refused = 0;
    for (let i = 0; i < 10_000; i++) {
      const bytes = Buffer.from(good.subarray(0, random() < 0.5 ? good.length : Math.floor(random() * good.length)));
      for (let flips = Math.floor(random() * 6); flips > 0 && bytes.length > 0; flips--) {
        // Mostly in headers and tables, where it matters.
        const at = Math.floor(random() * (random() < 0.8 ? Math.min(80, bytes.length) : bytes.length));
        bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8));
      }
      try {
        for (const frame of new StreamDecoder().push(bytes)) {
          if (frame.type === frameType.memory) decodeRuns(frame.payload, 4096, 32768);
          else if (frame.type === frameType.disk) decodeRuns(frame.payload, 65536, 1024);
          else if (frame.type === frameType.final) decodeFinal(frame.payload);
        }
      } catch (error) {
        expect(error).to.be.instanceOf(StreamError);
        refused += 1;
      }
    }
    expect(refused).to.be.greaterThan(1000);
  });

  it("keeps runs inside the copy", () => {
    const of = (first: bigint, count: number, kind: number): Buffer => {
      const payload = Buffer.alloc(20);
      payload.writeUInt32BE(1, 0);
      payload.writeBigUInt64BE(first, 4);
      payload.writeUInt32BE(count, 12);
      payload.writeUInt32BE(kind, 16);
      return payload;
    };
    expect(decodeRuns(of(10n, 2, 2), 4096, 12)).to.deep.equal([{ first: 10, count: 2, data: null }]);
    for (const bad of [of(11n, 2, 2), of(2n ** 63n, 1, 2), of(0n, 0, 2), of(0n, 1, 3), of(0n, 1, 1)])
      expect(() => decodeRuns(bad, 4096, 12)).to.throw(StreamError);
  });

  it("keeps runs of the image inside the image, and has none where there is no image", () => {
    const of = (first: number, count: number, image: number): Buffer => {
      const batch = new RunBatch(4096);
      batch.add({ first, count, data: null, image });
      return batch.take();
    };
    expect(decodeRuns(of(10, 2, 30), 4096, 12, 32)).to.deep.equal([{ first: 10, count: 2, data: null, image: 30 }]);
    expect(() => decodeRuns(of(10, 2, 31), 4096, 12, 32)).to.throw(StreamError, "outside of its 32");
    expect(() => decodeRuns(of(11, 2, 0), 4096, 12, 32)).to.throw(StreamError, "outside of 12");
    expect(() => decodeRuns(of(10, 2, 30), 4096, 12)).to.throw(StreamError, "unknown kind");
    expect(() => decodeRuns(of(10, 2, 30).subarray(0, -1), 4096, 12, 32)).to.throw(StreamError, "less than its runs claim");
  });

  it("takes a batch as large as a frame can hold where that packs well, a quarter of it elsewhere", () => {
    const run = (first: number): Run => ({ first, count: 64, data: Buffer.alloc(64 * 4096) });
    for (const [packsWell, runs] of [
      [false, 1],
      [true, 4],
    ] as const) {
      const batch = new RunBatch(4096);
      for (let i = 0; i < runs; i++) expect(batch.add(run(1 + 64 * i), packsWell), `run ${i}`).to.equal(i === runs - 1);
      const payload = batch.take();
      expect(payload.length).to.be.at.most(maxPayloadBytes);
      expect(decodeRuns(payload, 4096, 1024).length).to.equal(runs);
    }
  });

  it("refuses a last frame whose lengths do not add up", () => {
    const message = { m: "m", digest: "0".repeat(64), epoch: 2, diskBlocks: 0, latePages: 0 };
    const page0 = Buffer.alloc(4096);
    page0.write("MOBIMEM1");
    page0.write("its last byte", 600);
    const payload = encodeFinal(message, page0);
    expect(payload.length).to.be.lessThan(900);
    expect(decodeFinal(payload)).to.deep.equal({ message, page0 });
    expect(() => decodeFinal(payload.subarray(0, -1))).to.throw(StreamError);
    expect(() => decodeFinal(Buffer.concat([payload, Buffer.alloc(1)]))).to.throw(StreamError);
    // What the digest over the frames before it does not cover, its own sum does.
    for (const at of [10, 300, payload.length - 40]) {
      const flipped = Buffer.from(payload);
      flipped.writeUInt8(flipped.readUInt8(at) ^ 1, at);
      expect(() => decodeFinal(flipped)).to.throw(StreamError, "sum is wrong");
    }
    payload.writeUInt32BE(0xfffffff0, 0);
    expect(() => decodeFinal(payload)).to.throw(StreamError);
  });
});
