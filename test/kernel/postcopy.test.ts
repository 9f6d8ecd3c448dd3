/** A guest that goes on in its new place before all of its memory is there. */
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { expect } from "chai";
import { type ControlClient, refused } from "./support/control";
import { memoryFolder, startSession, whileFrozen } from "./support/dirty";
import { type LateMove, LatePages, lateMap, moveWithoutLatePages, PageClient } from "./support/late";
import { baseWithLoad, loadCounts, loadGoesOn, startChurn, startLoad } from "./support/load";
import { tool, Vm, type VmOptions } from "./support/vm";

const HELD_MIB = 32;
const PAGES_PER_MIB = 256;
const MEMORY_MIB = 128;
/** Behind the kernel's image. */
const FIRST_RAM_PAGE = 16 * PAGES_PER_MIB;

describe("a guest some of whose memory comes late", function () {
  this.timeout(300_000);
  let load: { folder: string; base: string };
  let vm: Vm;
  let control: ControlClient;
  let late: LatePages | undefined;
  const folders = new Set<string>();
  before(() => {
    load = baseWithLoad();
  });
  after(() => rmSync(load.folder, { recursive: true, force: true }));
  afterEach(async () => {
    await vm?.[Symbol.asyncDispose]();
    late?.close();
    late = undefined;
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    folders.clear();
  });

  async function boot(options: VmOptions = {}): Promise<void> {
    const folder = memoryFolder();
    folders.add(folder);
    vm = await Vm.boot({ base: load.base, folder, memoryMiB: MEMORY_MIB, ...options });
    control = await vm.control();
    await vm.shell("mount -t proc proc /proc; mount -t tmpfs tmpfs /tmp");
  }

  /** Pages that the guest's program has checked. */
  async function checked(): Promise<number> {
    const said = await vm.shell("cat /run/churn", 60_000);
    if (!/^\d+\n$/.test(said)) throw new Error(`the guest's program says: ${said}`);
    return Number(said);
  }

  /** Waits until the program has looked at so many pages more. */
  async function checkedMore(pages: number): Promise<void> {
    const before = await checked();
    while ((await checked()) < before + pages);
  }

  /** Up to `go`, with all of the program's memory late. */
  async function move(epoch: number, options: VmOptions = {}, meanwhile?: () => Promise<unknown>): Promise<LateMove> {
    const moved = await moveWithoutLatePages(vm, control, epoch, { base: load.base, memoryMiB: MEMORY_MIB, ...options }, async () => {
      await checkedMore(2 * HELD_MIB * PAGES_PER_MIB);
      await meanwhile?.();
    });
    await arrive(moved);
    expect(moved.late.missing.length).to.be.greaterThan((HELD_MIB - 2) * PAGES_PER_MIB);
    return moved;
  }

  /** The process that waits for `go` is the one that this is about. */
  async function arrive(moved: LateMove): Promise<void> {
    vm = moved.vm;
    late?.close();
    late = moved.late;
    folders.add(vm.folder);
    control = await vm.control();
  }

  const go = (attempt: string, missing: string = LatePages.map) => control.request("go", { attempt, missing });

  /** The rest comes; the guest is one like any other then. */
  async function complete({ attempt, late }: LateMove): Promise<void> {
    late.bringAll();
    expect((await control.request("status")).missingPages).to.equal("0");
    await control.request("complete", { attempt });
    const status = await control.request("status");
    expect(status.state).to.equal("run");
    expect(status).not.to.have.property("missingPages");
    expect(existsSync(vm.path("run/pages.sock"))).to.equal(false);
  }

  for (const [from, to] of [
    ["seccomp", "seccomp"],
    ["ptrace", "ptrace"],
    ["seccomp", "ptrace"],
  ] as const) {
    it(`finds all that it had, whoever touches it first (${from} to ${to})`, async () => {
      await boot({ userspace: from });
      await startChurn(vm, "hold", HELD_MIB);
      const moved = await move(2, { userspace: to }, () =>
        vm.shell("for f in /tmp/f /root/g; do dd if=/dev/urandom of=$f bs=1M count=6 2>/dev/null; sha256sum $f > $f.sum; done", 60_000),
      );
      expect(moved.late.missing.length).to.be.greaterThan((HELD_MIB + 10) * PAGES_PER_MIB);
      await go(moved.attempt);
      const client = await PageClient.connect(vm);
      client.serve(moved.late);
      expect((await control.request("status")).state).to.equal("runPartial");
      // Its tmpfs, then its page cache: written out while it is late, and read again.
      await vm.shell("sha256sum -c /tmp/f.sum", 60_000);
      await vm.shell("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum -c /root/g.sum", 60_000);
      await checkedMore(HELD_MIB * PAGES_PER_MIB);
      expect(client.asked.length).to.be.greaterThan((HELD_MIB / 2) * PAGES_PER_MIB);
      await complete(moved);
      client.close();
      await checkedMore(2 * HELD_MIB * PAGES_PER_MIB);

      await using reader = await startSession(vm, control);
      await reader.scan("full");
      await whileFrozen(control, async () => {
        await reader.scan("scan frozen");
        expect(reader.differing(vm)).to.deep.equal([]);
      });
      await checkedMore(HELD_MIB * PAGES_PER_MIB);
    });
  }

  it("moves on and on, its memory streamed while it works on it", async () => {
    await boot();
    await startChurn(vm, "hold", HELD_MIB);
    for (let epoch = 2; epoch < 6; epoch++) {
      const moved = await move(epoch, { userspace: epoch % 2 ? "seccomp" : "ptrace" });
      await go(moved.attempt);
      const client = await PageClient.connect(vm);
      client.serve(moved.late);
      for (let left = moved.late.missing; left.length > 0; left = moved.late.missing) {
        for (const page of left.slice(-64)) moved.late.bring(page);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await complete(moved);
      client.close();
      await checkedMore(HELD_MIB * PAGES_PER_MIB);
    }
  });

  it("passes every check of a guest under load, in either mode, move after move", async () => {
    await boot({ memoryMiB: 96 });
    await startLoad(vm);
    await startChurn(vm, "maps");
    let counts = await loadCounts(vm);
    for (const [i, userspace] of (["seccomp", "ptrace", "ptrace", "seccomp", "seccomp"] as const).entries()) {
      const options = { base: load.base, memoryMiB: 96, userspace };
      const moved = await moveWithoutLatePages(vm, control, i + 2, options, () => loadGoesOn(vm, counts));
      await arrive(moved);
      expect(moved.late.missing.length).to.be.greaterThan(PAGES_PER_MIB);
      await go(moved.attempt);
      const client = await PageClient.connect(vm);
      client.serve(moved.late);
      counts = await loadGoesOn(vm, await loadCounts(vm));
      expect(client.asked.length).to.be.greaterThan(0);
      await complete(moved);
      client.close();
      counts = await loadGoesOn(vm, counts);
    }
  });

  describe("that goes on", () => {
    beforeEach(async () => {
      await boot();
      // Who stands for a page is the guest then, and never the thread that reads what goes to the disk.
      expect(await vm.shell("mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /root; mount -o remount,ro / && echo ok")).to.match(
        / ro\.\nok\n$/,
      );
      await startChurn(vm, "hold", HELD_MIB);
    });

    it("stands while nobody brings what it needs, and goes on when somebody does", async () => {
      const moved = await move(2);
      await go(moved.attempt);
      const first = await PageClient.connect(vm);
      const page = await first.firstAsked();
      expect(moved.late.missing).to.include(page);
      // It has said nothing when the next two have heard what it waits for.
      let said = "";
      const status = control.request("status").then(({ state }) => {
        said = state ?? "";
      });
      first.close();
      const second = await PageClient.connect(vm);
      expect(await second.firstAsked()).to.equal(page);
      const third = await PageClient.connect(vm);
      expect(await third.firstAsked(), "a new client takes over").to.equal(page);
      expect(said).to.equal("");
      third.serve(moved.late);
      await status;
      expect(said).to.equal("runPartial");
      // Between two answers, again and again.
      let client = third;
      for (let i = 0; i < 20; i++) {
        client.close();
        client = await PageClient.connect(vm);
        await client.firstAsked();
        client.serve(moved.late);
      }
      await checkedMore(HELD_MIB * PAGES_PER_MIB);
      await complete(moved);
      client.close();
      await checkedMore(HELD_MIB * PAGES_PER_MIB);
    });

    it("obeys no freeze and no tracking before it has all, and is not complete before", async () => {
      const moved = await move(2);
      const all = moved.late.missing.length;
      await go(moved.attempt);
      const client = await PageClient.connect(vm);
      client.serve(moved.late);
      expect(await refused(control.request("freeze", { attempt: "m", deadmanMs: 1000 }))).to.equal("bad-state");
      expect(await refused(control.request("dirty.start"))).to.equal("bad-state");
      expect(await refused(control.request("complete", { attempt: moved.attempt }))).to.equal("bad-state");
      const status = await control.request("status");
      expect(Number(status.missingPages)).to.be.within(1, all);
      expect(JSON.parse(tool("header", vm.path("memory"))).state).to.equal("runPartial");
      await checkedMore(HELD_MIB * PAGES_PER_MIB);
      moved.late.bringAll();
      expect(await refused(control.request("complete", { attempt: "another" }))).to.equal("bad-state");
      await complete(moved);
      client.close();
      expect(await refused(control.request("complete", { attempt: moved.attempt }))).to.equal("bad-state");
    });

    it("ends as it would with all of its memory, or leaves a copy that says what it is", async () => {
      const moved = await move(2);
      await go(moved.attempt);
      (await PageClient.connect(vm)).serve(moved.late);
      await control.request("poweroff");
      expect(await vm.exited, vm.log()).to.deep.equal({ code: 0, signal: null });
      expect(JSON.parse(tool("header", vm.path("memory"))).state).to.equal("haltedByGuest");
      tool("cas", vm.path("memory"), "haltedByGuest", "runPartial");
      tool("cas", vm.path("memory"), "runPartial", "refused");
    });
  });

  it("takes a map of its memory, and no other", async () => {
    await boot({ memoryMiB: MEMORY_MIB });
    await startChurn(vm, "hold", HELD_MIB);
    const moved = await move(2);
    const pages = MEMORY_MIB * PAGES_PER_MIB;
    const bits = (...set: number[]): Buffer => {
      const bytes = Buffer.alloc(pages / 8);
      for (const page of set) bytes.writeUInt8((bytes[page >> 3] ?? 0) | (1 << (page & 7)), page >> 3);
      return bytes;
    };
    const bad = {
      magic: lateMap(pages, bits(), "MOBIDIRT"),
      pages: lateMap(pages - 64, bits()),
      short: lateMap(pages, bits()).subarray(0, -8),
      none: Buffer.alloc(0),
      header: lateMap(pages, bits(0)),
      kernel: lateMap(pages, bits(300)),
    };
    expect(await refused(go(moved.attempt, "not-there"))).to.equal("bad-value");
    expect(await refused(go(moved.attempt, "."))).to.equal("bad-value");
    for (const [name, bytes] of Object.entries(bad)) {
      writeFileSync(vm.path("run/bad.map"), bytes);
      expect(await refused(go(moved.attempt, "bad.map")), name).to.equal("bad-value");
      expect(JSON.parse(tool("header", vm.path("memory"))).state).to.equal("part");
    }
    // Pages that no freeze has told as late: the guest's kernel's own, or nobody's.
    const told = new Set(moved.late.missing);
    const others = Array.from({ length: pages - FIRST_RAM_PAGE }, (_, i) => FIRST_RAM_PAGE + i).filter((page) => !told.has(page));
    writeFileSync(vm.path("run/bad.map"), lateMap(pages, bits(...others)));
    expect(await refused(go(moved.attempt, "bad.map"))).to.equal("failed");
    expect((await vm.exited).code).to.equal(1);
    expect(JSON.parse(tool("header", vm.path("memory"))).state).to.equal("part");
    vm = await Vm.boot({ base: load.base, memoryMiB: MEMORY_MIB, folder: vm.folder, incoming: true });
    control = await vm.control();
    // All has come before: partial in nothing but its name.
    moved.late.bringAll();
    await go(moved.attempt);
    expect((await control.request("status")).state).to.equal("runPartial");
    await checkedMore(HELD_MIB * PAGES_PER_MIB);
    await complete(moved);
  });

  it("says late only of what a freeze was asked for, and keeps it marked for a guest that stays", async () => {
    await boot();
    await startChurn(vm, "hold", HELD_MIB);
    await using reader = await startSession(vm, control);
    await reader.scan("full");
    await checkedMore(2 * HELD_MIB * PAGES_PER_MIB);
    expect(await refused(control.request("freeze", { attempt: "m", deadmanMs: 1000, late: 2 }))).to.equal("bad-value");
    await control.request("freeze", { attempt: "m", deadmanMs: 60_000, late: 1 });
    const { late, compared } = await reader.scan("scan frozen late");
    expect(late.length).to.be.greaterThan((HELD_MIB - 2) * PAGES_PER_MIB);
    expect(compared).to.be.lessThan(4 * PAGES_PER_MIB + 4000);
    await control.request("dirty.scan");
    expect((await reader.scan("scan frozen")).late).to.deep.equal([]);
    expect(reader.differing(vm)).to.deep.equal([]);
    await control.request("thaw", { attempt: "m" });
    await checkedMore(HELD_MIB * PAGES_PER_MIB);
    await whileFrozen(control, async () => {
      expect((await reader.scan("scan frozen late")).late).to.deep.equal([]);
      expect(reader.differing(vm)).to.deep.equal([]);
    });
  });
});
