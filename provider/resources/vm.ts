import * as pulumi from "@pulumi/pulumi";
import type { z } from "zod";
import type { LastMigration, MigrationPolicy, Nic, VmState, vmInputs } from "../schemas/vm";
import { Host, knownHostOf } from "./host";
import { type Args, providerOf, typeOf, urnOf } from "./inputs";

/** What a Vm needs. Property docs: provider/schemas/vm.ts; `image`, `kernel`, `memoryMiB` and `diskMiB` replace the VM, all else changes in place. */
export type VmArgs = Args<Omit<z.input<typeof vmInputs>, "host">> & {
  /** Where it runs: a Host, or the name of one of `hosts`. **Changing it moves the running VM live.** */
  host: Host | pulumi.Input<string>;
  /** Every Host that it may ever run on, so that it is found where it is. A Topology gives all of its own. @default `host`, if that is a Host */
  hosts?: readonly Host[];
};

/** A User-Mode-Linux VM. Its id is a uuid that stays the same wherever it runs. */
export class Vm extends pulumi.CustomResource {
  declare readonly name: pulumi.Output<string>;
  declare readonly uuid: pulumi.Output<string>;
  /** The name of the Host where it runs. */
  declare readonly host: pulumi.Output<string>;
  /** Changes when the VM is replaced (its uuid stays): what a Link watches in order to wire the new one. */
  declare readonly instance: pulumi.Output<string>;
  /** `sha256:…` of the root image's bytes. */
  declare readonly image: pulumi.Output<string>;
  /** `sha256:…` of the kernel's bytes. */
  declare readonly kernel: pulumi.Output<string>;
  declare readonly memoryMiB: pulumi.Output<number>;
  declare readonly diskMiB: pulumi.Output<number>;
  declare readonly cpu: pulumi.Output<"auto" | number>;
  declare readonly userspace: pulumi.Output<"seccomp" | "ptrace">;
  declare readonly nics: pulumi.Output<(Nic & { mac: string })[]>;
  declare readonly runcmd: pulumi.Output<string[]>;
  declare readonly migration: pulumi.Output<MigrationPolicy>;
  declare readonly running: pulumi.Output<boolean>;
  declare readonly labels: pulumi.Output<Record<string, string>>;
  /** What the agents said when they were last asked. */
  declare readonly state: pulumi.Output<VmState>;
  /** How the last move ended. */
  declare readonly lastMigration: pulumi.Output<LastMigration | undefined>;
  /** For a person: why it is stopped, frozen or in doubt, and what to do. */
  declare readonly note: pulumi.Output<string | undefined>;
  /** @internal The hosts it knows. */
  declare readonly __hosts: pulumi.Output<object[]>;

  constructor(name: string, args: VmArgs, opts?: pulumi.CustomResourceOptions) {
    const { host, hosts = [], ...rest } = args;
    const known = new Set<Host>([...hosts, ...(host instanceof Host ? [host] : [])]);
    const declared = {
      uuid: undefined,
      instance: undefined,
      image: undefined,
      kernel: undefined,
      memoryMiB: undefined,
      diskMiB: undefined,
      cpu: undefined,
      userspace: undefined,
      nics: undefined,
      runcmd: undefined,
      migration: undefined,
      running: undefined,
      labels: undefined,
      state: undefined,
      lastMigration: undefined,
      note: undefined,
    };
    super(
      typeOf("Vm"),
      name,
      {
        ...declared,
        name,
        ...rest,
        host: host instanceof Host ? host.name : host,
        __provider: providerOf("vm"),
        __urn: urnOf(typeOf("Vm"), name, opts?.parent),
        __hosts: [...known].map(knownHostOf),
      },
      opts,
    );
  }
}
