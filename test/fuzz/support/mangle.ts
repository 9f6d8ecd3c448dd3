/** What a hostile or broken source may send instead of a stream. */
import { zstdCompressSync } from "node:zlib";
import { encodeStreamFrame, type Frame, frameHeaderBytes, frameType, StreamDecoder } from "../../../provider/agent/migration/stream";
import type { Random } from "./random";

const encode = (frame: Frame): Buffer => encodeStreamFrame(frame.type, frame.sequence, frame.payload, frame.codec);
const types = Object.values(frameType);

type Mangler = (frames: Frame[], random: Random) => Buffer[];

const all = (frames: readonly Frame[]): Buffer[] => frames.map(encode);

/** Puts another in the place of one frame. */
function replaced(frames: readonly Frame[], at: number, bytes: Buffer): Buffer[] {
  return frames.map((frame, i) => (i === at ? bytes : encode(frame)));
}

const hostileLengths = [0, 1, 19, 0xffff, 1 << 20, 1_114_112, 1_114_113, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff];

/** 2^30 zero bytes in a few kilobytes, and other things that are not what they seem. */
const bombs = [
  zstdCompressSync(Buffer.alloc(256 << 20)),
  zstdCompressSync(zstdCompressSync(Buffer.alloc(64 << 20))),
  Buffer.from(`${"[".repeat(200_000)}${"]".repeat(200_000)}`),
  Buffer.from(JSON.stringify(Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`k${i}`, i])))),
  Buffer.alloc(0),
  Buffer.from("null"),
  Buffer.from('{"__proto__":{"m":"x"},"m":{"toString":1}}'),
];

export const manglers: Readonly<Record<string, Mangler>> = {
  "flipped bits": (frames, random) => {
    const bytes = all(frames);
    for (let flips = 1 + random.below(5); flips > 0; flips--) {
      const victim = random.of(bytes);
      const at = random.below(victim.length);
      victim[at] = (victim[at] ?? 0) ^ (1 << random.below(8));
    }
    return bytes;
  },
  "cut short": (frames, random) => {
    const bytes = all(frames);
    const last = random.below(bytes.length);
    return [...bytes.slice(0, last), bytes[last]?.subarray(0, random.below(bytes[last]?.length ?? 1)) ?? Buffer.alloc(0)];
  },
  "a frame left out": (frames, random) => all(frames.filter((_, i) => i !== random.below(frames.length))),
  "frames in another order": (frames, random) => {
    const [a, b] = [random.below(frames.length), random.below(frames.length)];
    return all(frames.map((frame, i) => (i === a ? frames[b] : i === b ? frames[a] : frame) ?? frame));
  },
  "a frame twice": (frames, random) => {
    const at = random.below(frames.length);
    return all(frames.flatMap((frame, i) => (i === at ? [frame, { ...frame, sequence: frame.sequence && frame.sequence + 1 }] : [frame])));
  },
  "a hostile length of a frame": (frames, random) => {
    const bytes = all(frames);
    random.of(bytes).writeUInt32BE(random.of(hostileLengths), 4);
    return bytes;
  },
  "a hostile number in a payload": (frames, random) => {
    const at = random.below(frames.length);
    const frame = frames[at];
    if (!frame || frame.payload.length < 8) return all(frames);
    // Sent raw, so that it is the parser and not the decompression that meets it.
    const payload = Buffer.from(frame.payload);
    payload.writeUInt32BE(random.of(hostileLengths), 4 * random.below(Math.min(8, payload.length >> 2)));
    return replaced(frames, at, encodeStreamFrame(frame.type, frame.sequence, payload, 0));
  },
  "another type or codec": (frames, random) => {
    const bytes = all(frames);
    random.of(bytes).writeUInt8(random.below(2) ? random.below(256) : random.of(types), 2 + random.below(2));
    return bytes;
  },
  "another sequence number": (frames, random) => {
    const bytes = all(frames);
    random.of(bytes).writeBigUInt64BE(random.of([0n, 1n, 2n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]), 8);
    return bytes;
  },
  "a bomb": (frames, random) => {
    const at = random.below(frames.length);
    const frame = frames[at];
    return frame ? replaced(frames, at, encodeStreamFrame(frame.type, frame.sequence, random.of(bombs), random.of([0, 1] as const))) : [];
  },
  "a thousand bombs": (frames) => {
    const bomb = zstdCompressSync(Buffer.alloc(1 << 20));
    const first = frames.findIndex(({ sequence }) => sequence === 1);
    return [...all(frames.slice(0, first)), ...Array.from({ length: 1000 }, (_, i) => encodeStreamFrame(frameType.memory, i + 1, bomb, 1))];
  },
  "bytes without sense": (frames, random) => [
    ...all(frames.slice(0, random.below(frames.length))),
    random.bytes(random.below(400) + frameHeaderBytes),
  ],
  "the end at once": (frames) => {
    const final = frames.at(-1);
    const hello = frames.filter(({ sequence }) => sequence === 0);
    return all([...hello, ...(final ? [{ ...final, sequence: 1 }] : [])]);
  },
};

/** A case: which way, and what then goes over the wire. Never what would be a whole stream after all. */
export function mangled(frames: readonly Frame[], random: Random): { how: string; bytes: Buffer } {
  for (;;) {
    const how = random.of(Object.keys(manglers));
    const bytes = Buffer.concat((manglers[how]?.([...frames], random) ?? []).map((one) => Buffer.from(one)));
    if (!isWhole(bytes, frames)) return { how, bytes };
  }
}

/** All that is numbered is there as it was: what else was changed (the name of the stream, say) decides nothing. */
function isWhole(bytes: Buffer, frames: readonly Frame[]): boolean {
  try {
    const numbered = (all: readonly Frame[]): Frame[] => all.filter(({ sequence }) => sequence > 0);
    const had = numbered(frames);
    const now = numbered(new StreamDecoder().push(bytes));
    return had.every((frame, i) => now[i] !== undefined && encode(frame).equals(encode(now[i])));
  } catch {
    return false;
  }
}
