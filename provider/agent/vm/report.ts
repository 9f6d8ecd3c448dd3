import { stat } from "node:fs/promises";
import { unless } from "../../lib/errors";
import type { VmReport } from "../../protocol/methods";
import type { NicStats } from "../../schemas/link";
import type { VmState } from "../../schemas/vm";
import { askStats, parseStats } from "../link/wire";
import { type CopyState, decideTarget } from "../migration/decide";
import type { LiveVm } from "./live";
import type { Vm } from "./vm";

/** What `vm.get` answers: from journal and header, never from a process alone. Undefined where nothing is known of the VM. */
export async function reportOf(vm: Vm): Promise<VmReport | undefined> {
  let { live } = vm;
  let { value: record } = vm.journal;
  let header = await vm.header().catch(() => undefined);
  // A move that ends meanwhile: whose VM it was before must not be told with what it is now.
  while (record !== vm.journal.value || live !== vm.live) {
    ({ live } = vm);
    ({ value: record } = vm.journal);
    header = await vm.header().catch(() => undefined);
  }
  const { file } = vm;
  if (!file) return undefined;
  const { state, note } = stateOf(vm, header?.state ?? "none");
  // A guest that lacks pages may stand, and its process with it.
  const answers = live && header?.state !== "runPartial" ? live : undefined;
  const status = answers ? await answers.control.say("status", {}, 2000).catch(() => undefined) : undefined;
  const used = async (path: string): Promise<number | undefined> => {
    const facts = await unless(stat(path), "ENOENT");
    return facts && facts.blocks * 512;
  };
  const memoryUsedBytes = await used(vm.paths.memory);
  const diskUsedBytes = await used(vm.paths.disk);
  return {
    uuid: vm.uuid,
    spec: file.spec,
    owner: file.owner,
    state,
    home: record.home,
    floor: record.floor,
    ...(live && { pid: live.process.record.pid }),
    ...(live?.cpu !== undefined && { cpu: live.cpu }),
    ...(header && { epoch: header.epoch }),
    ...(status?.uptimeNs !== undefined && { uptimeMs: Math.floor(Number(status.uptimeNs) / 1e6) }),
    ...(memoryUsedBytes !== undefined && { memoryUsedBytes }),
    ...(diskUsedBytes !== undefined && { diskUsedBytes }),
    // Bits without a name are compared in the preflight only: another host's facts may not list them.
    ...(header?.cpuFlags && { cpuFlags: header.cpuFlags.filter((flag) => !/^cpu\d+\.\d+$/.test(flag)) }),
    nics: await nicStats(vm, answers),
    ...(file.lastMigration && { lastMigration: file.lastMigration }),
    ...(record.tombstone && { movedTo: record.tombstone.host }),
    ...(note !== undefined && { note }),
  };
}

async function nicStats(vm: Vm, live: LiveVm | undefined): Promise<NicStats[]> {
  const { file, wirings } = vm;
  if (!file) return [];
  return live ? await askStats(live.control, file.spec, wirings) : parseStats({}, file.spec, wirings);
}

function stateOf(vm: Vm, header: CopyState): { state: VmState; note?: string } {
  const { out } = vm.journal.value;
  const incoming = vm.journal.in;
  if (out && (out.state === "INIT" || out.state === "OPEN")) {
    if (header === "released" || (out.state === "OPEN" && header === "none")) {
      if (vm.job) return { state: "moving" };
      return {
        state: "in-doubt",
        note: `frozen, in doubt (${out.m} → ${out.to.host}): \`pulumi up\` or \`pulumi refresh\` asks ${out.to.host} and finishes the move; if that host is gone for good, \`mobitopolo recover\``,
      };
    }
    return { state: "moving" };
  }
  if (incoming?.state === "RESERVED") {
    const step = decideTarget("RESERVED", header, vm.live !== undefined);
    if (step === "fill") return { state: "settling", note: fillingNote(vm, incoming.from.host) };
    return { state: step === "settle" ? "settling" : "moving" };
  }
  if (vm.live) return { state: header === "frozen" ? "frozen" : "running" };
  return { state: "stopped", ...(vm.file?.note !== undefined && { note: vm.file.note }) };
}

function fillingNote({ job }: Vm, from: string): string {
  const left = job?.progress.pagesLeft;
  if (left === undefined) return `it runs and waits for pages that ${from} has: \`pulumi up\` or \`pulumi refresh\` connects the two again`;
  return `it runs; ${left} of its pages are still to come from ${from}`;
}
