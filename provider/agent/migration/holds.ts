import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../lib/time";
import type { AgentContext } from "../context";

/** Nobody holds an agent for longer. */
const longestMs = 20_000;
const enabled = process.env.MOBITOPOLO_HOLDS === "1";

/** Whether a move is to stop there: then it goes there by steps. */
export function isHoldAt(context: AgentContext, point: string): boolean {
  if (!enabled) return false;
  const path = join(context.stateDir, "hold-at");
  return existsSync(path) && readFileSync(path, "utf8") === point;
}

/**
 * For tests of faults, and only where MOBITOPOLO_HOLDS is 1: a move stops at a point that the file `hold-at` of the state folder names, says so by a file
 * `held`, and goes on when `hold-at` is gone. So a test can kill, cut or fill something at exactly that point.
 */
export function heldAt(context: AgentContext, point: string): Promise<unknown> | undefined {
  if (!isHoldAt(context, point)) return undefined;
  const path = join(context.stateDir, "hold-at");
  writeFileSync(join(context.stateDir, "held"), point);
  return until(longestMs, `the hold at ${point}`, async () => (existsSync(path) ? undefined : true)).catch(() => undefined);
}
