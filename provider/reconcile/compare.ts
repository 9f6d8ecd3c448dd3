import { isDeepStrictEqual } from "node:util";
import { containsUnknown } from "../schemas/unknown";
import type { Props } from "./handler";

/** Names of the properties that differ. One that is not known yet counts as different: it may become so. */
export function changed(keys: readonly string[], olds: Props, news: Props): string[] {
  return keys.filter((key) => containsUnknown(news[key]) || !same(olds[key], news[key]));
}

/** Names of the properties that are known to differ: only these may replace a resource. */
export function surelyChanged(keys: readonly string[], olds: Props, news: Props): string[] {
  return keys.filter((key) => !containsUnknown(news[key]) && !containsUnknown(olds[key]) && !same(olds[key], news[key]));
}

/** Deep equality that neither key order nor an absent property (against undefined or null) disturbs. */
export function same(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(bare(a), bare(b));
}

function bare(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(bare);
  if (typeof value !== "object" || value === null) return value ?? undefined;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, inner]) => inner !== undefined && inner !== null)
      .map(([key, inner]) => [key, bare(inner)]),
  );
}

export const pick = (props: Props, keys: readonly string[]): Record<string, unknown> =>
  Object.fromEntries(keys.filter((key) => key in props).map((key) => [key, props[key]]));
