/** What a modelled source does, and an agent that starts again. */
import type { SourceStep } from "../../../../provider/agent/migration/decide";
import type { Phase } from "../../../../provider/agent/migration/phases";
import { bit, TargetDeeds, Violation } from "./deeds";
import type { HostState } from "./state";

/** All deeds of an agent, at either end. */
export class Deeds extends TargetDeeds {
  begin(h: number): boolean {
    const host = this.host(h);
    if (host.tombstone || host.job) return false;
    if (this.isOpen(host)) this.undo(h, false);
    if (this.isOpen(host) || this.rules.whyNotBegin(host, host.alive && host.copy.state === "run")) return false;
    const m = this.world.moves.length + 1;
    this.world.moves.push({ from: h, epochTarget: host.floor + 1, facts: 0 });
    host.floor += 2;
    host.out = { m, state: "INIT" };
    return true;
  }

  start(h: number): boolean {
    const host = this.host(h);
    const { out } = host;
    if (!out || host.job || !(this.move(out.m).facts & bit("READY"))) return false;
    const how = this.rules.decideStart(out.state, host.copy.state);
    if (how === "refuse") return false;
    host.job = { m: out.m, phase: 0, resumed: how === "resume" };
    return true;
  }

  coldBoot(h: number): boolean {
    const host = this.host(h);
    const other = this.host(1 - h);
    if (host.alive || this.rules.whyNotChange(host)) return false;
    if (host.disk !== "durable") throw new Violation("the custodian has no disk to boot from");
    const superseded = other.out?.state === "CLOSED" || host.in.some((one) => one.m === other.copy.m && one.state === "SETTLED");
    if (other.alive && ["frozen", "released"].includes(other.copy.state) && !superseded)
      throw new Violation(`a cold boot beside a ${other.copy.state} copy`);
    host.floor += 1;
    host.copy = { state: "run", m: 0, epoch: host.floor };
    this.runs(h, host.floor, true);
    return true;
  }

  go(h: number, killed: boolean): boolean {
    const host = this.host(h);
    const { job, out } = host;
    if (!job || !out) return false;
    const table = job.resumed ? this.rules.resumedPhases : this.rules.sourcePhases;
    const phase = table[job.phase];
    if (!phase) throw new Error(`no phase ${job.phase}`);
    this.checkDurable(host, phase);
    const target = this.host(1 - h);
    const said = this.move(job.m).facts;
    const done = this.phase(h, phase.name, target.taking === job.m, said, killed);
    if (done === "no") return false;
    if (killed && done !== "half") return false;
    if (done === "yes" && host.job) host.job.phase += 1;
    return true;
  }

  /** `yes`: on to the next phase; `stay`: a part of it is done; `half`: the agent was killed in it; `no`: it must wait. */
  protected phase(h: number, name: Phase["name"], taken: boolean, said: number, killed: boolean): "yes" | "stay" | "half" | "no" {
    const host = this.host(h);
    const m = host.job?.m ?? 0;
    const answered = (said & (bit("STARTED") | bit("SETTLED") | bit("GONE"))) !== 0;
    switch (name) {
      case "reserve":
        // A target whose attempt is over answers by its fact.
        return taken || (host.job?.resumed && answered) ? "yes" : "no";
      case "precopy":
        return taken ? "yes" : "no";
      case "arm":
        if (!taken || host.out?.state !== "INIT") return "no";
        if (this.rules.openIsDurable) host.out.state = "OPEN";
        this.say(m, "OPEN");
        return "yes";
      case "freeze":
        if (!host.alive || host.copy.state !== "run") return "no";
        host.copy = { ...host.copy, state: "frozen", m };
        return "yes";
      case "release":
        if (host.copy.state === "frozen" && host.alive) {
          host.copy.state = "released";
          return "stay";
        }
        if (host.copy.state !== "released" && this.rules.commitNeedsSwap) return "no";
        if (taken) this.say(m, "FINAL");
        return "yes";
      case "resend":
        if (taken && host.copy.state !== "none") this.say(m, "FINAL");
        else if (!answered) return "no";
        return "yes";
      case "resume":
        return answered ? "yes" : "no";
      case "settle":
        if (said & bit("SETTLED")) return "yes";
        if (said & bit("GONE") && this.mayReturn(host, m)) return this.comeBack(h, killed) ? "stay" : "half";
        return "no";
      case "retire":
        return this.retire(h, killed) ? "stay" : "half";
    }
  }

  protected checkDurable(host: HostState, { name, durable }: Phase): void {
    const { out, copy, job } = host;
    const said = this.move(job?.m ?? 0).facts;
    const met = {
      INIT: out?.m === job?.m && out?.state !== "ABORTED",
      OPEN: out?.state === "OPEN",
      "header released": copy.state === "released" || copy.state === "none",
      "SETTLED at the target": (said & bit("SETTLED")) !== 0,
    }[durable];
    if (!met) throw new Violation(`${name} begins without ${durable}`);
  }

