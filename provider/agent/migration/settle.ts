import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../../lib/errors";
import { AgentFault } from "../errors";
import type { LiveVm } from "../vm/live";
import { killProcess } from "../vm/process";
import { Tool } from "../vm/tool";
import type { Vm } from "../vm/vm";
import { decideTarget } from "./decide";

/** The guest runs while it is told, and may be busy. */
const completeLimitMs = 60_000;
const lockLimitMs = 5_000;
const lockPauseMs = 20;

/** The copy runs here: its disk is made durable, then SETTLED and `home` in one record. Idempotent. */
export async function settleIncoming(vm: Vm, m: string): Promise<void> {
  const state = vm.journal.incoming(m)?.state;
  if (state === "SETTLED") return;
  if (state !== "RESERVED") throw new AgentFault("bad-state", "settle an incoming move", `it is ${state ?? "unknown"}`);
  const disk = await open(vm.paths.disk, "r+");
  try {
    await disk.sync();
  } finally {
    await disk.close();
  }
  await vm.journal.writeIncoming(m, { state: "SETTLED" }, { home: "yes" });
}

/**
 * No page is missing any more: the copy becomes an ordinary one, however long its process takes to hear of it.
 * @returns why it did not; undefined: it is
 */
export async function completeIncoming(vm: Vm, live: LiveVm, m: string): Promise<string | undefined> {
  for (;;) {
    try {
      await live.control.say("complete", { attempt: m }, completeLimitMs);
      return undefined;
    } catch (error) {
      if (decideTarget("RESERVED", await vm.copyState(), vm.live !== undefined) === "settle") return undefined;
      if (vm.live !== live) return messageOf(error);
    }
  }
}

/** Whether the copy has gone on here, and lacks nothing: then nothing but settling is left of its attempt, whether it still runs or not. */
async function hasRun(vm: Vm): Promise<boolean> {
  return decideTarget("RESERVED", await vm.copyState(), false) === "settle";
}

/**
 * GONE, durably: only once no startable or running copy of the attempt exists, after which none can appear.
 * @returns false: the guest has gone on here before its process could be told not to, and nothing is given up
 */
export async function sayGone(vm: Vm, m: string): Promise<boolean> {
  const record = vm.journal.incoming(m);
  if (record?.state === "SETTLED") throw new AgentFault("bad-state", "give up an incoming move", "it is settled");
  if (record?.state !== "RESERVED") return true;
  if ((await vm.copyState()) === "part") {
    // What is noted of an end would be written beside a removal.
    const live = vm.detach();
    const refused = await live?.control.say("refuse", { attempt: m }, 2000).catch(() => undefined);
    if (live && !refused && (await hasRun(vm))) {
      vm.adopt(live);
      return false;
    }
    live?.[Symbol.dispose]();
    if (live) await killProcess(live.process);
    if ((await vm.copyState()) === "part") await refuseFile(vm, "part");
  }
  // It ran and lacks pages: its process ends before it is no copy any more.
  if ((await vm.copyState()) === "runPartial") {
    const live = vm.release();
    if (live) await killProcess(live.process);
    await refuseFile(vm, "runPartial");
  }
  // Ended as it went on: its disk is the newest that there is.
  if (await hasRun(vm)) return false;
  await vm.journal.writeIncoming(m, { state: "GONE" });
  return true;
}

/** The file's lock goes with the last of a killed process's helpers, a moment after it. */
async function refuseFile(vm: Vm, from: "part" | "runPartial"): Promise<void> {
  const tool = new Tool(await vm.kernel());
  const end = performance.now() + lockLimitMs;
  for (;;) {
    try {
      return await tool.swap(vm.paths.memory, from, "refused");
    } catch (error) {
      const now = await vm.copyState();
      // Its process may have done it itself, a moment before its end.
      if (now === "refused" || now === "none") return;
      if (performance.now() > end || now !== from) throw error;
    }
    await sleep(lockPauseMs);
  }
}
