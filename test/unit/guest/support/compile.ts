/** Programs of the guest, compiled for the test's machine with the sanitizers. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const TOP = join(__dirname, "../../../..");
const GUEST = "uml-kernel/guest";
const PROGRAMS = {
  "mobi-agent": [`${GUEST}/agent`],
  "mobi-check": [`${GUEST}/load`, `${GUEST}/common`],
  blockcopy: ["examples/follow-me/guest", `${GUEST}/common`],
} as const;
const FLAGS = [
  "-std=gnu17",
  "-D_GNU_SOURCE",
  "-g",
  "-O1",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-pthread",
  "-fsanitize=address,undefined",
  "-fno-sanitize-recover=all",
];

const made = new Map<string, string>();

/** The program's path; compiled once per test run. */
export function compiled(name: keyof typeof PROGRAMS): string {
  const known = made.get(name);
  if (known) return known;
  const folder = mkdtempSync(join(tmpdir(), "mobi-build-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, name);
  const sources = PROGRAMS[name].flatMap((part) =>
    readdirSync(join(TOP, part))
      .filter((f) => f.endsWith(".c"))
      .map((f) => join(TOP, part, f)),
  );
  const { status, stderr } = spawnSync("gcc", [...FLAGS, "-o", file, ...sources], { encoding: "utf8" });
  if (status !== 0) throw new Error(`compiling ${name}: ${stderr}`);
  made.set(name, file);
  return file;
}
