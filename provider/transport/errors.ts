import type { RpcFault } from "../protocol/methods";

/** What went wrong between us and an agent. */
export type TransportFault =
  | "unreachable"
  | "host-key"
  | "auth"
  | "unfit-host"
  | "no-agent"
  | "agent-start"
  | "agent-newer"
  | "timeout"
  | "lost"
  | "upload";

interface TransportFacts {
  readonly host: string;
  readonly kind: TransportFault;
  /** What we were doing, as "open the SSH connection". */
  readonly step: string;
  readonly reason: string;
  /** The next thing a person does. */
  readonly next?: string;
  readonly cause?: unknown;
}

/** The way to a host's agent failed. The text names the host, the step and the next thing to do. */
export class TransportError extends Error {
  override readonly name = "TransportError";
  readonly host: string;
  readonly kind: TransportFault;
  readonly step: string;
  readonly reason: string;
  readonly next: string | undefined;

  constructor(facts: TransportFacts) {
    super(text(facts), facts.cause === undefined ? undefined : { cause: facts.cause });
    this.host = facts.host;
    this.kind = facts.kind;
    this.step = facts.step;
    this.reason = facts.reason;
    this.next = facts.next;
  }
}

/** The agent answered, with a fault. */
export class AgentError extends Error {
  override readonly name = "AgentError";
  readonly code: RpcFault["code"];
  readonly host: string;
  readonly step: string;
  readonly next: string | undefined;

  constructor(
    readonly method: string,
    readonly reason: string,
    fault: RpcFault,
  ) {
    super(text({ host: fault.host, step: fault.step, reason, next: fault.next }));
    this.code = fault.code;
    this.host = fault.host;
    this.step = fault.step;
    this.next = fault.next;
  }
}

function text(facts: { host: string; step: string; reason: string; next?: string | undefined }): string {
  return `host ${facts.host}: could not ${facts.step}: ${facts.reason}${facts.next ? `\n  next: ${facts.next}` : ""}`;
}

/** Whether no conversation with the agent came about (or it broke off), as opposed to an answer that was a fault. */
export function isAway(error: unknown): boolean {
  return error instanceof TransportError;
}
