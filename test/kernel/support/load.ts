/** The guest program that checks all the time what a move could damage (../guest/load.c; churn.c: with its mappings), on a disk of its own. */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { imagePath, newFolder, type Vm } from "./vm";

const guestPrograms = ["load", "churn"];

/** A base image with /usr/bin/load and /usr/bin/churn in it, in a folder that the caller removes. */
export function baseWithLoad(): { folder: string; base: string } {
  const folder = newFolder();
  const base = join(folder, "base.ext4");
  copyFileSync(imagePath(), base);
  for (const name of guestPrograms) {
    const program = join(folder, name);
    const source = join(__dirname, "../guest", `${name}.c`);
    execFileSync("gcc", ["-O1", "-static", "-mfsgsbase", "-pthread", "-o", program, source], { stdio: "pipe" });
    for (const command of [`write ${program} /usr/bin/${name}`, `set_inode_field /usr/bin/${name} mode 0100755`]) {
      execFileSync(debugfs(), ["-w", "-R", command, base], { stdio: "pipe" });
    }
  }
  return { folder, base };
}

/** Starts it in a guest whose init is a shell. */
export async function startLoad(vm: Vm): Promise<void> {
  await vm.shell(
    "mount -t proc proc /proc 2>/dev/null; mount -t tmpfs tmpfs /tmp; (load /tmp/load </dev/null >/dev/null 2>&1 &); until [ -s /tmp/load ]; do sleep 0.05; done",
  );
}

/** Starts ../guest/churn.c in it and waits until that is at work. */
export async function startChurn(vm: Vm, what: "maps" | "touch" | "sparse" | "hold", ...words: readonly number[]): Promise<void> {
  await vm.shell(
    `mount -t tmpfs tmpfs /run 2>/dev/null; (churn ${what} ${words.join(" ")} /run/churn </dev/null >/dev/null 2>&1 &); until [ -s /run/churn ]; do sleep 0.05; done`,
    120_000,
  );
}

/** How often each check was passed. @throws Error with what a check found wrong */
export async function loadCounts(vm: Vm): Promise<Record<string, number>> {
  // Not as fast as it can: the console takes four clients at a time, and one shell command is one of them.
  const [line = "", churn = ""] = (await vm.shell("sleep 0.2; cat /tmp/load; cat /run/churn 2>/dev/null || true")).split("\n");
  if (churn.startsWith("FAIL")) throw new Error(`the guest's mappings: ${churn}`);
  if (!line.startsWith("sum=")) throw new Error(`the guest's checks say: ${line}`);
  return Object.fromEntries(
    line
      .split(" ")
      .map((pair) => pair.split("=") as [string, string])
      .map(([name, count]) => [name, Number(count)]),
  );
}

/** Waits until every check was passed at least once more than in `before`. @throws Error when one stands still */
export async function loadGoesOn(vm: Vm, before: Record<string, number>): Promise<Record<string, number>> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const now = await loadCounts(vm);
    const still = Object.keys(now).filter((name) => (now[name] ?? 0) <= (before[name] ?? 0));
    if (still.length === 0) return now;
    if (Date.now() > deadline) throw new Error(`${still.join(", ")} stand still at ${JSON.stringify(now)}`);
  }
}

/** e2fsprogs is not on an ordinary user's PATH everywhere. */
function debugfs(): string {
  return ["/usr/sbin/debugfs", "/sbin/debugfs"].find((path) => existsSync(path)) ?? "debugfs";
}
