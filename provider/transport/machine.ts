import type { Duplex, Readable } from "node:stream";

/** What ran on a machine. */
export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What the hosts that we can use have in common, before anything of ours runs there. */
export interface MachineFacts {
  readonly home: string;
  /** `Linux x86_64` */
  readonly system: string;
  /** Absolute path of a Node.js 24 or newer that the host has by itself. */
  readonly node: string | undefined;
}

/**
 * A machine as the transport sees it: files, programs, Unix sockets. It knows nothing of agents; `agent.ts` says what is done with it,
 * the same for the local machine and one behind SSH.
 */
export interface Machine {
  readonly host: string;
  facts(signal?: AbortSignal): Promise<MachineFacts>;
  /** Undefined if the file does not exist. */
  readText(path: string): Promise<string | undefined>;
  exists(path: string): Promise<boolean>;
  mkdirPrivate(path: string): Promise<void>;
  /** Writes a file as a whole: under another name first, then renamed. `gunzip`: `content` is compressed and is unpacked there. */
  put(path: string, mode: number, content: Readable, options?: { gunzip?: boolean }): Promise<void>;
  /** Reads a file there. */
  get(path: string): Promise<Readable>;
  /** Runs a program without a shell's surprises. */
  run(argv: readonly string[], options: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<Ran>;
  /** Connects to a Unix socket there; undefined if nobody listens. */
  connect(socket: string): Promise<Duplex | undefined>;
  /** Whether a path there can be read by us here. */
  readonly isLocal: boolean;
  close(): void;
}
