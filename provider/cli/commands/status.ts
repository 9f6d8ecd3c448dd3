/** `mobitopolo status`: hosts, VMs and links as their agents tell them. */
import { Fleet, type HostAnswer, linksOf } from "../fleet";
import type { Scope } from "../hosts";
import { durationText, renderTable, sizeText } from "../table";

/** Prints three tables, or one JSON object. @returns exit code: 0, or 1 if a host did not answer */
export async function status(scope: Scope, options: { json?: boolean }): Promise<number> {
  await using fleet = new Fleet(scope);
  const answers = await fleet.survey();
  const report = { source: scope.source, hosts: answers.map(hostRow), vms: answers.flatMap(vmRows), links: linkRows(answers, scope) };
  process.stdout.write(options.json === true ? `${JSON.stringify(report, null, 2)}\n` : tables(report));
  return answers.some((a) => a.error !== undefined) ? 1 : 0;
}

type Report = { hosts: ReturnType<typeof hostRow>[]; vms: ReturnType<typeof vmRows>; links: ReturnType<typeof linkRows> };

function hostRow({ host, version, facts, vms, error }: HostAnswer) {
  return {
    name: host.name,
    reached: "local" in host.connection ? "local" : `ssh ${host.connection.ssh.user}@${host.connection.ssh.host ?? host.address}`,
    state: error === undefined ? "up" : "unreachable",
    vms: vms.filter((vm) => vm.movedTo === undefined).length,
    version,
    facts,
    warnings: facts?.warnings ?? [],
    error,
  };
}

function vmRows({ host, vms }: HostAnswer) {
  return vms
    .filter((vm) => vm.movedTo === undefined && vm.home !== "destroyed")
    .map((vm) => ({
      name: vm.spec.name,
      uuid: vm.uuid,
      host: host.name,
      state: vm.state,
      memoryMiB: vm.spec.memoryMiB,
      memoryUsedBytes: vm.memoryUsedBytes,
      diskUsedBytes: vm.diskUsedBytes,
      uptimeMs: vm.uptimeMs,
      pid: vm.pid,
      cpu: vm.cpu,
      userspace: vm.spec.userspace,
      epoch: vm.epoch,
      nics: vm.nics,
      lastMigration: vm.lastMigration,
      note: vm.note,
    }));
}

function linkRows(answers: readonly HostAnswer[], scope: Scope) {
  return [...linksOf(answers)].map(([uuid, ends]) => ({
    uuid,
    name: scope.links.find((l) => l.uuid === uuid)?.name,
    ends: ends.map(({ vm, nic, host, stats }) => ({ vm, nic, host, local: stats.local, peer: stats.peer, counters: stats.counters })),
  }));
}

function tables({ hosts, vms, links }: Report): string {
  const parts = [
    renderTable(
      [
        { title: "HOST" },
        { title: "REACHED" },
        { title: "STATE" },
        { title: "VMS", right: true },
        { title: "MEMORY FREE", right: true },
        { title: "DISK FREE", right: true },
      ],
      hosts.map((h) => [
        h.name,
        h.reached,
        h.state,
        String(h.vms),
        sizeText(mib(h.facts?.memoryFreeMiB)),
        sizeText(mib(h.facts?.diskFreeMiB)),
      ]),
    ),
    renderTable(
      [
        { title: "VM" },
        { title: "HOST" },
        { title: "STATE" },
        { title: "UPTIME", right: true },
        { title: "CPU", right: true },
        { title: "MEMORY USED", right: true },
        { title: "DISK USED", right: true },
        { title: "LAST MOVE" },
      ],
      vms.map((v) => [
        v.name,
        v.host,
        v.state,
        durationText(v.uptimeMs),
        v.cpu === undefined ? "–" : String(v.cpu),
        sizeText(v.memoryUsedBytes),
        sizeText(v.diskUsedBytes),
        moveText(v.lastMigration),
      ]),
    ),
    renderTable(
      [
        { title: "LINK END" },
        { title: "PEER END" },
        { title: "SENT", right: true },
        { title: "RECEIVED", right: true },
        { title: "DROPPED", right: true },
        { title: "PEER AT" },
      ],
      links.flatMap((l) =>
        l.ends.map((end, i) => {
          const peer = l.ends[1 - i];
          return [
            `${end.vm}:${end.nic}`,
            peer === undefined ? "?" : `${peer.vm}:${peer.nic}`,
            String(end.counters.txFrames ?? "–"),
            String(end.counters.rxFrames ?? "–"),
            dropsText(end.counters),
            end.peer ?? "unknown",
          ];
        }),
      ),
    ),
  ];
  const remarks = [
    ...hosts.flatMap((h) => [...(h.error === undefined ? [] : [`${h.name}: ${h.error}`]), ...h.warnings.map((w) => `${h.name}: ${w}`)]),
    ...vms.flatMap((v) => (v.note === undefined ? [] : [`${v.name}: ${v.note}`])),
  ];
  return `${[...parts, ...(remarks.length === 0 ? [] : [remarks.join("\n")])].join("\n\n")}\n`;
}

const mib = (value: number | undefined): number | undefined => (value === undefined ? undefined : value * 1024 * 1024);

function moveText(move: { result: string; from: string; to: string; downtimeMs: number } | undefined): string {
  return move === undefined ? "–" : `${move.result}: ${move.from} → ${move.to}, down ${move.downtimeMs.toFixed(1)} ms`;
}

/** `3 replayed, 1 no peer`: of the kernel's counters (`dropReplayed` …) those that counted anything. */
function dropsText(counters: Record<string, number>): string {
  const reasons = Object.entries(counters).filter(([key, n]) => key.startsWith("drop") && n > 0);
  return reasons.length === 0
    ? "0"
    : reasons
        .map(
          ([key, n]) =>
            `${n} ${key
              .slice("drop".length)
              .replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
              .trim()}`,
        )
        .join(", ");
}
