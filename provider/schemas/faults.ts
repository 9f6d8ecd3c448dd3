import type { z } from "zod";
import { containsUnknown, isUnknown } from "./unknown";

/** One thing that is wrong with a user's input. */
export interface Fault {
  /** Where, as `nics[0].mac`; empty for the whole. */
  readonly path: string;
  /** What was given and what would be right. */
  readonly reason: string;
}

type Path = readonly PropertyKey[];
type Issue = z.core.$ZodIssue;

/** All faults of `value` at once. What is not known yet (in a preview) is never a fault. */
export function faultsOf(schema: z.ZodType, value: unknown): Fault[] {
  const result = schema.safeParse(value, { reportInput: true });
  return result.success ? [] : result.error.issues.flatMap((issue) => describe(issue, schema, value, []));
}

function describe(issue: Issue, schema: z.ZodType, whole: unknown, base: Path): Fault[] {
  const path = [...base, ...issue.path];
  if (onUnknown(issue, path, whole)) return [];
  const value = at(whole, path);
  if (issue.code === "unrecognized_keys")
    return issue.keys.map((key) => unknownProperty([...path, key], keysBeside(schema, [...path, key])));
  if (issue.code === "invalid_union") {
    const branch = closestBranch(issue.errors);
    if (branch) return branch.flatMap((inner) => describe(inner, schema, whole, path));
  }
  const given = value === undefined ? "is missing" : `is ${show(value)}`;
  return [{ path: pathText(path), reason: `${given}; ${wanted(issue)}` }];
}

/** An unknown value satisfies everything, and so does what cannot be judged without it. */
function onUnknown(issue: Issue, path: Path, whole: unknown): boolean {
  for (let depth = 0; depth <= path.length; depth++) if (isUnknown(at(whole, path.slice(0, depth)))) return true;
  return (issue.code === "invalid_union" || issue.code === "custom") && containsUnknown(at(whole, path));
}

/** Of a union, the alternative that the user seems to have meant: the one whose faults lie inside it, not at its root. */
function closestBranch(branches: readonly (readonly Issue[])[]): readonly Issue[] | undefined {
  const inside = branches.filter(
    (issues) => issues.length > 0 && issues.every((issue) => issue.path.length > 0 && issue.code !== "invalid_value"),
  );
  const missesKey = (issues: readonly Issue[]) =>
    issues.some((issue) => issue.path.length === 1 && issue.code === "invalid_type" && issue.input === undefined);
  return inside.find((issues) => !missesKey(issues));
}

function unknownProperty(path: Path, known: readonly string[]): Fault {
  const key = String(path.at(-1));
  const near = known.map((name) => ({ name, distance: editDistance(key, name) })).sort((a, b) => a.distance - b.distance)[0];
  const hint =
    near && near.distance <= 2 ? `; did you mean \`${near.name}\`?` : known.length > 0 ? `; known here: ${known.join(", ")}` : "";
  return { path: pathText(path), reason: `is not a property that exists${hint}` };
}

function wanted(issue: Issue): string {
  switch (issue.code) {
    case "invalid_type":
      return `wanted: ${article(issue.expected)}`;
    case "invalid_value":
      return `wanted: ${issue.values.map((value) => JSON.stringify(value)).join(" or ")}`;
    case "too_small":
      if (issue.origin === "number" && !issue.inclusive) return `wanted: more than ${issue.minimum}`;
      return `wanted: ${issue.origin === "string" || issue.origin === "array" ? `at least ${issue.minimum} of them` : `at least ${issue.minimum}`}`;
    case "too_big":
      return `wanted: ${issue.origin === "string" || issue.origin === "array" ? `at most ${issue.maximum} of them` : `at most ${issue.maximum}`}`;
    case "invalid_union":
      return `wanted: ${issue.errors
        .flat()
        .map((inner) => wanted(inner).replace(/^wanted: /, ""))
        .join(", or ")}`;
    default:
      return `wanted: ${issue.message}`;
  }
}

const article = (type: string) =>
  ({
    int: "a whole number",
    number: "a number",
    string: "a string",
    boolean: "true or false",
    array: "a list",
    object: "an object",
    record: "an object of strings",
    tuple: "a list",
  })[type] ?? type;

/** `nics[0].mac` */
export function pathText(path: Path): string {
  return path.map((part, index) => (typeof part === "number" ? `[${part}]` : index === 0 ? String(part) : `.${String(part)}`)).join("");
}

/** A value as an error shows it: short, on one line. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}…`;
}

function at(value: unknown, path: Path): unknown {
  return path.reduce<unknown>(
    (inner, key) => (typeof inner === "object" && inner !== null ? (inner as Record<PropertyKey, unknown>)[key] : undefined),
    value,
  );
}

/** Names that the schema knows at a path: for "did you mean". */
function keysBeside(schema: z.ZodType | undefined, path: Path): string[] {
  const here = path
    .slice(0, -1)
    .reduce<Inner[]>((schemas, part) => schemas.flatMap((inner) => children(inner, part)).flatMap(alternatives), alternatives(schema));
  return [...new Set(here.flatMap(({ shape }) => Object.keys(shape ?? {})))];
}

interface Inner {
  readonly innerType?: z.ZodType;
  readonly element?: z.ZodType;
  readonly items?: readonly z.ZodType[];
  readonly options?: readonly z.ZodType[];
  readonly valueType?: z.ZodType;
  readonly shape?: Readonly<Record<string, z.ZodType>>;
}

/** What a schema is under `optional` and `default`, or each of a union's. */
function alternatives(schema: z.ZodType | undefined): Inner[] {
  const def = schema?.def as Inner | undefined;
  if (!def) return [];
  return def.innerType ? alternatives(def.innerType) : def.options ? def.options.flatMap(alternatives) : [def];
}

function children(def: Inner, part: PropertyKey): (z.ZodType | undefined)[] {
  return typeof part === "number" ? [def.element ?? def.items?.[part]] : [def.shape?.[String(part)] ?? def.valueType];
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length] ?? 0;
}
