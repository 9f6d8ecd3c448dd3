import { within } from "../../lib/time";
import type { LiveVm } from "./live";
import { type Ended, killProcess } from "./process";

interface Step {
  readonly verb: "halt" | "poweroff" | "quit";
  /** How long the process may then take to end. */
  readonly limitMs: number;
}

/** From the gentlest to the last but one; SIGKILL is the last. */
const steps: readonly Step[] = [
  { verb: "halt", limitMs: 15_000 },
  { verb: "poweroff", limitMs: 5_000 },
  { verb: "quit", limitMs: 2_000 },
];

/** Ends a running VM, in order where the guest lets us. `from`: the first step to take. */
export async function stopProcess(live: LiveVm, from: Step["verb"] = "halt"): Promise<Ended> {
  for (const { verb, limitMs } of steps.slice(steps.findIndex((one) => one.verb === from))) {
    const ended = await live.control
      .say(verb, {}, limitMs)
      .then(
        () => within(limitMs, verb, live.process.ended),
        () => within(verb === "halt" ? 10 : 500, verb, live.process.ended),
      )
      .catch(() => undefined);
    if (ended) return ended;
  }
  await killProcess(live.process);
  return await within(5_000, "the end of a killed VM process", live.process.ended);
}
