/**
 * Writes the tree into an ext4 image without root and without mounting: mke2fs makes it empty, debugfs fills it entry by entry in a fixed
 * order (mke2fs -d would take the caller's uid and the host's order of directories).
 */
import { chmod, copyFile, mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { SetupError } from "../../scripts/lib/errors.mjs";
import { run } from "../../scripts/lib/run.mjs";
import { bytesOf } from "./tree.mjs";

/** @typedef {import("./tree.mjs").Entry} Entry */

/** 2026-01-01: every time stamp in the image. */
const EPOCH_S = 1767225600;
const UUID = "6d6f6269-746f-4f70-8f6c-6f696d616765";
const HASH_SEED = "6d6f6269-7365-4564-8f72-6469727365ed";
const BLOCK_BYTES = 4096;
const IMAGE_BYTES = 64 << 20;
const FEATURES =
  "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/**
 * @param {string} file the image @param {readonly Entry[]} tree parents first @param {import("./packages.mjs").Debian} debian whose e2fsprogs is used
 */
export async function makeExt4(file, tree, debian) {
  const contentBytes = await bytesOf(tree);
  if (contentBytes > IMAGE_BYTES * 0.85) throw new SetupError(`the image's files are ${contentBytes} bytes, too many for ${IMAGE_BYTES}`);
  const work = await mkdtemp(join(dirname(file), "ext4-"));
  try {
    const tool = await toolRunner(work, debian);
    const image = await open(file, "wx", 0o644);
    await image.truncate(IMAGE_BYTES);
    await image.close();
    await tool("mke2fs", [
      "-q",
      "-F",
      "-t",
      "ext4",
      "-O",
      FEATURES,
      "-b",
      String(BLOCK_BYTES),
      "-I",
      "256",
      "-i",
      "8192",
      "-m",
      "0",
      "-J",
      "size=4",
      "-L",
      "mobitopolo",
      "-U",
      UUID,
      "-E",
      `root_owner=0:0,hash_seed=${HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,nodiscard,no_copy_xattrs`,
      file,
    ]);
    const script = join(work, "fill");
    await writeFile(script, await fillCommands(tree, work));
    const { stdout, stderr } = await tool("debugfs", ["-w", "-f", script, file]);
    // debugfs goes on after a fault and ends with 0: what it says is the only sign.
    const faults = `${stdout}\n${stderr}`.split("\n").filter((l) => l && !/^debugfs( 1|:)|^Allocated inode|^$/.test(l));
    if (faults.length) throw new SetupError(`writing the image: ${faults.slice(0, 3).join(" | ")}`);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Runs a program of the fetched e2fsprogs with the fetched libraries: the machine's own versions have no say in the bytes. */
async function toolRunner(work, debian) {
  const config = join(work, "mke2fs.conf");
  await writeFile(config, "[defaults]\n\tbase_features = none\n");
  const libraries = [...new Set(debian.libraries.map((l) => dirname(l.source)))].join(":");
  const env = {
    PATH: process.env.PATH,
    LC_ALL: "C",
    TZ: "UTC",
    MKE2FS_CONFIG: config,
    E2FSPROGS_FAKE_TIME: String(EPOCH_S),
    SOURCE_DATE_EPOCH: String(EPOCH_S),
    DEBUGFS_PAGER: "cat",
  };
  return (name, args) =>
    run(debian.loader, ["--library-path", libraries, debian.tools[name], ...args], { what: `${name} of the image`, env });
}

/** debugfs's `write` takes a name in its current folder, and the mode from the source: so each file gets a copy with the right mode. */
async function fillCommands(tree, work) {
  const lines = [];
  let number = 0;
  for (const entry of tree) {
    const name = entry.path.split("/").pop();
    const folder = dirname(entry.path);
    if (!/^[\w.+[\]-]+$/.test(name)) throw new SetupError(`a name that debugfs would not take: ${entry.path}`);
    lines.push(`cd ${folder}`);
    if (entry.kind === "dir") {
      lines.push(`mkdir ${name}`, `sif ${name} mode 0${(0o040000 | entry.mode).toString(8)}`);
    } else if (entry.kind === "link") {
      lines.push(`symlink ${name} ${entry.to}`);
    } else {
      const copy = join(work, `f${number++}`);
      await copyFile(entry.source, copy);
      await chmod(copy, entry.mode);
      lines.push(
        `write ${copy} ${name}`,
        `sif ${name} mode 0${(0o100000 | entry.mode).toString(8)}`,
        `sif ${name} uid 0`,
        `sif ${name} gid 0`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}
