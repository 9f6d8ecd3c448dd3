import type { MoveProgress } from "../../protocol/methods";
import type { Wiring } from "../../schemas/link";
import type { MigrationPolicy } from "../../schemas/vm";

/** A move under way in this agent, as the rest of the agent sees it. */
export interface MoveJob {
  readonly m: string;
  readonly side: "source" | "target";
  /** How far it is; at a target only where it stands in the protocol. */
  readonly progress: MoveProgress;
  /** The VM's process has ended meanwhile. */
  processEnded(note: string): void;
  /** A link of the VM was changed here: the other side must have it too. */
  wiringsChanged(wirings: readonly Wiring[]): void;
}

/** What a source is asked for. */
export interface SourceRequest {
  readonly attempt: string;
  readonly key: Buffer;
  readonly policy: MigrationPolicy;
  readonly target: { readonly host: string; readonly address: string; readonly port: number };
}
