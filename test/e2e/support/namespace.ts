/** A mount namespace with a small tmpfs in it: the way to a really full disk that asks nothing of the machine. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { collect } from "./project";

/** A namespace that lives until it is disposed of. */
export interface SmallDisk extends AsyncDisposable {
  /** Commands in front of a program that is to see the tmpfs. */
  readonly wrapper: readonly string[];
  /** Writes until no more than `leaveKiB` are free. */
  fill(leaveKiB: number): Promise<void>;
  /** Regular files below the folder, as seen inside. */
  files(): Promise<string[]>;
}

/** Mounts a tmpfs of that size at `folder`, for those alone that are run with `wrapper`. An ordinary user gets a user namespace for it. */
export async function smallDisk(folder: string, sizeMiB: number): Promise<SmallDisk> {
  mkdirSync(folder, { recursive: true });
  const asRoot = process.getuid?.() === 0;
  const holder = spawn(
    "unshare",
    [
      ...(asRoot ? [] : ["--user", "--map-root-user"]),
      "--mount",
      "sh",
      "-c",
      `mount -t tmpfs -o size=${sizeMiB}M,mode=0700 tmpfs ${folder} && echo ready && exec cat`,
    ],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  await Promise.race([
    once(holder.stdout, "data"),
    once(holder, "exit").then(() => Promise.reject(new Error("the tmpfs could not be mounted"))),
  ]);
  const enter = ["nsenter", "-t", String(holder.pid), ...(asRoot ? [] : ["--user", "--preserve-credentials"]), "--mount"];
  // Entering a mount namespace leads to its root.
  const wrapper = [...enter, "sh", "-c", 'cd "$MOBITOPOLO_TEST_CWD" && exec "$@"', "sh"];
  const inside = async (script: string): Promise<string> => {
    const [command = "", ...args] = [...enter, "sh", "-c", script];
    const run = await collect(command, args, "/", process.env);
    if (run.code !== 0) throw new Error(`${script}: ${run.text}`);
    return run.stdout;
  };
  return {
    wrapper,
    async fill(leaveKiB) {
      const freeKiB = Number((await inside(`df --output=avail -k ${folder} | tail -1`)).trim());
      await inside(`dd if=/dev/zero of=${folder}/filler bs=1024 count=${Math.max(0, freeKiB - leaveKiB)} status=none`);
    },
    async files() {
      return (await inside(`find ${folder} -type f`)).split("\n").filter(Boolean);
    },
    async [Symbol.asyncDispose]() {
      const ended = once(holder, "exit");
      holder.stdin.end();
      await ended;
    },
  };
}
