/** A fault of set-up that a person can act on: printed as one line, without a stack. */
export class SetupError extends Error {
  /**
   * @param {string} message what went wrong, as "flex is missing"
   * @param {{ next?: string, cause?: unknown }} [facts] `next`: what to do about it
   */
  constructor(message, facts = {}) {
    super(facts.next ? `${message}; ${facts.next}` : message, { cause: facts.cause });
    this.name = "SetupError";
    this.next = facts.next;
  }
}

/**
 * Runs a script's main function; a SetupError ends it with one line and exit code 1, anything else is a bug and keeps its stack.
 * @param {() => Promise<number | void>} main its number is the exit code
 */
export function runMain(main) {
  main().then(
    (code) => {
      process.exitCode = typeof code === "number" ? code : 0;
    },
    (error) => {
      console.error(error instanceof SetupError ? `mobitopolo: ${error.message}` : error);
      process.exitCode = 1;
    },
  );
}
