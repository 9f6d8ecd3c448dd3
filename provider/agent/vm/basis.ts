/**
 * What a VM leaves on a host that it moves away from: its disk, and where there is room its memory, under names that nothing starts from. When it comes
 * back, what has not changed since is taken from there (docs/decisions/basis.md). It may go at any time: then a way back takes longer, and that is all.
 */
import { type FileHandle, open, readFile, rename, rm, stat, statfs } from "node:fs/promises";
import { unless } from "../../lib/errors";
import type { AgentContext } from "../context";
import type { VmPaths } from "./paths";
import type { Vms } from "./vms";

const keptForMs = 24 * 3600 * 1000;
/** How often is looked whether somebody else needs the room. */
const lookMs = 10_000;
/** Of the host's memory and of the disk's file system: so much must be free to keep something, and to keep it on. */
const freeToKeep = { memory: 0.5, disk: 0.15 };
const freeToStay = { memory: 0.25, disk: 0.1 };

/** Makes of a retired copy a basis. Under a limit of the user's, nothing stays that no VM of his needs. */
export async function keepBasis(context: AgentContext, paths: VmPaths): Promise<void> {
  const free = await freeShares(context);
  if (context.diskLimitMiB === undefined && free.disk >= freeToKeep.disk) await unless(rename(paths.disk, paths.basisDisk), "ENOENT");
  if (context.memoryLimitMiB === undefined && free.memory >= freeToKeep.memory)
    await unless(rename(paths.memory, paths.basisMemory), "ENOENT");
}

/** What an earlier visit left, for as long as it is held open, whatever becomes of the names. */
export async function openBasis(
  paths: VmPaths,
): Promise<{ readonly memory?: FileHandle | undefined; readonly disk?: FileHandle | undefined }> {
  return {
    memory: await unless(open(paths.basisMemory, "r"), "ENOENT"),
    disk: await unless(open(paths.basisDisk, "r"), "ENOENT"),
  };
}

/** Bytes that a host would have more if it needed them. */
export async function basisBytes(vms: Vms): Promise<{ memory: number; disk: number }> {
  const [memory, disk] = await Promise.all([bytesOf(vms, "basisMemory"), bytesOf(vms, "basisDisk")]);
  return { memory, disk };
}

/** Removes what VMs left here: all of it, or what fits `which`. */
export async function dropBases(
  vms: Vms,
  which: (basis: { readonly of: "memory" | "disk"; readonly ageMs: number }) => boolean = () => true,
): Promise<{ removed: number; bytes: number }> {
  const dropped = { removed: 0, bytes: 0 };
  for (const { paths } of vms.all())
    for (const [path, of] of [[paths.basisMemory, "memory"] as const, [paths.basisDisk, "disk"] as const]) {
      const facts = await unless(stat(path), "ENOENT");
      if (!facts || !which({ of, ageMs: Date.now() - facts.ctimeMs })) continue;
      await rm(path, { force: true });
      dropped.removed += 1;
      dropped.bytes += facts.blocks * 512;
    }
  return dropped;
}

/** From now on: what is old goes, and what stands in somebody's way. */
export function startClearing(context: AgentContext, vms: Vms): void {
  const clear = async (): Promise<void> => {
    // A guest may stand for this agent.
    if (vms.all().some((vm) => vm.job)) return;
    const free = await freeShares(context);
    const { removed, bytes } = await dropBases(vms, ({ of, ageMs }) => ageMs > keptForMs || free[of] < freeToStay[of]);
    if (removed > 0) context.log.info({ removed, bytes, free }, "removed what VMs had left here");
  };
  const again = (): void => {
    setTimeout(
      () =>
        void clear()
          .catch((error: unknown) => context.log.error({ err: error }, "clearing failed"))
          .finally(again),
      lookMs,
    ).unref();
  };
  again();
}

async function bytesOf(vms: Vms, path: "basisMemory" | "basisDisk"): Promise<number> {
  const all = await Promise.all(vms.all().map(async ({ paths }) => await unless(stat(paths[path]), "ENOENT")));
  return all.reduce((sum, facts) => sum + (facts?.blocks ?? 0) * 512, 0);
}

async function freeShares(context: AgentContext): Promise<{ memory: number; disk: number }> {
  const { bavail, blocks } = await statfs(context.stateDir);
  const run = await statfs(context.runDir);
  return { memory: Math.min(await availableShare(), run.bavail / Math.max(1, run.blocks)), disk: bavail / Math.max(1, blocks) };
}

async function availableShare(): Promise<number> {
  const text = await readFile("/proc/meminfo", "utf8");
  const kibOf = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(text)?.[1] ?? 0);
  return kibOf("MemAvailable") / Math.max(1, kibOf("MemTotal"));
}
