/** Our own programs in the guest: C, one static binary each, compiled so that the same sources and compiler give the same bytes. */
import { mkdir, realpath } from "node:fs/promises";
import { join, relative } from "node:path";
import { sha256OfFile } from "../../scripts/lib/cache.mjs";
import { run } from "../../scripts/lib/run.mjs";
import { listFiles, TOP } from "./sources.mjs";

const COMPILER = "gcc";
const FLAGS = [
  "-std=gnu17",
  "-D_GNU_SOURCE",
  "-O2",
  "-Wall",
  "-Wextra",
  "-Werror=implicit-function-declaration",
  "-static",
  "-s",
  "-fno-ident",
  "-Wl,--build-id=none",
  "-pthread",
];

const COMMON = "uml-kernel/guest/common";
/** Where a program lies in the guest → the folders of its sources. */
const PROGRAMS = {
  "usr/sbin/init": ["uml-kernel/guest/init"],
  "usr/sbin/mobi-agent": ["uml-kernel/guest/agent"],
  "usr/bin/mobi-check": ["uml-kernel/guest/load", COMMON],
  "usr/bin/blockcopy": ["examples/follow-me/guest", COMMON],
};

/** @typedef {{ target: string, file: string, sha256: string }} Program `target`: path in the guest without the leading slash */

/** @returns {Promise<{ version: string, libcSha256: string }>} what else than the sources decides the programs' bytes */
export async function compilerIdentity() {
  const next = "install gcc and libc6-dev";
  const { stdout: version } = await run(COMPILER, ["--version"], { what: "looking for gcc", next });
  const { stdout: libc } = await run(COMPILER, ["-print-file-name=libc.a"], { what: "looking for the static C library", next });
  return { version: version.split("\n")[0], libcSha256: await sha256OfFile(await realpath(libc.trim())) };
}

/** @param {string} dir where to put them @returns {Promise<Program[]>} */
export async function compilePrograms(dir) {
  await mkdir(dir, { recursive: true });
  const programs = [];
  for (const target of Object.keys(PROGRAMS)) programs.push(await compileProgram(target, join(dir, target.split("/").pop())));
  return programs;
}

/**
 * Compiles one of our programs.
 * @param {string} target where it lies in the guest, as "usr/bin/blockcopy" @param {string} file the result
 * @returns {Promise<Program>}
 */
export async function compileProgram(target, file) {
  // Relative names and one fixed folder: the clone's place must not be in the result.
  const files = (await Promise.all(PROGRAMS[target].map((folder) => listFiles(join(TOP, folder))))).flat();
  const sources = files.filter((f) => f.endsWith(".c")).map((f) => relative(TOP, f));
  await run(COMPILER, [...FLAGS, "-o", file, ...sources, "-lm"], {
    cwd: TOP,
    what: `compiling ${target}`,
    next: "install gcc and libc6-dev",
    env: { ...process.env, LC_ALL: "C", SOURCE_DATE_EPOCH: "0" },
  });
  return { target, file, sha256: await sha256OfFile(file) };
}
