import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { access, chmod, mkdir, readFile, rename, rm } from "node:fs/promises";
import { createConnection } from "node:net";
import { arch, homedir, platform } from "node:os";
import type { Duplex, Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { unless } from "../lib/errors";
import type { Machine, MachineFacts, Ran } from "./machine";

/** This machine: each local Host is a state folder and an agent of its own. */
export class LocalMachine implements Machine {
  readonly isLocal = true;
  constructor(readonly host: string) {}

  async facts(): Promise<MachineFacts> {
    const system = `${platform() === "linux" ? "Linux" : platform()} ${arch() === "x64" ? "x86_64" : arch()}`;
    return { home: homedir(), system, node: Number(process.versions.node.split(".")[0]) >= 24 ? process.execPath : undefined };
  }

  async readText(path: string): Promise<string | undefined> {
    return await unless(readFile(path, "utf8"), "ENOENT", "ENOTDIR");
  }

  async exists(path: string): Promise<boolean> {
    return (
      (await unless(
        access(path).then(() => true),
        "ENOENT",
        "ENOTDIR",
      )) ?? false
    );
  }

  async mkdirPrivate(path: string): Promise<void> {
    await mkdir(path, { recursive: true, mode: 0o700 });
  }

  async put(path: string, mode: number, packed: Readable, { gunzip = false } = {}): Promise<void> {
    const content = gunzip ? packed.compose(createGunzip()) : packed;
    const temporary = `${path}.${randomBytes(4).toString("hex")}.tmp`;
    try {
      await pipeline(content, createWriteStream(temporary, { flags: "wx", mode: 0o600 }));
      await chmod(temporary, mode);
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  async get(path: string): Promise<Readable> {
    return createReadStream(path);
  }

  async run(argv: readonly string[], { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<Ran> {
    const [program = "", ...args] = argv;
    const child = spawn(program, args, { cwd: "/", stdio: ["ignore", "pipe", "pipe"], timeout: timeoutMs, killSignal: "SIGKILL", signal });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (data: Buffer) => out.push(data));
    child.stderr.on("data", (data: Buffer) => err.push(data));
    return await new Promise((resolve, reject) => {
      child.once("error", reject);
      // "exit", not "close": a daemon that the program leaves behind may still hold the pipes.
      child.once("exit", (code, killedBy) =>
        setImmediate(() => {
          child.stdout.destroy();
          child.stderr.destroy();
          const stderr = Buffer.concat(err).toString();
          resolve({
            code: code ?? 1,
            stdout: Buffer.concat(out).toString(),
            stderr: killedBy ? `${stderr}\nended by ${killedBy} (limit ${timeoutMs / 1000} s)` : stderr,
          });
        }),
      );
    });
  }

  async connect(socket: string): Promise<Duplex | undefined> {
    const stream = createConnection(socket);
    return await unless(
      new Promise<Duplex>((resolve, reject) => {
        stream.once("connect", () => resolve(stream));
        stream.once("error", reject);
      }),
      "ENOENT",
      "ECONNREFUSED",
    );
  }

  close(): void {}
}
