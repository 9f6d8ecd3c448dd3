/** What lies where in the guest: a sorted list of entries, from which the file system is written. */
import { chmod, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { run } from "../../scripts/lib/run.mjs";
import { listFiles, TOP } from "./sources.mjs";

/**
 * @typedef {{ path: string, kind: "dir", mode: number } | { path: string, kind: "file", mode: number, source: string } | { path: string, kind: "link", to: string }} Entry `path`: absolute in the guest
 * @typedef {import("./packages.mjs").Debian} Debian
 * @typedef {import("./programs.mjs").Program} Program
 */

const FOLDERS = {
  "/dev": 0o755,
  "/etc": 0o755,
  "/etc/dropbear": 0o700,
  "/home": 0o755,
  "/mnt": 0o755,
  "/proc": 0o555,
  "/root": 0o700,
  "/run": 0o755,
  "/srv": 0o755,
  "/sys": 0o555,
  "/tmp": 0o1777,
  "/usr": 0o755,
  "/usr/bin": 0o755,
  "/usr/sbin": 0o755,
  "/usr/lib": 0o755,
  "/usr/lib64": 0o755,
  "/usr/lib/x86_64-linux-gnu": 0o755,
  "/usr/local": 0o755,
  "/usr/local/bin": 0o755,
  "/usr/local/sbin": 0o755,
  "/usr/share": 0o755,
  "/usr/share/doc": 0o755,
  "/var": 0o755,
  "/var/lib": 0o755,
  "/var/log": 0o755,
  "/var/tmp": 0o1777,
};
const LINKS = {
  "/bin": "usr/bin",
  "/sbin": "usr/sbin",
  "/lib": "usr/lib",
  "/lib64": "usr/lib64",
  "/var/run": "/run",
  "/var/lock": "/run/lock",
  "/etc/mtab": "/proc/self/mounts",
  "/usr/bin/sh": "dash",
  "/usr/sbin/mkfs.ext4": "mke2fs",
  ...Object.fromEntries(
    ["avxhold", "ramcheck", "tcpstream", "uptimecheck", "uptimewatch", "guestbench", "spin", "dirty", "look"].map((name) => [
      `/usr/bin/${name}`,
      "mobi-check",
    ]),
  ),
};
const SBIN = new Set(["dropbear", "mke2fs", "resize2fs", "e2fsck", "ip", "tc", "bridge"]);
/** busybox has these too, but the guest has better ones, or (init) must not have them. */
const NOT_FROM_BUSYBOX = new Set(["init", "linuxrc", "sh", "bash", "mkfs.ext2"]);

/**
 * @param {string} work a folder for what has to be made @param {Debian} debian @param {readonly Program[]} programs
 * @returns {Promise<Entry[]>} parents before children, in an order that depends on the names alone
 */
export async function layTree(work, debian, programs) {
  /** @type {Map<string, Entry>} */
  const entries = new Map();
  const add = (entry) => entries.set(entry.path, entry);
  for (const [path, mode] of Object.entries(FOLDERS)) add({ path, kind: "dir", mode });
  for (const [path, to] of Object.entries(LINKS)) add({ path, kind: "link", to });
  for (const p of debian.programs)
    add({ path: `/usr/${SBIN.has(p.name) ? "sbin" : "bin"}/${p.name}`, kind: "file", mode: 0o755, source: p.source });
  for (const l of debian.libraries)
    add({
      path: `/usr/${l.source === debian.loader ? "lib64" : "lib/x86_64-linux-gnu"}/${l.name}`,
      kind: "file",
      mode: 0o755,
      source: l.source,
    });
  for (const p of programs) add({ path: `/${p.target}`, kind: "file", mode: 0o755, source: p.file });
  for (const entry of await etcFiles()) add(entry);
  for (const entry of await licences(work, debian)) add(entry);
  for (const entry of await busyboxLinks(debian, entries)) add(entry);
  return [...entries.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

async function etcFiles() {
  const top = join(TOP, "uml-kernel/guest/etc");
  return (await listFiles(top)).map((source) => {
    const path = `/etc/${relative(top, source)}`;
    return { path, kind: "file", mode: path === "/etc/shadow" ? 0o600 : 0o644, source };
  });
}

/** Debian's copyright files of all that is in the image: their licences ask for it. */
async function licences(work, debian) {
  const entries = [];
  for (const { name } of debian.packages) {
    const text = await readFile(join(debian.dir, name, "usr/share/doc", name, "copyright")).catch(() => null);
    if (!text) continue;
    const source = join(work, `${name}.copyright`);
    await mkdir(dirname(source), { recursive: true });
    await writeFile(source, text);
    await chmod(source, 0o644);
    entries.push(
      { path: `/usr/share/doc/${name}`, kind: "dir", mode: 0o755 },
      { path: `/usr/share/doc/${name}/copyright`, kind: "file", mode: 0o644, source },
    );
  }
  return entries;
}

async function busyboxLinks(debian, entries) {
  const busybox = debian.programs.find((p) => p.name === "busybox").source;
  const { stdout } = await run(busybox, ["--list-full"], { what: "listing busybox's commands" });
  const taken = new Set([...entries.keys()].filter((path) => /^\/usr\/s?bin\//.test(path)).map((path) => path.split("/").pop()));
  const links = [];
  for (const path of stdout.split("\n").filter(Boolean)) {
    const name = path.split("/").pop();
    if (NOT_FROM_BUSYBOX.has(name) || taken.has(name)) continue;
    const folder = path.includes("sbin/") ? "sbin" : "bin";
    links.push({ path: `/usr/${folder}/${name}`, kind: "link", to: folder === "bin" ? "busybox" : "../bin/busybox" });
  }
  return links;
}

/** @param {readonly Entry[]} tree @returns {Promise<number>} bytes of its files */
export async function bytesOf(tree) {
  const sizes = await Promise.all(tree.map(async (e) => (e.kind === "file" ? (await stat(e.source)).size : 0)));
  return sizes.reduce((a, b) => a + b, 0);
}
