import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { runRoot } from "../context";
import { isOurs, readProcess } from "./process";

/** CPUs that this process may use. */
export async function allowedCpus(): Promise<number[]> {
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(await readFile("/proc/self/status", "utf8"))?.[1] ?? "0";
  return list.split(",").flatMap((range) => {
    const [from = 0, to = from] = range.split("-").map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

/**
 * VMs per CPU over all agents of this user: two local hosts share one machine. The VM of this uuid, for which a CPU is looked for, does not count: while it moves within
 * the machine, its two processes run in turns.
 */
export async function cpuLoad(uuid: string): Promise<Map<number, number>> {
  const load = new Map((await allowedCpus()).map((cpu) => [cpu, 0]));
  for (const agent of await readdir(runRoot()).catch(() => [])) {
    for (const vm of await readdir(join(runRoot(), agent)).catch(() => [])) {
      if (vm === uuid) continue;
      const record = await readProcess(join(runRoot(), agent, vm, "process.json")).catch(() => undefined);
      if (record?.cpu === undefined || !(await isOurs(record))) continue;
      load.set(record.cpu, (load.get(record.cpu) ?? 0) + 1);
    }
  }
  return load;
}

/** The CPU with the fewest VMs; `current` stays where it is as good. Pure. */
export function leastLoaded(load: ReadonlyMap<number, number>, current?: number): number {
  let best = current !== undefined && load.has(current) ? current : undefined;
  for (const [cpu, vms] of load) {
    if (best === undefined || vms < (load.get(best) ?? 0)) best = cpu;
  }
  return best ?? 0;
}
