/** What a modelled target does, and what the world does to both. */
import type { CopyState, TargetStep } from "../../../../provider/agent/migration/decide";
import type { Rules } from "./rules";
import { type Fact, facts, type HostState, type World } from "./state";

/** A promise of migration-protocol.md is broken. */
export class Violation extends Error {
  override readonly name = "Violation";
}

export const bit = (fact: Fact): number => 1 << facts.indexOf(fact);

export const isRunning = ({ alive, copy }: HostState): boolean => alive && (copy.state === "run" || copy.state === "runPartial");

export function clone(world: World): World {
  const [a, b] = world.hosts;
  return { ...world, moves: world.moves.map((move) => ({ ...move })), hosts: [cloneHost(a), cloneHost(b)] };
}

const cloneHost = (host: HostState): HostState => ({
  ...host,
  in: host.in.map((one) => ({ ...one })),
  copy: { ...host.copy },
  out: host.out && { ...host.out },
  job: host.job && { ...host.job },
});

/** Each deed returns false where it is not possible, or changes nothing. */
export class TargetDeeds {
  constructor(
    readonly world: World,
    protected readonly rules: Rules,
  ) {}

  protected host(h: number): HostState {
    return this.world.hosts[h === 0 ? 0 : 1];
  }

  protected move(m: number): World["moves"][number] {
    const move = this.world.moves[m - 1];
    if (!move) throw new Error(`no attempt m${m}`);
    return move;
  }

  protected say(m: number, fact: Fact): boolean {
    const move = this.move(m);
    if (move.facts & bit(fact)) return false;
    move.facts |= bit(fact);
    return true;
  }

  /** Somebody runs from here on. */
  protected runs(h: number, epoch: number, fresh: boolean, state: "run" | "runPartial" = "run"): void {
    const host = this.host(h);
    const other = this.host(1 - h);
    if (isRunning(other)) throw new Violation("two copies run");
    if (fresh && epoch <= this.world.used) throw new Violation(`epoch ${epoch} was used before`);
    if (!fresh && epoch !== this.world.used)
      throw new Violation(`a copy goes on with epoch ${epoch}, and ${this.world.used} was used since`);
    this.world.used = epoch;
    host.copy = { ...host.copy, state, epoch };
    host.alive = true;
  }

  protected drop(h: number): void {
    Object.assign(this.host(h), { copy: { state: "none", m: 0, epoch: 0 }, alive: false, disk: "none" });
  }

  protected isOpen(host: HostState): boolean {
    return host.out?.state === "INIT" || host.out?.state === "OPEN";
  }

  crash(h: number): boolean {
    const host = this.host(h);
    this.endTaking(host);
    Object.assign(host, { job: undefined, agentUp: false });
    return true;
  }

  /** FINAL is heard by the job whose stream it came on, or by none. */
  protected endTaking(host: HostState): void {
    const move = this.world.moves[host.taking - 1];
    if (move) move.facts &= ~bit("FINAL");
    host.taking = 0;
  }

  offer(h: number, m: number): boolean {
    const host = this.host(h);
    const { epochTarget } = this.move(m);
    if (host.in.some((one) => one.m === m)) return this.say(m, "READY");
    if (this.rules.whyNotOffer(host, epochTarget)) return false;
    const old = host.in.at(-1);
    if (old?.state === "RESERVED") this.answer(h, old.m, "QUERY");
    if (host.in.at(-1)?.state === "RESERVED") return false;
    if (isRunning(host)) throw new Violation("an offer removes a running copy");
    this.drop(h);
    host.copy = { state: "part", m, epoch: epochTarget };
    host.alive = true;
    host.home = "no";
    host.tombstone = false;
    host.floor = epochTarget + 1;
    host.in = [...host.in.filter((one) => one.state === "SETTLED" && !one.closed), { m, state: "RESERVED", closed: false }];
    host.taking = m;
    this.say(m, "READY");
    return true;
  }

  /** @param late in post-copy the guest runs, and lacks pages that only the source's copy has */
  final(h: number, m: number, late: boolean): boolean {
    const host = this.host(h);
    if (!(this.move(m).facts & bit("FINAL")) || host.taking !== m || !host.alive || host.copy.state !== "part") return false;
    this.endTaking(host);
    host.disk = "unsynced";
    this.runs(h, this.move(m).epochTarget, true, late ? "runPartial" : "run");
    this.say(m, "STARTED");
    return true;
  }

