/**
 * Debian packages for an ordinary user: apt's own download and signature check, run over a private configuration in the project's cache.
 * Nothing is installed on the machine, none of its package state is changed.
 */
import { copyFile, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { cachePath, makeDirAtomic, sha256OfFile, withLock } from "./cache.mjs";
import { machineSources } from "./debian-sources.mjs";
import { SetupError } from "./errors.mjs";
import { run, which } from "./run.mjs";
import { size, step } from "./ui.mjs";

const INDEX_FRESH_MS = 12 * 3600_000;
/** What `backports: true` means: where kernels newer than any release's are. */
const BACKPORTS_SUITE = "trixie-backports";

/**
 * @typedef {{ name: string, version: string, architecture: string, file: string, sha256: string }} DebianPackage `file`: the .deb in the cache
 * @typedef {"all" | "missing" | "none"} Closure what comes along: all dependencies down to libc; those that the machine lacks; none
 * @typedef {{ closure?: Closure, backports?: boolean, suite?: string, say?: (line: string) => void }} FetchOptions `suite`: another suite of the
 *   machine's mirror, as "bookworm-backports", that is preferred to the machine's own release
 */

/**
 * Downloads packages into the cache, signatures and hashes checked by apt.
 * @param {readonly string[]} names @param {FetchOptions} [options] `closure` defaults to "missing"
 * @returns {Promise<DebianPackage[]>} sorted by name
 */
export async function fetchPackages(names, options = {}) {
  const say = options.say ?? step("debian").say;
  if (!(await which("apt-get")) || !(await which("dpkg-deb"))) {
    throw new SetupError(`${names.join(", ")} can't be fetched: apt-get or dpkg-deb is missing`, {
      next: "install them by the means of this machine",
    });
  }
  return withLock("apt", () => fetchLocked(names, { closure: "missing", backports: false, ...options, say }), say);
}

async function fetchLocked(names, { closure, backports, suite, say }) {
  const apt = await openApt(closure, suite ?? (backports ? BACKPORTS_SUITE : undefined), suite);
  await apt.refresh(say, false);
  const attempt = async () => {
    const wanted = await apt.plan(names);
    const missing = [];
    for (const p of wanted) if (!(await stat(p.file).catch(() => null))) missing.push(p);
    if (missing.length) {
      say(`fetching ${list(missing.map((p) => p.name))}: ${size(missing.reduce((sum, p) => sum + p.bytes, 0))}`);
      await apt.download(names);
    }
    return wanted;
  };
  let wanted;
  try {
    wanted = await attempt();
  } catch {
    // Debian drops old versions: an index of yesterday may name files that are gone.
    await apt.refresh(say, true);
    wanted = await attempt();
  }
  const packages = await Promise.all(wanted.map(describe));
  return packages.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const list = (names) => (names.length <= 6 ? names.join(", ") : `${names.slice(0, 5).join(", ")} and ${names.length - 5} more`);

/**
 * Fetches packages and unpacks them into a folder (no maintainer scripts run). Does nothing when the folder holds the same request already.
 * @param {readonly string[]} names @param {string} dir @param {FetchOptions} [options]
 * @returns {Promise<DebianPackage[]>} what it holds; also in `dir`/.packages.json
 */
export async function unpack(names, dir, options = {}) {
  const record = join(dir, ".packages.json");
  const request = {
    names: [...names].sort(),
    closure: options.closure ?? "missing",
    backports: options.backports ?? false,
    suite: options.suite,
  };
  const held = JSON.parse(await readFile(record, "utf8").catch(() => "null"));
  if (held && JSON.stringify(held.request) === JSON.stringify(request)) return held.packages;
  const packages = await fetchPackages(names, options);
  await makeDirAtomic(dir, async (temporary) => {
    for (const p of packages) await run("dpkg-deb", ["-x", p.file, temporary], { what: `unpacking ${p.name}` });
    await writeFile(join(temporary, ".packages.json"), `${JSON.stringify({ request, packages }, null, 2)}\n`);
  });
  return packages;
}

/**
 * apt-get over a private configuration: its own lists, archives and idea of what is installed.
 * @param {Closure} closure @param {string} [extra] one more suite to look in @param {string} [from] the suite that is preferred
 */
async function openApt(closure, extra, from) {
  const { codename, sources } = await machineSources();
  const base = cachePath("apt", extra ? `${codename}+${extra}` : codename);
  const archives = cachePath("apt", "archives");
  const state = join(base, closure === "missing" ? "state-machine" : "state-empty");
  const empty = join(base, "empty");
  for (const dir of [join(base, "lists/partial"), join(base, "cache"), join(archives, "partial"), join(empty, "partial"), state])
    await mkdir(dir, { recursive: true });
  const main = sources.find((s) => s.suite === codename);
  const all = extra ? [...sources, { ...main, suite: extra }] : sources;
  await writeFile(join(base, "sources.list"), all.map((s) => `deb [signed-by=${s.signedBy}] ${s.uri} ${s.suite} main\n`).join(""));
  if (closure === "missing")
    await copyFile("/var/lib/dpkg/status", join(state, "status")).catch(() => writeFile(join(state, "status"), ""));
  else await writeFile(join(state, "status"), "");
  // Read after the machine's own configuration: its proxy and certificates stay, its hooks (which may clean its caches) do not run.
  const conf = join(state, "apt.conf");
  await writeFile(
    conf,
    `#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Pre-Invoke;\n#clear DPkg::Post-Invoke;\n#clear DPkg::Pre-Invoke;\n` +
      `Dir::Etc::sourcelist "${join(base, "sources.list")}";\nDir::Etc::sourceparts "/dev/null";\nDir::Etc::preferencesparts "/dev/null";\n` +
      `Dir::State "${state}";\nDir::State::lists "${join(base, "lists")}";\nDir::State::status "${join(state, "status")}";\n` +
      `Dir::Cache "${join(base, "cache")}";\nDir::Cache::archives "${archives}";\nDir::Cache::pkgcache "pkgcache.bin";\nDir::Cache::srcpkgcache "srcpkgcache.bin";\n` +
      `Acquire::Languages "none";\nAcquire::Retries "3";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";\nAcquire::IndexTargets::deb::CNF::DefaultEnabled "false";\n` +
      `APT::Sandbox::User "";\nAPT::Install-Recommends "false";\nAPT::Keep-Downloaded-Packages "true";\nAcquire::GzipIndexes "true";\n`,
  );
  const aptGet = (args, what, cwd = archives) =>
    run("apt-get", ["-c", conf, "-q", "-y", ...args], {
      cwd,
      what,
      next: "check the network and the machine's apt sources",
      env: { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive" },
    });
  const request = (names) => [
    // Else apt prefers older packages of the machine's own release.
    ...(from ? ["-t", from] : []),
    ...(closure === "none" ? ["download", ...names] : ["install", "--download-only", "--reinstall", ...names]),
  ];
  const stamp = join(base, "updated");
  return {
    /** Fetches the package index where it is missing or old. */
    async refresh(say, force) {
      const age = await stat(stamp).then(
        (s) => Date.now() - s.mtimeMs,
        () => Number.POSITIVE_INFINITY,
      );
      if (!force && age < INDEX_FRESH_MS) return;
      say(`fetching Debian's package index (${codename}${extra ? ` and ${extra}` : ""})`);
      await aptGet(["update", "-o", "APT::Update::Error-Mode=any"], "Debian's package index");
      await writeFile(stamp, "");
    },
    /** @returns {Promise<{ name: string, file: string, bytes: number }[]>} what a download would bring */
    async plan(names) {
      // Looked at from an empty folder: apt leaves out of its list what it sees to be there already.
      const { stdout } = await aptGet(
        ["-o", `Dir::Cache::archives=${empty}`, "--print-uris", ...request(names)],
        `finding ${list([...names])}`,
        empty,
      );
      return [...stdout.matchAll(/^'[^']+' (\S+\.deb) (\d+)/gm)].map((m) => ({
        name: basename(m[1]).split("_")[0],
        file: join(archives, m[1]),
        bytes: Number(m[2]),
      }));
    },
    download: (names) => aptGet(request(names), `fetching ${list([...names])}`),
  };
}

async function describe({ file }) {
  const { stdout } = await run(
    "dpkg-deb",
    ["-W", `--showformat=${["Package", "Version", "Architecture"].map((f) => `\${${f}}`).join("\n")}`, file],
    {
      what: `reading ${basename(file)}`,
    },
  );
  const [name, version, architecture] = stdout.split("\n");
  return { name, version, architecture, file, sha256: await sha256OfFile(file) };
}
