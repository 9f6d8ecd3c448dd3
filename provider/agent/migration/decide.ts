import type { Incoming, Outgoing, VmRecord } from "./journal";

/** The deciding word of a memory file's header; `none`: there is no file. */
export type CopyState = "part" | "run" | "runPartial" | "frozen" | "released" | "refused" | "haltedByGuest" | "none";

/** What a source's agent does at start, and whenever an attempt has no job. */
export type SourceStep = "abort" | "thaw-and-abort" | "restore-and-abort" | "finish" | "ask" | "retire" | "none";
/** What a target's agent does at start, and whenever it is asked. */
export type TargetStep = "wait" | "fill" | "settle" | "say-gone" | "say-settled" | "none";

interface SourceRow {
  readonly out: Outgoing["state"];
  readonly header: readonly CopyState[] | "any";
  /** Whether the VM's process lives; undefined: it does not matter. */
  readonly alive?: boolean;
  /** Whether the copy here belongs to a later attempt that brought the VM back; undefined: it does not matter. */
  readonly cameBack?: boolean;
  readonly step: SourceStep;
}

/** The recovery table of migration-protocol.md, the source's side. The first row that fits counts. */
export const sourceTable: readonly SourceRow[] = [
  { out: "INIT", header: "any", step: "abort" },
  { out: "OPEN", header: ["frozen"], alive: true, step: "thaw-and-abort" },
  // `part`: an earlier recovery was on its way from frozen to run when the agent ended.
  { out: "OPEN", header: ["frozen", "part"], alive: false, step: "restore-and-abort" },
  { out: "OPEN", header: ["part"], alive: true, step: "restore-and-abort" },
  { out: "OPEN", header: ["run", "haltedByGuest", "refused"], step: "abort" },
  { out: "OPEN", header: ["released"], step: "finish" },
  // Rebooted, or the memory is gone: never a cold boot before the target has answered.
  { out: "OPEN", header: ["none"], step: "ask" },
  // The VM has come (or is coming) home since: what is here is not the copy that went.
  { out: "CLOSED", header: "any", cameBack: true, step: "none" },
  { out: "CLOSED", header: "any", step: "retire" },
  { out: "ABORTED", header: "any", step: "none" },
];

/** @throws Error for a state that no row names: it must never be guessed */
export function decideSource(out: Outgoing["state"], header: CopyState, alive: boolean, cameBack: boolean): SourceStep {
  const row = sourceTable.find(
    (r) =>
      r.out === out &&
      (r.header === "any" || r.header.includes(header)) &&
      (r.alive === undefined || r.alive === alive) &&
      (r.cameBack === undefined || r.cameBack === cameBack),
  );
  if (!row) throw new Error(`no rule for a source with ${out} and a copy in ${header}`);
  return row.step;
}

interface TargetRow {
  readonly in: Incoming["state"];
  readonly header: readonly CopyState[] | "any";
  /** Whether the VM's process lives; undefined: it does not matter. */
  readonly alive?: boolean;
  readonly step: TargetStep;
}

/** The target's side: from (in[m], header) alone, never from the journal alone. */
export const targetTable: readonly TargetRow[] = [
  { in: "RESERVED", header: ["part"], step: "wait" },
  { in: "RESERVED", header: ["run", "haltedByGuest", "frozen"], step: "settle" },
  // It runs and lacks pages that only the source has; one that died is no copy.
  { in: "RESERVED", header: ["runPartial"], alive: true, step: "fill" },
  { in: "RESERVED", header: "any", step: "say-gone" },
  { in: "SETTLED", header: "any", step: "say-settled" },
  { in: "GONE", header: "any", step: "none" },
];

export function decideTarget(state: Incoming["state"], header: CopyState, alive: boolean): TargetStep {
  const row = targetTable.find(
    (r) => r.in === state && (r.header === "any" || r.header.includes(header)) && (r.alive === undefined || r.alive === alive),
  );
  if (!row) throw new Error(`no rule for a target with ${state} and a copy in ${header}`);
  return row.step;
}

/** May the source run its copy again after release? Only by GONE of the very journal that the attempt was offered by. */
export function mayReturn(out: Outgoing, fact: { readonly fact: string; readonly m: string; readonly journalId: string }): boolean {
  return (
    out.state === "OPEN" && fact.fact === "GONE" && fact.m === out.m && out.toJournal !== undefined && fact.journalId === out.toJournal
  );
}

/** What of a VM's journal these judge by. */
type Words = Pick<VmRecord, "home" | "floor"> & {
  readonly in: readonly Pick<Incoming, "state">[];
  readonly out?: Pick<Outgoing, "state"> | undefined;
};

const isOpen = (words: Words): boolean => words.out?.state === "INIT" || words.out?.state === "OPEN";
const isArriving = (words: Words): boolean => words.in.at(-1)?.state === "RESERVED";

/** Why this host may not take an attempt in; undefined: it may. */
export function whyNotOffer(words: Words, epochTarget: number): "own move open" | "has it" | "stale epoch" | undefined {
  if (words.out?.state === "OPEN") return "own move open";
  if (words.home === "yes") return "has it";
  // An offer that was made before another attempt ended: what it would start with may have been used.
  return epochTarget <= words.floor ? "stale epoch" : undefined;
}

/** Why a VM may not be started, stopped or changed here: moves own it from INIT to their end. Undefined: it may. */
export function whyNotChange(words: Words): "move open" | "move arriving" | "not here" | undefined {
  if (isOpen(words)) return "move open";
  if (isArriving(words)) return "move arriving";
  return words.home === "yes" ? undefined : "not here";
}

/** Why no further move may begin here, whatever becomes of an older one; undefined: it may. Never onward before the incoming one is SETTLED. */
export function whyNotBegin(words: Words, alive: boolean): "move arriving" | "not here" | undefined {
  if (isArriving(words)) return "move arriving";
  return words.home === "yes" && alive ? undefined : "not here";
}

/**
 * How an attempt's job is started: from its first phase, or, where the word was said and only the target's answer counts, from the last copy on.
 * An attempt that is armed but not released has no job to come back to: the recovery table undoes it.
 */
export function decideStart(out: Outgoing["state"], header: CopyState): "anew" | "resume" | "refuse" {
  if (out === "INIT") return "anew";
  return out === "OPEN" && (header === "released" || header === "none") ? "resume" : "refuse";
}
