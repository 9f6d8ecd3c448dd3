/** A guest that goes on in another process, as an agent makes it: for tests of what has to survive that. */
import { constants, copyFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { newFolder, tool, Vm, type VmOptions } from "./vm";

let attempts = 0;

/** Freezes and releases the guest and ends its process: memory and disk stay in its folder, in state `released`. */
export async function release(vm: Vm): Promise<string> {
  const attempt = `test-${process.pid}-${++attempts}`;
  await using control = await vm.control();
  await control.request("freeze", { attempt, deadmanMs: 60_000 });
  await control.request("release", { attempt });
  await control.request("quit");
  await vm.exited;
  return attempt;
}

/** A process that waits for `go` over files in `folder`, which are made ready for it. */
export async function incoming(folder: string, attempt: string, epoch: number, options: VmOptions = {}): Promise<Vm> {
  tool("cas", join(folder, "memory"), "released", "part", `attempt=${attempt}`, `epoch=${epoch}`);
  return Vm.boot({ ...options, folder, incoming: true });
}

/** Lets a released guest go on over the files in `folder`. */
export async function resume(folder: string, attempt: string, epoch: number, options: VmOptions = {}): Promise<Vm> {
  const next = await incoming(folder, attempt, epoch, options);
  await go(next, attempt);
  return next;
}

/** As an agent's target: another process waits, over copies in a new folder, while the one that the guest has left goes on serving. */
export async function incomingBeside(vm: Vm, attempt: string, epoch: number): Promise<Vm> {
  const folder = newFolder();
  mkdirSync(join(folder, "run"), { mode: 0o700 });
  for (const name of ["memory", "disk.overlay"]) copyFileSync(vm.path(name), join(folder, name), constants.COPYFILE_FICLONE);
  return incoming(folder, attempt, epoch);
}

/** The same guest in a new process over the same files. */
export async function resumeHere(vm: Vm, epoch: number, options: VmOptions = {}): Promise<Vm> {
  return resume(vm.folder, await release(vm), epoch, options);
}

/** The same guest over copies of its files in a new folder, which the caller removes; no run folder travels. */
export async function resumeElsewhere(vm: Vm, epoch: number, options: VmOptions = {}): Promise<Vm> {
  const attempt = await release(vm);
  const folder = newFolder();
  mkdirSync(join(folder, "run"), { mode: 0o700 });
  for (const name of ["memory", "disk.overlay"]) copyFileSync(vm.path(name), join(folder, name), constants.COPYFILE_FICLONE);
  rmSync(vm.path("memory"));
  return resume(folder, attempt, epoch, options);
}

/** The same guest, frozen and released, over `copy` (of its memory, as it was at the freeze) in `folder`. */
export async function resumeFromCopy(
  vm: Vm,
  attempt: string,
  copy: Buffer,
  folder: string,
  epoch: number,
  options: VmOptions,
): Promise<Vm> {
  const RELEASED = 4;
  copy.writeUInt32LE(RELEASED, 8);
  mkdirSync(join(folder, "run"), { mode: 0o700 });
  writeFileSync(join(folder, "memory"), copy, { mode: 0o600 });
  copyFileSync(vm.path("disk.overlay"), join(folder, "disk.overlay"), constants.COPYFILE_FICLONE);
  rmSync(vm.path("memory"));
  return resume(folder, attempt, epoch, options);
}

/** Says `go` on a connection that is then used on; ends the process if that fails. */
async function go(vm: Vm, attempt: string): Promise<void> {
  try {
    await using control = await vm.control();
    await control.request("go", { attempt });
    const status = await control.request("status");
    if (status.state !== "run") throw new Error(`after go the state is ${status.state}`);
  } catch (cause) {
    const log = vm.log().slice(-2000);
    await vm[Symbol.asyncDispose]();
    throw new Error(`go: ${(cause as Error).message}; the process's log ends with:\n${log}`, { cause });
  }
}
