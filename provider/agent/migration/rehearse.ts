import { createHash } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { createContext, runInContext } from "node:vm";
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
export function rehearse(m: string, epoch: number): void {
  const page0 = Buffer.alloc(pageBytes, 1);
  const fact: Fact = { fact: "STARTED", m, journalId: m, resumeMs: 1, agoMs: 1 };
  const hash = createHash("sha256");
  for (let i = 0; i < times; i++) {
    decodeFinal(encodeFinal({ m, digest: hash.update(m).copy().digest("hex"), epoch, diskBlocks: 0, latePages: 0 }, page0));
    parseMessage(factMessage, Buffer.from(JSON.stringify(fact)));
  }
}
