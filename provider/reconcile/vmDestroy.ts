import { messageOf } from "../lib/errors";
import { vmDestroy } from "../protocol/methods";
import { ReconcileError } from "./errors";
import { type Context, Fleet } from "./fleet";
import type { Props } from "./handler";
import { nameOf } from "./vmCommon";
import { custodian, type Observation, observe } from "./vmObserve";
import { settle } from "./vmSettle";

/** Stops it and removes all of it, wherever it is; what is missing is fine. */
export async function destroy(context: Context, id: string, props: Props): Promise<void> {
  const row = context.row(props.__urn);
  const fleet = new Fleet(context, nameOf(props), props);
  const hosts = [...new Set([String(props.host), ...fleet.names])];
  const seen = await settle({
    fleet,
    vm: id,
    resource: nameOf(props),
    row,
    observation: await observe(fleet, id, hosts, { claim: true, row }),
    abandon: true,
  });
  const owner = String(props.__owner ?? "");
  const home = custodian(seen);
  if (!home) refuseUnheard(seen, props);
  // The copy that runs first: a tombstone may go only when nobody needs it to find the VM.
  const order = [...seen.sightings].sort((a, b) => Number(b === home) - Number(a === home));
  for (const { reached, report, gen } of order)
    if (report) await reached.agent.call(vmDestroy, { vm: id, owner, gen: gen ?? 0 }, { timeoutMs: 60_000 });
}

function refuseUnheard({ away, sightings }: Observation, props: Props): void {
  const error = away.get(String(props.host));
  if (!error || sightings.some(({ report }) => report?.home === "destroyed")) return;
  throw new ReconcileError(
    nameOf(props),
    "destroy it",
    messageOf(error),
    "It may still run there. If that host is gone for good: pulumi state delete <urn>",
  );
}
