/** What the build runs: the machine's compiler, and flex, bison … fetched into the cache where the machine lacks them. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { cachePath, sha256OfFile } from "../../scripts/lib/cache.mjs";
import { unpack } from "../../scripts/lib/debian.mjs";
import { SetupError } from "../../scripts/lib/errors.mjs";
import { run, which } from "../../scripts/lib/run.mjs";

/** Tool → the Debian packages that bring it. */
const FETCHABLE = { flex: ["flex"], bison: ["bison"], m4: ["m4"], bc: ["bc"], xz: ["xz-utils"] };
/** A compiler and its libraries are the machine's own: their version is part of the build id. */
const REQUIRED = { gcc: "gcc", ld: "binutils", strip: "binutils", make: "make", git: "git", tar: "tar", perl: "perl" };

/** @returns {Promise<NodeJS.ProcessEnv>} environment in which every tool of the build is found */
export async function buildTools(step) {
  const lacking = await missing(Object.keys(FETCHABLE));
  // Nothing of the caller's make, kconfig or locale settings may change the result.
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, TMPDIR: process.env.TMPDIR ?? "/tmp", LC_ALL: "C" };
  Object.assign(env, {
    KBUILD_BUILD_TIMESTAMP: "1970-01-01",
    KBUILD_BUILD_USER: "mobitopolo",
    KBUILD_BUILD_HOST: "mobitopolo",
    KBUILD_BUILD_VERSION: "1",
  });
  if (!lacking.length) return env;
  const dir = cachePath("tools", lacking.join("+"));
  step.say(`${lacking.join(", ")} missing: taken from Debian, into the cache only`);
  await unpack(
    lacking.flatMap((t) => FETCHABLE[t]),
    dir,
    { closure: "missing", say: step.say },
  );
  const usr = join(dir, "usr");
  env.PATH = `${join(usr, "bin")}:${env.PATH}`;
  env.LD_LIBRARY_PATH = join(usr, "lib/x86_64-linux-gnu");
  // bison looks for its skeletons and for m4 where the package would have been installed.
  if (lacking.includes("bison")) env.BISON_PKGDATADIR = join(usr, "share/bison");
  env.M4 = (await which("m4", env.PATH)) ?? "m4";
  const still = await missing(Object.keys(FETCHABLE), env.PATH);
  if (still.length) throw new SetupError(`${still.join(", ")} missing, also from Debian's packages`, { next: "install them" });
  return env;
}

/** Of these kconfig notes whether the machine has them, in the program too: never, so that the same inputs give the same bytes everywhere. */
export const WITHOUT = ["RUSTC=no-rustc", "BINDGEN=no-bindgen", "PAHOLE=no-pahole"];

/** @returns {Promise<{ name: string, text: string }>} the compiler's name for a person, and all of it that can change the result */
export async function compilerFacts() {
  const lacking = await missing(Object.keys(REQUIRED));
  const libc = lacking.includes("gcc") ? "" : (await run("gcc", ["-print-file-name=libc.a"])).stdout.trim();
  const packages = new Set(lacking.map((t) => REQUIRED[t]));
  if (!(await stat(libc).catch(() => null))) packages.add("libc6-dev");
  if (packages.size)
    throw new SetupError(`building the kernel needs ${[...packages].join(", ")}`, {
      next: `ask an administrator for: apt-get install ${[...packages].join(" ")}`,
    });
  const first = async (file, ...args) => (await run(file, args)).stdout.split("\n")[0];
  const [gcc, ld] = [await first("gcc", "--version"), await first("ld", "--version")];
  return { name: gcc, text: `${gcc}\n${ld}\n${await sha256OfFile(libc)}` };
}

async function missing(names, path) {
  const found = await Promise.all(names.map((n) => which(n, path)));
  return names.filter((_, i) => !found[i]);
}
