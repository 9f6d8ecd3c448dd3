import type { RpcFault } from "../protocol/methods";

/** What an agent could not do. The host's name is added where the answer is made. */
export class AgentFault extends Error {
  override readonly name = "AgentFault";
  readonly next: string | undefined;

  /** @param step what was being done, as "boot the VM"; @param next the next thing a person does */
  constructor(
    readonly code: RpcFault["code"],
    readonly step: string,
    readonly reason: string,
    options: { next?: string; cause?: unknown } = {},
  ) {
    super(`${step}: ${reason}${options.next === undefined ? "" : ` (${options.next})`}`, { cause: options.cause });
    this.next = options.next;
  }
}

/** Adds what was being done to whatever `work` throws; an AgentFault passes as it is. */
export async function during<T>(step: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof AgentFault) throw error;
    throw new AgentFault("failed", step, error instanceof Error ? error.message : String(error), { cause: error });
  }
}
