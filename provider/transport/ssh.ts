import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import type { Duplex, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { Client, type ClientChannel, type SFTPWrapper } from "ssh2";
import { errnoOf, messageOf } from "../lib/errors";
import type { Connection } from "../schemas/host";
import { TransportError, type TransportFault } from "./errors";
import { fingerprintOf, fitsHostKey, keyType, knownKeys } from "./knownHosts";
import type { Machine, MachineFacts, Ran } from "./machine";
import { authMethods, describeMethods } from "./sshAuth";

/** `connection.ssh` with the address settled. */
export type SshTarget = Extract<Connection, { ssh: unknown }>["ssh"] & { readonly host: string };

const readyTimeoutMs = 20_000;
const keepaliveMs = 10_000;

/** A machine behind SSH. Its host key is verified always. */
export class SshMachine implements Machine {
  readonly isLocal = false;
  #sftp: Promise<SFTPWrapper> | undefined;

  private constructor(
    readonly host: string,
    readonly client: Client,
  ) {}

  /** @throws TransportError `unreachable`, `host-key` or `auth` */
  static async open(name: string, target: SshTarget, signal?: AbortSignal): Promise<SshMachine> {
    signal?.throwIfAborted();
    const methods = authMethods(name, target);
    const client = new Client();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let refusedKey: TransportError | undefined;
    const abort = () => reject(signal?.reason ?? new Error("aborted"));
    signal?.addEventListener("abort", abort, { once: true });
    client.once("ready", resolve);
    client.on("error", (error) => reject(refusedKey ?? asFault(name, target, error, describeMethods(methods))));
    client.once("close", () => reject(refusedKey ?? asFault(name, target, new Error("the connection was closed"), "")));
    const keys = keysFor(target);
    client.connect({
      host: target.host,
      port: target.port,
      username: target.user,
      readyTimeout: readyTimeoutMs,
      keepaliveInterval: keepaliveMs,
      keepaliveCountMax: 3,
      authHandler: methods,
      // A host that has several keys is asked for the one that we know.
      algorithms: { serverHostKey: { prepend: [...new Set(keys.preferred.flatMap(algorithmsOf))], append: [], remove: [] } },
      hostVerifier: (key: Buffer) => {
        refusedKey = verify(name, target, keys, key);
        return refusedKey === undefined;
      },
    });
    try {
      await promise;
      client.setNoDelay(true);
      return new SshMachine(name, client);
    } catch (error) {
      client.destroy();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  async facts(signal?: AbortSignal): Promise<MachineFacts> {
    const script =
      'echo "home=$HOME"; echo "system=$(uname -s) $(uname -m)"; n=$(command -v node 2>/dev/null) && echo "node=$n" && echo "version=$("$n" --version 2>/dev/null)"; true';
    const ran = await this.run(["sh", "-c", script], { timeoutMs: 15_000, signal });
    const values = new Map(
      ran.stdout.split("\n").flatMap((line) => {
        const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
        return key === undefined ? [] : [[key, value ?? ""]];
      }),
    );
    const home = values.get("home");
    if (!home?.startsWith("/"))
      throw new TransportError({
        host: this.host,
        kind: "unfit-host",
        step: "look at the host",
        reason: `its shell gave no home folder (${ran.stderr.trim() || ran.stdout.trim() || "no output"})`,
        next: "the SSH user needs a POSIX shell and a home folder",
      });
    const major = Number(/^v(\d+)\./.exec(values.get("version") ?? "")?.[1] ?? 0);
    return { home, system: values.get("system") ?? "unknown", node: major >= 24 ? values.get("node") : undefined };
  }

  async readText(path: string): Promise<string | undefined> {
    const sftp = await this.#files();
    return await new Promise((resolve, reject) =>
      sftp.readFile(path, (error, data) =>
        error ? (isMissing(error) ? resolve(undefined) : reject(error)) : resolve(data.toString("utf8")),
      ),
    );
  }

  async exists(path: string): Promise<boolean> {
    const sftp = await this.#files();
    return await new Promise((resolve, reject) =>
      sftp.stat(path, (error) => (error ? (isMissing(error) ? resolve(false) : reject(error)) : resolve(true))),
    );
  }

  async mkdirPrivate(path: string): Promise<void> {
    if (path === "/" || (await this.exists(path))) return;
    await this.mkdirPrivate(dirname(path));
    const sftp = await this.#files();
    const failed = await new Promise<Error | undefined>((resolve) =>
      sftp.mkdir(path, { mode: 0o700 }, (error) => resolve(error ?? undefined)),
    );
    if (failed && !(await this.exists(path))) throw this.#fault("upload", `make the folder ${path}`, messageOf(failed));
  }

  /** Through a program's input, not SFTP: one stream, where SFTP waits a round trip for every block. */
  async put(path: string, mode: number, content: Readable, { gunzip = false } = {}): Promise<void> {
    const script = `umask 077; trap 'rm -f "$1"' EXIT; ${gunzip ? "gzip -dc" : "cat"} > "$1" && chmod ${mode.toString(8)} "$1" && mv -f "$1" "$2"`;
    const channel = await this.#exec(["sh", "-c", script, "sh", `${path}.${randomBytes(4).toString("hex")}.tmp`, path]);
    const ended = collect(channel);
    const sent = pipeline(content, channel.stdin).catch((error: unknown) => error);
    const { code, stderr } = await ended;
    const failed = code === 0 ? undefined : stderr.trim() || messageOf(await sent) || `code ${code}`;
    if (failed !== undefined) throw this.#fault("upload", `write ${path}`, failed, undefined, "is the host's disk full?");
  }

  async get(path: string): Promise<Readable> {
    return (await this.#files()).createReadStream(path);
  }

  async run(argv: readonly string[], { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<Ran> {
    const channel = await this.#exec(argv);
    const { promise: late, reject } = Promise.withResolvers<never>();
    const abort = () => reject(signal?.reason ?? new Error("aborted"));
    const timer = setTimeout(
      () => reject(this.#fault("timeout", `run ${argv[0] ?? ""}`, `it did not end within ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await Promise.race([collect(channel), late]);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      channel.close();
    }
  }

  async connect(socket: string): Promise<Duplex | undefined> {
    return await new Promise((resolve, reject) =>
      this.client.openssh_forwardOutStreamLocal(socket, (error, channel) => {
        if (!error) return resolve(channel);
        // "open failed" is sshd's answer for a socket where nobody listens; "administratively prohibited" for AllowStreamLocalForwarding no.
        if (/prohibited/i.test(error.message))
          return reject(
            this.#fault(
              "unfit-host",
              "forward the agent's socket",
              error.message,
              error,
              "sshd_config of the host must not say `AllowStreamLocalForwarding no` (nor DisableForwarding)",
            ),
          );
        if (/open failed|connect failed/i.test(error.message)) return resolve(undefined);
        return reject(this.#fault("lost", "forward the agent's socket", error.message, error));
      }),
    );
  }

  close(): void {
    this.client.end();
  }

  async #exec(argv: readonly string[]): Promise<ClientChannel> {
    return await new Promise((resolve, reject) =>
      this.client.exec(argv.map(quote).join(" "), (error, channel) =>
        error ? reject(this.#fault("lost", `run ${argv[0] ?? ""}`, error.message)) : resolve(channel),
      ),
    );
  }

  async #files(): Promise<SFTPWrapper> {
    this.#sftp ??= new Promise((resolve, reject) =>
      this.client.sftp((error, sftp) =>
        error
          ? reject(
              this.#fault("unfit-host", "open SFTP", error.message, error, "sshd_config of the host needs `Subsystem sftp internal-sftp`"),
            )
          : resolve(sftp),
      ),
    );
    return await this.#sftp;
  }

  #fault(kind: TransportFault, step: string, reason: string, cause?: unknown, next?: string): TransportError {
    return new TransportError({ host: this.host, kind, step, reason, cause, ...(next === undefined ? {} : { next }) });
  }
}

/** What a program says until it has ended. */
async function collect(channel: ClientChannel): Promise<Ran> {
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  channel.on("data", (data: Buffer) => out.push(data));
  channel.stderr.on("data", (data: Buffer) => err.push(data));
  let code = 1;
  channel.once("exit", (ended: number | null) => {
    code = ended ?? 1;
  });
  return await new Promise((resolve) =>
    channel.once("close", () => resolve({ code, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() })),
  );
}

/** SFTP's "no such file" is status 2. */
const isMissing = (error: Error): boolean => "code" in error && error.code === 2;

const quote = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

interface Keys {
  readonly accepted: readonly Buffer[];
  readonly revoked: readonly Buffer[];
  readonly preferred: readonly string[];
}

function keysFor(target: SshTarget): Keys {
  if (target.hostKey !== undefined) {
    const type = target.hostKey.trim().split(/\s+/)[0] ?? "";
    return { accepted: [], revoked: [], preferred: /^(ssh-|ecdsa-)/.test(type) ? [type] : [] };
  }
  const files = [join(homedir(), ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"];
  const known = files.map((file) => knownKeys(readIfThere(file), target.host, target.port));
  const accepted = known.flatMap((keys) => keys.accepted);
  return { accepted, revoked: known.flatMap((keys) => keys.revoked), preferred: accepted.map(keyType) };
}

/** An RSA key signs with SHA-2 nowadays. */
const algorithmsOf = (type: string): ServerHostKey[] =>
  type === "ssh-rsa" ? ["rsa-sha2-512", "rsa-sha2-256"] : isServerHostKey(type) ? [type] : [];
type ServerHostKey =
  | "ssh-ed25519"
  | "ecdsa-sha2-nistp256"
  | "ecdsa-sha2-nistp384"
  | "ecdsa-sha2-nistp521"
  | "rsa-sha2-512"
  | "rsa-sha2-256";
const isServerHostKey = (type: string): type is ServerHostKey =>
  ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"].includes(type);

function readIfThere(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/** Undefined if the host has shown a key that is known to be its own. */
function verify(host: string, target: SshTarget, keys: Keys, key: Buffer): TransportError | undefined {
  const shown = `${keyType(key)} ${fingerprintOf(key)}`;
  const refuse = (reason: string, next: string) =>
    new TransportError({ host, kind: "host-key", step: `verify the SSH host key of ${target.host}:${target.port}`, reason, next });
  if (target.hostKey !== undefined) {
    if (fitsHostKey(target.hostKey, key)) return undefined;
    return refuse(
      `it shows ${shown}, which is not the one in connection.ssh.hostKey`,
      "find out why; if the host really has a new key, put it into connection.ssh.hostKey",
    );
  }
  if (keys.revoked.some((revoked) => revoked.equals(key)))
    return refuse(`its key ${shown} is marked @revoked in known_hosts`, "do not connect to it");
  if (keys.accepted.some((accepted) => accepted.equals(key))) return undefined;
  if (keys.accepted.length > 0)
    return refuse(
      `it shows ${shown}, but known_hosts has another key for it`,
      "find out why: someone may be listening in; if the host really has a new key, correct known_hosts",
    );
  return refuse(
    `its key ${shown} is not known`,
    `compare it with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_…_key.pub), then set connection.ssh.hostKey to "${fingerprintOf(key)}" or add the host to ~/.ssh/known_hosts`,
  );
}

function asFault(host: string, target: SshTarget, error: Error, tried: string): TransportError {
  const at = `${target.user}@${target.host}:${target.port}`;
  if ("level" in error && error.level === "client-authentication") {
    return new TransportError({
      host,
      kind: "auth",
      step: `log in as ${at}`,
      reason: `the host refused us (${tried})`,
      next: "give it your public key, load the key into ssh-agent, or set connection.ssh.keyFile or passwordEnv",
      cause: error,
    });
  }
  const reason = errnoOf(error) === undefined ? error.message : `${errnoOf(error)} (${error.message})`;
  return new TransportError({
    host,
    kind: "unreachable",
    step: `open the SSH connection to ${at}`,
    reason,
    next: `is the host up? Try: ssh -p ${target.port} ${target.user}@${target.host}`,
    cause: error,
  });
}
