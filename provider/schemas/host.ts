import { z } from "zod";
import { ipAddress, labels, name, port } from "./common";

/** How to reach a host's agent. Credentials are taken from ssh-agent, key file, environment or Pulumi's secret config at call time, never from state. */
export const connection = z.union([
  z.strictObject({
    local: z.strictObject({
      /** Folder of this host's state. @default ~/.local/share/mobitopolo/<host name> */
      stateDir: z.string().optional(),
    }),
  }),
  z.strictObject({
    ssh: z.strictObject({
      /** @default the Host's `address` */
      host: z.string().optional(),
      port: port.default(22),
      user: z.string().min(1),
      /** The host's public key as in known_hosts (`ssh-ed25519 AAAA…`) or its `SHA256:…` fingerprint. @default looked up in ~/.ssh/known_hosts; an unknown key is refused */
      hostKey: z.string().optional(),
      /** Private key file on the machine that runs Pulumi. @default ssh-agent, then ~/.ssh/id_ed25519, id_ecdsa, id_rsa */
      keyFile: z.string().optional(),
      /** Name of the environment variable that holds the password (or the key's passphrase). */
      passwordEnv: z.string().optional(),
      /** Folder of this host's state on the host. @default ~/.local/share/mobitopolo/<host name> */
      stateDir: z.string().optional(),
    }),
  }),
]);
export type Connection = z.infer<typeof connection>;

/** Ports of a host that its agent may use: UDP for NICs, TCP for migrations. */
export const portRange = z.strictObject({ from: port, to: port }).refine((r) => r.to >= r.from, "`to` is at least `from`");

export const hostLimits = z.strictObject({
  memoryMiB: z.int().positive().optional(),
  diskMiB: z.int().positive().optional(),
  /** So many VMs leave it at the same time; the others wait, those that are linked with each other go one after the other. @default 2 */
  moves: z.int().positive().optional(),
});

export const hostInputs = z.strictObject({
  /** Names the host everywhere; its `id`. @default the resource's name. A change replaces the Host */
  name,
  /** Local, or through SSH. Exactly one of `local` and `ssh`. */
  connection,
  /** Numeric address where the host is reached. @default for a local host: 127.x.y.z from a hash of its name; for `ssh`: its `host`, where that is numeric */
  address: ipAddress.optional(),
  /** Where frames and migration streams go, if not to `address` (for instance behind NAT). @default `address` */
  dataAddress: ipAddress.optional(),
  /** @default {from: 20000, to: 29999} */
  ports: portRange.optional(),
  /** For the user's own use. */
  labels: labels.optional(),
  /** What all VMs of this host may take together, and how many of them may leave it at once. @default no limit, 2 moves */
  limits: hostLimits.optional(),
});
export type HostInputs = z.infer<typeof hostInputs>;

/** All that is needed to reach a host's agent and its data plane: what a Vm or Link gets of a Host. */
export const hostEndpoint = z.strictObject({
  name,
  connection,
  /** Numeric address of frames and migration streams. */
  dataAddress: ipAddress,
  ports: portRange,
  limits: hostLimits.optional(),
});
export type HostEndpoint = z.infer<typeof hostEndpoint>;

/** A host as a Vm or Link hands it to itself in `__hosts`: the endpoint, and what was measured there when it was last looked at. */
export const knownHost = hostEndpoint.extend({ cpuFlags: z.array(z.string()).optional(), xstateBytes: z.number().optional() });
export type KnownHost = z.infer<typeof knownHost>;
