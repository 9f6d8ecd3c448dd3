/** From runs to medians, ratios, and a table. */
import { renderTable } from "../../../provider/cli/table";
import type { Case, Load, QemuSettings } from "./cases";
import { type Goal, goalsOf } from "./goals";
import { isAsAsked, type LinkMeasured, type LinkShape } from "./lab";
import { median } from "./median";
import type { Move, Outcome } from "./side";

/** Medians over the runs that came to their end; null where none did. */
export interface SideResult {
  readonly gapMs: number | null;
  readonly totalS: number | null;
  readonly bytes: number | null;
  /** False if one guest was not right. Null: no run came to its end. */
  readonly guestOk: boolean | null;
  readonly reportedDowntimeMs?: number;
  readonly quietGapMs?: number;
  readonly speedKept?: number;
  readonly copyGapMs?: number;
  readonly guestSyscallNs?: number;
  readonly runs: readonly Outcome[];
}
/** What QEMU did with one of a case's settings. */
export interface QemuResult extends SideResult {
  readonly settings: QemuSettings;
}
export interface CaseResult {
  readonly name: string;
  readonly load: Load;
  readonly link: { readonly asked: LinkShape; readonly measured?: LinkMeasured; readonly asAsked?: boolean };
  readonly ours: SideResult;
  /** With those of the settings that gave the shortest gap. */
  readonly qemu?: QemuResult;
  readonly qemuOtherSettings?: readonly QemuResult[];
  /** QEMU's figure over ours; each figure is QEMU's best with any of the settings. */
  readonly ratio?: { readonly gap: number | null; readonly bytes: number | null; readonly total: number | null };
  /** The machine's load average before the runs: lowest and highest. */
  readonly machineLoad: readonly [number, number];
}
export interface TouchedResult extends CaseResult {
  readonly touchedMib: number;
}
export interface Result {
  /** `taps`: whether guests and slow cables have TAP devices, not their stand-ins. */
  readonly machine: { readonly cpus: string; qemu: string; readonly taps: boolean };
  readonly cases: readonly CaseResult[];
  readonly touched: readonly TouchedResult[];
}

export function summarize(
  c: Case,
  outcomes: { readonly ours: readonly Outcome[]; readonly qemu: readonly { settings: QemuSettings; runs: readonly Outcome[] }[] },
  links: readonly LinkMeasured[],
  loads: readonly number[],
): CaseResult {
  const ours = sideResult(outcomes.ours);
  const results = outcomes.qemu.map(({ settings, runs }): QemuResult => ({ settings, ...sideResult(runs) }));
  const [qemu, ...others] = [...results].sort((a, b) => (a.gapMs ?? 1e9) - (b.gapMs ?? 1e9));
  const over = (of: (side: SideResult) => number | null): number | null => {
    const [best, own] = [Math.min(...results.map((r) => of(r) ?? Infinity)), of(ours)];
    return Number.isFinite(best) && own ? rounded(best / own, 2) : null;
  };
  return {
    name: c.name,
    load: c.load,
    link: { asked: c.link, ...(links[0] && { measured: links[0], asAsked: isAsAsked(c.link, links[0]) }) },
    ours,
    ...(qemu && { qemu, ratio: { gap: over((r) => r.gapMs), bytes: over((r) => r.bytes), total: over((r) => r.totalS) } }),
    ...(others.length > 0 && { qemuOtherSettings: others }),
    machineLoad: [Math.min(...loads), Math.max(...loads)],
  };
}

