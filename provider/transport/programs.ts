/** Versions as agents say them: `0.1.0+<12 hex digits of the program's hash>`. */
interface Version {
  readonly numbers: readonly number[];
  readonly prerelease: string;
  readonly build: string;
}

function parse(text: string): Version {
  const [release = "", build = ""] = text.split("+");
  const dash = release.indexOf("-");
  const core = dash < 0 ? release : release.slice(0, dash);
  return { numbers: core.split(".").map(Number), prerelease: dash < 0 ? "" : release.slice(dash + 1), build };
}

/** Our version of the agent's program, from its package version and its file's hash. */
export const versionOf = (packageVersion: string, programId: string): string => `${packageVersion}+${programId.slice(0, 12)}`;

/**
 * Whether our program should take the place of a running one: a newer release does, an older one never does, and of one release another
 * build does (as in development, where the last one built is the one that is wanted).
 */
export function shouldReplace(running: string, ours: string): boolean {
  const a = parse(running);
  const b = parse(ours);
  for (let index = 0; index < 3; index++) {
    const difference = (b.numbers[index] ?? 0) - (a.numbers[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  // A release is newer than its pre-releases (semver).
  if (a.prerelease !== b.prerelease) return b.prerelease === "" || (a.prerelease !== "" && b.prerelease > a.prerelease);
  return a.build !== b.build;
}
