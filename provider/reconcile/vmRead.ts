import { messageOf } from "../lib/errors";
import { pick } from "./compare";
import { type Context, Fleet } from "./fleet";
import type { Props } from "./handler";
import { inputKeys, nameOf, outputsOf, policyOf } from "./vmCommon";
import { custodian, type Observation, observe } from "./vmObserve";
import { settle } from "./vmSettle";

/** Finds it on whichever declared host it runs. Never throws for a host that is away. */
export async function read(context: Context, id: string, props: Props): Promise<{ props: Props; inputs: Props } | undefined> {
  const row = context.row(props.__urn);
  const fleet = new Fleet(context, nameOf(props), props);
  const found = (outs: Props) => ({ props: outs, inputs: pick(outs, inputKeys) });
  let seen = await observe(fleet, id, [String(props.host)], { claim: false });
  if (!custodian(seen)) seen = await observe(fleet, id, fleet.names, { claim: false });
  seen = await settle({ fleet, vm: id, resource: nameOf(props), row, policy: policyOf(props), observation: seen }).catch(() => seen);
  const home =
    custodian(seen) ?? seen.sightings.find(({ report }) => report && report.home !== "destroyed" && report.movedTo === undefined);
  if (home?.report) return found({ ...props, ...outputsOf(home.report, home.host), __agentId: home.reached.agent.hello.agentId });
  if (isGone(seen, props)) return undefined;
  const movedTo = seen.sightings.map(({ report }) => report?.movedTo).find((host) => host !== undefined);
  const reasons = [...seen.away.values()].map((error) => messageOf(error));
  row.warn(reasons.length > 0 ? reasons.join("\n") : `no host that answers has this VM${movedTo ? `; it went to ${movedTo}` : ""}`);
  return found({ ...props, host: movedTo ?? props.host, state: "unreachable" });
}

/** Gone only by the word of the right journal: the one that had it, and which names no other host. */
function isGone({ sightings }: Observation, props: Props): boolean {
  if (sightings.some(({ report }) => report?.home === "destroyed")) return true;
  const last = sightings.find(({ host }) => host === props.host);
  return (
    last !== undefined && last.report === null && (props.__agentId === undefined || last.reached.agent.hello.agentId === props.__agentId)
  );
}
