/** The kernel's configuration: everything off but what our fragments ask for, and each of their lines must have come true. */
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { SetupError } from "../../scripts/lib/errors.mjs";
import { run } from "../../scripts/lib/run.mjs";
import { WITHOUT } from "./tools.mjs";

/** @typedef {{ name: string, text: string }} Fragment */

/** @param {string} dir @returns {Promise<Fragment[]>} by name; a later one wins */
export async function readFragments(dir) {
  const names = (await readdir(dir)).filter((n) => n.endsWith(".config")).sort();
  if (!names.length) throw new SetupError(`${dir} has no *.config`);
  return Promise.all(names.map(async (name) => ({ name, text: await readFile(join(dir, name), "utf8") })));
}

/** @param {string} text a fragment or .config @returns {Map<string, string>} option → value, "n" where it is off */
export function parseConfig(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    const set = /^(CONFIG_\w+)=(.*)$/.exec(line);
    const off = /^# (CONFIG_\w+) is not set$/.exec(line);
    if (set) values.set(set[1], set[2]);
    else if (off) values.set(off[1], "n");
  }
  return values;
}

/** @param {import("./tree.mjs").Tree} tree @param {readonly Fragment[]} fragments @param {NodeJS.ProcessEnv} env @param {{ say(l: string): void }} step */
export async function configure(tree, fragments, env, step) {
  const wanted = new Map();
  for (const { name, text } of fragments) for (const [option, value] of parseConfig(text)) wanted.set(option, { value, name });
  const merged = join(tree.pristine, "wanted.config");
  await writeFile(
    merged,
    [...wanted].map(([option, { value }]) => (value === "n" ? `# ${option} is not set\n` : `${option}=${value}\n`)).join(""),
  );
  step.say(`configuring (${wanted.size} options asked for)`);
  const before = await readFile(join(tree.dir, ".config"), "utf8").catch(() => "");
  await run("make", ["ARCH=um", ...WITHOUT, "allnoconfig"], {
    cwd: tree.dir,
    env: { ...env, KCONFIG_ALLCONFIG: merged },
    what: "configuring the kernel",
  });
  const text = await readFile(join(tree.dir, ".config"), "utf8");
  const got = parseConfig(text);
  const lost = [...wanted].filter(([option, { value }]) => (got.get(option) ?? "n") !== value);
  if (lost.length) {
    const list = lost.map(([option, { value, name }]) => `${option}=${value} of ${name} became ${got.get(option) ?? "n"}`);
    throw new SetupError(`options did not survive: ${list.join("; ")}`, { next: "add what they depend on, or drop them" });
  }
  return text !== before;
}