  /** The last of what was lacking has come: from the source's copy, over a connection that a provider's run may have made anew. */
  fill(h: number, m: number): boolean {
    const host = this.host(h);
    const source = this.host(1 - h);
    if (host.copy.state !== "runPartial" || host.copy.m !== m || !host.alive || !source.agentUp) return false;
    if (source.copy.state !== "released" || source.copy.m !== m || source.out?.m !== m || source.out.state !== "OPEN") return false;
    host.copy.state = "run";
    return true;
  }

  /** Any failure of the stream or of its process ends a guest that lacks pages. */
  giveUp(h: number, m: number, killed: boolean): boolean {
    const host = this.host(h);
    if (host.copy.state !== "runPartial" || host.copy.m !== m || host.in.find((one) => one.m === m)?.state !== "RESERVED") return false;
    this.gone(h, m, killed);
    return true;
  }

  settle(h: number, m: number): boolean {
    const host = this.host(h);
    const record = host.in.find((one) => one.m === m);
    if (record?.state !== "RESERVED" || this.rules.decideTarget("RESERVED", host.copy.state, host.alive) !== "settle") return false;
    host.disk = "durable";
    record.state = "SETTLED";
    host.home = "yes";
    this.say(m, "SETTLED");
    return true;
  }

  refuse(h: number, m: number, killed: boolean): boolean {
    if (this.host(h).taking !== m) return false;
    this.gone(h, m, killed);
    return true;
  }

  /** A copy in `part` is refused, then GONE is written, then what there was of the copy goes. */
  protected gone(h: number, m: number, killed = false): void {
    const host = this.host(h);
    const record = host.in.find((one) => one.m === m);
    if (record) record.state = "GONE";
    this.say(m, "GONE");
    this.endTaking(host);
    if (host.copy.state === "part" || host.copy.state === "runPartial")
      Object.assign(host, { copy: { ...host.copy, state: "refused" }, alive: false });
    if (killed) this.crash(h);
    else this.drop(h);
  }

  answer(h: number, m: number, asked: "QUERY" | "LOST" | "ABORTED", killed = false): boolean {
    const host = this.host(h);
    const before = JSON.stringify([host.in, this.move(m).facts, host.copy]);
    const record = host.in.find((one) => one.m === m);
    if (!record) {
      if (asked === "ABORTED") return false;
      host.in.unshift({ m, state: "GONE", closed: false });
      return this.say(m, "GONE") || true;
    }
    const header: CopyState = record.state === "RESERVED" ? host.copy.state : "none";
    if (killed && record.state !== "RESERVED") return false;
    const step: TargetStep = this.rules.decideTarget(record.state, header, host.alive);
    if (step === "say-settled") this.say(m, "SETTLED");
    else if (step === "settle") this.settle(h, m);
    else if (step === "fill" && asked === "QUERY") return false;
    else {
      if (step !== "none") this.gone(h, m, killed);
      else this.say(m, "GONE");
      if (host.taking === m) this.endTaking(host);
      if (asked === "ABORTED") this.forget(h, m);
    }
    return before !== JSON.stringify([host.in, this.move(m).facts, host.copy]);
  }

  closed(h: number, m: number): boolean {
    const host = this.host(h);
    if (host.in.find((one) => one.m === m)?.state !== "SETTLED") return false;
    this.forget(h, m);
    return true;
  }

  /** A journal that says nothing any more goes altogether, with its floor. */
  protected forget(h: number, m: number): void {
    const host = this.host(h);
    host.in = host.in.filter((one) => one.m !== m);
    const empty = host.copy.state === "none" && host.disk === "none" && host.in.length === 0 && !host.tombstone;
    if (host.home !== "yes" && empty && !this.isOpen(host)) Object.assign(host, { floor: 0, out: undefined });
  }

  kill(h: number): boolean {
    this.world.kills += 1;
    const host = this.host(h);
    host.alive = false;
    return true;
  }

  reboot(h: number): boolean {
    const host = this.host(h);
    this.world.reboots += 1;
    this.crash(h);
    host.copy = { state: "none", m: 0, epoch: 0 };
    host.alive = false;
    if (host.disk === "unsynced") host.disk = "none";
    return true;
  }
}
