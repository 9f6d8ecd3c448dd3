/** `mobitopolo logs VM` and `mobitopolo console VM`: what the guest's console says, and typing into it. */
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { consoleInput, logsOutput, vmLogs } from "../../protocol/methods";
import { Fleet } from "../fleet";
import type { Scope } from "../hosts";

/** Prints the console so far; with `follow`, what comes after, until interrupted, also over moves. */
export async function logs(scope: Scope, vm: string, options: { follow?: boolean; lines?: number }): Promise<number> {
  await using fleet = new Fleet(scope);
  if (options.follow !== true) {
    const at = await fleet.locate(vm);
    const { text } = await (await fleet.agent(at.host.name)).call(vmLogs, {
      vm: at.vm.uuid,
      ...(options.lines !== undefined && { lines: options.lines }),
    });
    process.stdout.write(text.endsWith("\n") || text === "" ? text : `${text}\n`);
    return 0;
  }
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort());
  await follow(fleet, vm, stop.signal, options.lines);
  return 0;
}

/** The guest's console on this terminal. Leaves it on Ctrl-] like telnet. */
export async function console(scope: Scope, vm: string): Promise<number> {
  await using fleet = new Fleet(scope);
  const at = await fleet.locate(vm);
  const { stdin, stderr } = process;
  const stop = new AbortController();
  stderr.write(`console of ${vm} on ${at.host.name}; leave with Ctrl-]\r\n`);
  stdin.setRawMode?.(true);
  stdin.on("data", (bytes: Buffer) => {
    const leave = bytes.indexOf(0x1d);
    const typed = leave < 0 ? bytes : bytes.subarray(0, leave);
    if (typed.length > 0) void type(fleet, at.vm.uuid, typed).catch(() => {});
    if (leave >= 0) stop.abort();
  });
  stdin.once("end", () => stop.abort());
  try {
    await follow(fleet, at.vm.uuid, stop.signal, 25);
    return 0;
  } finally {
    stdin.setRawMode?.(false);
    stdin.destroy();
    stderr.write("\r\n");
  }
}

async function type(fleet: Fleet, uuid: string, typed: Buffer): Promise<void> {
  const agent = await fleet.agent((await fleet.locate(uuid)).host.name);
  await agent.call(consoleInput, { vm: uuid, data: typed.toString("base64") });
}

/** Follows the VM from host to host. The ring travels with the VM, so after a move only its new lines are wanted. */
async function follow(fleet: Fleet, vm: string, stop: AbortSignal, lines?: number): Promise<void> {
  let shown = lines;
  while (!stop.aborted) {
    const at = await fleet.locate(vm);
    const agent = await fleet.agent(at.host.name);
    using _subscription = agent.on(logsOutput, (event) => {
      if (event.vm === at.vm.uuid) process.stdout.write(event.data);
    });
    const { text } = await agent.call(vmLogs, { vm: at.vm.uuid, follow: true, ...(shown !== undefined && { lines: shown }) });
    process.stdout.write(text);
    await Promise.race([agent.closed, left(fleet, at.vm.uuid, at.host.name, stop), stop.aborted ? undefined : once(stop, "abort")]);
    shown = 0;
  }
}

/** Resolves when the VM is on another host. There is no event for it on this connection, so it is asked now and then. */
async function left(fleet: Fleet, uuid: string, host: string, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    await delay(2000, undefined, { signal: stop }).catch(() => {});
    if (!stop.aborted && (await fleet.locate(uuid).catch(() => undefined))?.host.name !== host) return;
  }
}
