/** `mobitopolo move cancel VM`: undoes a move that is not past its point of no return. */
import { moveCancel, moveFacts } from "../../protocol/methods";
import { isPastReturn } from "../../reconcile/vmObserve";
import { AgentError } from "../../transport/errors";
import { type Terminal, terminal } from "../courier";
import { CliError } from "../errors";
import { Fleet } from "../fleet";
import type { Scope } from "../hosts";

/** @returns exit code 0. @throws CliError `refused` where there is nothing to cancel, or it is too late */
export async function cancel(scope: Scope, vm: string, options: { json?: boolean }, io: Terminal = terminal): Promise<number> {
  await using fleet = new Fleet(scope);
  const { host, vm: report } = await fleet.locate(vm);
  const agent = await fleet.agent(host.name);
  const { facts } = await agent.call(moveFacts, { vm: report.uuid });
  const open = facts.find(({ out }) => out === "INIT" || out === "OPEN");
  if (!open) throw new CliError("refused", `no move of ${vm} is under way; it is on ${host.name}`);
  const to = open.peer?.host ?? "?";
  if (isPastReturn(open)) throw tooLate(vm, to);
  try {
    await agent.call(moveCancel, { vm: report.uuid, attempt: open.attempt });
  } catch (error) {
    if (error instanceof AgentError && (error.code === "bad-state" || error.code === "in-doubt")) throw tooLate(vm, to, error);
    throw error;
  }
  const text = `the move of ${vm} to ${to} was cancelled; it runs on ${host.name} as before`;
  io.out(options.json === true ? JSON.stringify({ cancelled: true, vm: report.uuid, attempt: open.attempt, host: host.name, to }) : text);
  return 0;
}

function tooLate(vm: string, to: string, cause?: unknown): CliError {
  return new CliError(
    "refused",
    `the move of ${vm} to ${to} is past its point of no return`,
    `let it finish (mobitopolo status), then move it back: mobitopolo move ${vm} --to …`,
    cause === undefined ? undefined : { cause },
  );
}
