import { spawn } from "node:child_process";
import { open, readFile, rm } from "node:fs/promises";
import { z } from "zod";
import { errnoOf, unless } from "../../lib/errors";
import { readJson, writeJson } from "../../lib/files";
import { until } from "../../lib/time";

const processRecord = z.strictObject({
  pid: z.int(),
  startTicks: z.string(),
  kernel: z.string(),
  cpu: z.int().optional(),
  ports: z.record(z.string(), z.int()),
});
/** What an agent that comes later must know of a VM process. Lies beside its memory. */
export type ProcessRecord = z.infer<typeof processRecord>;

export async function readProcess(path: string): Promise<ProcessRecord | undefined> {
  return await readJson(path, (value) => processRecord.parse(value));
}

/** How a process ended; code and signal are unknown if an earlier agent had started it. */
export interface Ended {
  readonly code?: number;
  readonly signal?: string;
}

/** A VM process: ours or an earlier agent's. */
export interface VmProcess {
  readonly record: ProcessRecord;
  readonly ended: Promise<Ended>;
}

/** Starts a kernel process that outlives this agent; what it says goes to `logPath`. */
export async function spawnKernel(
  kernel: string,
  args: readonly string[],
  folder: string,
  logPath: string,
  recordPath: string,
  facts: { cpu?: number; ports: Record<string, number> },
): Promise<VmProcess> {
  const log = await open(logPath, "a", 0o600);
  try {
    const child = spawn(kernel, args, { cwd: folder, detached: true, env: {}, stdio: ["ignore", log.fd, log.fd] });
    const ended = new Promise<Ended>((resolve) =>
      child.once("exit", (code, signal) => resolve({ ...(code !== null && { code }), ...(signal !== null && { signal }) })),
    );
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.unref();
    const pid = child.pid ?? 0;
    const record = { pid, startTicks: (await startTicks(pid)) ?? "", kernel, ...facts };
    await writeJson(recordPath, record);
    return { record, ended };
  } finally {
    await log.close();
  }
}

/** Finds a process that an earlier agent started; undefined if it is gone (the pid alone proves nothing). */
export async function adoptProcess(record: ProcessRecord): Promise<VmProcess | undefined> {
  if (!(await isOurs(record))) return undefined;
  return { record, ended: watchEnd(record) };
}

/** Does that very process live? Its start time tells it from another with its number; its command line, from what is no VM at all. */
export async function isOurs(record: ProcessRecord): Promise<boolean> {
  if ((await startTicks(record.pid)) !== record.startTicks) return false;
  const words = await unless(readFile(`/proc/${record.pid}/cmdline`, "latin1"), "ENOENT", "ESRCH", "EACCES");
  return words === undefined || words === "" || words.includes("mobi.run=");
}

/** SIGKILL, and wait until it and its lock are gone. */
export async function killProcess(process_: VmProcess): Promise<void> {
  const { record } = process_;
  if (!(await isOurs(record))) return;
  killNow(record);
  await until(5000, `the end of process ${record.pid}`, async () => ((await isOurs(record)) ? undefined : true));
}

/** One that has ended by itself since somebody looked needs no signal. */
export function killNow({ pid }: ProcessRecord): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (errnoOf(error) !== "ESRCH") throw error;
  }
}

/** Forgets the record of a process that has ended. */
export async function dropProcess(recordPath: string): Promise<void> {
  await rm(recordPath, { force: true });
}

/** Polled: Node cannot await a process that is not its child. The control channel's end, which is an event, usually comes first. */
async function watchEnd(record: ProcessRecord): Promise<Ended> {
  for (;;) {
    if (!(await isOurs(record))) return {};
    await new Promise((resolve) => setTimeout(resolve, 500).unref());
  }
}

/** Field 22 of /proc/PID/stat; undefined for none or a zombie. */
async function startTicks(pid: number): Promise<string | undefined> {
  const text = await unless(readFile(`/proc/${pid}/stat`, "latin1"), "ENOENT", "ESRCH");
  const fields = text?.slice(text.lastIndexOf(")") + 2).split(" ");
  return fields && fields[0] !== "Z" ? fields[19] : undefined;
}
