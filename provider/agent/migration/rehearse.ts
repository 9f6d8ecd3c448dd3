import { setFlagsFromString } from "node:v8";
import { createContext, runInContext } from "node:vm";
import type { MoveNeeds } from "../../protocol/methods";
import { decodeFinal, encodeFinal, type Fact, factMessage, parseMessage } from "./messages";
import { pageBytes } from "./sinks";

/** So often a piece of code runs before its engine has compiled it. */
const times = 20;

let collect: ((options: { type: "minor" }) => void) | undefined;

/** Young garbage goes now, not while a guest is frozen. Takes a few milliseconds. */
export function sweep(): void {
  if (!collect) {
    setFlagsFromString("--expose-gc");
    collect = runInContext("gc", createContext()) as typeof collect;
  }
  collect?.({ type: "minor" });
}

/** Writes and reads a last frame and a fact like those that will come, so that the code for them is compiled before a guest waits for it. */
export function rehearse({
  attempt: m,
  epochTarget: epoch,
  spec,
  owner,
}: Pick<MoveNeeds, "attempt" | "epochTarget" | "spec" | "owner">): void {
  const page0 = Buffer.alloc(pageBytes);
  const fact: Fact = { fact: "STARTED", m, journalId: m, resumeMs: 1 };
  for (let i = 0; i < times; i++) {
    decodeFinal(encodeFinal({ m, digest: "0".repeat(64), epoch, spec, owner, diskBlocks: 0 }, page0));
    parseMessage(factMessage, Buffer.from(JSON.stringify(fact)));
  }
}
