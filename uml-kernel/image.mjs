#!/usr/bin/env node
/**
 * The default guest image: a small ext4 from Debian packages and our own programs, made by an ordinary user.
 * Same inputs, same bytes; the inputs' hashes lie beside it in inputs.json. Node >= 20 built-ins only: it runs before our own Node is there.
 *
 * `node uml-kernel/image.mjs [--rebuild]` prints the image's path; without a change of the recipe it needs no network.
 */
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { cachePath, makeDirAtomic, sha256OfFile, withLock, writeFileAtomic } from "../scripts/lib/cache.mjs";
import { machineSources } from "../scripts/lib/debian-sources.mjs";
import { runMain } from "../scripts/lib/errors.mjs";
import { size, step as uiStep } from "../scripts/lib/ui.mjs";
import { makeExt4 } from "./image/ext4.mjs";
import { fetchDebian } from "./image/packages.mjs";
import { compilePrograms, compilerIdentity } from "./image/programs.mjs";
import { hashSources } from "./image/sources.mjs";
import { layTree } from "./image/tree.mjs";

/** Raised when the recipe changes in a way that its sources' hashes do not show. */
const RECIPE_VERSION = 1;

/**
 * @typedef {{ path: string, id: string, buildId: string }} GuestImage `id`: SHA-256 of the file's bytes, the overlay's base hash; `buildId`: hash of the inputs
 */

/**
 * The image, made now if the cache lacks it.
 * @param {{ step?: ReturnType<typeof uiStep>, rebuild?: boolean }} [options] `rebuild`: make it again even if it is there (with today's packages)
 * @returns {Promise<GuestImage>}
 */
export async function ensureImage({ step = uiStep("image"), rebuild = false } = {}) {
  const recipe = await recipeOf();
  const pointer = cachePath("image", "by-recipe", `${sha256(JSON.stringify(recipe))}.json`);
  return withLock(
    "image",
    async () => {
      const known = rebuild ? undefined : await readKnown(pointer);
      if (known) return known;
      const image = await build(recipe, step);
      await writeFileAtomic(pointer, `${JSON.stringify(image)}\n`);
      return image;
    },
    step.say,
  );
}

/** All that decides what is made, except for the versions of Debian's packages, which only a look at its index tells. */
async function recipeOf() {
  const { codename } = await machineSources();
  return { version: RECIPE_VERSION, codename, compiler: await compilerIdentity(), sources: await hashSources() };
}

/** @param {string} pointer @returns {Promise<GuestImage | undefined>} */
async function readKnown(pointer) {
  const known = JSON.parse(await readFile(pointer, "utf8").catch(() => "null"));
  if (!known) return undefined;
  const path = cachePath("image", known.buildId, "image.ext4");
  return (await stat(path).catch(() => null)) ? { ...known, path } : undefined;
}

async function build(recipe, step) {
  const work = await mkdtemp(join(tmpdir(), "mobitopolo-image-"));
  try {
    const debian = await fetchDebian(join(work, "debian"), step);
    step.say("compiling init, guest agent and the guest's programs");
    const programs = await compilePrograms(join(work, "bin"));
    const packages = debian.packages.map(({ name, version, architecture, sha256: hash }) => ({
      name,
      version,
      architecture,
      sha256: hash,
    }));
    const inputs = { ...recipe, packages, programs: programs.map(({ target, sha256: hash }) => ({ target, sha256: hash })) };
    const buildId = sha256(JSON.stringify(inputs));
    const dir = cachePath("image", buildId);
    const path = join(dir, "image.ext4");
    await makeDirAtomic(dir, async (temporary) => {
      const tree = await layTree(join(work, "root"), debian, programs);
      step.say(`writing ext4: ${tree.length} entries`);
      await makeExt4(join(temporary, "image.ext4"), tree, debian);
      const image = { sha256: await sha256OfFile(join(temporary, "image.ext4")), bytes: (await stat(join(temporary, "image.ext4"))).size };
      await writeFileAtomic(join(temporary, "inputs.json"), `${JSON.stringify({ image, ...inputs }, null, 2)}\n`);
    });
    const { blocks, size: bytes } = await stat(path);
    step.done(`image of ${size(bytes)}, ${size(blocks * 512)} on disk: ${path}`);
    return { path, id: await sha256OfFile(path), buildId };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** @param {string} text */
const sha256 = (text) => createHash("sha256").update(text).digest("hex");

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  runMain(async () => {
    const { path } = await ensureImage({ rebuild: process.argv.includes("--rebuild") });
    console.log(path);
  });
}
