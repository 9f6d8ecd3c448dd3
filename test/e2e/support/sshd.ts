/** A real OpenSSH server on a loopback address, run as an ordinary user with keys and configuration of its own. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { userInfo } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { sshdProgram, type Tool } from "./tools";

/** The ordinary user that a test run by root makes for the server. */
const TEST_USER = { name: "mobi", uid: 1000, gid: 1000 };

/** Options of a server. */
export interface SshdOptions {
  /** A loopback address of its own, as 127.0.9.1. */
  readonly address: string;
}

/** A running server and all that one needs to log in to it. */
export interface Sshd extends AsyncDisposable {
  readonly address: string;
  readonly port: number;
  readonly user: string;
  readonly uid: number;
  /** As in known_hosts: `ssh-ed25519 AAAA…`. */
  readonly hostKey: string;
  readonly keyFile: string;
  /** The user's home on that «host». */
  readonly home: string;
  /** Ends the server, not the sessions that are open; waits until its port is closed. */
  stop(): Promise<void>;
  /** Starts it again at the same address, port and keys. */
  restart(): Promise<void>;
}

/** Starts a server; it ends with `stop` or disposal, which also removes its folder. */
export async function startSshd(options: SshdOptions): Promise<Sshd> {
  const asRoot = process.getuid?.() === 0;
  const user = asRoot ? TEST_USER : { name: userInfo().username, uid: userInfo().uid, gid: userInfo().gid };
  // Short: sockets live below it, and their paths must fit in 108 bytes.
  const folder = mkdtempSync("/tmp/mobi-sshd-");
  const home = join(folder, "home");
  mkdirSync(home);
  const hostKeyFile = makeKey(join(folder, "host_key"));
  const keyFile = makeKey(join(folder, "user_key"));
  const port = await freePort(options.address);
  writeFileSync(join(folder, "sshd_config"), configuration(options.address, port, folder));
  writeFileSync(join(folder, "passwd"), `root:x:0:0:root:/root:/bin/sh\n${user.name}:x:${user.uid}:${user.gid}::${home}:/bin/sh\n`);
  if (asRoot) handOver(folder, [home, hostKeyFile], user);

  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  let server = await launch(folder, asRoot, user).catch((error: unknown) => {
    remove();
    throw error;
  });
  const stop = async (): Promise<void> => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const ended = once(server, "exit");
    server.kill("SIGTERM");
    await ended;
  };
  return {
    address: options.address,
    port,
    user: user.name,
    uid: user.uid,
    hostKey: readFileSync(`${hostKeyFile}.pub`, "utf8").split(" ").slice(0, 2).join(" ").trim(),
    keyFile,
    home,
    stop,
    async restart() {
      await stop();
      server = await launch(folder, asRoot, user);
    },
    async [Symbol.asyncDispose]() {
      await stop();
      remove();
    },
  };
}

/** A new ed25519 key pair. @returns the private key's path */
export function makeKey(path: string): string {
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", path]);
  return path;
}

function configuration(address: string, port: number, folder: string): string {
  return [
    `ListenAddress ${address}`,
    `Port ${port}`,
    `HostKey ${folder}/host_key`,
    `AuthorizedKeysFile ${folder}/user_key.pub`,
    "PidFile none",
    "UsePAM no",
    // The folder lies in /tmp, which is everybody's.
    "StrictModes no",
    "PasswordAuthentication no",
    "Subsystem sftp internal-sftp",
    "",
  ].join("\n");
}

function handOver(folder: string, paths: readonly string[], user: { uid: number; gid: number }): void {
  chmodSync(folder, 0o755);
  for (const path of paths) chownSync(path, user.uid, user.gid);
}

/**
 * As an ordinary user sshd serves that user alone, which is all we need. Run by root it is made ordinary first: in a mount
 * namespace of its own whose /etc/passwd knows the test's user.
 */
async function launch(folder: string, asRoot: boolean, user: { uid: number; gid: number }): Promise<ChildProcess> {
  const sshd = copyFor(await sshdProgram(), folder);
  const run = [sshd.command, "-D", "-e", "-f", join(folder, "sshd_config")];
  const [command, ...args] = asRoot
    ? [
        "unshare",
        "-m",
        "sh",
        "-c",
        `mount --bind ${folder}/passwd /etc/passwd && exec setpriv --reuid ${user.uid} --regid ${user.gid} --clear-groups "$@"`,
        "sh",
        ...run,
      ]
    : run;
  const child = spawn(command ?? "", args, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...sshd.env } });
  const said: string[] = [];
  const lines = createInterface({ input: child.stderr });
  await new Promise<void>((resolve, reject) => {
    lines.on("line", (line) => {
      said.push(line);
      if (line.startsWith("Server listening on")) resolve();
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`sshd ended with ${code}: ${said.join(" | ")}`)));
  });
  return child;
}

/** The cache of who runs the tests may be closed to the server's user: what was unpacked there is copied to where he can read it. */
function copyFor(sshd: Tool, folder: string): Tool {
  const libraries = sshd.env.LD_LIBRARY_PATH;
  if (libraries === undefined) return sshd;
  const command = join(folder, "sshd");
  const lib = join(folder, "lib");
  if (existsSync(command)) return { command, env: { LD_LIBRARY_PATH: lib } };
  // Not cpSync: it makes relative links absolute, into the folder that cannot be read.
  execFileSync("cp", ["-L", sshd.command, command]);
  execFileSync("cp", ["-rL", libraries, lib]);
  return { command, env: { LD_LIBRARY_PATH: lib } };
}

/** A port that is free on that address now. */
export async function freePort(address: string): Promise<number> {
  const server = createServer().listen(0, address);
  await once(server, "listening");
  const bound = server.address();
  server.close();
  await once(server, "close");
  if (bound === null || typeof bound === "string") throw new Error(`no port on ${address}`);
  return bound.port;
}
