import { expect } from "chai";
import { type Phase, sourcePhases } from "../../../../provider/agent/migration/phases";
import { explore, Found } from "./explore";
import { codeRules, type Rules } from "./rules";
import type { Budget } from "./steps";

/** migration-protocol.md, "What was checked": two hosts; provider runs and agents' crashes without any budget. */
const budget: Budget = { moves: 2, reboots: 1, kills: 1 };

describe("the commit protocol, in every order of what can happen", function () {
  this.timeout(120_000);

  it("keeps its promises, by the agent's own tables and rules", () => {
    const { states, transitions, longestRun } = explore(codeRules, budget);
    // Far fewer would mean that the model cannot do what it should.
    expect(states).to.be.greaterThan(50_000);
    expect(transitions).to.be.greaterThan(4 * states);
    expect(longestRun).to.be.within(8, 40);
  });

  const swapped = (a: Phase["name"], b: Phase["name"]): Phase[] => {
    const of = (name: Phase["name"]): Phase => {
      const phase = sourcePhases.find((one) => one.name === name);
      if (!phase) throw new Error(`no phase ${name}`);
      return phase;
    };
    return sourcePhases.map((phase) => (phase.name === a ? of(b) : phase.name === b ? of(a) : phase));
  };

  /** Each breaks one rule of the code, as a hurried change might; the model must find it, and say how it comes about. */
  const bugs: Record<string, { rules: Partial<Rules>; found: RegExp; within: number }> = {
    "a source that thaws its released copy when it has waited long enough": {
      rules: {
        decideSource: (out, header, ...rest) => (header === "released" ? "thaw-and-abort" : codeRules.decideSource(out, header, ...rest)),
      },
      found: /two copies run|epoch/,
      within: 15,
    },
    "a freeze before the journal says OPEN": {
      rules: { sourcePhases: swapped("arm", "freeze") },
      found: /freeze begins without OPEN/,
      within: 6,
    },
    "an OPEN that is not written": { rules: { openIsDurable: false }, found: /freeze begins without OPEN/, within: 8 },
    "a commit that goes out before the word is swapped": {
      rules: { commitNeedsSwap: false },
      found: /two copies run|without header released/,
      within: 12,
    },
    "a cold boot while a move is open": {
      rules: { whyNotChange: (words) => (words.out?.state === "OPEN" ? undefined : codeRules.whyNotChange(words)) },
      found: /two copies run|cold boot|epoch/,
      within: 15,
    },
    "a lost copy whose attempt is given up without an answer": {
      rules: {
        decideSource: (out, header, ...rest) =>
          header === "none" && out === "OPEN" ? "abort" : codeRules.decideSource(out, header, ...rest),
      },
      found: /two copies run|cold boot|custodian|epoch/,
      within: 20,
    },
    "an armed attempt that is started as if it were released": {
      rules: { decideStart: (out, header) => (out === "OPEN" && header !== "frozen" ? "resume" : codeRules.decideStart(out, header)) },
      found: /two copies run|without header released/,
      within: 12,
    },
    "GONE from the journal alone, whatever the header says": {
      rules: { decideTarget: (state) => (state === "RESERVED" ? "say-gone" : codeRules.decideTarget(state, "none", false)) },
      found: /./,
      within: 15,
    },
    "GONE after SETTLED": {
      rules: {
        decideTarget: (state, header, alive) =>
          state === "SETTLED" && header === "none" ? "say-gone" : codeRules.decideTarget(state, header, alive),
      },
      found: /./,
      within: 20,
    },
    "a source that retires when the target has started": {
      rules: { sourcePhases: sourcePhases.filter(({ name }) => name !== "settle") },
      found: /retire begins without SETTLED|last complete disk/,
      within: 15,
    },
    "a target that settles while pages are missing": {
      rules: {
        decideTarget: (state, header, alive) =>
          header === "runPartial" && alive ? "settle" : codeRules.decideTarget(state, header, alive),
      },
      found: /last complete memory|ends with/,
      within: 15,
    },
    "a target that waits for pages though its guest has died": {
      rules: { decideTarget: (state, header, alive) => (header === "runPartial" ? "fill" : codeRules.decideTarget(state, header, alive)) },
      found: /ends with/,
      within: 15,
    },
    "a return with the epoch of before": { rules: { returnsWithNewEpoch: false }, found: /epoch/, within: 15 },
    "a return for whatever the target says": { rules: { mayReturn: () => true, whyNotOffer: () => undefined }, found: /./, within: 20 },
    "an offer that is taken whatever its epoch": {
      rules: { whyNotOffer: (words, epoch) => codeRules.whyNotOffer({ ...words, floor: 0 }, epoch) },
      found: /./,
      within: 25,
    },
  };

  for (const [name, { rules, found, within }] of Object.entries(bugs)) {
    it(`finds ${name}`, () => {
      const search = (): unknown => explore({ ...codeRules, ...rules }, budget);
      expect(search).to.throw(Found, found);
      try {
        search();
      } catch (error) {
        expect(error instanceof Found && error.trace.length).to.be.at.most(within);
        if (process.env.MODEL_TRACES) console.log(String(error));
      }
    });
  }
});
