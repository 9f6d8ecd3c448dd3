import { expect } from "chai";
import { type CopyState, decideSource, decideTarget, mayReturn } from "../../../provider/agent/migration/decide";
import type { Outgoing } from "../../../provider/agent/migration/journal";

const headers: readonly CopyState[] = ["part", "run", "runPartial", "frozen", "released", "refused", "haltedByGuest", "none"];

describe("the recovery table", () => {
  it("has an answer for a source in every state that can be", () => {
    for (const out of ["INIT", "OPEN", "ABORTED", "CLOSED"] as const) {
      for (const header of headers) {
        // A source's own copy is never the partial one of a post-copy target.
        if (out === "OPEN" && header === "runPartial") expect(() => decideSource(out, header, true, false)).to.throw("no rule");
        else for (const alive of [true, false]) expect(decideSource(out, header, alive, false)).to.be.a("string");
      }
    }
  });

  it("never lets a released or a lost copy run by itself", () => {
    for (const alive of [true, false]) {
      expect(decideSource("OPEN", "released", alive, false)).to.equal("finish");
      expect(decideSource("OPEN", "none", alive, false)).to.equal("ask");
    }
  });

  it("thaws what is frozen and not released, and restores it where its process died", () => {
    expect(decideSource("OPEN", "frozen", true, false)).to.equal("thaw-and-abort");
    expect(decideSource("OPEN", "frozen", false, false)).to.equal("restore-and-abort");
    expect(decideSource("INIT", "run", true, false)).to.equal("abort");
    expect(decideSource("CLOSED", "released", true, false)).to.equal("retire");
  });

  it("says GONE only where no startable copy exists", () => {
    const by = (step: string, alive: boolean) => headers.filter((header) => decideTarget("RESERVED", header, alive) === step);
    for (const alive of [true, false]) {
      expect(by("settle", alive)).to.have.members(["run", "haltedByGuest", "frozen"]);
      expect(by("wait", alive)).to.deep.equal(["part"]);
    }
    // One that lacks pages goes on only while it lives.
    expect(by("fill", true)).to.deep.equal(["runPartial"]);
    expect(by("say-gone", true)).to.have.members(["refused", "none", "released"]);
    expect(by("say-gone", false)).to.have.members(["refused", "none", "released", "runPartial"]);
    for (const alive of [true, false]) for (const header of headers) expect(decideTarget("SETTLED", header, alive)).to.equal("say-settled");
  });

  it("lets a source return only by GONE of the very journal that offered", () => {
    const out: Outgoing = {
      m: "m1",
      to: { host: "t", agentId: "aa" },
      toJournal: "j1",
      epochTarget: 2,
      epochReturn: 3,
      gen: 1,
      state: "OPEN",
    };
    const gone = { fact: "GONE", m: "m1", journalId: "j1" };
    expect(mayReturn(out, gone)).to.equal(true);
    expect(mayReturn(out, { ...gone, journalId: "j2" })).to.equal(false);
    expect(mayReturn(out, { ...gone, m: "m2" })).to.equal(false);
    expect(mayReturn(out, { ...gone, fact: "SETTLED" })).to.equal(false);
    expect(mayReturn({ ...out, state: "ABORTED" }, gone)).to.equal(false);
    const { toJournal: _, ...never } = out;
    expect(mayReturn(never, gone)).to.equal(false);
  });
});
