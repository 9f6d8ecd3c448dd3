/**
 * The wire format of links, written a second time and independently of the kernel's (docs/formats/link-wire.md):
 * what the guest seals, node:crypto must open, and the other way round.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";

export const HEADER_BYTES = 16;
export const TAG_BYTES = 16;
export const FLAG = { announce: 1, keepalive: 2, plain: 4, checksum: 8, chacha: 16 } as const;
const CIPHERS = { gcm: "aes-256-gcm", chacha: "chacha20-poly1305" } as const;

/** One end of a link: whose key it is and which way it looks. */
export interface WireKey {
  readonly id: number;
  /** 32 bytes. */
  readonly link: Buffer;
  /** 8 bytes each. */
  readonly self: Buffer;
  readonly peer: Buffer;
}

export interface Datagram {
  readonly flags: number;
  readonly keyId: number;
  readonly epoch: number;
  readonly counter: bigint;
  /** Frame, keepalive, or 4 bytes of checksum offsets and a frame. */
  readonly content: Buffer;
}

/** HKDF-SHA256: the key of one direction and cipher. */
export function directionKey(link: Buffer, cipher: keyof typeof CIPHERS, from: Buffer, to: Buffer): Buffer {
  const info = Buffer.concat([Buffer.from(`${CIPHERS[cipher]}\0`), from, to]);
  return Buffer.from(hkdfSync("sha256", link, Buffer.from("mobitopolo link 1"), info, 32));
}

/** A datagram from `key.self` to `key.peer`. */
export function seal(key: WireKey, datagram: Omit<Datagram, "keyId">, version = 1): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(version, 0);
  header.writeUInt8(datagram.flags, 1);
  header.writeUInt16BE(key.id, 2);
  header.writeUInt32BE(datagram.epoch, 4);
  header.writeBigUInt64BE(datagram.counter, 8);
  if (datagram.flags & FLAG.plain) return Buffer.concat([header, datagram.content]);
  const kind = datagram.flags & FLAG.chacha ? "chacha" : "gcm";
  const secret = directionKey(key.link, kind, key.self, key.peer);
  const cipher = createCipheriv(CIPHERS[kind] as "aes-256-gcm", secret, header.subarray(4), { authTagLength: TAG_BYTES });
  cipher.setAAD(header, { plaintextLength: datagram.content.length });
  const sealed = Buffer.concat([cipher.update(datagram.content), cipher.final()]);
  return Buffer.concat([header, sealed, cipher.getAuthTag()]);
}

/** A datagram from `key.peer` to `key.self`. @throws Error if it is not authentic */
export function open(key: WireKey, bytes: Buffer): Datagram {
  const header = bytes.subarray(0, HEADER_BYTES);
  const flags = header.readUInt8(1);
  if (header.readUInt8(0) !== 1) throw new Error(`version ${header.readUInt8(0)}`);
  const parts = { flags, keyId: header.readUInt16BE(2), epoch: header.readUInt32BE(4), counter: header.readBigUInt64BE(8) };
  if (flags & FLAG.plain) return { ...parts, content: bytes.subarray(HEADER_BYTES) };
  const kind = flags & FLAG.chacha ? "chacha" : "gcm";
  const secret = directionKey(key.link, kind, key.peer, key.self);
  const decipher = createDecipheriv(CIPHERS[kind] as "aes-256-gcm", secret, header.subarray(4), { authTagLength: TAG_BYTES });
  decipher.setAAD(header, { plaintextLength: bytes.length - HEADER_BYTES - TAG_BYTES });
  decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
  return { ...parts, content: Buffer.concat([decipher.update(bytes.subarray(HEADER_BYTES, -TAG_BYTES)), decipher.final()]) };
}

/** A datagram as the old place of its receiver passes it on: `from` is "IP:PORT", of IPv4. */
export function passedOn(from: string, bytes: Buffer): Buffer {
  const [address = "", port] = from.split(":");
  const header = Buffer.alloc(20);
  header.writeUInt8(1, 0);
  header.writeUInt8(0x80, 1);
  header.writeUInt16BE(Number(port), 2);
  header.writeUInt16BE(0xffff, 14);
  ip(address).copy(header, 16);
  return Buffer.concat([header, bytes]);
}

/** An Ethernet frame. */
export const frame = (to: string, from: string, etherType: number, payload: Buffer): Buffer =>
  Buffer.concat([mac(to), mac(from), Buffer.from([etherType >> 8, etherType & 255]), payload]);

export const etherType = (bytes: Buffer): number => bytes.readUInt16BE(12);

const mac = (text: string): Buffer => Buffer.from(text.replaceAll(":", ""), "hex");

/** "Who has `target`? Tell `sender`", broadcast. */
export function arpRequest(senderMac: string, sender: string, target: string): Buffer {
  const body = Buffer.concat([Buffer.from("0001080006040001", "hex"), mac(senderMac), ip(sender), Buffer.alloc(6), ip(target)]);
  return frame("ff:ff:ff:ff:ff:ff", senderMac, 0x0806, body);
}

const ip = (text: string): Buffer => Buffer.from(text.split(".").map(Number));

/** The content of a keepalive: kind 1 asks, 2 answers with the stamp of the question. */
export function keepalive(kind: 1 | 2, stamp: bigint): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32BE(kind, 0);
  bytes.writeBigUInt64BE(stamp, 8);
  return bytes;
}
