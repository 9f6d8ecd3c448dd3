import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { AgentFault } from "./errors";

/** Held until the process ends, however it ends. */
export interface StateLock {
  release(): void;
}

/**
 * Takes the one lock of a state folder. Node has no flock, but SQLite holds a kernel lock on its file while an exclusive transaction is open; the
 * kernel drops it with the process, so that no stale lock, reused pid or reboot needs a judgement.
 * @throws AgentFault busy if another agent holds it
 */
export function lockState(stateDir: string): StateLock {
  const database = new DatabaseSync(join(stateDir, "lock"));
  try {
    database.exec("PRAGMA journal_mode = MEMORY; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE");
  } catch (error) {
    database.close();
    if (error instanceof Error && /locked|busy/i.test(error.message)) {
      throw new AgentFault("busy", "take the state folder", `another agent runs with ${stateDir}`, { cause: error });
    }
    throw error;
  }
  return { release: () => database.close() };
}
