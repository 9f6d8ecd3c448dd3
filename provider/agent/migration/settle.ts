import { open } from "node:fs/promises";
import { AgentFault } from "../errors";
import { killProcess } from "../vm/process";
import { Tool } from "../vm/tool";
import type { Vm } from "../vm/vm";

/** The copy runs here: its disk is made durable, then SETTLED and `home` in one record. Idempotent. */
export async function settleIncoming(vm: Vm, m: string): Promise<void> {
  if (vm.journal.incoming(m)?.state === "SETTLED") return;
  const disk = await open(vm.paths.disk, "r+");
  try {
    await disk.sync();
  } finally {
    await disk.close();
  }
  await vm.journal.writeIncoming(m, { state: "SETTLED" }, { home: "yes" });
}

/** GONE, durably: only once no startable or running copy of the attempt exists, after which none can appear. */
export async function sayGone(vm: Vm, m: string): Promise<void> {
  const record = vm.journal.incoming(m);
  if (record?.state === "SETTLED") throw new AgentFault("bad-state", "give up an incoming move", "it is settled");
  if (record?.state !== "RESERVED") return;
  if ((await vm.copyState()) === "part") {
    if (vm.live) {
      const live = vm.release();
      await live?.control.say("refuse", { attempt: m }, 2000).catch(() => undefined);
      if (live) await killProcess(live.process);
    }
    if ((await vm.copyState()) === "part") await new Tool(await vm.kernel()).swap(vm.paths.memory, "part", "refused");
  }
  // It ran and lacks pages: its process ends before it is no copy any more.
  if ((await vm.copyState()) === "runPartial") {
    const live = vm.release();
    if (live) await killProcess(live.process);
    await new Tool(await vm.kernel()).swap(vm.paths.memory, "runPartial", "refused");
  }
  await vm.journal.writeIncoming(m, { state: "GONE" });
}
