import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { lstat, readFile } from "node:fs/promises";
import { isIPv6 } from "node:net";
import { join } from "node:path";
import type { Logger } from "pino";
import { z } from "zod";
import { mkdirPrivate, readJson, writeJson } from "../lib/files";
import { AgentFault } from "./errors";

/** How an agent was started. */
export interface AgentOptions {
  readonly hostName: string;
  /** Persistent, 0700. */
  readonly stateDir: string;
  /** Where frames and migrations of this host go. */
  readonly address: string;
  readonly ports: { readonly from: number; readonly to: number };
  readonly memoryLimitMiB?: number;
  readonly diskLimitMiB?: number;
}

/** What all parts of one agent share. */
export interface AgentContext extends AgentOptions {
  readonly agentId: string;
  /** Changes when the journals are lost: an answer from another journal proves nothing (migration-protocol.md). */
  readonly journalId: string;
  readonly version: string;
  readonly bootId: string;
  /** On a tmpfs: memory files and sockets. */
  readonly runDir: string;
  /** `address` where this machine has it, else the wildcard (behind NAT). */
  readonly bindAddress: string;
  readonly log: Logger;
}

const identity = z.strictObject({ agentId: z.string().regex(/^[0-9a-f]{8}$/), journalId: z.string().regex(/^[0-9a-f]{16}$/) });

/** Folder under which all agents of this user keep what must not survive a reboot. */
export function runRoot(): string {
  return join("/dev/shm", `mobitopolo-${process.getuid?.() ?? 0}`);
}

/** Reads or makes what the agent is. Call it only with the lock of the state folder held. */
export async function openContext(options: AgentOptions, version: string, log: Logger): Promise<AgentContext> {
  const path = join(options.stateDir, "identity.json");
  let id = await readJson(path, (value) => identity.parse(value));
  if (!id) {
    id = { agentId: randomBytes(4).toString("hex"), journalId: randomBytes(8).toString("hex") };
    await writeJson(path, id);
  }
  const runDir = join(runRoot(), id.agentId);
  await mkdirPrivate(runDir);
  await checkOurs(runRoot());
  // A test reboots a host by ending all that runs there; that its number of this boot is another must be told.
  const bootId = process.env.MOBITOPOLO_BOOT_ID ?? (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  return { ...options, ...id, version, bootId, runDir, log, bindAddress: await bindable(options.address) };
}

/** /dev/shm is everybody's: a folder of our name that another user made would let him into our VMs. */
async function checkOurs(folder: string): Promise<void> {
  const { uid, mode } = await lstat(folder);
  if (uid === process.getuid?.() && (mode & 0o170077) === 0o040000) return;
  throw new AgentFault("not-ours", "make the run folder", `${folder} is not a folder of ours alone`, {
    next: "remove it, or have its owner remove it",
  });
}

async function bindable(address: string): Promise<string> {
  const socket = createSocket(isIPv6(address) ? "udp6" : "udp4");
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind(0, address, resolve);
    });
    return address;
  } catch {
    return isIPv6(address) ? "::" : "0.0.0.0";
  } finally {
    socket.close();
  }
}
