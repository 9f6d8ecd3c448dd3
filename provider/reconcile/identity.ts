import { createHash } from "node:crypto";

/** Namespace of our name-based uuids (RFC 9562, version 5). Never change it: VMs are found again by what it gives. */
const namespace = Buffer.from("6f3c1d0e7b1a4c52a6c9e2b04d5f8a31", "hex");

/** The uuid of a resource, from its URN: the same in preview and up, and again when a create is repeated. */
export function uuidOf(urn: string): string {
  const hash = createHash("sha1").update(namespace).update(urn).digest().subarray(0, 16);
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6);
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8);
  return hash.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** A NIC's MAC address where the user gives none: locally administered, from the VM's uuid and the NIC's name. */
export function defaultMac(vm: string, nic: string): string {
  const hash = createHash("sha256").update(`${vm}\0${nic}`).digest("hex");
  return `02:${(hash.slice(0, 10).match(/../g) ?? []).join(":")}`;
}

/** A local host's loopback address where the user gives none: one of 127.1.0.1 … 127.254.255.254, from its name. */
export function defaultLoopback(hostName: string): string {
  const [a = 0, b = 0, c = 0] = createHash("sha256").update(`mobitopolo host ${hostName}`).digest();
  return `127.${1 + (a % 254)}.${b}.${1 + (c % 254)}`;
}

/** The two ends of a link tell their frames apart by these (links.md): first 8 bytes of SHA-256(link ‖ vm ‖ nic). */
export function endId(link: string, vm: string, nic: string): string {
  return createHash("sha256").update(link).update(vm).update(nic).digest("hex").slice(0, 16);
}

/** Names a VM's incarnation by what replaces it. */
export function instanceOf(replacing: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(replacing)).digest("hex").slice(0, 16);
}
