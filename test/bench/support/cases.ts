/** What is measured: guests, links, and the settings that QEMU's migration does best with in each case. */
import type { LinkShape } from "./lab";

/** What the guest does while it is moved. */
export interface Load {
  /** Of a set of 32 MiB, 4 MiB/s are written again: one word per page of zeros, or whole pages of incompressible bytes. */
  readonly dirty?: "words" | "pages";
  /** So much memory is written once, the set included. @default the set alone */
  readonly touchMib?: number;
  /** A client beside the peer copies from the guest meanwhile, over one TCP connection: 16 KiB every millisecond, at most. */
  readonly copied?: boolean;
  /** A program that only computes, whose speed is measured. */
  readonly spin?: boolean;
}

/** How QEMU is asked to migrate. */
export interface QemuSettings {
  /** For a reader of the result. */
  readonly name: string;
  readonly capabilities: readonly string[];
  readonly parameters: Readonly<Record<string, number | string>>;
}

export interface Case {
  readonly name: string;
  readonly link: LinkShape;
  readonly load: Load;
  readonly memoryMiB: number;
  /**
   * The peer listens for so long, from the move's begin and once before it, however soon the move is over: who listens longer hears more of what the machine
   * does by itself, and moves of different lengths are to be held against each other. @default until the move is over; for 2 s before
   */
  readonly listenS?: number;
  /** Moves per side. @default 3; more where a goal is near what the machine does by itself, and moves are short */
  readonly runs?: number;
  /** What does best, or may: all are measured, and ours is held against the best of them. Ours alone is measured where there are none. */
  readonly qemu: readonly QemuSettings[];
}

const UNLIMITED: LinkShape = {};
const FAST: LinkShape = { mbps: 100, rttMs: 10 };
const SLOW: LinkShape = { mbps: 8, rttMs: 50 };
const MEMORY_MIB = 128;

/** Fewer milliseconds than its estimate needs are never met; more are taken. */
const plain = (downtimeMs: number): QemuSettings => ({
  name: `downtime-limit ${downtimeMs}`,
  capabilities: [],
  parameters: { "downtime-limit": downtimeMs },
});
const multifd = (method: "zstd" | "zlib", downtimeMs: number): QemuSettings => ({
  name: `multifd ${method}, 2 channels, downtime-limit ${downtimeMs}`,
  capabilities: ["multifd"],
  parameters: { "multifd-channels": 2, "multifd-compression": method, "downtime-limit": downtimeMs },
});
/** A guest that dirties faster than the link carries is slowed down, at once and by much: gently it takes seven minutes. */
const throttled = (base: QemuSettings): QemuSettings => ({
  name: `${base.name}, auto-converge from 70 % by 15`,
  capabilities: [...base.capabilities, "auto-converge"],
  parameters: { ...base.parameters, "cpu-throttle-initial": 70, "cpu-throttle-increment": 15, "max-cpu-throttle": 99 },
});

/** The cases of the comparison. */
export const CASES: readonly Case[] = [
  { name: "idle, unlimited", link: UNLIMITED, load: {}, qemu: [plain(20)], runs: 9 },
  { name: "idle, 100 Mbit/s 10 ms", link: FAST, load: {}, qemu: [plain(30), multifd("zstd", 30)] },
  { name: "idle, 8 Mbit/s 50 ms", link: SLOW, load: {}, qemu: [multifd("zlib", 1000)] },
  { name: "words, unlimited", link: UNLIMITED, load: { dirty: "words" as const }, qemu: [plain(20)] },
  { name: "words, 100 Mbit/s 10 ms", link: FAST, load: { dirty: "words" as const }, qemu: [plain(30), multifd("zstd", 30)] },
  { name: "words, 8 Mbit/s 50 ms", link: SLOW, load: { dirty: "words" as const }, qemu: [multifd("zlib", 1000)] },
  { name: "pages, unlimited", link: UNLIMITED, load: { dirty: "pages" as const }, qemu: [plain(20)] },
  { name: "pages, 100 Mbit/s 10 ms", link: FAST, load: { dirty: "pages" as const }, qemu: [plain(30), multifd("zstd", 30)] },
  { name: "pages, 8 Mbit/s 50 ms", link: SLOW, load: { dirty: "pages" as const }, qemu: [throttled(plain(1000))] },
  { name: "copied, unlimited", link: UNLIMITED, load: { copied: true }, qemu: [plain(20)], runs: 5 },
  { name: "pages and computing, 100 Mbit/s 10 ms", link: FAST, load: { dirty: "pages" as const, spin: true }, qemu: [plain(30)] },
].map((c) => ({ ...c, memoryMiB: MEMORY_MIB }));

/** Longer than any of the moves takes. */
const LISTEN_S = 12;

/** Ours alone: does the gap grow with the memory that a guest has touched? */
export const TOUCHED: readonly Case[] = [32, 128, 512, 1024].map((touchMib) => ({
  name: `touched ${touchMib} MiB, unlimited`,
  link: UNLIMITED,
  load: { dirty: "words" as const, touchMib },
  memoryMiB: touchMib + 96,
  listenS: LISTEN_S,
  runs: 7,
  qemu: [],
}));

/** For CI: a few minutes. */
export const QUICK = ["idle, unlimited", "words, 100 Mbit/s 10 ms"];
