import { join } from "node:path";
import type { AgentContext } from "../context";

/** Where a VM's things lie on its host. */
export interface VmPaths {
  /** Persistent: disk, spec, wirings, logs. */
  readonly state: string;
  readonly spec: string;
  readonly wirings: string;
  readonly disk: string;
  /** What it left here when it moved away (basis.ts); no copy that could run. */
  readonly basisDisk: string;
  readonly console: string;
  readonly log: string;
  /** On tmpfs: memory and sockets; gone after a reboot. */
  readonly run: string;
  readonly memory: string;
  readonly basisMemory: string;
  readonly process: string;
  readonly control: string;
  readonly consoleSocket: string;
  readonly guest: string;
  readonly diskMap: string;
}

export function vmPaths(context: AgentContext, uuid: string): VmPaths {
  const state = join(context.stateDir, "vms", uuid);
  const run = join(context.runDir, uuid);
  return {
    state,
    spec: join(state, "vm.json"),
    wirings: join(state, "wirings.json"),
    disk: join(state, "disk.overlay"),
    basisDisk: join(state, "basis.disk"),
    console: join(state, "console.log"),
    log: join(state, "vm.log"),
    run,
    memory: join(run, "memory"),
    basisMemory: join(run, "basis.memory"),
    process: join(run, "process.json"),
    control: join(run, "control.sock"),
    consoleSocket: join(run, "console.sock"),
    guest: join(run, "guest.sock"),
    diskMap: join(run, "disk.map"),
  };
}
