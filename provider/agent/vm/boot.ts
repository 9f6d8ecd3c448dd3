import { rm } from "node:fs/promises";
import { mkdirPrivate } from "../../lib/files";
import { UndoStack } from "../../lib/undo";
import type { Wiring } from "../../schemas/link";
import type { VmSpec } from "../../schemas/vm";
import type { AgentContext } from "../context";
import { AgentFault, during } from "../errors";
import { addNics, giveKeys, setLinks } from "../link/wire";
import type { Store } from "../store/store";
import { tailOf } from "./console";
import { Control } from "./control";
import { cpuLoad, leastLoaded } from "./cpu";
import { LiveVm } from "./live";
import type { VmPaths } from "./paths";
import { killProcess, spawnKernel, type VmProcess } from "./process";
import { Tool } from "./tool";

/** What a start needs, whether cold or of a copy that waits to be resumed. */
export interface StartPlan {
  readonly context: AgentContext;
  readonly store: Store;
  readonly paths: VmPaths;
  readonly spec: VmSpec;
  readonly ports: Readonly<Record<string, number>>;
  readonly wirings: readonly Wiring[];
}

const controlLimitMs = 10_000;

/** A cold boot from the disk, with an epoch that was burnt for it. The guest boots on when this returns. */
export async function coldBoot(plan: StartPlan, epoch: number): Promise<LiveVm> {
  const { context, store, paths, spec } = plan;
  const kernel = await store.path(spec.kernelId);
  await using undo = new UndoStack();
  await rm(paths.run, { recursive: true, force: true });
  await mkdirPrivate(paths.run);
  undo.add(() => rm(paths.run, { recursive: true, force: true }));
  await new Tool(kernel).create(paths.memory, spec.memoryMiB * 1048576);
  const live = await startProcess(plan, kernel, [
    `mem=${spec.memoryMiB}M`,
    `mobi.epoch=${epoch}`,
    "root=/dev/mbda",
    "rw",
    "init=/sbin/init",
    "quiet",
  ]);
  undo.add(() => killProcess(live.process));
  undo.add(() => live[Symbol.dispose]());
  await during("set up the NICs", addNics(context, live.control, spec, plan.ports, plan.wirings));
  await during("set up the links", setLinks(live.control, spec, plan.wirings));
  live.openChannels(context);
  undo.commit();
  return live;
}

/** A process that waits for `go`, with its NICs set up. The memory file is there, in `part`. */
export async function startIncoming(plan: StartPlan): Promise<LiveVm> {
  const kernel = await plan.store.path(plan.spec.kernelId);
  const live = await startProcess(plan, kernel, ["incoming"]);
  await using undo = new UndoStack();
  undo.add(() => killProcess(live.process));
  undo.add(() => live[Symbol.dispose]());
  await during("set up the NICs", addNics(plan.context, live.control, plan.spec, plan.ports, plan.wirings));
  await during("set up the links", giveKeys(live.control, plan.spec, [], plan.wirings));
  undo.commit();
  return live;
}

async function startProcess(plan: StartPlan, kernel: string, words: readonly string[]): Promise<LiveVm> {
  const { context, store, paths, spec } = plan;
  const load = await cpuLoad(spec.uuid);
  const cpu = spec.cpu === "auto" ? leastLoaded(load) : spec.cpu;
  if (!load.has(cpu))
    throw new AgentFault("bad-request", "choose a CPU", `this host has no CPU ${cpu} for us`, {
      next: `choose one of ${[...load.keys()].join(", ")} or "auto"`,
    });
  const verb = words[0] === "incoming" ? ["incoming"] : [];
  const args = [
    ...verb,
    `mobi.run=${paths.run}`,
    `mobi.memory=${paths.memory}`,
    `mobi.vm=${spec.uuid}`,
    `mobi.cpu=${cpu}`,
    `mobi.disk=${paths.disk}`,
    `mobi.base=${await store.path(spec.imageId)}`,
    `mobi.basehash=${spec.imageId}`,
    `seccomp=${spec.userspace === "seccomp" ? "on" : "off"}`,
    ...words.slice(verb.length),
  ];
  const process = await spawnKernel(kernel, args, paths.run, paths.log, paths.process, { cpu, ports: plan.ports });
  await using undo = new UndoStack();
  undo.add(() => killProcess(process));
  const control = await connected(plan, process);
  undo.commit();
  context.log.info({ vm: spec.uuid, pid: process.record.pid, cpu, incoming: verb.length > 0 }, "kernel process started");
  return new LiveVm(process, control, paths);
}

async function connected(plan: StartPlan, process: VmProcess): Promise<Control> {
  const ended = new AbortController();
  const died = process.ended.then(async (how) => {
    ended.abort();
    const said = (await tailOf(plan.paths.log, 4096)).trim().split("\n").at(-1) ?? "";
    const code = how.code === 77 ? "cpu-features" : "failed";
    throw new AgentFault(
      code,
      "start the kernel process",
      `it ended at once with ${how.code === undefined ? `signal ${how.signal ?? "?"}` : `code ${how.code}`}: ${said}`,
    );
  });
  return await Promise.race([Control.connect(plan.paths.control, controlLimitMs, ended.signal), died]);
}
