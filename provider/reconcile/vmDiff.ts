import type { DiffResult } from "@pulumi/pulumi/dynamic";
import { isUnknown } from "../schemas/unknown";
import { changed, same, surelyChanged } from "./compare";
import { ReconcileError } from "./errors";
import { knownHosts } from "./fleet";
import type { Props } from "./handler";
import { replacingKeys } from "./vmCheck";

/** What changes in place; `host` among it: that is the live migration. */
export const inPlaceKeys = ["name", "host", "cpu", "userspace", "nics", "runcmd", "migration", "running", "labels"];

/** What the next `up` looks after without being asked. */
const unrest = new Set<unknown>(["moving", "frozen", "in-doubt", "settling", "unreachable"]);

/** Pure. `olds` are outputs, so that drift (the VM is elsewhere, or stopped) is a change too. @throws ReconcileError a target without a CPU feature that the guest needs */
export function diffVm(_id: string, olds: Props, news: Props): DiffResult {
  const replaces = surelyChanged(replacingKeys, olds, news);
  if (replaces.length === 0) refuseLesserCpu(olds, news);
  const changes = [...changed([...replacingKeys, ...inPlaceKeys], olds, news), ...drift(olds, news)];
  return { changes: changes.length > 0, replaces, deleteBeforeReplace: replaces.length > 0 };
}

function drift(olds: Props, news: Props): string[] {
  const found: string[] = [];
  if (unrest.has(olds.state)) found.push("state");
  if (olds.state === "stopped" && news.running === true) found.push("running");
  if (olds.state === "running" && news.running === false) found.push("running");
  // How to reach the host where it is: later operations have only what is recorded here.
  const before = knownHosts(olds).find((host) => host.name === olds.host);
  const after = knownHosts(news).find((host) => host.name === olds.host);
  const endpoint = (host: typeof before) => host && [host.connection, host.dataAddress, host.ports, host.limits];
  if (after && !same(endpoint(before), endpoint(after))) found.push("__hosts");
  return found;
}

/** What the guest has been shown is on record, and so is what the target has: then a preview can tell. */
function refuseLesserCpu(olds: Props, news: Props): void {
  if (isUnknown(news.host) || news.host === olds.host || olds.state !== "running" || !Array.isArray(olds.__cpuFlags)) return;
  const target = knownHosts(news).find((host) => host.name === news.host);
  if (!target?.cpuFlags?.length) return;
  const has = new Set(target.cpuFlags);
  // Bits that the guest's kernel has no name for (`cpu1.27`) are for the agents to compare.
  const missing = olds.__cpuFlags.map(String).filter((flag) => !has.has(flag) && !/^cpu\d+\.\d+$/.test(flag));
  if (missing.length === 0) return;
  throw new ReconcileError(
    `VM ${String(olds.name)}`,
    `move it to ${target.name}`,
    `${target.name} lacks ${missing.length === 1 ? "a CPU feature" : "CPU features"} that its guest uses: ${missing.join(", ")}`,
    `It runs on ${String(olds.host)} as before. Next: choose another host; or stop it first (\`running: false\`) and let it boot there.`,
  );
}
