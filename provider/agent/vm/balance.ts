import { writeJson } from "../../lib/files";
import { cpuLoad, leastLoaded } from "./cpu";
import type { Vms } from "./vms";

const everyMs = 15_000;

/** Moves VMs that share a CPU to one that is free, now and then. Ends with the process. */
export function startBalancing(vms: Vms): void {
  setInterval(
    () => void balance(vms).catch((error: unknown) => vms.context.log.warn({ err: error }, "balancing CPUs failed")),
    everyMs,
  ).unref();
}

async function balance(vms: Vms): Promise<void> {
  for (const vm of vms.all()) {
    const { live } = vm;
    if (!live || vm.job || vm.file?.spec.cpu !== "auto" || live.cpu === undefined) continue;
    const load = await cpuLoad(vm.uuid);
    const best = leastLoaded(load, live.cpu);
    // Only for a real gain: each change costs the guest its warm caches.
    if (best === live.cpu || (load.get(live.cpu) ?? 0) - (load.get(best) ?? 0) < 1) continue;
    await live.control.say("pin", { cpu: best });
    live.cpu = best;
    await writeJson(vm.paths.process, { ...live.process.record, cpu: best });
  }
}
