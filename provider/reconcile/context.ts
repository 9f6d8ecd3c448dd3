import { defaultAssets } from "../lib/assets";
import { AgentPool } from "../transport/pool";
import { rowOf } from "./engine";
import type { Context } from "./fleet";

/** What all resources of a dynamic-provider process share: above all, one connection per host. */
export const context: Context = { pool: new AgentPool(), assets: defaultAssets, row: rowOf };
