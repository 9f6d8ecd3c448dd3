import { randomBytes } from "node:crypto";
import { messageOf } from "../lib/errors";
import type { LastMigration } from "../schemas/vm";
import { pick } from "./compare";
import type { Row } from "./engine";
import { PartialFailure, ReconcileError } from "./errors";
import { type Context, Fleet } from "./fleet";
import type { Props } from "./handler";
import { blobsOf } from "./vmBlobs";
import { carried, ensure, ensuringBlobs, nameOf, othersOf, policyOf, sightingOn } from "./vmCommon";
import { MoveFailure, move, resultText } from "./vmMove";
import { custodian, type Observation, observe, type Sighting } from "./vmObserve";
import { settle } from "./vmSettle";

/** Observe, settle what is in doubt, move if it is elsewhere, then make everything else so. */
export async function update(context: Context, id: string, olds: Props, news: Props): Promise<Props> {
  const row = context.row(news.__urn);
  const fleet = new Fleet(context, nameOf(news), olds, news);
  const wanted = String(news.host);
  const seen = await settle({
    fleet,
    vm: id,
    resource: nameOf(news),
    row,
    wanted,
    policy: policyOf(news),
    observation: await observe(fleet, id, [String(olds.host), wanted], { claim: true, row }),
  });
  const home = custodian(seen) ?? lost(seen, news);
  const owner = typeof olds.__owner === "string" ? olds.__owner : randomBytes(16).toString("hex");
  if (home.host === wanted)
    return { ...news, ...carried(olds), ...(await ensure(home, news, owner, ensuringBlobs(context, fleet, news, row))) };
  const target = targetOf(seen, wanted, home, news);
  const result = await moveTo(context, fleet, home, target, { id, olds, news, owner, row });
  row.say(resultText(result));
  try {
    const there = sightingOn(await observe(fleet, id, [wanted], { claim: true, row }), wanted);
    return { ...news, ...carried(olds), ...(await ensure(there, news, owner)), lastMigration: result };
  } catch (error) {
    const actual = { host: wanted, state: "running", __owner: owner, __agentId: target.reached.agent.hello.agentId, lastMigration: result };
    throw new PartialFailure(id, { ...news, ...carried(olds), ...actual }, error);
  }
}

/** @throws ReconcileError where the target does not answer: before anything changes */
function targetOf(seen: Observation, wanted: string, home: Sighting, news: Props): Sighting {
  const error = seen.away.get(wanted);
  if (!error) return sightingOn(seen, wanted);
  throw new ReconcileError(nameOf(news), `move it from ${home.host} to ${wanted}`, error.message, `It runs on ${home.host} as before.`, {
    cause: error,
  });
}

interface Changes {
  readonly id: string;
  readonly olds: Props;
  readonly news: Props;
  readonly owner: string;
  readonly row: Row;
}

async function moveTo(
  context: Context,
  fleet: Fleet,
  from: Sighting,
  to: Sighting,
  { id, olds, news, owner, row }: Changes,
): Promise<LastMigration> {
  // A stopped guest has no memory to move: it boots from its disk first, with what it was.
  if (from.report?.state === "stopped")
    await ensure(from, { ...news, ...pick(olds, ["nics", "name"]), running: true }, owner, ensuringBlobs(context, fleet, olds, row));
  try {
    return await move({
      resource: nameOf(news),
      vm: id,
      gen: from.gen ?? 0,
      policy: policyOf(news),
      source: from.reached,
      target: to.reached,
      targetAddress: fleet.get(to.host)?.dataAddress ?? "",
      blobs: blobsOf(olds, context.assets),
      others: othersOf(fleet, to.host),
      row,
    });
  } catch (error) {
    if (!(error instanceof MoveFailure) || error.running === "source") throw error;
    return await afterDoubt(fleet, from, to, { id, olds, news, owner, row }, error);
  }
}

/** The source could not say how it ended: ask both sides, carry their facts, and take the one that has the guest at its word. */
async function afterDoubt(
  fleet: Fleet,
  from: Sighting,
  to: Sighting,
  { id, olds, news, owner, row }: Changes,
  error: MoveFailure,
): Promise<LastMigration> {
  const observation = await observe(fleet, id, [from.host, to.host], { claim: true, row });
  const seen = await settle({ fleet, vm: id, resource: nameOf(news), row, wanted: to.host, policy: policyOf(news), observation }).catch(
    (doubt: unknown) => {
      throw new PartialFailure(
        id,
        { ...news, ...carried(olds), host: from.host, state: "in-doubt", note: messageOf(doubt), __owner: owner },
        error,
      );
    },
  );
  const home = custodian(seen);
  if (home?.host === to.host)
    return (
      home.report?.lastMigration ?? {
        attempt: "",
        from: from.host,
        to: to.host,
        result: "moved",
        bytes: 0,
        seconds: 0,
        rounds: 0,
        downtimeMs: 0,
      }
    );
  if (home) throw new ReconcileError(nameOf(news), `move it to ${to.host}`, error.reason, `It runs on ${home.host}.`, { cause: error });
  throw new PartialFailure(id, { ...news, ...carried(olds), host: from.host, state: "in-doubt", __owner: owner }, error);
}

/** No reachable journal has it: away hosts may, so only when all were heard is it made anew where it is wanted. */
function lost(seen: Observation, news: Props): Sighting {
  const [away] = seen.away;
  if (away)
    throw new ReconcileError(nameOf(news), "find it", `host ${away[0]} does not answer, and no other host has it`, `${messageOf(away[1])}`);
  return sightingOn(seen, String(news.host));
}
