/** What went wrong for a person at the command line. */
export type CliFault =
  | "no-project"
  | "no-stack"
  | "no-hosts"
  | "unreachable"
  | "no-such-vm"
  | "ambiguous-vm"
  | "no-such-host"
  | "lost"
  | "bad-input"
  | "refused";

/** The one error class of the command line: the fault for programs, the text and the next step for people. */
export class CliError extends Error {
  override readonly name = "CliError";
  constructor(
    readonly fault: CliFault,
    message: string,
    /** The next thing a person does. */
    readonly next?: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The error's chain of causes in one line each, innermost last, with the next step. */
export function explain(error: unknown): string {
  const lines: string[] = [];
  let next: string | undefined;
  for (let at: unknown = error; at !== undefined && at !== null; at = at instanceof Error ? at.cause : undefined) {
    const text = at instanceof Error ? at.message : String(at);
    if (!lines.some((line) => line.includes(text))) lines.push(text);
    next ??= nextStep(at);
  }
  const text = lines.join("\n  because ");
  return text + (next === undefined || text.includes(next) ? "" : `\n  next: ${next}`);
}

function nextStep(at: unknown): string | undefined {
  if (at instanceof CliError) return at.next;
  // An agent's error carries an RpcFault in `data`.
  if (at instanceof Error && "data" in at && typeof at.data === "object" && at.data !== null && "next" in at.data) {
    return typeof at.data.next === "string" ? at.data.next : undefined;
  }
  return undefined;
}
