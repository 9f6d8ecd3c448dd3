import * as pulumi from "@pulumi/pulumi";
import type { z } from "zod";
import type { LinkEnd, linkInputs } from "../schemas/link";
import { type Host, knownHostOf } from "./host";
import { type Args, providerOf, typeOf, urnOf } from "./inputs";
import type { Vm } from "./vm";

/** One end of a Link: a NIC of a VM, by the NIC's name. A change replaces the Link. */
export interface LinkEndArgs {
  vm: Vm;
  nic: pulumi.Input<string>;
}

/** What a Link needs. Property docs: provider/schemas/link.ts; which NICs it joins replaces the Link, all else changes in place. */
export type LinkArgs = Args<Omit<z.input<typeof linkInputs>, "ends">> & {
  /** The two NICs that it joins. A NIC has one link. */
  ends: readonly [LinkEndArgs, LinkEndArgs];
  /** Every Host where an end may be. A Topology gives all of its own. @default the hosts that the two VMs know */
  hosts?: readonly Host[];
};

/** An Ethernet cable between two NICs: sealed frames in UDP datagrams, from VM process to VM process, that follow a VM that moves. */
export class Link extends pulumi.CustomResource {
  declare readonly uuid: pulumi.Output<string>;
  declare readonly ends: pulumi.Output<[LinkEnd, LinkEnd]>;
  declare readonly mtu: pulumi.Output<number>;
  declare readonly seal: pulumi.Output<boolean>;
  /** `up`: both ends have heard each other; `unheard`: wired, but at least one end has not heard the other yet; `unwired`: an end is missing. */
  declare readonly state: pulumi.Output<"up" | "unheard" | "unwired">;

  constructor(name: string, args: LinkArgs, opts?: pulumi.CustomResourceOptions) {
    const { ends, hosts, ...rest } = args;
    const [a, b] = ends;
    super(
      typeOf("Link"),
      name,
      {
        uuid: undefined,
        mtu: undefined,
        seal: undefined,
        state: undefined,
        ...rest,
        ends: [a, b].map(({ vm, nic }) => ({ vm: vm.id, instance: vm.instance, host: vm.host, nic })),
        __provider: providerOf("link"),
        __urn: urnOf(typeOf("Link"), name, opts?.parent),
        __hosts: hosts ? hosts.map(knownHostOf) : pulumi.all([a.vm.__hosts, b.vm.__hosts]).apply((both) => both.flat()),
      },
      opts,
    );
  }
}
