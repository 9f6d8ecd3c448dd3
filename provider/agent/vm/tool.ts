import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { z } from "zod";
import { AgentFault } from "../errors";
import type { CopyState } from "../migration/decide";

const run = promisify(execFile);
const number = z.union([z.number(), z.string().regex(/^\d+$/).transform(Number)]);

const header = z.object({
  state: z.union([z.number(), z.string()]),
  userspace: z.unknown(),
  memoryBytes: number,
  epoch: number,
  attempt: z.string(),
  buildId: z.string(),
  vm: z.string(),
  xstateBytes: number,
  locked: z.boolean(),
  cpuFlagNames: z.array(z.string()).optional(),
  frozenRealNs: number.optional(),
});

/** A memory file's header, as `linux tool header` tells it. */
export interface Header {
  readonly state: CopyState;
  readonly memoryBytes: number;
  readonly epoch: number;
  readonly attempt: string;
  readonly buildId: string;
  readonly vm: string;
  readonly xstateBytes: number;
  readonly locked: boolean;
  /** Names of the CPU features that the guest has been shown, where the tool tells them. */
  readonly cpuFlags?: readonly string[];
  /** When it was last frozen, since 1970. */
  readonly frozenAtMs?: number;
}

const probed = z.object({
  execTmpfs: z.boolean(),
  xstateBytes: number.optional(),
  cpuFlags: z.union([z.array(z.string()), z.string().transform((text) => text.split(/[\s,]+/).filter(Boolean))]).optional(),
  maxMapCount: number.optional(),
});
export type Probe = z.infer<typeof probed>;

/** The numbers of docs/formats/vm-process.md. */
export const stateNames = ["part", "run", "runPartial", "frozen", "released", "refused", "haltedByGuest"] as const;

/** What a command does, after "could not …". */
const steps: Readonly<Record<string, string>> = {
  create: "create the memory file",
  header: "read the memory file's header",
  cas: "change the memory file's state",
  prepare: "prepare the memory file",
  probe: "look at what the host can do",
};

/** `linux tool …`: what needs system calls that Node lacks. */
export class Tool {
  constructor(readonly kernel: string) {}

  async create(file: string, bytes: number): Promise<void> {
    await this.#run(["create", file, String(bytes)]);
  }

  async header(file: string): Promise<Header> {
    const raw = header.parse(JSON.parse(await this.#run(["header", file])));
    const name = typeof raw.state === "number" ? stateNames[raw.state] : stateNames.find((one) => one === raw.state);
    if (name === undefined) throw new AgentFault("failed", "read the memory file's header", `unknown state ${raw.state} in ${file}`);
    const { cpuFlagNames, frozenRealNs, userspace: _, ...facts } = raw;
    return {
      ...facts,
      state: name,
      ...(cpuFlagNames && { cpuFlags: cpuFlagNames }),
      ...(frozenRealNs && { frozenAtMs: frozenRealNs / 1e6 }),
    };
  }

  /** Compare-and-swap under the file's lock. @throws AgentFault if the lock is held or the state is another */
  async swap(file: string, from: CopyState, to: CopyState, change: { attempt?: string; epoch?: number } = {}): Promise<void> {
    const words = Object.entries(change).map(([key, value]) => `${key}=${value}`);
    const wire = (state: CopyState): string => String(state === "none" ? -1 : stateNames.indexOf(state));
    await this.#run(["cas", file, wire(from), wire(to), ...words]);
  }

  /** Makes a target's copy: header in `part`. */
  async prepare(file: string, attempt: string, epoch: number): Promise<void> {
    await this.#run(["prepare", file, `attempt=${attempt}`, `epoch=${epoch}`]);
  }

  async probe(folder: string): Promise<Probe> {
    return probed.parse(JSON.parse(await this.#run(["probe", folder])));
  }

  async buildId(): Promise<string> {
    const { stdout } = await run(this.kernel, ["--build-id"], { timeout: 10_000, env: {} });
    return stdout.trim();
  }

  async #run(args: string[]): Promise<string> {
    try {
      const { stdout } = await run(this.kernel, ["tool", ...args], { timeout: 20_000, env: {} });
      return stdout;
    } catch (error) {
      const said = error instanceof Error && "stderr" in error ? (String(error.stderr).trim().split("\n").at(-1) ?? "") : "";
      throw new AgentFault(
        "failed",
        steps[args[0] ?? ""] ?? "run the kernel's tool",
        said || (error instanceof Error ? error.message : String(error)),
        { cause: error },
      );
    }
  }
}
