/** The agent's own decisions, and the few things that its code does rather than decides. A seeded bug replaces one of them. */
import * as decide from "../../../../provider/agent/migration/decide";
import { resumedPhases, sourcePhases } from "../../../../provider/agent/migration/phases";

export const codeRules = {
  sourcePhases,
  resumedPhases,
  decideSource: decide.decideSource,
  decideTarget: decide.decideTarget,
  decideStart: decide.decideStart,
  mayReturn: decide.mayReturn,
  whyNotOffer: decide.whyNotOffer,
  whyNotChange: decide.whyNotChange,
  whyNotBegin: decide.whyNotBegin,
  /** arm: the journal says OPEN before the guest freezes. */
  openIsDurable: true,
  /** release: FINAL goes out only when the header word is `released`. */
  commitNeedsSwap: true,
  /** A return runs with the epoch that was kept for it. */
  returnsWithNewEpoch: true,
};
export type Rules = typeof codeRules;
