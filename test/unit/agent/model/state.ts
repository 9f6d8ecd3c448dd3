/** One state of the modelled world, and its packing: a fixed row of bytes, so that millions of them can be told apart fast. */
import type { CopyState } from "../../../../provider/agent/migration/decide";
import type { Incoming, Outgoing, VmRecord } from "../../../../provider/agent/migration/journal";

export const copyStates: readonly CopyState[] = ["none", "part", "run", "runPartial", "frozen", "released", "refused", "haltedByGuest"];
const outStates: readonly (Outgoing["state"] | "none")[] = ["none", "INIT", "OPEN", "ABORTED", "CLOSED"];
const inStates: readonly (Incoming["state"] | "none")[] = ["none", "RESERVED", "SETTLED", "GONE"];
const homes: readonly VmRecord["home"][] = ["no", "yes", "destroyed"];

/** What an agent says, or a courier carries, about an attempt. A bit each: said once, it may be heard at any time, any number of times, or never. */
export const facts = ["READY", "OPEN", "FINAL", "STARTED", "SETTLED", "GONE", "ABORTED", "CLOSED"] as const;
export type Fact = (typeof facts)[number];

export interface HostState {
  home: VmRecord["home"];
  floor: number;
  out: { m: number; state: Outgoing["state"] } | undefined;
  in: { m: number; state: Incoming["state"]; closed: boolean }[];
  tombstone: boolean;
  /** The memory file, and whether a process has it. */
  copy: { state: CopyState; m: number; epoch: number };
  alive: boolean;
  disk: "none" | "unsynced" | "durable";
  /** An agent that was killed has done nothing until it has recovered. */
  agentUp: boolean;
  /** The source's job: place in its table of phases. */
  job: { m: number; phase: number; resumed: boolean } | undefined;
  /** The target's job of this attempt takes frames. */
  taking: number;
}

export interface World {
  readonly hosts: [HostState, HostState];
  /** Per attempt, from 1: where it leads from, its epochs, what was said of it. */
  readonly moves: { from: number; epochTarget: number; facts: number }[];
  reboots: number;
  kills: number;
  /** Highest epoch that any copy has run with. */
  used: number;
}

const hostBytes = 18;

export function pack(world: World): string {
  const codes: number[] = [world.reboots, world.kills, world.used, world.moves.length];
  for (const { from, epochTarget, facts: said } of world.moves) codes.push(from, epochTarget, said);
  for (const host of world.hosts) packHost(host, codes);
  return String.fromCharCode(...codes);
}

function packHost(host: HostState, codes: number[]): void {
  const { out, copy, job } = host;
  codes.push(homes.indexOf(host.home), host.floor, out?.m ?? 0, outStates.indexOf(out?.state ?? "none"));
  for (let i = 0; i < 2; i++) {
    const one = host.in[i];
    codes.push(one?.m ?? 0, inStates.indexOf(one?.state ?? "none") + (one?.closed ? 8 : 0));
  }
  codes.push(host.tombstone ? 1 : 0, copyStates.indexOf(copy.state), copy.m, copy.epoch, host.alive ? 1 : 0);
  codes.push(["none", "unsynced", "durable"].indexOf(host.disk), host.agentUp ? 1 : 0);
  codes.push(job?.m ?? 0, job ? 1 + job.phase + (job.resumed ? 32 : 0) : 0, host.taking);
}

/** The reverse of pack. */
export function unpack(key: string): World {
  let at = 0;
  const next = (): number => key.charCodeAt(at++);
  const [reboots, kills, used, count] = [next(), next(), next(), next()];
  const moves = Array.from({ length: count }, () => ({ from: next(), epochTarget: next(), facts: next() }));
  const host = (): HostState => {
    const row = Array.from({ length: hostBytes }, next);
    const byte = (i: number): number => row[i] ?? 0;
    const incoming = [4, 6].flatMap((i) =>
      byte(i) === 0 ? [] : [{ m: byte(i), state: inStates[byte(i + 1) & 7] as Incoming["state"], closed: byte(i + 1) >= 8 }],
    );
    return {
      home: homes[byte(0)] ?? "no",
      floor: byte(1),
      out: byte(2) === 0 ? undefined : { m: byte(2), state: outStates[byte(3)] as Outgoing["state"] },
      in: incoming,
      tombstone: byte(8) === 1,
      copy: { state: copyStates[byte(9)] ?? "none", m: byte(10), epoch: byte(11) },
      alive: byte(12) === 1,
      disk: (["none", "unsynced", "durable"] as const)[byte(13)] ?? "none",
      agentUp: byte(14) === 1,
      job: byte(16) === 0 ? undefined : { m: byte(15), phase: (byte(16) - 1) & 31, resumed: byte(16) > 32 },
      taking: byte(17),
    };
  };
  return { reboots, kills, used, moves, hosts: [host(), host()] };
}

/** In words, for the trace of a violation. */
export function describeWorld({ hosts, moves, used }: World): string {
  const host = (name: string, h: HostState): string =>
    `${name}: home ${h.home} floor ${h.floor}${h.out ? ` out m${h.out.m} ${h.out.state}` : ""}${h.in.map((i) => ` in m${i.m} ${i.state}${i.closed ? " closed" : ""}`).join("")} copy ${h.copy.state}${h.alive ? " alive" : ""} epoch ${h.copy.epoch} disk ${h.disk}${h.agentUp ? "" : " agent down"}${h.job ? ` job m${h.job.m} phase ${h.job.phase}${h.job.resumed ? "r" : ""}` : ""}${h.taking ? ` taking m${h.taking}` : ""}`;
  const said = moves.map((m, i) => `m${i + 1} ${facts.filter((_, bit) => m.facts & (1 << bit)).join(" ")}`);
  return [host("A", hosts[0]), host("B", hosts[1]), ...said, `used epoch ${used}`].join(" | ");
}
