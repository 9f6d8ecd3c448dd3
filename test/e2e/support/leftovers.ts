/** What is left on this machine of VMs and hosts that were destroyed: nothing may be. */
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

/** Processes (pid and command line) that have one of these paths in their command line or as working folder. */
export function processesOf(...paths: readonly string[]): string[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry) && Number(entry) !== process.pid)
    .flatMap((pid) => {
      try {
        const commandLine = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
        const cwd = readlinkSync(`/proc/${pid}/cwd`);
        return paths.some((path) => commandLine.includes(path) || cwd.startsWith(path)) ? [`${pid}: ${commandLine} (in ${cwd})`] : [];
      } catch {
        return []; // It ended meanwhile, or is not ours to look at.
      }
    });
}

/** All files and sockets below a folder, as paths relative to it, but for those that `keep` names by their first part. */
export function filesBelow(folder: string, keep: readonly string[] = []): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => !keep.includes(path.split("/")[0] ?? ""))
    .filter((path) => {
      const stats = statSync(join(folder, path), { throwIfNoEntry: false });
      return stats !== undefined && !stats.isDirectory();
    });
}

/** Waits until a process is gone, 10 s at most. */
export async function processGone(pid: number): Promise<void> {
  for (let i = 0; i < 200 && existsSync(`/proc/${pid}`); i += 1) await delay(50);
  if (existsSync(`/proc/${pid}`)) throw new Error(`process ${pid} does not end`);
}
