import { randomBytes } from "node:crypto";
import { messageOf } from "../lib/errors";
import { moveBegin, moveOffer, moveProgress, moveStart, moveWatch, vmClaim } from "../protocol/methods";
import type { MigrationPolicy } from "../schemas/vm";
import type { Row } from "./engine";
import { ReconcileError } from "./errors";
import type { Fleet } from "./fleet";
import { progressText } from "./vmMove";
import { lacksPages, type Observation, type Sighting } from "./vmObserve";

interface Filled {
  readonly fleet: Fleet;
  readonly vm: string;
  readonly resource: string;
  readonly row: Row;
  readonly policy?: MigrationPolicy;
}

/** A guest lacks pages, and the host that has them does not answer: to wait would be in vain. @throws ReconcileError */
export function refuseWithoutSource(resource: string, { sightings, away }: Observation): void {
  for (const { host, facts } of sightings) {
    const from = facts.find(lacksPages)?.peer?.host;
    if (from === undefined || !away.has(from)) continue;
    throw new ReconcileError(
      resource,
      `bring the rest of it from ${from} to ${host}`,
      `${from} does not answer: ${messageOf(away.get(from))}`,
      `It runs on ${host} and stands for what it lacks. Next: bring ${from} back and run the same command; if it is gone for good: mobitopolo recover`,
    );
  }
}

/** Where this attempt's guest runs and lacks pages that its source has; undefined where it does not. */
export function fillingTarget({ sightings }: Observation, attempt: string): Sighting | undefined {
  return sightings.find(({ facts }) => facts.some((fact) => fact.attempt === attempt && lacksPages(fact)));
}

/** Connects the two agents again, where one of them was restarted, and waits till all pages are there (or the guest is back at its source). */
export async function finishFilling(
  { fleet, vm, resource, row, policy = {} }: Filled,
  source: Sighting,
  target: Sighting,
  attempt: string,
): Promise<void> {
  const { agent } = source.reached;
  const gen = source.gen ?? (await agent.call(vmClaim, { vm })).gen;
  const { agentId, address } = target.reached.agent.hello;
  const { needs } = await agent.call(moveBegin, { vm, gen, to: { host: target.host, agentId } });
  const key = randomBytes(32).toString("hex");
  const { port, journalId } = await target.reached.agent.call(moveOffer, { needs, key });
  await agent.call(moveStart, {
    vm,
    attempt,
    key,
    policy,
    target: { host: target.host, address: fleet.get(target.host)?.dataAddress ?? address, port, journalId },
  });
  using _progress = agent.on(moveProgress, (progress) => {
    if (progress.vm === vm && progress.attempt === attempt) row.progress(progressText(progress));
  });
  const { fault } = await agent.call(moveWatch, { vm, attempt }, { timeoutMs: 0 });
  if (fault?.running === "in-doubt")
    throw new ReconcileError(
      resource,
      `bring the rest of it from ${source.host} to ${target.host}`,
      fault.message,
      `It runs on ${target.host} and stands for what it lacks. Next: let the two hosts reach each other, and run the same command again; if that is not to be: mobitopolo recover`,
    );
}
