import { schemas } from "@mobitopolo/provider";
import { z } from "zod";

/** One end of a link in short: `vm:nic`. */
export const endText = z.string().regex(/^[a-z0-9-]+:[a-z0-9-]+$/, "the name of a VM, a colon and the name of one of its NICs, as web:lan");

export const topologyHost = schemas.hostInputs.omit({ name: true });
export const topologyVm = schemas.vmInputs;
export const topologyLink = z.strictObject({
  /** The two NICs that it joins, each as `vm:nic`. A NIC has one link. */
  ends: z.tuple([endText, endText]),
  mtu: schemas.linkInputs.shape.mtu,
  seal: schemas.linkInputs.shape.seal,
});

/** A topology as one object or YAML file. Names are the keys. */
export const topologyArgs = z.strictObject({
  hosts: z.record(schemas.name, topologyHost),
  vms: z.record(schemas.name, topologyVm).optional(),
  /** A list (names are made from the ends), or by name. */
  links: z.union([z.array(topologyLink), z.record(schemas.name, topologyLink)]).optional(),
});
