/** Where this machine gets Debian from: read out of its own apt sources (both forms), so that no mirror is written down here. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { SetupError } from "./errors.mjs";

const DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";

/**
 * @typedef {{ uri: string, suite: string, components: string[], signedBy: string }} DebianSource
 */

/** @param {string} [etc] @returns {Promise<{ codename: string, sources: DebianSource[] }>} the machine's suite and its sources of it (base, updates, security) */
export async function machineSources(etc = "/etc") {
  const release = Object.fromEntries(
    (await readFile(join(etc, "os-release"), "utf8").catch(() => ""))
      .split("\n")
      .map((l) => l.split("=").map((v) => v.replace(/^"|"$/g, "")))
      .filter((p) => p.length === 2),
  );
  const next = "use Debian, or install what is missing yourself";
  if (release.ID !== "debian")
    throw new SetupError(`this machine is ${release.PRETTY_NAME ?? "not Debian"}; packages can only be fetched on Debian`, { next });
  const codename = release.VERSION_CODENAME;
  const files = [
    join(etc, "apt/sources.list"),
    ...(await readdir(join(etc, "apt/sources.list.d")).catch(() => [])).sort().map((f) => join(etc, "apt/sources.list.d", f)),
  ];
  const all = [];
  for (const file of files) {
    const text = await readFile(file, "utf8").catch(() => "");
    if (file.endsWith(".list")) all.push(...parseOneLine(text));
    else if (file.endsWith(".sources")) all.push(...parseDeb822(text));
  }
  const ours = (s) => [codename, `${codename}-updates`, `${codename}-security`].includes(s.suite) && s.components.includes("main");
  const sources = all.filter(ours);
  if (!sources.some((s) => s.suite === codename))
    throw new SetupError(`the apt sources of this machine have no "${codename} main"`, { next });
  return { codename, sources };
}

/** @param {string} text lines as `deb [signed-by=…] URI SUITE COMPONENT…` @returns {DebianSource[]} */
export function parseOneLine(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+?)\s*(?:#.*)?$/.exec(line);
    if (!match) continue;
    const signedBy = /signed-by=(\S+)/.exec(match[1] ?? "")?.[1] ?? DEFAULT_KEYRING;
    found.push({ uri: match[2], suite: match[3], components: match[4].split(/\s+/), signedBy });
  }
  return found;
}

/** @param {string} text stanzas of `Types: deb` … @returns {DebianSource[]} */
export function parseDeb822(text) {
  const found = [];
  for (const stanza of text.split(/\n\s*\n/)) {
    const fields = parseFields(stanza);
    const words = (key) => (fields[key] ?? "").split(/\s+/).filter(Boolean);
    if (!words("types").includes("deb") || fields.enabled === "no") continue;
    // A key in the stanza itself is left to the machine's keyring, which the file form names.
    const signedBy = fields["signed-by"]?.startsWith("/") ? fields["signed-by"] : DEFAULT_KEYRING;
    for (const uri of words("uris"))
      for (const suite of words("suites")) found.push({ uri, suite, components: words("components"), signedBy });
  }
  return found;
}

function parseFields(stanza) {
  const fields = {};
  let key = "";
  for (const line of stanza.split("\n").filter((l) => !l.startsWith("#"))) {
    const match = /^([A-Za-z-]+):\s*(.*)$/.exec(line);
    if (match) fields[(key = match[1].toLowerCase())] = match[2].trim();
    else if (key && /^\s/.test(line)) fields[key] += ` ${line.trim()}`;
  }
  return fields;
}
