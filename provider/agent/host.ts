import { readFile, statfs } from "node:fs/promises";
import { availableParallelism, cpus, freemem, release, totalmem } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { unless } from "../lib/errors";
import { readJson } from "../lib/files";
import type { HostFacts } from "../protocol/methods";
import type { AgentContext } from "./context";
import { basisBytes, dropBases } from "./vm/basis";
import { Tool } from "./vm/tool";
import type { Vms } from "./vm/vms";

const mebi = 1048576;

const override = z
  .object({ cpuFlags: z.array(z.string()), xstateBytes: z.number(), memoryFreeMiB: z.number(), diskFreeMiB: z.number() })
  .partial();

/**
 * What this host can give, measured now. `facts-override.json` in the state folder is laid over it: that is how a test makes a host that lacks something.
 * @param kernel a program to ask by `tool probe`, where one is here
 */
export async function hostFacts(context: AgentContext, vms: Vms, kernel?: string): Promise<HostFacts> {
  const probe = kernel === undefined ? undefined : await new Tool(kernel).probe(context.runDir).catch(() => undefined);
  const laid = (await readJson(join(context.stateDir, "facts-override.json"), (value) => override.parse(value))) ?? {};
  // What VMs left here goes when somebody needs the room.
  const left = await basisBytes(vms);
  const memoryFreeMiB = Math.min(await freeMiB(context.runDir), await availableMiB()) + left.memory / mebi;
  const diskFreeMiB = (await freeMiB(context.stateDir)) + left.disk / mebi;
  return {
    cpuModel: cpus()[0]?.model ?? "unknown",
    cpus: availableParallelism(),
    // Not /proc/cpuinfo: a host's kernel leaves out of it what it does not use itself, and programs use it all the same.
    cpuFlags: laid.cpuFlags ?? [...(probe?.cpuFlags ?? [])],
    xstateBytes: laid.xstateBytes ?? probe?.xstateBytes ?? 0,
    memoryMiB: Math.floor(Math.min(totalmem() / mebi, context.memoryLimitMiB ?? Infinity)),
    memoryFreeMiB: laid.memoryFreeMiB ?? limited(memoryFreeMiB, context.memoryLimitMiB, vms, (vm) => vm.memoryMiB),
    diskFreeMiB: laid.diskFreeMiB ?? limited(diskFreeMiB, context.diskLimitMiB, vms, (vm) => vm.diskMiB),
    kernelRelease: release(),
    runDir: context.runDir,
    stateDir: context.stateDir,
    warnings: [...(probe && !probe.execTmpfs ? [noExec(context.runDir)] : []), ...(await sessionWarnings())],
    vms: vms.all().filter((vm) => vm.file && !vm.journal.value.tombstone).length,
  };
}

/** Before so much is taken: what VMs left here goes, where there is not so much without it. */
export async function makeRoom(context: AgentContext, vms: Vms, needs: { memoryBytes: number; diskBytes: number }): Promise<void> {
  const free = { memory: Math.min(await freeMiB(context.runDir), await availableMiB()), disk: await freeMiB(context.stateDir) };
  const needed = { memory: needs.memoryBytes / mebi, disk: needs.diskBytes / mebi };
  await dropBases(vms, ({ of }) => free[of] < 2 * needed[of]);
}

/** Any kernel of the store, one that a VM here uses first, or else none. */
export async function someKernel(vms: Vms): Promise<string | undefined> {
  for (const vm of vms.all()) {
    const id = vm.file?.spec.kernelId;
    if (id !== undefined && (await vms.store.has(id))) return await vms.store.path(id);
  }
  return await vms.store.anyProgram();
}

export function noExec(folder: string): string {
  return `${folder} does not let programs be mapped (noexec): mount its tmpfs with exec, or give the container one (for Docker: --tmpfs /dev/shm:exec)`;
}

function limited(free: number, limit: number | undefined, vms: Vms, of: (spec: { memoryMiB: number; diskMiB: number }) => number): number {
  if (limit === undefined) return Math.floor(free);
  const promised = vms.all().reduce((sum, vm) => sum + (vm.file && !vm.journal.value.tombstone ? of(vm.file.spec) : 0), 0);
  return Math.max(0, Math.floor(Math.min(free, limit - promised)));
}

async function freeMiB(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return (bavail * bsize) / mebi;
}

async function availableMiB(): Promise<number> {
  const found = /^MemAvailable:\s*(\d+) kB/m.exec(await readFile("/proc/meminfo", "utf8"));
  return found ? Number(found[1]) / 1024 : freemem() / mebi;
}

/** systemd's log-in daemon may end our processes, or unlink our memory files, when the user's last session ends. */
async function sessionWarnings(): Promise<string[]> {
  const text = (await unless(readFile("/etc/systemd/logind.conf", "utf8"), "ENOENT", "EACCES")) ?? "";
  const user = process.getuid?.() ?? 0;
  if (user < 1000 || (await unless(statfs("/run/systemd/seats"), "ENOENT")) === undefined) return [];
  const lingers = (await unless(statfs(`/var/lib/systemd/linger/${process.env.USER ?? ""}`), "ENOENT")) !== undefined;
  const set = (key: string): string | undefined => new RegExp(`^\\s*${key}\\s*=\\s*(\\S+)`, "m").exec(text)?.[1]?.toLowerCase();
  if (lingers) return [];
  return [
    ...(set("RemoveIPC") === "no"
      ? []
      : ["logind's RemoveIPC unlinks this user's files in /dev/shm at its last log-out: `loginctl enable-linger` keeps them"]),
    ...(set("KillUserProcesses") === "yes"
      ? ["logind's KillUserProcesses ends this user's VMs at its last log-out: `loginctl enable-linger` keeps them"]
      : []),
  ];
}
