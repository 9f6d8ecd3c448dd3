import { createHash } from "node:crypto";
import type { Assets } from "../../../../provider/lib/assets";

const sha = (text: string) => createHash("sha256").update(text).digest("hex");

/** What a provider version brings; nothing of it exists on disk. */
export function assetsOf(version: string): Assets {
  const asset = (what: string) => ({ id: sha(`${version} ${what}`), path: `/nowhere/${version}/${what}` });
  return {
    version: "0.1.0",
    kernel: asset("kernel"),
    image: asset("image"),
    agent: asset("agent"),
    node: { ...asset("node"), version: "24.0.0" },
  };
}

export const urnOf = (type: string, name: string): string => `urn:pulumi:test::project::pulumi-nodejs:dynamic/mobitopolo:${type}::${name}`;

export function hostNamed(name: string) {
  const [a = 0, b = 0] = createHash("sha256").update(name).digest();
  return {
    name,
    connection: { local: {} },
    dataAddress: `127.77.${a}.${1 + (b % 250)}`,
    ports: { from: 20_000, to: 20_100 },
    cpuFlags: ["sse2", "avx"],
    xstateBytes: 832,
  };
}
