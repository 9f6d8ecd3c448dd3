import { DeadlineError, until } from "../lib/time";
import { vmGet } from "../protocol/methods";
import type { AgentConnection } from "../transport/rpc";

export type LinkState = "up" | "unheard" | "unwired";

interface End {
  readonly vm: string;
  readonly nic: string;
  readonly agent: AgentConnection;
  readonly running: boolean;
}

const hearMs = 3_000;

/** Whether both ends have taken an authentic frame from the other; a stopped VM hears nothing. Freshly wired ends announce themselves, so this is soon true. */
export async function awaitHeard(ends: readonly End[]): Promise<LinkState> {
  if (ends.some(({ running }) => !running)) return "unheard";
  try {
    await until(hearMs, "both ends of the link to hear each other", async () =>
      (await Promise.all(ends.map(heard))).every(Boolean) ? true : undefined,
    );
    return "up";
  } catch (error) {
    if (error instanceof DeadlineError) return "unheard";
    throw error;
  }
}

async function heard({ vm, nic, agent }: End): Promise<boolean> {
  const { vm: report } = await agent.call(vmGet, { vm });
  const counters = report?.nics.find((stats) => stats.nic === nic)?.counters ?? {};
  // The kernel tells it only once an authentic frame has come (nic.stats).
  return counters.lastHeardMs !== undefined;
}
