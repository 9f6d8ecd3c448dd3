import { z } from "zod";
import { cidr, labels, mac, name, sha256 } from "./common";

export const nic = z.strictObject({
  /** Name of the NIC, for Links; in the guest it is eth<position>. */
  name,
  /** @default 02 and a hash of the VM's uuid and the NIC's name */
  mac: mac.optional(),
  /** Numeric, with prefix length. @default none */
  addresses: z.array(cidr).default([]),
  /** Routes that the guest agent sets: destination (`default` or CIDR) → gateway. */
  routes: z.array(z.strictObject({ to: z.string(), via: z.string() })).optional(),
});
export type Nic = z.infer<typeof nic>;

/** How a VM moves. Units stand in the names. */
export const migrationPolicy = z.strictObject({
  /** The final copy is begun when it is estimated to fit. @default 50 */
  maxDowntimeMs: z.number().positive().optional(),
  /** @default unlimited */
  bandwidthMbps: z.number().positive().optional(),
  /** Rounds end here at the latest; then the rest is copied with the guest frozen (`abort`: then the move fails). @default 300 */
  deadlineS: z.number().positive().optional(),
  /**
   * What is done where the guest changes its memory faster than the link carries it. `throttle`: the guest's own time runs slower, then as `extend`;
   * `extend`: a longer downtime is allowed, doubled step by step, up to the deadline; `postcopy`: the guest goes on at once, and what it still lacks is
   * fetched when it touches it, the rest behind that: until all is there it needs both hosts and the link between them (as `extend` where the host's kernel
   * cannot tell what changes); `abort`: the move fails and the guest runs on untouched.
   * @default throttle
   */
  onNoConvergence: z.enum(["throttle", "extend", "postcopy", "abort"]).optional(),
  /**
   * Whether the VM leaves its disk and its memory on the host it moves away from, for at most 24 hours and while nobody there needs the room: what has not
   * changed when it comes back is not sent. `false`: nothing of it stays there.
   * @default true
   */
  keepBasis: z.boolean().optional(),
});
export type MigrationPolicy = z.infer<typeof migrationPolicy>;

export const vmInputs = z.strictObject({
  /** Host name in the guest, and the VM's name for the `mobitopolo` command. @default the resource's name */
  name: name.optional(),
  /** The Host's name. Changing it moves the running VM live. */
  host: name,
  /** `default`, a path to a raw image, or `sha256:<64 hex>` of one in the store. A change replaces the VM. */
  image: z.string().optional(),
  /** `default`, a path to a kernel of ours, or `sha256:…`. A change replaces the VM. */
  kernel: z.string().optional(),
  /** @default 128. A change replaces the VM. */
  memoryMiB: z.int().min(32).max(65536).optional(),
  /** Virtual size of the root disk. @default 512. A change replaces the VM. */
  diskMiB: z.int().min(64).max(1048576).optional(),
  /** `auto` or a CPU number of the host. @default auto */
  cpu: z.union([z.literal("auto"), z.int().min(0)]).optional(),
  /** Whether the guest's own users must be kept from its kernel. @default seccomp. Takes effect at the next start or move. */
  userspace: z.enum(["seccomp", "ptrace"]).optional(),
  /** In order: eth0, eth1 … @default none */
  nics: z.array(nic).optional(),
  /** Commands that the guest agent runs by /bin/sh, in order and in the background, after the NICs are set, once per boot. */
  runcmd: z.array(z.string()).optional(),
  /** How it moves. */
  migration: migrationPolicy.optional(),
  /** Whether it runs; `false` stops it and keeps its disk. @default true */
  running: z.boolean().optional(),
  /** Take over a VM of the same uuid that another owner made. @default false */
  adopt: z.boolean().optional(),
  /** For the user's own use. */
  labels: labels.optional(),
});
export type VmInputs = z.infer<typeof vmInputs>;

/** What an agent needs to run a VM: `vmInputs` with every default settled. Kept by the agent as vm.json and carried by a migration. */
export const vmSpec = z.strictObject({
  uuid: z.uuid(),
  name: z.string(),
  imageId: sha256,
  kernelId: sha256,
  memoryMiB: z.int(),
  diskMiB: z.int(),
  cpu: z.union([z.literal("auto"), z.int()]),
  userspace: z.enum(["seccomp", "ptrace"]),
  nics: z.array(nic.extend({ mac, mtu: z.int().min(576).max(9000) })),
  runcmd: z.array(z.string()),
  labels,
});
export type VmSpec = z.infer<typeof vmSpec>;

export const vmState = z.enum(["running", "stopped", "moving", "frozen", "in-doubt", "settling", "unreachable"]);
export type VmState = z.infer<typeof vmState>;

/** The last move, as it ended: also an output of Vm. */
export const lastMigration = z.strictObject({
  attempt: z.string(),
  from: z.string(),
  to: z.string(),
  result: z.enum(["moved", "failed", "failed, returned"]),
  /** Bytes on the wire, both directions, of the migration stream. */
  bytes: z.number(),
  seconds: z.number(),
  rounds: z.number(),
  /** From the freeze on the source to the first instruction on the target, as the agents measured it. */
  downtimeMs: z.number(),
  error: z.string().optional(),
});
export type LastMigration = z.infer<typeof lastMigration>;
