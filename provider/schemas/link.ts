import { z } from "zod";
import { ipAddress, name, port } from "./common";

export const linkEnd = z.strictObject({
  /** The VM's uuid: its `id`. A change replaces the Link. */
  vm: z.string(),
  /** The VM's `instance`: changes when the VM is replaced, so that it is wired anew. */
  instance: z.string(),
  /** The VM's `host`: changes when it moves. */
  host: name,
  /** Name of the NIC. A change replaces the Link. */
  nic: name,
});
export type LinkEnd = z.infer<typeof linkEnd>;

export const linkInputs = z.strictObject({
  /** The two NICs that it joins. A NIC has one link. */
  ends: z.tuple([linkEnd, linkEnd]),
  /** MTU that the guests see. @default 1400 */
  mtu: z.int().min(576).max(9000).optional(),
  /** Frames sealed with AES-256-GCM. `false`: plain, without authentication: whoever can send to the port can speak. @default true */
  seal: z.boolean().optional(),
});
export type LinkInputs = z.infer<typeof linkInputs>;

/** What one agent holds of a link: its own VM's end. Kept 0600, carried by a migration's stream, never in Pulumi's state. */
export const wiring = z.strictObject({
  link: z.uuid(),
  vm: z.uuid(),
  nic: name,
  mtu: z.int(),
  seal: z.boolean(),
  keyId: z.int().min(0).max(65535),
  /** 256-bit link key in hex; empty for a plain link. */
  key: z.string(),
  /** The two ends' ids, 16 hex digits: first 8 bytes of SHA-256(link ‖ vm ‖ nic). */
  selfId: z.string().regex(/^[0-9a-f]{16}$/),
  peerId: z.string().regex(/^[0-9a-f]{16}$/),
  /** Where the peer's socket is as far as is known. */
  peer: z.strictObject({ address: ipAddress, port }).optional(),
});
export type Wiring = z.infer<typeof wiring>;

/** Counters of one NIC, as `nic.stats` of the VM's control channel tells them (links.md). */
export const nicStats = z.object({
  nic: z.string(),
  link: z.string().optional(),
  local: z.string().optional(),
  peer: z.string().optional(),
  counters: z.record(z.string(), z.number()),
});
export type NicStats = z.infer<typeof nicStats>;
