import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/** The fingerprint as OpenSSH prints it: `SHA256:…`. */
export function fingerprintOf(key: Buffer): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

/** The kind of an SSH public key in wire form, as `ssh-ed25519`. */
export function keyType(key: Buffer): string {
  return key.toString("latin1", 4, 4 + key.readUInt32BE(0));
}

/** What is known of a host's keys. */
export interface KnownKeys {
  readonly accepted: readonly Buffer[];
  readonly revoked: readonly Buffer[];
}

/** The keys that a known_hosts file (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT") has for a host. Certificate authorities are not used. */
export function knownKeys(text: string, host: string, port: number): KnownKeys {
  const names = port === 22 ? [host, `[${host}]:22`] : [`[${host}]:${port}`];
  const accepted: Buffer[] = [];
  const revoked: Buffer[] = [];
  for (const line of text.split("\n")) {
    const fields = line.trim().split(/\s+/);
    if (fields[0] === undefined || fields[0] === "" || fields[0].startsWith("#")) continue;
    const marker = fields[0].startsWith("@") ? fields.shift() : undefined;
    const [patterns = "", , key = ""] = fields;
    if (marker === "@cert-authority" || !names.some((name) => matches(patterns, name))) continue;
    (marker === "@revoked" ? revoked : accepted).push(Buffer.from(key, "base64"));
  }
  return { accepted, revoked };
}

function matches(patterns: string, name: string): boolean {
  if (patterns.startsWith("|1|")) {
    const [, , salt = "", hash = ""] = patterns.split("|");
    const expected = Buffer.from(hash, "base64");
    const found = createHmac("sha1", Buffer.from(salt, "base64")).update(name).digest();
    return expected.length === found.length && timingSafeEqual(expected, found);
  }
  const list = patterns.split(",");
  if (list.some((pattern) => pattern.startsWith("!") && glob(pattern.slice(1), name))) return false;
  return list.some((pattern) => glob(pattern, name));
}

function glob(pattern: string, name: string): boolean {
  const source = pattern
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replace(/\*/g, ".*")
    .replace(/\?/g, ".");
  return new RegExp(`^${source}$`, "i").test(name);
}

/** A `hostKey` input as it is compared: `SHA256:…` or the key itself (`ssh-ed25519 AAAA… comment`, or only the base64). */
export function fitsHostKey(hostKey: string, key: Buffer): boolean {
  if (hostKey.startsWith("SHA256:")) return hostKey.replace(/=+$/, "") === fingerprintOf(key);
  return hostKey
    .trim()
    .split(/\s+/)
    .some((field) => field === key.toString("base64"));
}
