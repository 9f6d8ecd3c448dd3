/**
 * `mobitopolo recover VM`: a person's way out, where the other side of a move is gone for good after the point of no return: its target, or the source of a
 * guest that lacks pages.
 */
import { createInterface } from "node:readline/promises";
import { linkEnsure, linkGet, linkPeer, type MoveFacts, vmClaim, vmRecover } from "../../protocol/methods";
import { isPastReturn, lacksPages, observe } from "../../reconcile/vmObserve";
import { CourierFleet, type Terminal, terminal } from "../courier";
import { CliError, explain } from "../errors";
import { Fleet, type HostAnswer, type Located } from "../fleet";
import type { Scope } from "../hosts";

export interface RecoverOptions {
  /** Do not ask. */
  readonly yes?: boolean;
  readonly json?: boolean;
  /** What a person types; tests give their own. @default stdin, if it is a terminal */
  readonly ask?: (question: string) => Promise<string>;
}

/** What became of one link's keys. */
interface Rotated {
  readonly link: string;
  /** The other end, where one was found. */
  readonly peer?: string;
  readonly ok: boolean;
  readonly error?: string;
}

/** @returns exit code: 0, or 1 where a link's other end did not get its new key */
export async function recover(scope: Scope, vm: string, options: RecoverOptions, io: Terminal = terminal): Promise<number> {
  await using fleet = new Fleet(scope);
  const place = await frozenPlace(fleet, vm);
  const attempt = await openAttempt(scope, place, vm);
  const to = attempt.peer?.host ?? "?";
  if (options.json !== true) io.note(warning(vm, place, attempt));
  await confirm(vm, options);
  const agent = await fleet.agent(place.host.name);
  const { gen } = await agent.call(vmClaim, { vm: place.vm.uuid });
  const { vm: after, frozenAtMs, links } = await agent.call(vmRecover, { vm: place.vm.uuid, gen, attempt: attempt.attempt });
  const rotated = await rotate(fleet, place, links);
  const report = { vm: after.uuid, host: place.host.name, state: after.state, epoch: after.epoch, lostOn: to, frozenAtMs, links: rotated };
  io.out(options.json === true ? JSON.stringify(report, null, 2) : doneText(vm, report));
  return rotated.every(({ ok }) => ok) ? 0 : 1;
}

/** The host whose copy is frozen: not the one that a tombstone or another host's word names. */
async function frozenPlace(fleet: Fleet, vm: string): Promise<Located> {
  const place = await fleet.locate(vm);
  if (["in-doubt", "moving", "settling"].includes(place.vm.state)) return place;
  throw new CliError(
    "refused",
    `${vm} is ${place.vm.state} on ${place.host.name}: there is nothing to recover`,
    "recover is for a VM that is `in-doubt` or lacks pages, and whose other host is gone for good; see: mobitopolo status",
  );
}

/** The attempt that is in doubt, whose other side does not answer. @throws CliError refused where a run of Pulumi can still find out */
async function openAttempt(scope: Scope, { host, vm: report }: Located, vm: string): Promise<MoveFacts> {
  await using world = new CourierFleet(scope, vm, () => undefined);
  const { sightings, away } = await observe(world.courier, report.uuid, [host.name], { claim: false });
  const fact = sightings.find((one) => one.host === host.name)?.facts.find((one) => isPastReturn(one) || lacksPages(one));
  if (!fact) throw new CliError("refused", `${vm} was not released by ${host.name}: nothing is in doubt`, "run: pulumi up");
  const to = fact.peer?.host ?? "";
  if (sightings.some((one) => one.host === to))
    throw new CliError(
      "refused",
      `${to} answers: it can say what became of the move`,
      "run `pulumi up` or `pulumi refresh`, which asks it",
    );
  if (!away.has(to) && world.courier.get(to)) throw new Error(`${to} was not asked`);
  return fact;
}

