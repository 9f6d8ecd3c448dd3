import { type VmReport, vmEnsure } from "../protocol/methods";
import { type MigrationPolicy, migrationPolicy, type VmSpec, vmSpec } from "../schemas/vm";
import type { Reached } from "../transport/connect";
import { pick } from "./compare";
import type { Row } from "./engine";
import type { Context, Fleet } from "./fleet";
import type { Props } from "./handler";
import { blobsOf, ensureBlobs } from "./vmBlobs";
import { replacingKeys } from "./vmCheck";
import { inPlaceKeys } from "./vmDiff";
import type { Observation, Sighting } from "./vmObserve";

/** What of a Vm's outputs are inputs. */
export const inputKeys = [...replacingKeys, ...inPlaceKeys, "adopt", "uuid", "instance", "__urn", "__hosts", "__asked"];
const ensureTimeoutMs = 120_000;

/** Makes the VM there as its inputs say: made if missing, running or stopped. Its outputs. */
export async function ensure(there: Sighting, news: Props, owner: string, before?: (to: Reached) => Promise<void>): Promise<Props> {
  const { agent } = there.reached;
  const spec = specOf(news);
  await before?.(there.reached);
  const { vm } = await agent.call(
    vmEnsure,
    { spec, owner, adopt: news.adopt === true, running: news.running !== false, gen: there.gen ?? 0 },
    { timeoutMs: ensureTimeoutMs },
  );
  return { ...outputsOf(vm, there.host), __owner: owner, __agentId: agent.hello.agentId };
}

/** A Vm's pure outputs, from its agent's report. */
export function outputsOf(report: VmReport, host: string): Props {
  return {
    host,
    state: report.state,
    note: report.note,
    __schemaVersion: 1,
    ...(report.lastMigration ? { lastMigration: report.lastMigration } : {}),
    ...(report.cpuFlags ? { __cpuFlags: [...report.cpuFlags] } : {}),
  };
}

/** What an update keeps of what was known. */
export const carried = (olds: Props): Props => pick(olds, ["lastMigration", "__owner", "__agentId", "__cpuFlags"]);

/** Brings the kernel and image to the host that is to boot it. */
export const ensuringBlobs =
  (context: Context, fleet: Fleet, props: Props, row: Row) =>
  async (to: Reached): Promise<void> =>
    await ensureBlobs(nameOf(props), to, blobsOf(props, context.assets), othersOf(fleet, to.agent.host), row);

/** The other hosts that it knows, reached only when needed. */
export const othersOf = (fleet: Fleet, host: string): (() => Promise<Reached>)[] =>
  fleet.names.filter((name) => name !== host).map((name) => async () => await fleet.reach(name));

/** What that host said. @throws TransportError why it did not answer */
export function sightingOn({ sightings, away }: Observation, host: string): Sighting {
  const found = sightings.find((one) => one.host === host);
  if (found) return found;
  throw away.get(host) ?? new Error(`host ${host} was not asked`);
}

/** The VM as a person knows it. */
export const nameOf = (props: Props): string => `VM ${String(props.name)}`;

/** A state of an older version may have what this one does not know. */
export const policyOf = ({ migration }: Props): MigrationPolicy => migrationPolicy.safeParse(migration ?? {}).data ?? {};

/** NICs start with this MTU; a Link's own takes its place when it is wired. */
const initialMtu = 1400;

/** What an agent needs to run it. @throws ZodError where check was not called before */
export function specOf(news: Props): VmSpec {
  const blob = (value: unknown) => String(value).replace(/^sha256:/, "");
  const nics = Array.isArray(news.nics) ? news.nics.map((nic: object) => ({ ...nic, mtu: initialMtu })) : [];
  return vmSpec.parse({
    ...pick(news, ["uuid", "name", "memoryMiB", "diskMiB", "cpu", "userspace", "runcmd", "labels"]),
    imageId: blob(news.image),
    kernelId: blob(news.kernel),
    nics,
  });
}
