import { setTimeout as sleep } from "node:timers/promises";
import { zstdCompressSync } from "node:zlib";
import { within } from "../../lib/time";
import type { MovePrediction } from "../../protocol/methods";
import type { MigrationPolicy } from "../../schemas/vm";
import { blockBytes, overlayVirtualBytes } from "../vm/overlay";
import type { Vm } from "../vm/vm";
import { ImagePages } from "./imagePages";
import { roundPolicyOf } from "./rounds";
import { DiskScanner, MemoryScanner, type ScanKind } from "./scan";
import { pageBytes } from "./sinks";

/** How long a guest is watched. */
const sampleMs = 300;
/** Looking again at a big memory takes long: then its rate stays unknown. */
const scanLimitMs = 2_000;
/** Of so many runs of pages, one is compressed. */
const sampledRuns = 16;
/** What a link is taken for that nobody has measured. */
const assumedMbps = 1_000;
/** What the disk compresses to is not looked at. */
const diskCompression = 0.5;
/** The shortest round: a question, a way there and back. */
const leastRoundMs = 20;
/** Freeze, release, resume. */
const fixedMs = 5;

/** What a VM is like now. */
export interface Observed {
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly compression: number;
  readonly dirtyBytesPerS?: number;
  readonly scanMs: number;
}

export interface LinkRate {
  readonly linkMbps: number;
  readonly linkFrom: MovePrediction["linkFrom"];
}

/** The slower of what the user allows and what a move to there has shown. */
export function linkRateOf({ bandwidthMbps }: MigrationPolicy, seenMbps: number | undefined): LinkRate {
  if (seenMbps !== undefined && seenMbps < (bandwidthMbps ?? Infinity)) return { linkMbps: seenMbps, linkFrom: "an earlier move" };
  if (bandwidthMbps !== undefined) return { linkMbps: bandwidthMbps, linkFrom: "bandwidthMbps" };
  return { linkMbps: assumedMbps, linkFrom: "an assumption" };
}

/** Looks at a running VM for about half a second. Nothing of it is changed. */
export async function observeVm(vm: Vm): Promise<Observed> {
  const disk = await DiskScanner.open(vm.paths.diskMap, vm.paths.disk, await overlayVirtualBytes(vm.paths.disk));
  const diskBytes = disk.allocated * blockBytes;
  await disk.close();
  const image = await ImagePages.of(await vm.image());
  const scanner = new MemoryScanner(await vm.kernel(), vm.paths.memory);
  try {
    const all = await look(scanner, "full", image);
    await sleep(sampleMs);
    const changed = await within(scanLimitMs, "looking for changed pages", look(scanner, "scan")).catch(() => undefined);
    return {
      memoryBytes: all.bytes,
      diskBytes,
      compression: all.compression,
      scanMs: changed?.scanMs ?? all.tookMs,
      ...(changed && { dirtyBytesPerS: (changed.bytes * 1000) / (sampleMs + changed.tookMs) }),
    };
  } finally {
    scanner.end();
  }
}

async function look(
  scanner: MemoryScanner,
  how: ScanKind,
  image?: ImagePages,
): Promise<{ bytes: number; compression: number; scanMs: number; tookMs: number }> {
  const begun = performance.now();
  let [bytes, runs, raw, packed] = [0, 0, 0, 0];
  const scan = scanner.scan(how);
  let step = await scan.next();
  for (; !step.done; step = await scan.next()) {
    for (const run of step.value) {
      if (!run.data) continue;
      bytes += run.data.length;
      if (runs++ % sampledRuns > 0) continue;
      raw += run.data.length;
      const own = [...(image?.split(run) ?? [run])].flatMap((part) => part.data ?? []);
      packed += own.length === 0 ? 0 : zstdCompressSync(Buffer.concat(own)).length;
    }
  }
  return { bytes, compression: raw === 0 ? 1 : Math.min(1, packed / raw), scanMs: step.value.scanMs, tookMs: performance.now() - begun };
}

/** Goes through the rounds that a move of such a VM would have. Pure. */
export function predict(seen: Observed, policy: MigrationPolicy, link: LinkRate): MovePrediction {
  const { maxDowntimeMs, deadlineMs, onNoConvergence } = roundPolicyOf(policy);
  const bytesPerMs = (link.linkMbps * 1e6) / 8 / 1000;
  const msOf = (bytes: number): number => Math.max(leastRoundMs, bytes / bytesPerMs);
  const full = seen.memoryBytes * seen.compression + seen.diskBytes * diskCompression;
  const most = seen.memoryBytes * seen.compression;
  let dirtyPerMs = ((seen.dirtyBytesPerS ?? 0) / 1000) * seen.compression;
  let [sent, tookMs, rounds] = [full, msOf(full), 1];
  let [last, allowedMs] = [full, maxDowntimeMs];
  let how: MovePrediction["how"];
  for (;;) {
    const next = Math.min(most, dirtyPerMs * msOf(last));
    const downtimeMs = next / bytesPerMs + seen.scanMs + fixedMs;
    const over = tookMs > deadlineMs;
    if (downtimeMs <= allowedMs || over) {
      if (over && onNoConvergence === "abort") how = "it would be given up";
      else if (over) how = "a longer downtime";
      const bytes = Math.round(sent + next);
      return { ...shown(seen), ...link, bytes, seconds: (tookMs + downtimeMs) / 1000, downtimeMs, rounds, ...(how && { how }) };
    }
    if (next >= 0.9 * last || rounds >= 40) {
      if (onNoConvergence === "throttle" && how === undefined && next / bytesPerMs > allowedMs / 2) {
        how = "throttled";
        dirtyPerMs = Math.min(dirtyPerMs, bytesPerMs) / 4;
      } else if (onNoConvergence === "postcopy") {
        // What is left follows a guest that runs.
        const bytes = Math.round(sent + next);
        return {
          ...shown(seen),
          ...link,
          bytes,
          seconds: (tookMs + msOf(next)) / 1000,
          downtimeMs: seen.scanMs + fixedMs,
          rounds,
          how: "post-copy",
        };
      } else if (onNoConvergence === "abort") how = "it would be given up";
      else {
        how = "a longer downtime";
        allowedMs = Math.max(2 * allowedMs, downtimeMs);
      }
      if (how === "it would be given up") allowedMs = Infinity;
    }
    sent += next;
    tookMs += msOf(next);
    rounds += 1;
    last = next;
  }
}

const shown = ({ scanMs: _, ...seen }: Observed): Omit<Observed, "scanMs"> => ({
  ...seen,
  memoryBytes: Math.ceil(seen.memoryBytes / pageBytes) * pageBytes,
});
