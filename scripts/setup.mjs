/**
 * `npm run setup`: everything a fresh clone needs, by an ordinary user, with nothing installed on the machine. What is there already is left
 * alone, so `npm run demo` and `npm test` begin with it. Built-ins of Node 20 only: it runs before any package is there.
 */
import { createHash } from "node:crypto";
import { readFile, realpath } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ensureKernel } from "../uml-kernel/build.mjs";
import { ensureImage } from "../uml-kernel/image.mjs";
import { buildIfChanged } from "./build.mjs";
import { cachePath, sha256OfFile, writeFileAtomic } from "./lib/cache.mjs";
import { ensureCli } from "./lib/cli.mjs";
import { runMain, SetupError } from "./lib/errors.mjs";
import { compressedNode, pinnedNode, root } from "./lib/node.mjs";
import { ensurePackages } from "./lib/packages.mjs";
import { sshdProgram } from "./lib/sshd.mjs";
import { duration, step } from "./lib/ui.mjs";

/**
 * @param {{ sshd?: boolean }} [options] `sshd`: also what only the tests need
 * @returns {Promise<void>} when `provider/dist/assets.json` names files that are there
 */
export async function setup({ sshd = false } = {}) {
  const beganMs = Date.now();
  checkMachine();
  await ensurePackages(step("npm"));
  // Two lanes on two cores: the kernel compiles while the other lane mostly waits for the network.
  const [kernel, rest] = await bothOrFirstFault(kernelAsset(), otherLane(sshd));
  const assets = {
    kernel: { id: kernel.id, path: kernel.path },
    image: { id: rest.image.id, path: rest.image.path },
    node: rest.node,
    agent: rest.agent,
  };
  const file = join(root, "provider/dist/assets.json");
  const text = `${JSON.stringify(assets, null, 2)}\n`;
  if ((await readFile(file, "utf8").catch(() => "")) !== text) await writeFileAtomic(file, text);
  step("setup").say(
    Date.now() - beganMs < 5000 ? "everything is there" : `done in ${duration(Date.now() - beganMs)}; the cache is ${cachePath()}`,
  );
}

/** Who names a kernel of their own (MOBITOPOLO_KERNEL) does not wait for ours. */
async function kernelAsset() {
  const given = process.env.MOBITOPOLO_KERNEL;
  if (!given) return ensureKernel({ step: step("kernel") });
  step("kernel").say(`MOBITOPOLO_KERNEL: ${given}`);
  const path = resolve(given);
  return { path, id: await sha256OfFile(path) };
}

async function otherLane(sshd) {
  const agent = await buildIfChanged(step("build"));
  const image = await ensureImage({ step: step("image") });
  const node = await nodeAsset();
  if (sshd) await sshdProgram({ say: step("sshd").say });
  await ensureCli(step("pulumi"));
  return { image, node, agent };
}

/** A fault of one lane is told at once, but only when the other has come to rest, so that no child is left behind. */
async function bothOrFirstFault(...lanes) {
  const results = await Promise.allSettled(lanes);
  const faults = results.filter((r) => r.status === "rejected").map((r) => r.reason);
  if (faults.length > 1 && faults.every((f) => f instanceof SetupError))
    throw new SetupError(faults.map((f) => f.message).join("\nmobitopolo: "));
  if (faults.length) throw faults[0];
  return results.map((r) => r.value);
}

function checkMachine() {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new SetupError(`Mobitopolo runs on Linux on x86-64, this is ${process.platform} on ${process.arch}`);
  if (Number(process.versions.node.split(".")[0]) < 20)
    throw new SetupError(`Node ${process.versions.node} is too old`, { next: "install Node 20 or newer" });
}

/** The runtime as a host gets it. Hashing 120 MB at every start would be slow: the hash is kept by the file's size and time. */
async function nodeAsset() {
  const { path, version } = pinnedNode();
  const file = await realpath(path);
  const record = cachePath("node", `${createHash("sha256").update(`${file} ${version}`).digest("hex").slice(0, 16)}.json`);
  const id = JSON.parse(await readFile(record, "utf8").catch(() => "null")) ?? (await sha256OfFile(file));
  await writeFileAtomic(record, JSON.stringify(id));
  return { id, path: file, version, zstdPath: await compressedNode(file, id, step("node")) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) runMain(() => setup({ sshd: true }));
