/** What a source does in each phase. */
export interface SourceSteps {
  readonly released: boolean;
  reserve(): Promise<void>;
  precopy(): Promise<void>;
  arm(): Promise<void>;
  freeze(): Promise<void>;
  release(): Promise<void>;
  resend(): Promise<void>;
  resume(): Promise<void>;
  settle(): Promise<void>;
  retire(): Promise<void>;
}

export interface Phase {
  readonly name: Exclude<keyof SourceSteps, "released">;
  /** What must be durable before it begins. */
  readonly durable: "INIT" | "OPEN" | "header released" | "SETTLED at the target";
  /** What any failure in it leads to. */
  readonly onFailure: "abort" | "the one rule" | "again";
}

/** migration-protocol.md, "Phases", as the source goes through them. `release` is the point of no return. */
export const sourcePhases: readonly Phase[] = [
  { name: "reserve", durable: "INIT", onFailure: "abort" },
  { name: "precopy", durable: "INIT", onFailure: "abort" },
  { name: "arm", durable: "INIT", onFailure: "abort" },
  { name: "freeze", durable: "OPEN", onFailure: "abort" },
  { name: "release", durable: "OPEN", onFailure: "the one rule" },
  { name: "resume", durable: "header released", onFailure: "the one rule" },
  { name: "settle", durable: "header released", onFailure: "the one rule" },
  { name: "retire", durable: "SETTLED at the target", onFailure: "again" },
];

/** What a source does whose agent ended after the release: the unchanged last copy again, as a whole, and the answer. */
export const resumedPhases: readonly Phase[] = [
  { name: "reserve", durable: "header released", onFailure: "the one rule" },
  { name: "resend", durable: "header released", onFailure: "the one rule" },
  ...sourcePhases.slice(sourcePhases.findIndex((phase) => phase.name === "resume")),
];

/** Goes through the phases in order. */
export async function runPhases(
  steps: SourceSteps,
  phases: readonly Phase[],
  enter: (name: Phase["name"]) => Promise<unknown> | undefined,
): Promise<void> {
  for (const { name } of phases) {
    await enter(name);
    await steps[name]();
  }
}
