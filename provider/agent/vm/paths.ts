import { join } from "node:path";
import type { AgentContext } from "../context";

/** Where a VM's things lie on its host. */
export interface VmPaths {
  /** Persistent: disk, spec, wirings, logs. */
  readonly state: string;
  readonly spec: string;
  readonly wirings: string;
  readonly disk: string;
  readonly console: string;
  readonly log: string;
  /** On tmpfs: memory and sockets; gone after a reboot. */
  readonly run: string;
  readonly memory: string;
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
    console: join(state, "console.log"),
    log: join(state, "vm.log"),
    run,
    memory: join(run, "memory"),
    process: join(run, "process.json"),
    control: join(run, "control.sock"),
    consoleSocket: join(run, "console.sock"),
    guest: join(run, "guest.sock"),
    diskMap: join(run, "disk.map"),
  };
}
