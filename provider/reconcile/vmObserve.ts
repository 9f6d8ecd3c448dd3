import { messageOf } from "../lib/errors";
import { type MoveFacts, moveFacts, moveTell, type VmReport, vmClaim, vmGet, vmOverrule } from "../protocol/methods";
import type { Reached } from "../transport/connect";
import { isAway } from "../transport/errors";
import type { Row } from "./engine";
import type { Fleet } from "./fleet";

/** What one host said about a VM. */
export interface Sighting {
  readonly host: string;
  readonly reached: Reached;
  /** Null: its journal knows no such VM. */
  readonly report: VmReport | null;
  readonly facts: readonly MoveFacts[];
  /** Our claim there: later calls carry it. Absent where we only looked. */
  readonly gen?: number;
}

/** What all hosts that were asked said. */
export interface Observation {
  readonly sightings: readonly Sighting[];
  /** Hosts that could not be reached, and why. */
  readonly away: ReadonlyMap<string, Error>;
}

/** Asks these hosts, and those that their tombstones and attempts name. `claim`: so that an older run of ours can change nothing from now on. */
export async function observe(
  fleet: Fleet,
  vm: string,
  hosts: readonly string[],
  { claim, row }: { claim: boolean; row?: Row },
): Promise<Observation> {
  const sightings: Sighting[] = [];
  const away = new Map<string, Error>();
  const asked = new Set<string>();
  for (let next = [...new Set(hosts)]; next.length > 0; next = trail(sightings, asked, fleet)) {
    await Promise.all(
      next.map(async (host) => {
        asked.add(host);
        try {
          sightings.push(await sight(fleet, vm, host, claim, row));
        } catch (error) {
          if (!isAway(error)) throw error;
          away.set(host, error instanceof Error ? error : new Error(messageOf(error)));
        }
      }),
    );
  }
  return { sightings, away };
}

async function sight(fleet: Fleet, vm: string, host: string, claim: boolean, row?: Row): Promise<Sighting> {
  const reached = await fleet.reach(host, row);
  const gen = claim ? (await reached.agent.call(vmClaim, { vm })).gen : undefined;
  const { vm: report } = await reached.agent.call(vmGet, { vm });
  const { facts } = await reached.agent.call(moveFacts, { vm });
  return { host, reached, report, facts, ...(gen === undefined ? {} : { gen }) };
}

/** Hosts that what was seen points to, and that we have not asked yet. */
function trail(sightings: readonly Sighting[], asked: ReadonlySet<string>, fleet: Fleet): string[] {
  const named = sightings.flatMap(({ report, facts }) => [report?.movedTo, ...facts.flatMap((fact) => [fact.movedTo, fact.peer?.host])]);
  return [...new Set(named)].filter((host) => host !== undefined && !asked.has(host) && fleet.get(host) !== undefined) as string[];
}

/**
 * Carries facts between the two sides of every attempt until nothing changes (migration-protocol.md, "Recovery", the provider's part).
 * Facts are monotone: a repeated or late one does no harm. True if anything was told.
 */
export async function relay(vm: string, { sightings }: Observation, { query }: { query: boolean }): Promise<boolean> {
  let told = false;
  for (const source of sightings) {
    for (const out of source.facts.filter((fact) => fact.out !== undefined)) {
      const target = sightings.find((one) => one.host === out.peer?.host && one !== source);
      if (!target) continue;
      const inward = target.facts.find((fact) => fact.attempt === out.attempt && fact.in !== undefined);
      const tell = async (to: Sighting, fact: "QUERY" | "LOST" | "ABORTED" | "CLOSED" | "SETTLED" | "GONE", journalId: string) => {
        told = true;
        const result = fact === "CLOSED" && out.result ? { result: out.result } : {};
        return await to.reached.agent.call(moveTell, { vm, attempt: out.attempt, fact, journalId, ...result });
      };
      // A target that gave up keeps its word until the source has heard it, or gave up too.
      if (out.out === "ABORTED" && (inward?.in === "RESERVED" || inward?.in === "GONE")) await tell(target, "ABORTED", out.journalId);
      if (out.out === "CLOSED" && inward?.in === "SETTLED") await tell(target, "CLOSED", out.journalId);
      if (out.out !== "OPEN") continue;
      if (inward?.in === "SETTLED" || inward?.in === "GONE") await tell(source, inward.in, inward.journalId);
      else if (query) {
        // T refuses if it has not started (and of a source without its memory, if it lacks pages), and says so for good: only then may S go on.
        const { facts } = await tell(target, out.header === "none" ? "LOST" : "QUERY", out.journalId);
        const answer = facts.find((fact) => fact.attempt === out.attempt && (fact.in === "SETTLED" || fact.in === "GONE"));
        if (answer?.in === "SETTLED" || answer?.in === "GONE") await tell(source, answer.in, answer.journalId);
      }
    }
  }
  return told;
}

/** So far apart are two floors only where a person recovered the VM (its floor jumps by 2^16). */
const recoveredAbove = 1 << 15;
const floorOf = ({ report }: Sighting): number => report?.floor ?? 0;

/** Hosts that have the VM, by their own word; without those that a person's recovery elsewhere has left behind. */
function homesOf({ sightings }: Observation): { valid: Sighting[]; overruled: Sighting[] } {
  const homes = sightings.filter(({ report }) => report?.home === "yes");
  const highest = Math.max(0, ...homes.map(floorOf));
  // An older agent does not tell its floor.
  const isBelow = (home: Sighting): boolean => home.report?.floor !== undefined && highest - floorOf(home) >= recoveredAbove;
  return { valid: homes.filter((home) => !isBelow(home)), overruled: homes.filter(isBelow) };
}

/** Ends copies that a person's recovery has left behind: their host was away then. True if there was one. */
export async function overrule(vm: string, seen: Observation): Promise<boolean> {
  const { valid, overruled } = homesOf(seen);
  const floor = Math.max(0, ...valid.map(floorOf));
  for (const { reached } of overruled) await reached.agent.call(vmOverrule, { vm, floor });
  return overruled.length > 0;
}

/** The one host whose word counts for this VM: `home` there, and no attempt of it open. */
export function custodian(seen: Observation): Sighting | undefined {
  const homes = homesOf(seen).valid;
  return homes.find(({ facts }) => !facts.some((fact) => fact.out === "OPEN" || fact.out === "INIT")) ?? homes[0];
}

/** Past its point of no return: only the target's word ends it. A source without its memory (its host rebooted) cannot tell whether it is. */
export const isPastReturn = ({ out, header }: MoveFacts): boolean => out === "OPEN" && (header === "released" || header === "none");

/** Its guest runs at the target, and lacks pages that its source has. */
export const lacksPages = (fact: MoveFacts): boolean => fact.in === "RESERVED" && fact.header === "runPartial";

/** Attempts under way, as their source tells. */
export function openAttempts({ sightings }: Observation): { source: Sighting; fact: MoveFacts }[] {
  return sightings.flatMap((source) =>
    source.facts.filter((fact) => fact.out === "INIT" || fact.out === "OPEN").map((fact) => ({ source, fact })),
  );
}
