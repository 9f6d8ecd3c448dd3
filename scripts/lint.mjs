/** What biome does not look at: the form of the kernel patches and the length of files. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readPatches } from "../uml-kernel/lib/patches.mjs";
import { runMain, SetupError } from "./lib/errors.mjs";
import { root } from "./lib/node.mjs";

const MAX_LINES = 400;

runMain(async () => {
  const patches = await readPatches(join(root, "uml-kernel/patches"));
  const files = execFileSync("git", ["ls-files", "-co", "--exclude-standard", "*.ts", "*.mjs", "*.c", "*.h"], {
    cwd: root,
    encoding: "utf8",
  })
    .split("\n")
    .filter(Boolean);
  const long = files.map((f) => [f, lines(f)]).filter(([, n]) => n > MAX_LINES);
  if (long.length)
    throw new SetupError(`files over ${MAX_LINES} lines: ${long.map(([f, n]) => `${f} (${n})`).join(", ")}`, { next: "split them" });
  console.log(`${files.length} files, ${patches.length} patches: well formed`);
});

function lines(file) {
  try {
    return readFileSync(join(root, file), "utf8").split("\n").length - 1;
  } catch {
    return 0;
  }
}
