import { isIP } from "node:net";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type { AgentOptions } from "./context";
import { AgentFault } from "./errors";

export const usage = "agent.cjs [--daemon] --name HOST [--state DIR] [--address IP] [--ports FROM-TO] [--memory-mib N] [--disk-mib N]";

/** Reads the command line. @throws AgentFault bad-request */
export function readOptions(argv: readonly string[]): { daemon: boolean; options: AgentOptions } {
  const bad = (reason: string): AgentFault => new AgentFault("bad-request", "read the command line", reason, { next: usage });
  const values = parse(argv, bad);
  const hostName = values.name ?? values.host;
  if (!hostName || !/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(hostName)) throw bad("--name must be a host's name");
  const address = values.address ?? "127.0.0.1";
  if (isIP(address) === 0) throw bad("--address must be a numeric address");
  const range = /^(\d{1,5})-(\d{1,5})$/.exec(values.ports ?? "20000-29999");
  const ports = { from: Number(range?.[1]), to: Number(range?.[2]) };
  if (!(ports.from >= 1 && ports.to <= 65535 && ports.from <= ports.to)) throw bad("--ports must be FROM-TO");
  const count = (text: string | undefined, name: string): number | undefined => {
    if (text === undefined) return undefined;
    if (!/^[1-9]\d{0,8}$/.test(text)) throw bad(`--${name} must be a positive number`);
    return Number(text);
  };
  const memoryLimitMiB = count(values["memory-mib"], "memory-mib");
  const diskLimitMiB = count(values["disk-mib"], "disk-mib");
  return {
    daemon: values.daemon ?? false,
    options: {
      hostName,
      address,
      ports,
      stateDir: resolve(values.state ?? join(homedir(), ".local/share/mobitopolo", hostName)),
      ...(memoryLimitMiB !== undefined && { memoryLimitMiB }),
      ...(diskLimitMiB !== undefined && { diskLimitMiB }),
    },
  };
}

const known = {
  daemon: { type: "boolean" },
  name: { type: "string" },
  host: { type: "string" },
  state: { type: "string" },
  address: { type: "string" },
  ports: { type: "string" },
  "memory-mib": { type: "string" },
  "disk-mib": { type: "string" },
} as const;

function parse(
  argv: readonly string[],
  bad: (reason: string) => AgentFault,
): ReturnType<typeof parseArgs<{ options: typeof known }>>["values"] {
  try {
    return parseArgs({ args: [...argv], options: known }).values;
  } catch (error) {
    throw bad(error instanceof Error ? error.message : String(error));
  }
}
