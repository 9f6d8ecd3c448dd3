/** Pieces that several schemas share. Every TypeScript type of an input or of stored state is `z.infer` of a schema of this folder. */
import { isIP } from "node:net";
import { z } from "zod";

/** A user's name of a host, VM or NIC: what a DNS label may be. */
export const name = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, "a name has 1 to 63 of a-z, 0-9 and -, and neither begins nor ends with -");

/** Numeric IPv4 or IPv6 address; host names are not resolved in the data path. */
export const ipAddress = z.string().refine((v) => isIP(v) !== 0, "a numeric IPv4 or IPv6 address");

/** Address with prefix length, as `10.0.0.1/24`. */
export const cidr = z.string().refine((v) => {
  const [address, prefix, rest] = v.split("/");
  const family = isIP(address ?? "");
  return rest === undefined && family !== 0 && /^\d{1,3}$/.test(prefix ?? "") && Number(prefix) <= (family === 4 ? 32 : 128);
}, "an address with prefix length, as 10.0.0.1/24");

/** Unicast, colon-separated MAC address, lower case. */
export const mac = z.string().regex(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/, "a unicast MAC address in lower case, as 02:00:00:00:00:01");

export const port = z.int().min(1).max(65535);
export const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "a SHA-256 in 64 hex digits");
export const labels = z.record(z.string(), z.string());
