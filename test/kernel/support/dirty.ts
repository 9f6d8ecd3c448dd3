/** A tracking session of a VM and its reader, `linux tool track`, for tests. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { ScanKind } from "../../../provider/agent/migration/scan";
import { checkWords, putWords, wordRuns } from "../../../provider/agent/migration/words";
import type { ControlClient, Reply } from "./control";
import { kernelPath, type Vm } from "./vm";

const PAGE = 4096;
const RECORD_BYTES = 16;
const LOOKED_AT = 32;
const SURE_AT = 40;
const BITS_AT = 4096;
const BITS_PER_WORD = 64;

/** A folder where a guest's memory is as with an agent: on a tmpfs, which a host's tracking needs. */
export const memoryFolder = (): string => mkdtempSync("/dev/shm/mobi-vm-");

export interface Scanned {
  /** Pages that the reader told. */
  readonly told: number;
  /** Pages that it compared to find those; 0 for a full scan. */
  readonly compared: number;
  /** Pages that it told as late, in order. */
  readonly late: readonly number[];
  /** Bytes that it sent directly. */
  readonly sent: number;
}

/** `linux tool track`, with a copy of the memory made from nothing but what it tells. */
export class TrackReader implements AsyncDisposable {
  readonly copy: Buffer;
  private readonly pending: Buffer[] = [];
  private wake: () => void = () => undefined;
  private said = "";
  private readonly ended: Promise<number | null>;

  private constructor(
    private readonly child: ChildProcess,
    private readonly map: string,
    memoryBytes: number,
  ) {
    this.copy = Buffer.alloc(memoryBytes);
    child.stdout?.on("data", (bytes: Buffer) => {
      this.pending.push(bytes);
      this.wake();
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.said += text;
    });
    child.stdin?.on("error", () => undefined);
    this.ended = once(child, "close").then(([code]) => {
      this.wake();
      return code as number | null;
    });
  }

  /** Over the map of a session that has begun; each scan is checked against a comparison of all pages. */
  static open(vm: Vm, pages: number): TrackReader {
    const map = vm.path("run/dirty.map");
    const child = spawn(kernelPath(), ["tool", "track", vm.path("memory"), map, "verify"], { stdio: ["pipe", "pipe", "pipe"] });
    return new TrackReader(child, map, pages * PAGE);
  }

  /** @param way TO,KEY,EPOCH,DISKMAP */
  leadOn(way: string): void {
    this.child.stdin?.write(`direct ${way}\n`);
  }

  /** @throws Error when it ends: with what it says, as `missed: page N` */
  async scan(how: ScanKind): Promise<Scanned> {
    const late: number[] = [];
    let sent = 0;
    const before = how === "full" ? 0n : this.looked();
    this.child.stdin?.write(`${how}\n`);
    for (;;) {
      const record = await this.read(RECORD_BYTES);
      const [kind, pages, first] = [record.readUInt32LE(0), record.readUInt32LE(4), Number(record.readBigUInt64LE(8))];
      if (kind === 0) return { told: pages, compared: how === "full" ? 0 : Number(this.looked() - before), late, sent };
      if (kind === 1) (await this.read(pages * PAGE)).copy(this.copy, first * PAGE);
      else if (kind === 3) {
        const words = await this.read(Number((await this.read(8)).readBigUInt64LE(0)));
        checkWords(words, pages);
        putWords(this.copy.subarray(first * PAGE, (first + pages) * PAGE), words, wordRuns(words, 0, pages).runs);
      } else if (kind === 5) sent = first;
      else if (kind === 4) for (let page = first; page < first + pages; page++) late.push(page);
      else this.copy.fill(0, first * PAGE, (first + pages) * PAGE);
    }
  }

  /** Pages of a frozen guest's memory that differ from the copy, but for those that the guest has not used since the session began. */
  differing(vm: Vm): number[] {
    const memory = readFileSync(vm.path("memory"));
    const unused = this.unused();
    const pages: number[] = [];
    for (let at = 0; at < memory.length; at += PAGE) {
      if (memory.compare(this.copy, at, at + PAGE, at, at + PAGE) !== 0 && !unused(at / PAGE)) pages.push(at / PAGE);
    }
    return pages;
  }

  /** Whether a page is one that the guest has not used since the session began. */
  private unused(): (page: number) => boolean {
    const map = readFileSync(this.map);
    const words = Math.ceil(this.copy.length / PAGE / BITS_PER_WORD);
    return (page) => (((map[BITS_AT + words * 8 + (page >> 3)] ?? 0) >> (page & 7)) & 1) === 1;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  /** How many pages it has compared so far, as it notes in the map. */
  looked(): bigint {
    const file = openSync(this.map, "r");
    try {
      const word = Buffer.alloc(8);
      readSync(file, word, 0, 8, LOOKED_AT);
      return word.readBigUInt64LE();
    } finally {
      closeSync(file);
    }
  }

  /** Says in the kernel's place that a freeze's scan is under way, and past so many pages. */
  saySure(pages: number): void {
    const file = openSync(this.map, "r+");
    try {
      const word = Buffer.alloc(8);
      word.writeBigUInt64LE(BigInt(pages));
      writeSync(file, word, 0, 8, SURE_AT);
    } finally {
      closeSync(file);
    }
  }

  private async read(bytes: number): Promise<Buffer> {
    for (;;) {
      const have = this.pending.reduce((sum, part) => sum + part.length, 0);
      if (have >= bytes) break;
      if (this.child.exitCode !== null) throw new Error(`the reader ended with ${this.child.exitCode}: ${this.said.trim()}`);
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
    const all = Buffer.concat(this.pending.splice(0));
    if (all.length > bytes) this.pending.push(all.subarray(bytes));
    return all.subarray(0, bytes);
  }
}

/** Begins a session on this connection. */
export async function startSession(vm: Vm, control: ControlClient): Promise<TrackReader> {
  const { map, pages, left } = await control.request("dirty.start");
  if (map !== "dirty.map") throw new Error(`the map is ${map}`);
  if (Number(left) > 0) await scanAll(control);
  return TrackReader.open(vm, Number(pages));
}

/** Goes on with a scan, or makes a new one, portion by portion. @returns its last answer */
export async function scanAll(control: ControlClient): Promise<Reply> {
  let answer: Reply;
  do answer = await control.request("dirty.scan");
  while (Number(answer.left) > 0);
  return answer;
}

/** How the host's kernel maps the guest's memory in the VM's process: ranges whose writes are watched. */
export function watchedRanges(vm: Vm): number {
  return readFileSync(join("/proc", String(vm.process.pid), "smaps"), "utf8")
    .split("\n")
    .filter((line) => /^VmFlags:.* uw\b/.test(line)).length;
}

/** Freezes, lets `meanwhile` look, thaws. */
export async function whileFrozen<T>(control: ControlClient, meanwhile: (frozen: Reply) => Promise<T>): Promise<T> {
  const frozen = await control.request("freeze", { attempt: "look", deadmanMs: 60_000 });
  const result = await meanwhile(frozen);
  await control.request("thaw", { attempt: "look" });
  return result;
}
