import { setTimeout as sleep } from "node:timers/promises";
import type { Wiring } from "../../schemas/link";
import type { Vm } from "../vm/vm";
import { askStats, parseSocketName } from "./wire";

/** A guest that is throttled does not answer this while it stands. */
const tries = 20;

/** A running VM's links as they are now: the peers may have roamed since they were set. */
export async function currentWirings({ file, live, wirings }: Vm): Promise<Wiring[]> {
  if (!file || !live || wirings.length === 0) return [...wirings];
  let stats = await askStats(live.control, file.spec, wirings);
  for (let left = tries; left > 0 && stats.some(({ local }) => local === undefined); left--) {
    await sleep(2);
    stats = await askStats(live.control, file.spec, wirings);
  }
  return wirings.map((wiring) => {
    const peer = parseSocketName(stats.find((one) => one.nic === wiring.nic)?.peer);
    return peer ? { ...wiring, peer } : wiring;
  });
}
