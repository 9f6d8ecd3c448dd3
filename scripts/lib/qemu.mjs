/** QEMU for comparisons: Debian's own package of version 10 or newer, unpacked in the cache with the libraries that the machine lacks. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { cachePath } from "./cache.mjs";
import { fetchPackages, unpack } from "./debian.mjs";
import { machineSources } from "./debian-sources.mjs";
import { SetupError } from "./errors.mjs";
import { isExecutable, run } from "./run.mjs";

/** Debian 12's own 7.2 corrupts the guests that it migrates under TCG. */
const OLDEST_GOOD_MAJOR = 10;
/** Releases whose own QEMU is too old, and where theirs is new enough. */
const NEWER_SUITES = { bookworm: "bookworm-backports" };
/** Names the package of the release's current kernel for virtual machines. */
const KERNEL_POINTER = "linux-image-cloud-amd64";

/**
 * @typedef {{ path: string, img: string, version: string, dataDirs: string[], env: { LD_LIBRARY_PATH: string }, kernel: GuestKernel }} Qemu
 *   `img`: qemu-img; `dataDirs`: for -L; `env`: what they need to find their libraries
 * @typedef {{ path: string, release: string, modules: string }} GuestKernel `modules`: folder of its modules
 */

/**
 * @param {{ say?: (line: string) => void }} [options]
 * @returns {Promise<Qemu>}
 */
export async function qemuProgram({ say } = {}) {
  const { codename } = await machineSources();
  const dir = cachePath("qemu", codename);
  const suite = NEWER_SUITES[codename];
  await unpack(["qemu-system-x86", "qemu-utils"], dir, { closure: "missing", say, ...(suite && { suite }) });
  const path = join(dir, "usr/bin/qemu-system-x86_64");
  const env = { LD_LIBRARY_PATH: ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map((p) => join(dir, p)).join(":") };
  if (!(await isExecutable(path))) throw new SetupError("Debian's qemu-system-x86 brought no qemu-system-x86_64");
  const { stdout } = await run(path, ["--version"], { what: "asking QEMU for its version", env: { ...process.env, ...env } });
  const version = /version (\S+)/.exec(stdout)?.[1] ?? "unknown";
  if (!(Number.parseInt(version, 10) >= OLDEST_GOOD_MAJOR))
    throw new SetupError(`Debian's QEMU is ${version}; a comparison needs ${OLDEST_GOOD_MAJOR} or newer`, {
      next: "use Debian 12 (with backports) or 13",
    });
  const dataDirs = ["usr/share/qemu", "usr/share/seabios"].map((p) => join(dir, p));
  return { path, img: join(dir, "usr/bin/qemu-img"), version, dataDirs, env, kernel: await guestKernel(codename, say) };
}

/** Debian's kernel, unpacked alone: what it depends on is for machines that boot from a disk. */
async function guestKernel(codename, say) {
  const dir = cachePath("qemu", `${codename}-kernel`);
  const find = async () => (await readdir(join(dir, "boot")).catch(() => [])).find((name) => name.startsWith("vmlinuz-"));
  if (!(await find())) {
    const [pointer] = await fetchPackages([KERNEL_POINTER], { closure: "none", say });
    const { stdout } = await run("dpkg-deb", ["-f", pointer.file, "Depends"], { what: `reading ${KERNEL_POINTER}` });
    await unpack([stdout.trim().split(/[\s,(]/)[0]], dir, { closure: "none", say });
  }
  const file = await find();
  if (!file) throw new SetupError("Debian's kernel package brought no kernel", { next: `look into ${dir}` });
  const release = file.slice("vmlinuz-".length);
  return { path: join(dir, "boot", file), release, modules: join(dir, "lib/modules", release, "kernel") };
}
