/** Where the kernel's source comes from: a given path, else the cache, else kernel.org, else Debian. Each that fails says so. */
import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { cachePath, sha256OfFile, writeFileAtomic } from "../../scripts/lib/cache.mjs";
import { fetchPackages } from "../../scripts/lib/debian.mjs";
import { SetupError } from "../../scripts/lib/errors.mjs";
import { run } from "../../scripts/lib/run.mjs";
import { size } from "../../scripts/lib/ui.mjs";
import { hashParts } from "./hash.mjs";

/**
 * @typedef {{ series: string, version: string, tarball: { url: string, checksums: string, sha256: string | null }, debianPackage: string }} Pin
 * @typedef {{ id: string, version: string, what: string, tarball?: string, dir?: string }} Source `id` changes with the content; either a tarball or a folder
 */

/** @param {Pin} pin @param {string | undefined} given @param {{ say(line: string): void, progress(line: string): void }} step @returns {Promise<Source>} */
export async function findSource(pin, given, step) {
  if (given) return fromPath(pin, resolve(given));
  const cached = await fromCache(pin);
  if (cached) return cached;
  const faults = [];
  for (const [what, get] of [
    [`kernel.org's tarball of ${pin.version}`, () => fromKernelOrg(pin, step)],
    [`Debian's ${pin.debianPackage}`, () => fromDebian(pin, step)],
  ]) {
    try {
      return await get();
    } catch (error) {
      const why = error.cause?.code ? `${error.message} (${error.cause.code})` : error.message;
      faults.push(`${what}: ${why}`);
      step.say(`${what} can't be had: ${why}`);
    }
  }
  throw new SetupError(`no source of Linux ${pin.series} (${faults.join("; ")})`, {
    next: "give one: npm run kernel:build -- --source PATH (a tree or a tarball)",
  });
}

/** @param {Pin} pin @param {string} dir a kernel tree @returns {Promise<string>} its version @throws SetupError where it is of another series */
export async function versionOf(pin, dir) {
  const makefile = await readFile(join(dir, "Makefile"), "utf8").catch(() => "");
  const value = (name) => new RegExp(`^${name} =[ ]*(.*)$`, "m").exec(makefile)?.[1] ?? "";
  const version = `${value("VERSION")}.${value("PATCHLEVEL")}.${value("SUBLEVEL")}${value("EXTRAVERSION")}`;
  if (version.startsWith(`${pin.series}.`)) return version;
  throw new SetupError(`${dir} is not a tree of Linux ${pin.series} (it says ${version})`);
}

async function fromPath(pin, path) {
  const facts = await stat(path).catch(() => null);
  if (!facts) throw new SetupError(`--source ${path} does not exist`);
  if (facts.isFile()) return { id: await sha256OfFile(path), version: pin.version, what: basename(path), tarball: path };
  const version = await versionOf(pin, path);
  // All that can end up in the program. Objects of an earlier build are no source.
  const { stdout } = await run(
    "sh",
    [
      "-c",
      "find . -type f ! -name '*.o' ! -name '*.cmd' ! -path './.git/*' ! -path './Documentation/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum",
    ],
    { cwd: path, what: `reading ${path}` },
  );
  return { id: hashParts(["tree", stdout]), version, what: path, dir: path };
}

const recordFile = (pin) => cachePath("kernel", "source", `linux-${pin.series}.json`);

async function fromCache(pin) {
  const record = JSON.parse(await readFile(recordFile(pin), "utf8").catch(() => "null"));
  if (!record || !(await stat(record.tarball).catch(() => null))) return undefined;
  return record;
}

/** A fetched tarball becomes the cache's source of the series. */
async function keep(pin, { file, id, version, what }) {
  const tarball = cachePath("kernel", "source", `${id}.tar.xz`);
  await rename(file, tarball);
  const source = { id, version, what, tarball };
  await writeFileAtomic(recordFile(pin), `${JSON.stringify(source, null, 2)}\n`);
  for (const name of await readdir(cachePath("kernel", "source"))) {
    if (name.endsWith(".tar.xz") && name !== basename(tarball)) await rm(cachePath("kernel", "source", name), { force: true });
  }
  return source;
}

async function fromKernelOrg(pin, step) {
  const answer = async (url) => {
    const response = await fetch(url, { signal: AbortSignal.timeout(20_000) });
    if (!response.ok) throw new SetupError(`${url} answered ${response.status}`);
    return response;
  };
  const wanted =
    process.env.MOBITOPOLO_KERNEL_SHA256 ||
    pin.tarball.sha256 ||
    (await listedSha256(pin, await (await answer(pin.tarball.checksums)).text()));
  const response = await fetch(pin.tarball.url, { signal: AbortSignal.timeout(30 * 60_000) });
  if (!response.ok || !response.body) throw new SetupError(`${pin.tarball.url} answered ${response.status}`);
  await mkdir(cachePath("kernel", "source"), { recursive: true });
  const file = cachePath("kernel", "source", `linux-${pin.version}.${process.pid}.part`);
  try {
    const total = Number(response.headers.get("content-length") ?? 0);
    const hash = createHash("sha256");
    let bytes = 0;
    const body = Readable.fromWeb(response.body).on("data", (chunk) => {
      hash.update(chunk);
      bytes += chunk.length;
      step.progress(`fetching Linux ${pin.version}: ${size(bytes)} of ${size(total)}`);
    });
    await pipeline(body, createWriteStream(file));
    const id = hash.digest("hex");
    if (id !== wanted) throw new SetupError(`${pin.tarball.url} has SHA-256 ${id}, not ${wanted}`);
    return await keep(pin, { file, id, version: pin.version, what: `kernel.org linux-${pin.version}.tar.xz` });
  } finally {
    await rm(file, { force: true });
  }
}

/** Without a pinned hash: the one that kernel.org lists (trusted as far as its TLS certificate). */
async function listedSha256(pin, list) {
  const name = basename(pin.tarball.url).replaceAll(".", "\\.");
  const found = new RegExp(`^([0-9a-f]{64})\\s+${name}$`, "m").exec(list);
  if (!found) throw new SetupError(`${pin.tarball.checksums} does not list ${basename(pin.tarball.url)}`);
  return found[1];
}

async function fromDebian(pin, step) {
  const [found] = await fetchPackages([pin.debianPackage], { closure: "none", backports: true, say: step.say });
  const version = found.version.split("-")[0];
  if (!version.startsWith(`${pin.series}.`)) throw new SetupError(`${pin.debianPackage} is ${found.version}`);
  step.say(`unpacking ${pin.debianPackage} ${found.version}`);
  const dir = cachePath("kernel", "source", `debian.${process.pid}.tmp`);
  await mkdir(dir, { recursive: true });
  try {
    await run("dpkg-deb", ["-x", found.file, dir], { what: `unpacking ${basename(found.file)}` });
    const file = join(dir, "usr/src", `${pin.debianPackage}.tar.xz`);
    const source = await keep(pin, { file, id: await sha256OfFile(file), version, what: `Debian ${found.name} ${found.version}` });
    await rm(found.file, { force: true });
    return source;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
