/**
 * Where the files are that the provider brings to a host: kernel, image, Node runtime, agent. `npm run setup` makes them and writes
 * `provider/dist/assets.json`; everything here is synchronous and local, since check calls it.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { z } from "zod";

/** A file on this machine. */
export interface Asset {
  /** SHA-256 of the file's bytes, in hex. */
  readonly id: string;
  /** Absolute. */
  readonly path: string;
}

export interface Assets {
  /** Version of this package. */
  readonly version: string;
  /** The UML binary, stripped. `MOBITOPOLO_KERNEL` (a path) overrides it. */
  readonly kernel: Asset;
  /** The default root disk. `MOBITOPOLO_IMAGE` (a path) overrides it. */
  readonly image: Asset;
  /** The Node binary that runs the agent; `zstdPath`: the same compressed, to be sent to a host. */
  readonly node: Asset & { readonly version: string; readonly zstdPath?: string };
  /** The agent as one bundled file. */
  readonly agent: Asset;
}

/** A file that set-up or the build should have made is not there. */
export class MissingAssetError extends Error {
  override readonly name = "MissingAssetError";
  constructor(
    /** What is missing, as "kernel". */
    readonly asset: string,
    /** Where it was looked for. */
    readonly path: string,
    /** The command that makes it. */
    readonly next: string,
  ) {
    super(`the ${asset} is missing (${path}): ${next}`);
  }
}

const asset = z.object({ id: z.string().regex(/^[0-9a-f]{64}$/), path: z.string() });
const manifestSchema = z.object({
  kernel: asset,
  image: asset,
  node: asset.extend({ version: z.string(), zstdPath: z.string().optional() }),
  agent: asset,
});

/**
 * The assets that this version of the provider brings.
 * `MOBITOPOLO_ASSETS` names another manifest (or the folder of its `assets.json`): paths in it may be relative to it.
 * @throws MissingAssetError naming the command that makes what is missing
 */
export function defaultAssets(): Assets {
  const file = manifestPath();
  const manifest = readManifest(file);
  const at = <A extends Asset>(a: A): A => ({ ...a, path: isAbsolute(a.path) ? a.path : resolve(dirname(file), a.path) });
  return {
    version: packageVersion(),
    kernel: present("kernel", override("MOBITOPOLO_KERNEL") ?? at(manifest.kernel), "run `npm run kernel:build`"),
    image: present("image", override("MOBITOPOLO_IMAGE") ?? at(manifest.image), "run `npm run image:build`"),
    node: present("Node runtime", at(manifest.node), "run `npm run setup`"),
    agent: present("agent", at(manifest.agent), "run `npm run build`"),
  };
}

/** The package's own folder, whether this runs from the sources or from dist/. */
function packageDir(): string {
  const above = dirname(__dirname);
  return basename(above) === "dist" ? dirname(above) : above;
}

function manifestPath(): string {
  const given = process.env.MOBITOPOLO_ASSETS;
  if (!given) return join(packageDir(), "dist", "assets.json");
  return statSync(given, { throwIfNoEntry: false })?.isDirectory() ? join(given, "assets.json") : given;
}

function readManifest(file: string): z.infer<typeof manifestSchema> {
  if (!existsSync(file)) throw new MissingAssetError("list of assets", file, "run `npm run setup`");
  const parsed = manifestSchema.safeParse(JSON.parse(readFileSync(file, "utf8")));
  if (!parsed.success) throw new MissingAssetError("list of assets in its present form", file, "run `npm run setup`");
  return parsed.data;
}

let versionRead: string | undefined;
function packageVersion(): string {
  versionRead ??= z.object({ version: z.string() }).parse(JSON.parse(readFileSync(join(packageDir(), "package.json"), "utf8"))).version;
  return versionRead;
}

const hashed = new Map<string, string>();
/** A file named by the environment: its hash is computed once per state of the file. */
function override(variable: string): Asset | undefined {
  const given = process.env[variable];
  if (!given) return undefined;
  const path = resolve(given);
  const facts = statSync(path, { throwIfNoEntry: false });
  if (!facts) throw new MissingAssetError(`file that ${variable} names`, path, `correct ${variable}`);
  const key = `${path} ${facts.size} ${facts.mtimeMs}`;
  let id = hashed.get(key);
  if (!id) hashed.set(key, (id = createHash("sha256").update(readFileSync(path)).digest("hex")));
  return { id, path };
}

function present<A extends Asset>(what: string, found: A, next: string): A {
  if (!existsSync(found.path)) throw new MissingAssetError(what, found.path, next);
  return found;
}
