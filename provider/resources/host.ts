import * as pulumi from "@pulumi/pulumi";
import type { z } from "zod";
import type { Connection, hostInputs } from "../schemas/host";
import { type Args, providerOf, typeOf, urnOf } from "./inputs";

/** Where VMs can run: what a Host needs. Property docs: provider/schemas/host.ts; everything but `name` changes in place. */
export type HostArgs = Args<Omit<z.input<typeof hostInputs>, "name">> & {
  /** Names the host everywhere; its `id`. A change replaces the Host. @default the resource's name */
  name?: pulumi.Input<string>;
};

/**
 * A machine (or, with `connection: {local: {}}`, a folder of this machine) that runs VMs: Linux on x86-64 and, unless local, SSH. No root and
 * nothing installed is needed. Creating it brings the agent there and starts it; deleting it is refused while VMs run there.
 */
export class Host extends pulumi.CustomResource {
  declare readonly name: pulumi.Output<string>;
  declare readonly connection: pulumi.Output<Connection>;
  /** Numeric address where the host is reached. */
  declare readonly address: pulumi.Output<string>;
  /** Numeric address of frames and migration streams. */
  declare readonly dataAddress: pulumi.Output<string>;
  declare readonly ports: pulumi.Output<{ from: number; to: number }>;
  declare readonly labels: pulumi.Output<Record<string, string> | undefined>;
  declare readonly limits: pulumi.Output<{ memoryMiB?: number; diskMiB?: number } | undefined>;
  /** Made once per state folder by the agent. */
  declare readonly agentId: pulumi.Output<string>;
  /** `online`, or `unreachable` since the last refresh. */
  declare readonly status: pulumi.Output<"online" | "unreachable">;
  declare readonly cpuModel: pulumi.Output<string>;
  declare readonly cpus: pulumi.Output<number>;
  /**
   * CPU features (CPUID, by /proc/cpuinfo's names): a VM can move here only if all that its guest has been shown are among them.
   * Empty until the host has had its first VM and was looked at again (`pulumi refresh`).
   */
  declare readonly cpuFlags: pulumi.Output<string[]>;
  declare readonly xstateBytes: pulumi.Output<number>;
  declare readonly memoryMiB: pulumi.Output<number>;
  declare readonly kernelRelease: pulumi.Output<string>;
  /** What a person should know about the host, each with its cure. */
  declare readonly warnings: pulumi.Output<string[]>;

  constructor(name: string, args: HostArgs, opts?: pulumi.CustomResourceOptions) {
    const outputs = {
      agentId: undefined,
      status: undefined,
      cpuModel: undefined,
      cpus: undefined,
      cpuFlags: undefined,
      xstateBytes: undefined,
      memoryMiB: undefined,
      kernelRelease: undefined,
      warnings: undefined,
    };
    // Settled in check where the program does not give them: declared, so that they are outputs too.
    const derived = { address: undefined, dataAddress: undefined, ports: undefined, labels: undefined, limits: undefined };
    super(
      typeOf("Host"),
      name,
      {
        ...outputs,
        ...derived,
        name,
        ...args,
        __provider: providerOf("host"),
        __urn: urnOf(typeOf("Host"), name, opts?.parent),
      },
      opts,
    );
  }
}

/** A Host as a Vm or Link hands it to itself in its hidden input `__hosts`. */
export function knownHostOf(host: Host) {
  const { name, connection, dataAddress, ports, limits, cpuFlags, xstateBytes } = host;
  return { name, connection, dataAddress, ports, limits, cpuFlags, xstateBytes };
}
