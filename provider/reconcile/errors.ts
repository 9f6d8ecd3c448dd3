import { messageOf } from "../lib/errors";

/** A resource could not be brought to what was asked; nothing was changed, or what was changed is as before. */
export class ReconcileError extends Error {
  override readonly name = "ReconcileError";
  constructor(
    /** The resource as a person knows it, as "VM handler". */
    readonly resource: string,
    /** What we were doing, as "move it to florida". */
    readonly step: string,
    readonly reason: string,
    /** What is the case now, and the next thing to do. */
    readonly next?: string,
    options?: ErrorOptions,
  ) {
    super(`${resource}: could not ${step}: ${reason}${next ? `\n  ${next}` : ""}`, options);
  }
}

/**
 * Something was changed before it failed: the engine saves `properties` as the resource's outputs and comes again with an update
 * (pulumi-mechanics.md §2.4). `properties` must hold `__provider`, which the dynamic-provider process does not add here.
 */
export class PartialFailure extends Error {
  override readonly name = "PartialFailure";
  readonly reasons: string[];
  constructor(
    readonly id: string,
    readonly properties: Record<string, unknown>,
    cause: unknown,
  ) {
    super(messageOf(cause), { cause });
    this.reasons = [messageOf(cause)];
  }
}
