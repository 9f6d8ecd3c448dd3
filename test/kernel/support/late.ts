/** A guest that goes on while pages are missing, and the agent at its new place that has them, for tests. */
import { once } from "node:events";
import {
  closeSync,
  constants,
  copyFileSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import type { ControlClient } from "./control";
import { memoryFolder, scanAll, startSession } from "./dirty";
import { incoming } from "./move";
import type { Vm, VmOptions } from "./vm";

const PAGE = 4096;
const BITS_AT = 4096;
const RELEASED = 4;

/** The pages that travel late: the map of those that are missing, and all of them. */
export class LatePages {
  /** As `go`'s missing= wants it. */
  static readonly map = "missing.map";
  private readonly bits: Buffer;
  private readonly memory: number;
  private readonly map: number;
  private readonly waiting = new Set<number>();

  /** Makes the map; the memory file in `folder` is there, with holes for these pages. */
  constructor(
    folder: string,
    private readonly frozen: Buffer,
    pages: readonly number[],
  ) {
    this.bits = Buffer.alloc(Math.ceil(frozen.length / PAGE / 64) * 8);
    for (const page of pages) {
      this.bits.writeUInt8((this.bits[page >> 3] ?? 0) | (1 << (page & 7)), page >> 3);
      this.waiting.add(page);
    }
    const file = join(folder, "run", LatePages.map);
    writeFileSync(file, lateMap(frozen.length / PAGE, this.bits), { mode: 0o600 });
    this.map = openSync(file, "r+");
    this.memory = openSync(join(folder, "memory"), "r+");
  }

  get missing(): number[] {
    return [...this.waiting].sort((a, b) => a - b);
  }

  /** The page, then its bit. */
  bring(page: number): void {
    if (!this.waiting.delete(page)) return;
    writeSync(this.memory, this.frozen, page * PAGE, PAGE, page * PAGE);
    this.bits.writeUInt8((this.bits[page >> 3] ?? 0) & ~(1 << (page & 7)), page >> 3);
    writeSync(this.map, this.bits, page >> 3, 1, BITS_AT + (page >> 3));
  }

  bringAll(): void {
    for (const page of this.missing) this.bring(page);
  }

  close(): void {
    closeSync(this.map);
    closeSync(this.memory);
  }
}

/** The bytes of a map. */
export function lateMap(pages: number, bits: Buffer, magic = "MOBIMISS"): Buffer {
  const head = Buffer.alloc(BITS_AT);
  head.write(magic, "latin1");
  head.writeBigUInt64LE(BigInt(pages), 8);
  return Buffer.concat([head, bits]);
}

/** A client of pages.sock, which hears what the guest waits for. */
export class PageClient {
  /** All that it was asked, in order. */
  readonly asked: number[] = [];
  private rest = Buffer.alloc(0);
  private wake: () => void = () => undefined;
  private answer: ((page: number) => void) | undefined;

  private constructor(private readonly socket: Socket) {
    socket.on("error", () => undefined);
    socket.on("data", (bytes: Buffer) => {
      this.rest = Buffer.concat([this.rest, bytes]);
      for (; this.rest.length >= 8; this.rest = this.rest.subarray(8)) {
        const page = Number(this.rest.readBigUInt64LE());
        this.asked.push(page);
        this.answer?.(page);
      }
      this.wake();
    });
  }

  static async connect(vm: Vm): Promise<PageClient> {
    const socket = connect(vm.path("run/pages.sock"));
    await once(socket, "connect");
    return new PageClient(socket);
  }

  /** The page that the guest stands for: the first that was asked here. */
  async firstAsked(): Promise<number> {
    for (;;) {
      const [page] = this.asked;
      if (page !== undefined) return page;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  /** Brings what was asked, and what is. */
  serve(late: LatePages): void {
    this.answer = (page) => {
      late.bring(page);
      this.socket.write(".");
    };
    for (const page of this.asked) this.answer(page);
  }

  close(): void {
    this.socket.destroy();
  }
}

export interface LateMove {
  /** The process that waits for `go`. */
  readonly vm: Vm;
  readonly late: LatePages;
  readonly attempt: string;
}

/**
 * All of a move up to `go`: the copy without the pages that the guest has written since the last scan and that may come
 * late. `before` runs after the last scan with the guest running. The source's process is gone.
 */
export async function moveWithoutLatePages(
  vm: Vm,
  control: ControlClient,
  epoch: number,
  options: VmOptions,
  before: () => Promise<unknown> = async () => undefined,
): Promise<LateMove> {
  const attempt = `late-${process.pid}-${epoch}`;
  await using reader = await startSession(vm, control);
  await reader.scan("full");
  await scanAll(control);
  await reader.scan("scan");
  await before();
  await control.request("freeze", { attempt, deadmanMs: 60_000, late: 1 });
  const { late } = await reader.scan("scan frozen late");
  const missing = new Set(late);
  const wrong = reader.differing(vm).filter((page) => !missing.has(page));
  if (wrong.length > 0) throw new Error(`not in the copy: ${wrong.slice(0, 20).join(", ")}`);
  await control.request("release", { attempt });
  await control.request("quit");
  await vm.exited;

  const folder = memoryFolder();
  mkdirSync(join(folder, "run"), { mode: 0o700 });
  const frozen = readFileSync(vm.path("memory"));
  writeCopy(join(folder, "memory"), reader.copy, missing);
  copyFileSync(vm.path("disk.overlay"), join(folder, "disk.overlay"), constants.COPYFILE_FICLONE);
  rmSync(vm.path("memory"));
  const pages = new LatePages(folder, frozen, late);
  return { vm: await incoming(folder, attempt, epoch, options), late: pages, attempt };
}

/** With a hole for each of `without`. */
function writeCopy(path: string, copy: Buffer, without: ReadonlySet<number>): void {
  copy.writeUInt32LE(RELEASED, 8);
  const file = openSync(path, "wx", 0o600);
  try {
    ftruncateSync(file, copy.length);
    const zeros = Buffer.alloc(PAGE);
    for (let at = 0; at < copy.length; at += PAGE) {
      if (without.has(at / PAGE) || copy.compare(zeros, 0, PAGE, at, at + PAGE) === 0) continue;
      writeSync(file, copy, at, PAGE, at);
    }
  } finally {
    closeSync(file);
  }
}
