import { createHash } from "node:crypto";

/** @param {readonly string[]} parts @returns {string} SHA-256 in hex; each part is framed by its length, so that none can run into the next */
export function hashParts(parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}\n`).update(part);
  return hash.digest("hex");
}
