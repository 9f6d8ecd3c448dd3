/** The unpacked source in which a build happens. It stays, so that a changed patch recompiles only what it touches. */

import { spawn } from "node:child_process";
import { createReadStream } from "node:fs";
import { copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { cachePath, makeDirAtomic } from "../../scripts/lib/cache.mjs";
import { SetupError } from "../../scripts/lib/errors.mjs";
import { run } from "../../scripts/lib/run.mjs";
import { size } from "../../scripts/lib/ui.mjs";

/** Two thirds of a kernel's source are drivers and machines that UML does not have. Kconfig and make files stay: kconfig reads them all. */
const NOT_UNPACKED = [
  "*/Documentation/*.rst",
  "*/Documentation/*.yaml",
  "*/Documentation/*.txt",
  "*/Documentation/*.svg",
  "*/arch/[!ux]*/*.[chS]",
  "*/arch/[!ux]*/*.dts",
  "*/arch/[!ux]*/*.dtsi",
  "*/sound/*.[ch]",
  "*/tools/testing/*",
  "*/tools/perf/*",
  ...["gpu", "media", "infiniband", "scsi", "staging", "net/ethernet", "net/wireless", "iio", "clk", "pinctrl", "usb"].map(
    (d) => `*/drivers/${d}/*.[ch]`,
  ),
];

/**
 * @typedef {{ dir: string, pristine: string }} Tree `pristine`: the files that patches touched, as they were (an empty `.absent` beside the name: was not there)
 */

/** @param {import("./source.mjs").Source} source @param {{ say(l: string): void, progress(l: string): void }} step @param {boolean} fresh @returns {Promise<Tree>} */
export async function openTree(source, step, fresh) {
  const root = cachePath("kernel", "trees");
  const home = join(root, source.id.slice(0, 16));
  const tree = { dir: join(home, "linux"), pristine: join(home, "pristine") };
  if (fresh) await rm(home, { recursive: true, force: true });
  if (await stat(tree.dir).catch(() => null)) return tree;
  await mkdir(root, { recursive: true });
  for (const old of await readdir(root)) await rm(join(root, old), { recursive: true, force: true });
  await makeDirAtomic(home, async (temporary) => {
    const dir = join(temporary, "linux");
    await mkdir(dir);
    await mkdir(join(temporary, "pristine"));
    if (source.tarball) await untar(source.tarball, dir, step);
    else
      await run("sh", ["-c", `tar -C "$0" --exclude=./.git --exclude=*.o --exclude=.*.cmd -cf - . | tar -C "$1" -xf -`, source.dir, dir], {
        what: `copying ${source.dir}`,
      });
    await run("make", ["ARCH=um", "mrproper"], { cwd: dir, what: "cleaning the source" });
  });
  return tree;
}

async function untar(tarball, dir, step) {
  const total = (await stat(tarball)).size;
  const tar = spawn(
    "tar",
    ["-xJf", "-", "--strip-components=1", "--wildcards", "--wildcards-match-slash", ...NOT_UNPACKED.map((p) => `--exclude=${p}`)],
    { cwd: dir, stdio: ["pipe", "ignore", "pipe"] },
  );
  let errors = "";
  tar.stderr.setEncoding("utf8").on("data", (text) => {
    errors += text;
  });
  const ended = new Promise((resolve) => {
    tar.on("error", () => resolve(-1));
    tar.on("close", resolve);
  });
  let bytes = 0;
  const input = createReadStream(tarball, { highWaterMark: 1 << 20 }).on("data", (chunk) => {
    bytes += chunk.length;
    step.progress(`unpacking the source: ${size(bytes)} of ${size(total)}`);
  });
  await pipeline(input, tar.stdin).catch(() => {});
  if ((await ended) !== 0)
    throw new SetupError(`unpacking ${basename(tarball)} failed: ${errors.trim().split("\n").at(-1)}`, { next: "is the disk full?" });
}

/**
 * Makes the tree hold the pristine source with `change` applied: only files whose content differs are written, so that make recompiles no more than it must.
 * @param {Tree} tree @param {readonly string[]} touched paths that the change may touch @param {(dir: string) => Promise<void>} change gets a folder with the pristine files of `touched`
 */
export async function rewrite(tree, touched, change) {
  const known = JSON.parse(await readFile(join(tree.pristine, "touched.json"), "utf8").catch(() => "[]"));
  const all = [...new Set([...known, ...touched])].sort();
  for (const path of all.filter((p) => !known.includes(p))) {
    const kept = join(tree.pristine, "files", path);
    await mkdir(dirname(kept), { recursive: true });
    await copyFile(join(tree.dir, path), kept).catch(absent);
  }
  await writeFile(join(tree.pristine, "touched.json"), JSON.stringify(all));
  const wanted = join(tree.pristine, "wanted");
  await rm(wanted, { recursive: true, force: true });
  for (const path of all) {
    await mkdir(dirname(join(wanted, path)), { recursive: true });
    await copyFile(join(tree.pristine, "files", path), join(wanted, path)).catch(absent);
  }
  await change(wanted);
  for (const path of all) {
    const [now, then] = await Promise.all([join(tree.dir, path), join(wanted, path)].map((f) => readFile(f).catch(absent)));
    if (!then) await rm(join(tree.dir, path), { force: true });
    else if (!now?.equals(then)) {
      await mkdir(dirname(join(tree.dir, path)), { recursive: true });
      await copyFile(join(wanted, path), join(tree.dir, path));
    }
  }
}

/** Undefined for a file that is not there, any other fault is one. */
function absent(error) {
  if (error.code !== "ENOENT") throw error;
  return undefined;
}
