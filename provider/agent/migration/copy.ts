import { open } from "node:fs/promises";
import { blockBytes, overlayVirtualBytes } from "../vm/overlay";
import type { Vm } from "../vm/vm";
import { standBack, Turns } from "../vm/weight";
import type { DirectWay } from "./direct";
import { ImagePages } from "./imagePages";
import { Inquiry } from "./inquiry";
import { type Run, RunBatch } from "./runs";
import { DiskScanner, MemoryScanner, type ScanKind } from "./scan";
import type { Sender } from "./sender";
import { pageBytes } from "./sinks";
import { frameType } from "./stream";
import { Tracking } from "./tracking";

/** A source's copy on its way out: looks for what changed, and sends it. */
export class CopyOut {
  /** The header as it was at the freeze. */
  page0: Buffer | undefined;
  /** Pages that were named only. */
  latePages = 0;
  /** Of the pass under way, or the last: its pages, and the payloads that they are in. */
  pages = 0;
  payloadBytes = 0;
  readonly #turns = new Turns();

  private constructor(
    private readonly vm: Vm,
    private readonly sender: Sender,
    private readonly memory: MemoryScanner,
    private readonly disk: DiskScanner,
    private readonly tracking: Tracking | undefined,
    private readonly image: ImagePages | undefined,
    private readonly back: Disposable | undefined,
  ) {}

  /** Of a guest that runs, the agent stands back until `standUp`. */
  static async open(vm: Vm, sender: Sender, isRunning: boolean): Promise<CopyOut> {
    using undo = new DisposableStack();
    const back = isRunning ? undo.use(standBack()) : undefined;
    const { paths } = vm;
    const disk = await DiskScanner.open(paths.diskMap, paths.disk, await overlayVirtualBytes(paths.disk));
    const kernel = await vm.kernel();
    const image = await ImagePages.of(await vm.image());
    const tracking = await Tracking.begin(vm);
    const copy = new CopyOut(vm, sender, new MemoryScanner(kernel, paths.memory, tracking?.map), disk, tracking, image, back);
    undo.move();
    return copy;
  }

  /** The next pass is the last: the guest waits for it. */
  standUp(): void {
    this.back?.[Symbol.dispose]();
  }

  /** Whether the last pass may leave something for later. */
  get mayBeLate(): boolean {
    return this.tracking?.mayBeLate === true;
  }

  /** Whether the last pass could go another way: it is the guest's kernel that says what has changed. */
  get mayBeDirect(): boolean {
    return this.tracking !== undefined;
  }

  /** The next pass may go there directly. */
  leadOn(way: DirectWay): void {
    this.memory.leadOn(way, this.disk.epoch, this.vm.paths.diskMap);
  }

  /** Bytes that went directly. */
  get sentDirectly(): number {
    return this.memory.sentDirectly;
  }

  /** Blocks that the next pass is to send. */
  get pendingBlocks(): number {
    return this.disk.pending;
  }

  /** Within a first pass: marks what has changed since it began. @returns how many pages that is; undefined where nothing tells */
  async markChanged(): Promise<number | undefined> {
    return await this.tracking?.mark();
  }

  /** How many blocks the overlay held at the last pass. */
  get blocks(): number {
    return this.disk.allocated;
  }

  /** One pass: pages, then blocks. `sent` is called after each frame. */
  async once(how: ScanKind, sent: () => void): Promise<{ scanMs: number }> {
    const pages = new RunBatch(pageBytes);
    [this.pages, this.payloadBytes] = [0, 0];
    const inquiry = how === "full" ? Inquiry.of(this.sender, "memory", pageBytes) : undefined;
    if (how === "scan") await this.tracking?.mark();
    // A guest that stands waits for the first byte, too.
    const addPages = (run: Run): boolean => pages.add(run, this.sender.packsWell && !isLast(how));
    const scan = this.memory.scan(how);
    let step = await scan.next();
    for (; !step.done; step = await scan.next()) {
      for (const told of step.value) {
        const run = this.#withoutPage0(told, how);
        if (told.data && !isLast(how)) this.#turns.worked(told.data.length);
        if (run?.isLate) this.latePages += run.count;
        this.pages += told.count;
        // What changed again is seldom what the image has, and to look for it takes time.
        const runs = !run ? [] : how === "full" && this.image ? this.image.split(run) : [run];
        for (const one of runs)
          for (const lacking of inquiry ? await inquiry.take(one) : [one])
            if (addPages(lacking)) await this.#send(frameType.memory, pages, how, sent);
      }
    }
    if (inquiry) for await (const lacking of inquiry.rest()) if (addPages(lacking)) await this.#send(frameType.memory, pages, how, sent);
    if (!pages.isEmpty) await this.#send(frameType.memory, pages, how, sent);
    await this.#blocks(how, sent);
    // Without the marks: of a guest that stands they are made at once, and by the freeze.
    return { scanMs: step.value.scanMs };
  }

  /** Of a copy whose scan does not give it: one that was released before this agent came. */
  async readPage0(): Promise<void> {
    const file = await open(this.vm.paths.memory, "r");
    try {
      this.page0 = (await file.read(Buffer.alloc(pageBytes), 0, pageBytes, 0)).buffer;
    } finally {
      await file.close();
    }
  }

  async close(): Promise<void> {
    this.standUp();
    this.memory.end();
    await this.tracking?.end();
    await this.disk.close();
  }

  async #blocks(how: ScanKind, sent: () => void): Promise<void> {
    const blocks = new RunBatch(blockBytes);
    const inquiry = how === "full" ? Inquiry.of(this.sender, "disk", blockBytes) : undefined;
    const put = async (run: Run): Promise<void> => {
      if (run.data && !isLast(how)) this.#turns.worked(run.data.length);
      if (blocks.add(run)) await this.#send(frameType.disk, blocks, how, sent);
    };
    for await (const run of this.disk.read(this.disk.changed()))
      for (const lacking of inquiry ? await inquiry.take(run) : [run]) await put(lacking);
    if (inquiry) for await (const lacking of inquiry.rest()) await put(lacking);
    if (!blocks.isEmpty) await this.#send(frameType.disk, blocks, how, sent);
  }

  /** The header travels with the last frame only. */
  #withoutPage0(run: Run, how: ScanKind): Run | undefined {
    if (run.first !== 0) return run;
    if (isLast(how) && run.data) this.page0 = Buffer.from(run.data.subarray(0, pageBytes));
    return run.count === 1 ? undefined : { ...run, first: 1, count: run.count - 1, data: run.data?.subarray(pageBytes) ?? null };
  }

  async #send(type: typeof frameType.memory | typeof frameType.disk, batch: RunBatch, how: ScanKind, sent: () => void): Promise<void> {
    const payload = batch.take();
    if (type === frameType.memory) this.payloadBytes += payload.length;
    await this.sender.send(type, payload, isLast(how) ? "soon" : "small");
    sent();
  }
}

const isLast = (how: ScanKind): boolean => how.startsWith("scan frozen");
