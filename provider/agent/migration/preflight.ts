import { mkdirPrivate } from "../../lib/files";
import type { MoveNeeds } from "../../protocol/methods";
import type { AgentContext } from "../context";
import { AgentFault } from "../errors";
import { hostFacts, noExec } from "../host";
import { Tool } from "../vm/tool";
import type { Vms } from "../vm/vms";

const mebi = 1048576;

/** What a target lacks: blobs that can be brought first, and what hinders. */
export interface Lacks {
  readonly missing: string[];
  readonly hindrances: AgentFault[];
}

/** All that a target must have before anything changes. Returns the blobs to be brought first. @throws AgentFault with the first hindrance's code and all reasons */
export async function preflight(context: AgentContext, vms: Vms, needs: MoveNeeds): Promise<string[]> {
  const { missing, hindrances } = await lacksFor(context, vms, needs);
  const [first] = hindrances;
  if (!first) return missing;
  const all = (of: (fault: AgentFault) => string | undefined): string => [...new Set(hindrances.map(of).filter(Boolean))].join("; ");
  throw new AgentFault(
    first.code,
    first.step,
    all((fault) => fault.reason),
    { next: all((fault) => fault.next) },
  );
}

/** All hindrances at once. Changes nothing. */
export async function lacksFor(context: AgentContext, vms: Vms, needs: MoveNeeds): Promise<Lacks> {
  const step = `take over ${needs.spec.name}`;
  const hindrances: AgentFault[] = [];
  const hinder = (code: AgentFault["code"], reason: string, next: string): void => {
    hindrances.push(new AgentFault(code, step, reason, { next }));
  };
  const missing = await vms.store.missing([needs.spec.kernelId, needs.spec.imageId]);
  const kernel = missing.includes(needs.spec.kernelId) ? undefined : await vms.store.path(needs.spec.kernelId);
  const facts = await hostFacts(context, vms, kernel);
  // Only the VM's kernel can tell the flags: where it is not here yet, they are compared at the next offer, when it is.
  const lacks = facts.cpuFlags.length === 0 ? [] : needs.cpuFlags.filter((flag) => !facts.cpuFlags.includes(flag));
  if (lacks.length > 0)
    hinder(
      "cpu-features",
      `this host's CPU lacks ${lacks.join(", ")}, which the guest uses`,
      "choose a host that has them, or stop the VM and boot it there (`running: false`, then move)",
    );
  if (facts.xstateBytes > 0 && needs.xstateBytes > facts.xstateBytes)
    hinder(
      "cpu-features",
      `the guest's register state has ${needs.xstateBytes} bytes, this host's CPU saves ${facts.xstateBytes}`,
      "choose a host with the same or a newer CPU",
    );
  const memoryMiB = Math.ceil(needs.memoryBytes / mebi);
  if (facts.memoryFreeMiB < memoryMiB)
    hinder(
      "no-space",
      `it needs ${memoryMiB} MiB of memory in ${context.runDir}, ${facts.memoryFreeMiB} MiB are free`,
      "free memory there, or choose another host",
    );
  const diskMiB = Math.ceil(needs.diskBytes / mebi);
  if (facts.diskFreeMiB < diskMiB)
    hinder(
      "no-space",
      `it needs ${diskMiB} MiB of disk in ${context.stateDir}, ${facts.diskFreeMiB} MiB are free`,
      "free disk space there, or choose another host",
    );
  if (context.ports.to - context.ports.from + 1 < needs.spec.nics.length + 1)
    hinder(
      "no-port",
      `${needs.spec.nics.length} NICs and a stream do not fit the ports ${context.ports.from}–${context.ports.to}`,
      "widen the Host's `ports`",
    );
  if (kernel !== undefined) {
    await mkdirPrivate(context.runDir);
    if (!(await new Tool(kernel).probe(context.runDir)).execTmpfs)
      hinder("failed", "memory cannot be mapped there", noExec(context.runDir));
  }
  return { missing, hindrances };
}
