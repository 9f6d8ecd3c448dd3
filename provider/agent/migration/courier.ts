import { killProcess } from "../vm/process";
import type { Vm } from "../vm/vm";
import type { Vms } from "../vm/vms";
import type { CopyState } from "./decide";
import { decideTarget } from "./decide";
import { forgetIfNothingStays } from "./forget";
import type { Outgoing } from "./journal";
import { returnCopy } from "./return";
import { sayGone, settleIncoming } from "./settle";

/** The journal's slot is small; who asks about more unknown attempts than this does not ask in earnest. */
const maxStrangers = 20;

/**
 * A target without a job is asked about an attempt. From (journal, header) alone; what is unknown becomes GONE, durably, before it is said.
 * @returns the fact, or undefined where it must wait
 */
export async function answerAttempt(
  vms: Vms,
  uuid: string,
  m: string,
  asked: "QUERY" | "LOST" | "ABORTED",
): Promise<"SETTLED" | "GONE" | undefined> {
  const vm = vms.get(uuid) ?? (asked !== "ABORTED" ? await vms.make(uuid, 0) : undefined);
  if (!vm) return "GONE";
  using _turn = await vm.turn.lock();
  // The same word may come twice at once, by the stream and by a courier: the first may have left nothing of it.
  if (vms.get(uuid) !== vm) return await answerAttempt(vms, uuid, m, asked);
  const record = vm.journal.incoming(m);
  if (!record) {
    if (asked === "ABORTED") return "GONE";
    const stranger = { m, from: { host: "?", agentId: "?" }, epoch: 0, bootId: vms.context.bootId, state: "GONE" as const, closed: false };
    await vm.journal.update((current) => ({ ...current, in: [stranger, ...current.in.slice(-maxStrangers)] }));
    return "GONE";
  }
  const header: CopyState = record.state === "RESERVED" ? await vm.copyState() : "none";
  const step = decideTarget(record.state, header, vm.live !== undefined);
  if (step === "say-settled") return "SETTLED";
  const settled = async (): Promise<"SETTLED"> => {
    await settleIncoming(vm, m);
    return "SETTLED";
  };
  if (step === "settle") return await settled();
  // The guest runs here and waits for what its source has.
  if (step === "fill" && asked === "QUERY") return undefined;
  if (step !== "none") {
    if (!(await sayGone(vm, m))) return await settled();
    await vm.dropState();
  }
  if (asked === "ABORTED") {
    await vm.journal.dropIncoming(m);
    await forgetIfNothingStays(vms, vm);
  }
  return "GONE";
}

/** A source without a job (its agent was restarted) hears the target's word from a courier. */
export async function tellSource(
  vm: Vm,
  fact: { fact: "SETTLED" | "GONE" | string; m: string; journalId: string },
  mayReturn: (out: Outgoing, fact: { fact: string; m: string; journalId: string }) => boolean,
): Promise<void> {
  const { out } = vm.journal.value;
  if (!out || out.m !== fact.m || out.state !== "OPEN") return;
  if (fact.fact === "SETTLED") await retireCopy(vm, out);
  else if (mayReturn(out, fact)) await returnCopy(vm, out);
}

/** The target has it: CLOSED and the tombstone in one record, then the copy goes. */
export async function retireCopy(vm: Vm, out: Outgoing): Promise<void> {
  await vm.journal.writeOut({ state: "CLOSED" }, { home: "no", tombstone: out.to });
  const live = vm.release();
  if (live) await killProcess(live.process);
  // How its owner wants it to move is not known here.
  await vm.dropCopy(false);
}
