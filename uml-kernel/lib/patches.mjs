/** Our patches: read, checked for form, applied in order with no fuzz. */
import { readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { SetupError } from "../../scripts/lib/errors.mjs";
import { run } from "../../scripts/lib/run.mjs";
import { rewrite } from "./tree.mjs";

/** @typedef {{ name: string, file: string, text: string }} Patch */

/** @param {string} dir @returns {Promise<Patch[]>} in order @throws SetupError naming every patch of a wrong form */
export async function readPatches(dir) {
  const names = (await readdir(dir).catch(() => [])).filter((n) => n.endsWith(".patch")).sort();
  const patches = await Promise.all(
    names.map(async (name) => ({ name, file: join(dir, name), text: await readFile(join(dir, name), "utf8") })),
  );
  const faults = lintPatches(patches);
  if (faults.length) throw new SetupError(`patches of a wrong form: ${faults.join("; ")}`, { next: "make them with git format-patch" });
  return patches;
}

/** @param {readonly Patch[]} patches @returns {string[]} what is wrong, one line each */
export function lintPatches(patches) {
  const faults = [];
  patches.forEach(({ name, text }, index) => {
    const expect = (ok, what) => ok || faults.push(`${name}: ${what}`);
    expect(/^\d{4}-(?:x86-)?um-[\w.-]+\.patch$/.test(name), "is not named NNNN-um-….patch");
    expect(Number(name.slice(0, 4)) === index + 1, `is number ${index + 1} of the series`);
    const head = text.slice(0, Math.max(0, text.indexOf("\n---\n")));
    expect(/^From [0-9a-f]{40} /.test(text), "does not begin as git format-patch writes it");
    expect(/^Subject: (\[PATCH[^\]]*\] )?(?:x86\/)?um: \S/m.test(head), 'has no subject "um: …"');
    const body = head
      .split(/\n\n/)
      .slice(1)
      .join("\n\n")
      .replace(/^Signed-off-by:.*$/gm, "")
      .trim();
    expect(body.length >= 40, "does not say why (no body)");
    for (const added of text.matchAll(/^--- \/dev\/null\n\+\+\+ b\/(\S+\.[chS])\n@@[^\n]*\n\+(.*)$/gm))
      expect(added[2].includes("SPDX-License-Identifier: GPL-2.0"), `${added[1]} does not begin with its SPDX line`);
  });
  return faults;
}

/** @param {import("./tree.mjs").Tree} tree @param {readonly Patch[]} patches @param {{ say(l: string): void }} step */
export async function applyPatches(tree, patches, step) {
  const touched = new Set();
  for (const { text } of patches) {
    for (const match of text.matchAll(/^diff --git a\/(\S+) b\/(\S+)$/gm)) touched.add(match[1]).add(match[2]);
  }
  await rewrite(tree, [...touched], async (dir) => {
    // A repository around the cache must not be taken for the one the patches are for.
    const env = { ...process.env, GIT_CEILING_DIRECTORIES: dirname(dir), GIT_CONFIG_GLOBAL: "/dev/null", LC_ALL: "C" };
    for (const { name, file } of patches)
      await run("git", ["apply", "--whitespace=nowarn", file], { cwd: dir, env, what: `applying ${name}` });
  });
  if (patches.length) step.say(`${patches.length} patches applied`);
}