function warning(vm: string, { host, vm: { uuid } }: Located, attempt: MoveFacts): string {
  const to = attempt.peer?.host ?? "?";
  if (lacksPages(attempt))
    return [
      `${vm} (${uuid}) runs on ${host.name} by post-copy, and lacks pages that only ${to} has. If ${to} is gone for good, what is in RAM is lost:`,
      `  - it ends, and boots from its disk on ${host.name} by the next \`pulumi up\`; its disk is whole;`,
      `  - if ${to} comes back after all, what it has of the VM is removed.`,
      `If ${to} only does not answer now: wait; the guest goes on when it does.`,
    ].join("\n");
  return [
    `${vm} (${uuid}) was moving from ${host.name} to ${to} when they lost each other, past the point of no return.`,
    `Only ${to} knows whether it runs there. If it is gone for good, the copy on ${host.name} can run again:`,
    `  - it goes on as it was when it was frozen: all that it did on ${to} since then (memory, disk, frames sent) is lost;`,
    `  - its links get new keys: a copy on ${to} hears and says nothing any more;`,
    `  - if ${to} comes back after all, its copy is ended and removed by the next \`pulumi up\`, \`refresh\` or \`move\` that meets it.`,
    `If ${to} only does not answer now: wait, and run \`pulumi up\`.`,
  ].join("\n");
}

async function confirm(vm: string, { yes, ask = askTerminal }: RecoverOptions): Promise<void> {
  if (yes === true) return;
  if ((await ask(`Type the VM's name to recover it: `)).trim() !== vm)
    throw new CliError("refused", "nothing was changed", `to recover it, type \`${vm}\` when asked, or give --yes`);
}

async function askTerminal(question: string): Promise<string> {
  if (!process.stdin.isTTY) return "";
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return await lines.question(question);
  } finally {
    lines.close();
  }
}

/** The other ends take the keys that the recovered one has now. */
async function rotate(fleet: Fleet, place: Located, links: readonly string[]): Promise<Rotated[]> {
  const answers = links.length > 0 ? await fleet.survey() : [];
  return await Promise.all(links.map(async (link) => await rotateOne(fleet, place, answers, link)));
}

async function rotateOne(fleet: Fleet, place: Located, answers: readonly HostAnswer[], link: string): Promise<Rotated> {
  const other = answers
    .flatMap(({ host, vms }) => vms.map((vm) => ({ host, vm })))
    .find(({ vm }) => vm.uuid !== place.vm.uuid && vm.movedTo === undefined && vm.nics.some((nic) => nic.link === link));
  if (!other) return { link, ok: false, error: "no host that answers has its other end" };
  const peer = `${other.vm.spec.name} on ${other.host.name}`;
  try {
    const [here, there] = await Promise.all([fleet.agent(place.host.name), fleet.agent(other.host.name)]);
    const own = await here.call(linkGet, { link, vm: place.vm.uuid });
    const held = await there.call(linkGet, { link, vm: other.vm.uuid });
    if (!own.wiring || !held.wiring || own.address === undefined || own.port === undefined)
      return { link, peer, ok: false, error: "it is not wired at both ends" };
    const { key, keyId } = own.wiring;
    await there.call(linkEnsure, { wiring: { ...held.wiring, key, keyId } });
    // It may have followed the copy that is lost.
    await there.call(linkPeer, { vm: other.vm.uuid, nic: held.wiring.nic, peer: { address: own.address, port: own.port } });
    return { link, peer, ok: true };
  } catch (error) {
    return { link, peer, ok: false, error: explain(error) };
  }
}

function doneText(
  vm: string,
  report: { host: string; state: string; lostOn: string; frozenAtMs: number | undefined; links: readonly Rotated[] },
): string {
  const when = report.frozenAtMs === undefined ? "the freeze" : new Date(report.frozenAtMs).toISOString();
  const bad = report.links.filter(({ ok }) => !ok);
  return [
    report.state === "stopped"
      ? `${vm} may boot again on ${report.host}, from its disk: its memory is gone. Next: pulumi up`
      : `${vm} runs again on ${report.host}, as it was at ${when}; what it did on ${report.lostOn} since then is lost`,
    ...report.links.filter(({ ok }) => ok).map(({ peer }) => `new link key: ${peer ?? ""}`),
    ...bad.map(
      ({ link, peer, error }) => `link ${link}${peer === undefined ? "" : ` to ${peer}`} has no new key at its other end: ${error ?? ""}`,
    ),
    ...(bad.length > 0 ? ["next: `pulumi refresh`, then `pulumi up`, wires them anew when those hosts answer"] : []),
    `next: set its \`host\` to "${report.host}" in the Pulumi program, or the next \`pulumi up\` tries the move again`,
  ].join("\n");
}
