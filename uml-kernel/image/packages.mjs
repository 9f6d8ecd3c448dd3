/** Debian's part of the image: the programs, and of their dependencies only the libraries that they really load. */
import { mkdir, readFile, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { cachePath, writeFileAtomic } from "../../scripts/lib/cache.mjs";
import { fetchPackages } from "../../scripts/lib/debian.mjs";
import { SetupError } from "../../scripts/lib/errors.mjs";
import { run } from "../../scripts/lib/run.mjs";

/** Package → the programs taken from it, as paths below its root. */
const PROGRAMS = {
  bash: ["bin/bash"],
  "busybox-static": ["bin/busybox"],
  dash: ["bin/dash"],
  "dropbear-bin": ["usr/sbin/dropbear", "usr/bin/dbclient", "usr/bin/dropbearkey"],
  e2fsprogs: ["sbin/mke2fs", "sbin/resize2fs", "sbin/e2fsck"],
  iperf3: ["usr/bin/iperf3"],
  iproute2: ["bin/ip", "bin/ss", "sbin/tc", "sbin/bridge"],
  "iputils-ping": ["bin/ping"],
  tcpdump: ["usr/bin/tcpdump"],
};
/** Not in the image, but run at build time: made by the same version everywhere, whatever the machine has. */
const TOOLS = { debugfs: "sbin/debugfs", mke2fs: "sbin/mke2fs" };
/** Opened by name at run time (pthread_cancel), so no ELF header names it. */
const EXTRA_LIBRARIES = { package: "libgcc-s1", sonames: ["libgcc_s.so.1"] };
/** As Debian 12 names them. */
const LIKELY_LIBRARIES = [
  "libblkid1 libbpf1 libbsd0 libc6 libcap2 libcom-err2 libcrypt1 libdbus-1-3 libelf1 libext2fs2 libgcrypt20 libgmp10 libgpg-error0",
  "libgssapi-krb5-2 libidn2-0 libiperf0 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 liblz4-1 liblzma5 libmd0 libmnl0 libpcap0.8",
  "libpcre2-8-0 libsctp1 libselinux1 libss2 libssl3 libsystemd0 libtinfo6 libtirpc3 libtomcrypt1 libtommath1 libunistring2 libuuid1",
  "libxtables12 libzstd1 zlib1g",
].flatMap((line) => line.split(" "));
const LIBRARY_FOLDERS = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const LOADER = "ld-linux-x86-64.so.2";
/** Dependencies of dependencies: more rounds than this means that a name is nowhere. */
const MAX_ROUNDS = 8;

/**
 * @typedef {import("../../scripts/lib/debian.mjs").DebianPackage} DebianPackage
 * @typedef {{ source: string, name: string, owner: string }} PickedFile `owner`: the package
 * @typedef {{ dir: string, packages: DebianPackage[], programs: PickedFile[], libraries: PickedFile[], tools: Record<string, string>, loader: string }} Debian `loader`: ld.so, to run tools of the unpacked tree with its own libraries
 */

/**
 * Fetches, unpacks and picks.
 * @param {string} dir where each package is unpacked, in a folder of its own
 * @param {{ say(line: string): void }} step
 * @returns {Promise<Debian>}
 */
export async function fetchDebian(dir, step) {
  const packages = new Map();
  let fetched = await fetchFirst(step);
  for (let round = 0; ; round++) {
    for (const p of fetched) {
      await mkdir(join(dir, p.name), { recursive: true });
      await run("dpkg-deb", ["-x", p.file, join(dir, p.name)], { what: `unpacking ${p.name}` });
      packages.set(p.name, p);
    }
    const programs = await pickPrograms(dir);
    const tools = await findTools(dir);
    const { libraries, missing } = await closeOverLibraries([...programs.map((p) => p.source), ...Object.values(tools)], dir, [
      ...packages.keys(),
    ]);
    if (missing.length === 0) {
      const debian = finish(dir, packages, { programs, libraries, tools });
      await writeFileAtomic(hintFile(), JSON.stringify(debian.packages.map((p) => p.name)));
      return debian;
    }
    const names = await libraryDependencies([...packages.values()], new Set(packages.keys()));
    if (names.length === 0 || round === MAX_ROUNDS) throw new SetupError(`no package of this Debian release brings ${missing.join(", ")}`);
    fetched = await fetchPackages(names, { closure: "none", say: step.say });
  }
}

const FIRST_NAMES = [...Object.keys(PROGRAMS), EXTRA_LIBRARIES.package];
const hintFile = () => cachePath("image", "package-names.json");

/**
 * The packages to begin with. Those that were needed last time save the rounds of finding them again, each a run of apt; what the programs
 * really load decides all the same.
 */
async function fetchFirst(step) {
  const likely = JSON.parse(await readFile(hintFile(), "utf8").catch(() => JSON.stringify(LIKELY_LIBRARIES)));
  const options = { closure: /** @type {const} */ ("none"), say: step.say };
  // Another release names its libraries differently: then apt knows some of them not.
  return fetchPackages([...new Set([...FIRST_NAMES, ...likely])].sort(), options).catch(() => fetchPackages(FIRST_NAMES, options));
}

function finish(dir, packages, { programs, libraries, tools }) {
  const used = new Set([...programs, ...libraries].map((file) => file.owner));
  const loader = libraries.find((l) => l.name === LOADER).source;
  return {
    dir,
    packages: [...packages.values()].filter((p) => used.has(p.name)).sort((a, b) => (a.name < b.name ? -1 : 1)),
    programs,
    libraries,
    tools,
    loader,
  };
}

/** @returns {Promise<PickedFile[]>} */
async function pickPrograms(dir) {
  const wanted = Object.entries(PROGRAMS).flatMap(([owner, paths]) => paths.map((path) => ({ owner, path })));
  return Promise.all(
    wanted.map(async ({ owner, path }) => ({ owner, name: path.split("/").pop(), source: await findInPackage(dir, owner, path) })),
  );
}

/** @returns {Promise<Record<string, string>>} */
async function findTools(dir) {
  const found = Object.entries(TOOLS).map(async ([name, path]) => [name, await findInPackage(dir, "e2fsprogs", path)]);
  return Object.fromEntries(await Promise.all(found));
}

/** Releases differ in whether a program lies in /bin or /usr/bin. */
async function findInPackage(dir, owner, path) {
  for (const candidate of [path, path.startsWith("usr/") ? path.slice(4) : `usr/${path}`]) {
    const file = join(dir, owner, candidate);
    if (await stat(file).catch(() => null)) return realpath(file);
  }
  throw new SetupError(`Debian's package ${owner} has no ${path}`);
}

/** Walks the shared libraries that ELF files name, until nothing new comes. */
async function closeOverLibraries(files, dir, owners) {
  const found = new Map();
  const missing = [];
  const queue = [...files];
  const add = async (soname) => {
    if (found.has(soname)) return;
    const library = await findLibrary(soname, dir, owners);
    if (!library) return void missing.push(soname);
    found.set(soname, library);
    queue.push(library.source);
  };
  for (const soname of EXTRA_LIBRARIES.sonames) await add(soname);
  while (queue.length) for (const soname of await neededBy(queue.shift())) await add(soname);
  const libraries = [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  return { libraries, missing: [...new Set(missing)] };
}

async function neededBy(file) {
  const { stdout } = await run("readelf", ["-dW", file], {
    what: `reading ${file}`,
    next: "install binutils (it comes with gcc)",
    env: { ...process.env, LC_ALL: "C" },
  });
  return [...stdout.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map((m) => m[1]);
}

async function findLibrary(soname, dir, owners) {
  for (const owner of owners)
    for (const folder of LIBRARY_FOLDERS) {
      const file = join(dir, owner, folder, soname);
      if (await stat(file).catch(() => null)) return { name: soname, owner, source: await realpath(file) };
    }
  return undefined;
}

/** Names of packages not there yet that those here depend on and that are libraries. */
async function libraryDependencies(packages, have) {
  const names = new Set();
  for (const p of packages) {
    const { stdout } = await run("dpkg-deb", ["-f", p.file, "Pre-Depends", "Depends"], { what: `reading ${p.name}` });
    for (const clause of stdout.replace(/^(Pre-)?Depends:/gm, ",").split(",")) {
      const name = clause
        .split("|")[0]
        .trim()
        .split(/[\s:(]/)[0];
      if (/^(lib|zlib)/.test(name) && !have.has(name)) names.add(name);
    }
  }
  return [...names].sort();
}
