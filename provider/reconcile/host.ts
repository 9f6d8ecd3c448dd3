import { isIP } from "node:net";
import type { CheckResult, DiffResult } from "@pulumi/pulumi/dynamic";
import { messageOf } from "../lib/errors";
import { within } from "../lib/time";
import { hostFacts, retireHost } from "../protocol/methods";
import { type Fault, faultsOf } from "../schemas/faults";
import { type HostEndpoint, hostEndpoint, hostInputs } from "../schemas/host";
import { containsUnknown } from "../schemas/unknown";
import type { Reached } from "../transport/connect";
import { TransportError } from "../transport/errors";
import { changed, pick, surelyChanged } from "./compare";
import { context } from "./context";
import { ReconcileError } from "./errors";
import type { Context } from "./fleet";
import { handlerOf, type Props, type Reconciler, visible } from "./handler";
import { defaultLoopback } from "./identity";

const inputKeys = ["name", "connection", "address", "dataAddress", "ports", "labels", "limits"];
const hidden = ["__urn"];

/** Host: the id is its name; everything else changes in place. */
export function hostReconciler(context: Context): Reconciler {
  return {
    check: checkHost,
    diff: diffHost,
    create: async (news) => ({ id: String(news.name), outs: await observe(context, news) }),
    read: async (_id, props) => {
      const outs = await refreshed(context, props);
      return { props: outs, inputs: pick(outs, [...inputKeys, ...hidden]) };
    },
    update: async (_id, _olds, news) => await observe(context, news),
    delete: async (_id, props) => await retire(context, props),
  };
}

/** All faults at once; defaults settled, so that previews know them. Pure. */
export function checkHost(_olds: Props, news: Props): CheckResult {
  const given = visible(news);
  const faults: Fault[] = faultsOf(hostInputs, given);
  const ssh = sshOf(given.connection);
  const local = typeof given.connection === "object" && given.connection !== null && "local" in given.connection;
  const address =
    given.address ??
    (local && typeof given.name === "string" && !containsUnknown(given.name) ? defaultLoopback(given.name) : numeric(ssh?.host));
  if (ssh && address === undefined && !containsUnknown(ssh)) {
    faults.push({
      path: "address",
      reason:
        "is missing; wanted: the host's numeric IPv4 or IPv6 address, since frames and migrations go to it without a look-up of names",
    });
  }
  if (faults.length > 0) return { inputs: news, failures: faults.map(({ path, reason }) => ({ property: path, reason })) };
  return {
    inputs: {
      ...news,
      address,
      dataAddress: given.dataAddress ?? address,
      labels: given.labels ?? {},
      limits: given.limits ?? {},
      ports: given.ports ?? { from: 20_000, to: 29_999 },
      connection: ssh ? { ssh: { port: 22, ...ssh, host: ssh.host ?? given.address } } : given.connection,
    },
  };
}

/** Only the name replaces. Pure. */
export function diffHost(_id: string, olds: Props, news: Props): DiffResult {
  const replaces = surelyChanged(["name"], olds, news);
  const lost = olds.status === "unreachable" ? ["status"] : [];
  return { changes: [...changed(inputKeys, olds, news), ...lost].length > 0, replaces };
}

/** Brings the agent there if need be, and asks it about the host. */
async function observe(context: Context, news: Props): Promise<Props> {
  const row = context.row(news.__urn);
  const reached = await context.pool.reach(endpointOf(news), { onProgress: (text) => row.progress(text) });
  return { ...news, ...(await measured(reached)) };
}

/** A host that is away keeps what is known of it. */
async function refreshed(context: Context, props: Props): Promise<Props> {
  try {
    return await observe(context, props);
  } catch (error) {
    context.row(props.__urn).warn(messageOf(error));
    return { ...props, status: "unreachable" };
  }
}

async function measured({ agent }: Reached): Promise<Props> {
  const { cpuModel, cpus, cpuFlags, xstateBytes, memoryMiB, kernelRelease, warnings } = await agent.call(hostFacts, {});
  const { agentId } = agent.hello;
  return {
    agentId,
    status: "online",
    cpuModel,
    cpus,
    cpuFlags: [...cpuFlags].sort(),
    xstateBytes,
    memoryMiB,
    kernelRelease,
    warnings,
    __schemaVersion: 1,
  };
}

/** Refuses while VMs run there; else nothing of ours is left but the programs that were brought there. */
async function retire(context: Context, props: Props): Promise<void> {
  const endpoint = endpointOf(props);
  const { agent } = await context.pool.reach(endpoint);
  const ended = await agent.call(retireHost, {}).catch(async (error: unknown) => {
    // It ends by itself when it is done, perhaps before its answer is out.
    if (await isQuiet(context, endpoint, error)) return { removed: true, vms: [] };
    throw error;
  });
  if (ended.removed) return await within(10_000, `the agent of host ${endpoint.name} to end`, agent.closed);
  const count = `${ended.vms.length} VM${ended.vms.length === 1 ? " runs" : "s run"} there: ${ended.vms.join(", ")}`;
  throw new ReconcileError(
    `Host ${endpoint.name}`,
    "remove it",
    count,
    "next: move or destroy them first (they may belong to another stack)",
  );
}

/** Whether the conversation broke off because no agent runs there any more. */
async function isQuiet(context: Context, endpoint: HostEndpoint, broken: unknown): Promise<boolean> {
  if (!(broken instanceof TransportError && broken.kind === "lost")) return false;
  return await context.pool.reach(endpoint, { start: false }).then(
    () => false,
    (error: unknown) => error instanceof TransportError && error.kind === "no-agent",
  );
}

const endpointOf = (props: Props): HostEndpoint => hostEndpoint.strip().parse(props);

interface Ssh {
  readonly host?: string;
}
function sshOf(connection: unknown): Ssh | undefined {
  const ssh = typeof connection === "object" && connection !== null && "ssh" in connection ? connection.ssh : undefined;
  return typeof ssh === "object" && ssh !== null ? ssh : undefined;
}

const numeric = (host: unknown): string | undefined => (typeof host === "string" && isIP(host) !== 0 ? host : undefined);

/** What the engine calls for every Host. */
export const hostHandler = handlerOf(hostReconciler(context));
