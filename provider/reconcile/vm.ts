import { randomBytes } from "node:crypto";
import { vmGet } from "../protocol/methods";
import { context } from "./context";
import { PartialFailure, ReconcileError } from "./errors";
import { type Context, Fleet } from "./fleet";
import { handlerOf, type Props, type Reconciler } from "./handler";
import { blobsOf, ensureBlobs } from "./vmBlobs";
import { checkVm } from "./vmCheck";
import { ensure, nameOf, othersOf, outputsOf, sightingOn } from "./vmCommon";
import { destroy } from "./vmDestroy";
import { diffVm } from "./vmDiff";
import { type Observation, observe } from "./vmObserve";
import { read } from "./vmRead";
import { update } from "./vmUpdate";

/** Vm: the id is its uuid, the same on every host. */
export function vmReconciler(context: Context): Reconciler {
  return {
    check: (olds, news) => checkVm(olds, news, context.assets),
    diff: diffVm,
    create: async (news) => await create(context, news),
    read: async (id, props) => await read(context, id, props),
    update: async (id, olds, news) => await update(context, id, olds, news),
    delete: async (id, props) => await destroy(context, id, props),
  };
}

/** What the engine calls for every Vm. */
export const vmHandler = handlerOf(vmReconciler(context));

async function create(context: Context, news: Props): Promise<{ id: string; outs: Props }> {
  const id = String(news.uuid);
  const host = String(news.host);
  const row = context.row(news.__urn);
  const fleet = new Fleet(context, nameOf(news), news);
  const seen = await observe(fleet, id, [host], { claim: true, row });
  const here = sightingOn(seen, host);
  const elsewhere = fleet.names.filter((name) => name !== host);
  refuseElsewhere(await observe(fleet, id, elsewhere, { claim: false }), news);
  const owner = randomBytes(16).toString("hex");
  await ensureBlobs(nameOf(news), here.reached, blobsOf(news, context.assets), othersOf(fleet, host), row);
  row.progress("booting");
  try {
    return { id, outs: { ...news, ...(await ensure(here, news, owner)) } };
  } catch (error) {
    // Once it exists it must be in the state, or nobody would ever remove it.
    const { vm } = await here.reached.agent.call(vmGet, { vm: id }).catch(() => ({ vm: null }));
    if (vm?.owner !== owner) throw error;
    throw new PartialFailure(id, { ...news, ...outputsOf(vm, host), __owner: owner, __agentId: here.reached.agent.hello.agentId }, error);
  }
}

/** Two VMs with one uuid would be two copies of one guest for all their peers. */
function refuseElsewhere({ sightings }: Observation, news: Props): void {
  const other = sightings.find(({ report }) => report?.home === "yes");
  if (!other) return;
  throw new ReconcileError(
    nameOf(news),
    `create it on ${String(news.host)}`,
    `host ${other.host} has a VM of the same uuid ${String(news.uuid)} (owner ${other.report?.owner ?? "unknown"})`,
    `next: set \`host: "${other.host}"\` and \`adopt: true\` to take it over, or remove it there`,
  );
}
