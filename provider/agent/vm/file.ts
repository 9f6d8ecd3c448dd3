import { z } from "zod";
import { readJson, writeJson } from "../../lib/files";
import { port } from "../../schemas/common";
import { type Wiring, wiring } from "../../schemas/link";
import { lastMigration, vmSpec } from "../../schemas/vm";
import type { VmPaths } from "./paths";

const vmFile = z.strictObject({
  spec: vmSpec,
  /** Token that its create made. */
  owner: z.string(),
  /** A second call came with that token: a state keeps it. A half-made VM, which nobody confirmed, may be taken over by a repeated create. */
  confirmed: z.boolean().default(false),
  /** UDP port of each NIC on this host. */
  ports: z.record(z.string(), port),
  lastMigration: lastMigration.optional(),
  /** Why it is not running, for a person. */
  note: z.string().optional(),
});
/** `vm.json`: what an agent must know to run a VM again. */
export type VmFile = z.infer<typeof vmFile>;

export async function readVmFile(paths: VmPaths): Promise<VmFile | undefined> {
  return await readJson(paths.spec, (value) => vmFile.parse(value));
}

export async function writeVmFile(paths: VmPaths, file: VmFile): Promise<void> {
  await writeJson(paths.spec, file);
}

/** Our ends of links, with their keys: 0600 like all that writeJson makes. */
export async function readWirings(paths: VmPaths): Promise<Wiring[]> {
  return (await readJson(paths.wirings, (value) => z.array(wiring).parse(value))) ?? [];
}

export async function writeWirings(paths: VmPaths, wirings: readonly Wiring[]): Promise<void> {
  await writeJson(paths.wirings, wirings);
}