function sideResult(runs: readonly Outcome[]): SideResult {
  const moves = runs.filter((run): run is Move => !("failed" in run));
  const middle = (of: (move: Move) => number | undefined, digits: number): number | undefined => {
    const values = moves.map(of).filter((v) => v !== undefined);
    return values.length === 0 ? undefined : rounded(median(values), digits);
  };
  const [copyGapMs, reportedDowntimeMs, quietGapMs, speedKept, guestSyscallNs] = [
    middle((m) => m.copyGapMs, 2),
    middle((m) => m.reported.downtimeMs, 2),
    middle((m) => m.quietGapMs, 2),
    middle((m) => m.speedKept, 3),
    middle((m) => m.guestSyscallNs, 0),
  ];
  return {
    gapMs: middle((m) => m.gapMs, 2) ?? null,
    totalS: middle((m) => m.totalS, 3) ?? null,
    bytes: middle((m) => m.bytes, 0) ?? null,
    guestOk: moves.length === 0 ? null : moves.every((m) => m.guestOk),
    ...(copyGapMs !== undefined && { copyGapMs }),
    ...(reportedDowntimeMs !== undefined && { reportedDowntimeMs }),
    ...(quietGapMs !== undefined && { quietGapMs }),
    ...(speedKept !== undefined && { speedKept }),
    ...(guestSyscallNs !== undefined && { guestSyscallNs }),
    runs,
  };
}

/** For a person: a line per case and side. */
export function table(result: Result): string {
  const rows = [...result.cases, ...result.touched].flatMap((c) => {
    const lines = [line(c.name, "ours", c.ours, c)];
    for (const r of [...(c.qemu ? [c.qemu] : []), ...(c.qemuOtherSettings ?? [])]) lines.push(line("", `QEMU, ${r.settings.name}`, r, c));
    if (c.ratio) lines.push(["", "QEMU / ours", times(c.ratio.gap), "", "", "", times(c.ratio.total), times(c.ratio.bytes), "", "", ""]);
    return lines;
  });
  const links = result.cases.map(
    (c) =>
      `${c.name}: TCP ${c.link.measured?.tcpMbps} Mbit/s, round trip ${c.link.measured?.rttMs} ms${c.link.asAsked ? "" : " (NOT AS ASKED)"}`,
  );
  const took = [...result.cases, ...result.touched].map((c) => c.ours.guestSyscallNs).filter((ns) => ns !== undefined);
  const syscall = took.length === 0 ? [] : [`a system call in a guest of ours: ${(median(took) / 1000).toFixed(1)} µs`];
  const columns = ["CASE", "SIDE", "GAP ms", "(copy)", "(quiet)", "(reported)", "TOTAL s", "MB", "SPEED KEPT", "GUEST", "LOAD"];
  return [
    renderTable(
      columns.map((title, i) => ({ title, right: i > 1 && i < 9 })),
      rows,
    ),
    renderTable(
      [{ title: "GOAL" }, { title: "CASE" }, { title: "VALUE", right: true }, { title: "" }],
      goalsOf(result).map((g: Goal) => [g.goal, g.case, g.value === null ? "" : String(g.value), g.reached ? "reached" : "MISSED"]),
    ),
    `Links as measured: ${[...new Set(links)].join("; ")}`,
    `${[result.machine.cpus, result.machine.qemu, ...syscall].join("; ")}`,
  ].join("\n\n");
}

function line(name: string, side: string, r: SideResult, c: CaseResult): string[] {
  const text = (value: number | null | undefined, digits: number): string => (typeof value === "number" ? value.toFixed(digits) : "");
  const failed = r.runs.find((run) => "failed" in run);
  return [
    name,
    side,
    text(r.gapMs, 1),
    text(r.copyGapMs, 1),
    text(r.quietGapMs, 1),
    text(r.reportedDowntimeMs, 1),
    text(r.totalS, 2),
    text(r.bytes === null ? null : r.bytes / 1e6, 2),
    r.speedKept === undefined ? "" : `${Math.round(r.speedKept * 100)} %`,
    failed && "failed" in failed ? failed.failed : r.guestOk === null ? "" : r.guestOk ? "ok" : "WRONG",
    c.machineLoad.map((l) => l.toFixed(1)).join("–"),
  ];
}

const times = (ratio: number | null): string => (ratio === null ? "" : `${ratio.toFixed(1)} ×`);

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));
