/** `mobitopolo move VM --to HOST`: a live move by hand, or what it would come to. */
import { type MoveHindrance, type MovePrediction, type MoveProgress, moveCheck, movePlan, storePath } from "../../protocol/methods";
import { nameOf, sightingOn } from "../../reconcile/vmCommon";
import { MoveFailure, move as moveVm, predictionText, progressText, resultText } from "../../reconcile/vmMove";
import { custodian, observe, type Sighting } from "../../reconcile/vmObserve";
import { settle } from "../../reconcile/vmSettle";
import type { LastMigration } from "../../schemas/vm";
import { AgentError } from "../../transport/errors";
import { CourierFleet, type Terminal, terminal } from "../courier";
import { CliError, explain } from "../errors";
import { Fleet } from "../fleet";
import type { Scope } from "../hosts";
import { sizeText } from "../table";

export interface MoveOptions {
  readonly to: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface Setting {
  readonly scope: Scope;
  readonly fleet: CourierFleet;
  readonly uuid: string;
  readonly name: string;
  readonly from: string;
  readonly to: string;
  readonly json: boolean;
  readonly terminal: Terminal;
}

/** @returns exit code: 0, or 1 where it was not (or could not be) moved */
export async function move(scope: Scope, vm: string, options: MoveOptions, io: Terminal = terminal): Promise<number> {
  const json = options.json === true;
  await using looking = new Fleet(scope);
  const { host, vm: report } = await looking.locate(vm);
  const name = nameOf(report.spec);
  await using fleet = new CourierFleet(scope, name, json ? () => undefined : (text) => io.note(text));
  const to = fleet.need(options.to);
  if (to === host.name) throw new CliError("bad-input", `${vm} is on ${to} already`);
  const setting = { scope, fleet, uuid: report.uuid, name, from: host.name, to, json, terminal: io };
  return options.dryRun === true ? await dryRun(setting) : await really(setting);
}

async function really(setting: Setting): Promise<number> {
  const { json, terminal: io, name, from, to } = setting;
  const event = (what: string, facts: object): void => void (json && io.out(JSON.stringify({ event: what, ...facts })));
  try {
    const result = await moved(setting, event);
    const next = `the Pulumi program still says where ${name} was: set its \`host\` to "${to}", or the next \`pulumi up\` moves it back`;
    event("result", { ok: true, vm: setting.uuid, from, to, lastMigration: result, next });
    if (!json) io.out(`${resultText(result)}\nnext: ${next}`);
    return 0;
  } catch (error) {
    if (!(error instanceof MoveFailure) && !json) throw error;
    const running = error instanceof MoveFailure ? error.running : undefined;
    event("result", { ok: false, vm: setting.uuid, from, to, running, error: explain(error) });
    if (!json) io.note(explain(error));
    return 1;
  }
}

async function moved(setting: Setting, event: (what: string, facts: object) => void): Promise<LastMigration> {
  const { fleet, uuid, name, to } = setting;
  const home = await undisputed(setting);
  const target = await sighted(setting, to);
  try {
    return await moveVm({
      resource: name,
      vm: uuid,
      gen: home.gen ?? 0,
      policy: setting.scope.policies?.get(uuid) ?? {},
      source: home.reached,
      target: target.reached,
      targetAddress: target.reached.agent.hello.address,
      blobs: [],
      others: fleet.courier.names.filter((host) => host !== to).map((host) => async () => await fleet.courier.reach(host)),
      row: quieter(fleet.row),
      onProgress: (progress: MoveProgress) => {
        event("progress", progress);
        if (!setting.json) setting.terminal.note(progressText(progress));
      },
      onPrediction: (prediction: MovePrediction) => event("prediction", prediction),
    });
  } catch (error) {
    if (!(error instanceof MoveFailure) || error.running !== "in-doubt") throw error;
    const now = await undisputed(setting);
    const result = now.report?.lastMigration;
    if (now.host === to && result) return result;
    throw error;
  }
}

/** Steps are told by their events. */
const quieter = (row: CourierFleet["row"]): CourierFleet["row"] => ({ ...row, progress: () => undefined });

/** The one host that has it, after what earlier runs left is finished: as `pulumi up` begins. */
async function undisputed({ fleet, uuid, name, from, to }: Setting): Promise<Sighting> {
  const { courier, row } = fleet;
  const observation = await observe(courier, uuid, [from, to], { claim: true, row });
  const seen = await settle({ fleet: courier, vm: uuid, resource: name, row, wanted: to, observation });
  const home = custodian(seen);
  if (home) return home;
  throw new CliError("unreachable", `no host that answers has ${name}`, "see why: mobitopolo status");
}

async function sighted({ fleet, uuid, from, to }: Setting, host: string): Promise<Sighting> {
  return sightingOn(await observe(fleet.courier, uuid, [from, to], { claim: false }), host);
}

/** What `--dry-run` found. */
interface Foreseen {
  readonly prediction: MovePrediction;
  readonly preflight: { readonly ok: boolean; readonly hindrances: readonly MoveHindrance[]; readonly blobBytes: number };
}

async function dryRun(setting: Setting): Promise<number> {
  const { json, terminal: io, uuid, from, to } = setting;
  const seen = await foresee(setting);
  if (json) io.out(JSON.stringify({ vm: uuid, from, to, ...seen }, null, 2));
  else io.out(foreseenText(setting, seen));
  return seen.preflight.ok ? 0 : 1;
}

async function foresee(setting: Setting): Promise<Foreseen> {
  const { uuid, to } = setting;
  const home = await sighted(setting, setting.from);
  const target = await sighted(setting, to);
  const { agent } = target.reached;
  const policy = setting.scope.policies?.get(uuid) ?? {};
  const plan = { vm: uuid, to: { host: to, agentId: agent.hello.agentId }, policy };
  const { needs, prediction } = await home.reached.agent.call(movePlan, plan);
  const { missing, hindrances } = await agent.call(moveCheck, { needs });
  const sizes = missing.map(async (id) => (await home.reached.agent.call(storePath, { id }).catch(unknownSize)).bytes);
  const blobBytes = (await Promise.all(sizes)).reduce((sum, bytes) => sum + bytes, 0);
  return { prediction, preflight: { ok: hindrances.length === 0, hindrances, blobBytes } };
}

/** The source has lost it, too: a move would look for it elsewhere. */
function unknownSize(error: unknown): { bytes: number } {
  if (error instanceof AgentError) return { bytes: 0 };
  throw error;
}

function foreseenText({ name, from, to }: Setting, { prediction, preflight }: Foreseen): string {
  const { memoryBytes, diskBytes, compression } = prediction;
  const brought = preflight.blobBytes > 0 ? [`kernel or image are brought first: ${sizeText(preflight.blobBytes)}`] : [];
  const verdict = preflight.ok
    ? [`${to} can take it; nothing was changed`]
    : [
        `${to} cannot take it:`,
        ...preflight.hindrances.flatMap(({ reason, next }) => [`  ${reason}`, ...(next === undefined ? [] : [`    next: ${next}`])]),
      ];
  return [
    `${name}: ${from} → ${to}`,
    `memory ${sizeText(memoryBytes)}, which compresses to ${Math.round(100 * compression)} %; disk ${sizeText(diskBytes)}`,
    predictionText(to, prediction),
    ...brought,
    ...verdict,
  ].join("\n");
}
