import { mkdtempSync, rmSync } from "node:fs";
import { open, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { expect } from "chai";
import { decodePages, decodeRanges, encodePages, encodeRanges } from "../../provider/agent/migration/lacks";
import {
  decodeFinal,
  encodeFinal,
  factMessage,
  helloMessage,
  parseMessage,
  readyMessage,
  specMessage,
  wiringsMessage,
} from "../../provider/agent/migration/messages";
import { decodeRuns, RunBatch } from "../../provider/agent/migration/runs";
import { MemorySink } from "../../provider/agent/migration/sinks";
import {
  encodeStreamFrame,
  encodeStreamJson,
  type Frame,
  frameType,
  maxPayloadBytes,
  StreamDecoder,
  StreamError,
} from "../../provider/agent/migration/stream";
import { decodeHeld, decodeSums, encodeSums, sumOf } from "../../provider/agent/migration/sums";
import { specOf } from "../contract/support/agents";
import { mangled, manglers } from "./support/mangle";
import { chooseSeed, Random } from "./support/random";

const cases = 10_000;
const pages = 4096;
/** What the basis has at page 401. */
const held = Buffer.alloc(4096, 6);
/** Each frame is right by itself: the order's and the digest's turn comes at the receiver. */
const whole = ["cut short", "a frame twice", "a frame left out", "frames in another order", "the end at once"];

/** A whole stream, small enough to be mangled ten thousand times. */
function sample(): Frame[] {
  const spec = specOf({ kernelId: "1".repeat(64), imageId: "2".repeat(64) });
  const m = "m1";
  const memory = new RunBatch(4096);
  memory.add({ first: 5, count: 2, data: Buffer.alloc(8192, 7) });
  memory.add({ first: 100, count: 3, data: null });
  memory.add({ first: 200, count: 4, data: null, image: 9 });
  memory.add({ first: 300, count: 9, data: null, isLate: true });
  const late = new RunBatch(4096);
  late.add({ first: 301, count: 2, data: Buffer.alloc(8192, 9) });
  const disk = new RunBatch(65536);
  disk.add({ first: 3, count: 1, data: Buffer.alloc(65536, 1) });
  const final = encodeFinal({ m, digest: "0".repeat(64), epoch: 2, latePages: 9, diskBlocks: 1 }, Buffer.alloc(4096, 1));
  const bytes = Buffer.concat([
    encodeStreamJson(frameType.hello, 0, { protocol: 6, m, vm: spec.uuid, stream: "ab" }),
    encodeStreamFrame(frameType.memory, 1, memory.take()),
    encodeStreamFrame(frameType.disk, 2, zstdCompressSync(disk.take()), 1),
    encodeStreamJson(frameType.wirings, 3, []),
    encodeStreamJson(frameType.fact, 0, { fact: "ABORTED", m, journalId: "j" }),
    encodeStreamJson(frameType.spec, 4, spec),
    encodeStreamFrame(
      frameType.lacks,
      0,
      encodeRanges([
        { first: 1, count: 4 },
        { first: 9, count: 70 },
      ]).payload,
    ),
    encodeStreamFrame(frameType.wants, 0, encodePages([3, 70])),
    encodeStreamFrame(frameType.late, 5, late.take()),
    encodeStreamFrame(frameType.memorySums, 6, encodeSums([{ first: 400, count: 2 }], [sumOf(Buffer.alloc(4096, 5)), sumOf(held)])),
    encodeStreamFrame(frameType.diskSums, 7, encodeSums([{ first: 8, count: 1 }], [sumOf(held)])),
    encodeStreamFrame(frameType.held, 0, Buffer.concat([Buffer.alloc(8, 6), Buffer.alloc(8, 1)])),
    encodeStreamFrame(frameType.final, 8, zstdCompressSync(final), 1),
  ]);
  return new StreamDecoder().push(bytes);
}

/** What an agent does with a frame, up to the point where it would touch the copy. */
function read(frame: Frame, sink: MemorySink): void {
  const payload = frame.codec === 1 ? zstdDecompressSync(frame.payload, { maxOutputLength: maxPayloadBytes }) : frame.payload;
  if (frame.type === frameType.memory) sink.apply(payload);
  else if (frame.type === frameType.disk) decodeRuns(payload, 65536, 1024);
  else if (frame.type === frameType.final) decodeFinal(payload);
  else if (frame.type === frameType.late) decodeRuns(payload, 4096, pages, 64);
  else if (frame.type === frameType.lacks) decodeRanges(payload, pages);
  else if (frame.type === frameType.wants) decodePages(payload, pages);
  else if (frame.type === frameType.memorySums) sink.takeHeld(payload);
  else if (frame.type === frameType.diskSums) decodeSums(payload, 1024, 0);
  else if (frame.type === frameType.held) decodeHeld(payload.subarray(8), 2);
  else if (frame.type === frameType.ack) payload.readBigUInt64BE(0);
  else {
    const schema = { [frameType.hello]: helloMessage, [frameType.ready]: readyMessage, [frameType.fact]: factMessage }[frame.type as 1];
    parseMessage<unknown>(schema ?? (frame.type === frameType.wirings ? wiringsMessage : specMessage), payload);
  }
}

describe(`${cases} mangled streams, on the decoder and the parsers`, function () {
  this.timeout(120_000);

  it("end in frames or in an error that says why, and take little memory", async () => {
    const random = new Random(chooseSeed("decoder"));
    const folder = mkdtempSync(join(tmpdir(), "mobi-fuzz-"));
    try {
      await writeFile(join(folder, "memory"), "");
      await truncate(join(folder, "memory"), pages * 4096);
      await writeFile(join(folder, "image"), Buffer.alloc(64 * 4096, 3));
      await writeFile(join(folder, "basis"), Buffer.concat([Buffer.alloc(401 * 4096), held]));
      const basis = await open(join(folder, "basis"));
      const sink = await MemorySink.open(join(folder, "memory"), join(folder, "image"), pages * 4096, basis);
      const frames = sample();
      const refused = new Map<string, number>();
      const begun = process.memoryUsage().rss;
      for (let i = 0; i < cases; i++) {
        const { how, bytes } = mangled(frames, random);
        const reason = outcome(bytes, random, sink);
        if (reason === undefined) continue;
        expect(reason, `case ${i}, ${how}`).to.have.length.within(5, 600);
        refused.set(how, (refused.get(how) ?? 0) + 1);
      }
      await sink.close();
      for (const how of Object.keys(manglers).filter((name) => !whole.includes(name))) expect([...refused.keys()]).to.include(how);
      expect([...refused.values()].reduce((a, b) => a + b)).to.be.greaterThan(cases / 4);
      expect(process.memoryUsage().rss - begun, "bytes of memory").to.be.lessThan(700 << 20);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

/** Why it was refused; undefined: all of it was frames. @throws what is no refusal but a fault of ours */
function outcome(bytes: Buffer, random: Random, sink: MemorySink): string | undefined {
  const decoder = new StreamDecoder();
  try {
    for (let at = 0; at < bytes.length; ) {
      const end = at + 1 + random.below(200_000);
      for (const frame of decoder.push(bytes.subarray(at, end))) read(frame, sink);
      at = end;
    }
    return undefined;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    if (error instanceof StreamError || /^(ZSTD_|Z_|ERR_BUFFER_TOO_LARGE|ERR_OUT_OF_RANGE|ERR_BUFFER_OUT_OF_BOUNDS)/.test(code))
      return String(error);
    throw error;
  }
}