  fail(h: number, undoes: boolean): boolean {
    const host = this.host(h);
    const { job } = host;
    if (!job) return false;
    const table = job.resumed ? this.rules.resumedPhases : this.rules.sourcePhases;
    const mustUndo = table[job.phase]?.onFailure === "abort";
    host.job = undefined;
    if (!undoes) return true;
    if (mustUndo || host.copy.state !== "released") this.undo(h, false);
    if (mustUndo && this.isOpen(host)) throw new Violation(`a failure in ${table[job.phase]?.name} is not undone`);
    return true;
  }

  undo(h: number, killed: boolean): boolean {
    const host = this.host(h);
    const { out, copy } = host;
    if (!out || out.state === "ABORTED" || host.job) return false;
    const cameBack = host.home === "yes" || host.in.at(-1)?.state === "RESERVED";
    const step: SourceStep = this.rules.decideSource(out.state, copy.state, host.alive, cameBack);
    switch (step) {
      case "none":
      case "finish":
      case "ask":
        return false;
      case "retire":
        if (out.state === "CLOSED" && copy.state === "none" && host.disk === "none" && host.tombstone && host.home === "no") return false;
        return this.retire(h, killed) !== killed;
      case "thaw-and-abort":
        this.thaw(h);
        break;
      case "restore-and-abort":
        this.runs(h, copy.epoch, false);
        break;
      case "abort":
        if (killed) return false;
        if (!host.alive) host.copy = { state: "none", m: 0, epoch: 0 };
        break;
    }
    if (killed) return this.crash(h);
    out.state = "ABORTED";
    this.say(out.m, "ABORTED");
    return true;
  }

  thaw(h: number): boolean {
    const host = this.host(h);
    if (host.copy.state !== "frozen" && host.copy.state !== "released") return false;
    this.runs(h, host.copy.epoch, false);
    return true;
  }

  /** False: killed after the word was changed, before the journal was. */
  protected comeBack(h: number, killed: boolean): boolean {
    const host = this.host(h);
    const { out } = host;
    if (!out) return true;
    const back = this.move(out.m).epochTarget + 1;
    if (host.copy.state === "released")
      this.runs(h, this.rules.returnsWithNewEpoch ? back : host.copy.epoch, this.rules.returnsWithNewEpoch);
    host.job = undefined;
    if (killed) {
      this.crash(h);
      return false;
    }
    out.state = "ABORTED";
    this.say(out.m, "ABORTED");
    return true;
  }

  /** False: killed after the journal was written, before the copy went. */
  protected retire(h: number, killed: boolean): boolean {
    const host = this.host(h);
    if (!host.out) return true;
    if (host.alive && host.copy.state === "run") throw new Violation("a running copy is retired");
    host.out.state = "CLOSED";
    host.home = "no";
    host.tombstone = true;
    host.job = undefined;
    this.say(host.out.m, "CLOSED");
    if (killed) {
      this.crash(h);
      return false;
    }
    this.drop(h);
    return true;
  }

  protected mayReturn(host: HostState, m: number): boolean {
    const out = { m: String(host.out?.m), state: host.out?.state ?? "ABORTED", toJournal: "t", to: { host: "t", agentId: "t" } };
    return this.rules.mayReturn({ ...out, epochTarget: 0, epochReturn: 0, gen: 0 }, { fact: "GONE", m: String(m), journalId: "t" });
  }

  /** The target's word, brought by a courier or over the stream. */
  hear(h: number, m: number, fact: "SETTLED" | "GONE", killed: boolean): boolean {
    const host = this.host(h);
    if (!(this.move(m).facts & bit(fact)) || host.out?.m !== m) return false;
    if (host.job) return fact === "GONE" && host.copy.state !== "released" && !host.job.resumed && !killed ? this.fail(h, true) : false;
    if (host.out.state !== "OPEN") return false;
    if (fact === "SETTLED") return this.retire(h, killed);
    if (!this.mayReturn(host, m)) return false;
    // An attempt that was never released is the recovery table's.
    if (host.copy.state !== "released" && host.copy.state !== "none") return false;
    return this.comeBack(h, killed) !== killed;
  }

  recover(h: number, killed: boolean): boolean {
    const host = this.host(h);
    host.agentUp = true;
    const record = host.in.at(-1);
    if (record?.state === "RESERVED") {
      const step = this.rules.decideTarget("RESERVED", host.copy.state, host.alive);
      if (step === "settle") this.settle(h, record.m);
      else if (step !== "fill") this.gone(h, record.m);
    }
    if (killed) return this.undo(h, true);
    this.undo(h, false);
    return true;
  }
}
