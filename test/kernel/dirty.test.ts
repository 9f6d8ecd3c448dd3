/** What a VM process tells about the pages that have changed: all of them, and without looking at the others. */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { expect } from "chai";
import { MemoryScanner } from "../../provider/agent/migration/scan";
import { Tracking } from "../../provider/agent/migration/tracking";
import { Control } from "../../provider/agent/vm/control";
import type { Vm as AgentVm } from "../../provider/agent/vm/vm";
import { until } from "../../provider/lib/time";
import { type ControlClient, refused } from "./support/control";
import { memoryFolder, scanAll, startSession, watchedRanges, whileFrozen } from "./support/dirty";
import { baseWithLoad, loadCounts, loadGoesOn, startChurn, startLoad } from "./support/load";
import { resumeFromCopy } from "./support/move";
import { kernelPath, Vm, type VmOptions } from "./support/vm";

const ROUNDS = 36;

describe("the tracking of changed pages", function () {
  this.timeout(600_000);
  let load: { folder: string; base: string };
  let vm: Vm;
  let control: ControlClient;
  const folders = new Set<string>();
  before(() => {
    load = baseWithLoad();
  });
  after(() => rmSync(load.folder, { recursive: true, force: true }));
  afterEach(async () => {
    await vm?.[Symbol.asyncDispose]();
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    folders.clear();
  });

  async function boot(options: VmOptions = {}): Promise<void> {
    const folder = memoryFolder();
    folders.add(folder);
    vm = await Vm.boot({ base: load.base, folder, ...options });
    control = await vm.control();
  }

  for (const userspace of ["seccomp", "ptrace"] as const) {
    it(`misses none in ${ROUNDS} rounds under load (${userspace})`, async () => {
      await boot({ memoryMiB: 96, userspace });
      await startLoad(vm);
      await startChurn(vm, "maps");
      await using reader = await startSession(vm, control);
      await reader.scan("full");
      let counts = await loadCounts(vm);
      for (let round = 1; round <= ROUNDS; round++) {
        await scanAll(control);
        await reader.scan("scan");
        if (round % 4 === 0) {
          await whileFrozen(control, async (frozen) => {
            expect(Number(frozen.dirtyPages)).to.be.greaterThan(0);
            await reader.scan("scan frozen");
            expect(reader.differing(vm), `round ${round}`).to.deep.equal([]);
          });
        }
        counts = await loadGoesOn(vm, counts);
      }
      await control.request("dirty.stop");
      await loadGoesOn(vm, counts);
    });
  }

  it("gives a copy that the guest goes on from, again and again, in either mode, also after moves that failed", async () => {
    const modes = ["seccomp", "ptrace", "ptrace", "seccomp"] as const;
    await boot({ memoryMiB: 96, userspace: "seccomp" });
    await startLoad(vm);
    await startChurn(vm, "maps");
    let counts = await loadCounts(vm);
    for (const [i, userspace] of modes.entries()) {
      await using failed = await startSession(vm, control);
      await failed.scan("full");
      await whileFrozen(control, () => failed.scan("scan frozen"));
      counts = await loadGoesOn(vm, counts);

      await using reader = await startSession(vm, control);
      await reader.scan("full");
      counts = await loadGoesOn(vm, counts);
      await scanAll(control);
      await reader.scan("scan");
      counts = await loadGoesOn(vm, counts);
      const attempt = `move-${i}`;
      await control.request("freeze", { attempt, deadmanMs: 60_000 });
      await reader.scan("scan frozen");
      expect(reader.differing(vm)).to.deep.equal([]);
      await control.request("release", { attempt });
      await control.request("quit");
      await vm.exited;
      const folder = memoryFolder();
      folders.add(folder);
      vm = await resumeFromCopy(vm, attempt, reader.copy, folder, i + 2, { base: load.base, userspace });
      control = await vm.control();
      counts = await loadGoesOn(vm, counts);
    }
  });

  it("begins the last scan when the guest stands, however early it is asked for", async () => {
    await boot({ memoryMiB: 96 });
    await startChurn(vm, "maps");
    await using reader = await startSession(vm, control);
    await reader.scan("full");
    let over = false;
    const last = reader.scan("scan frozen").finally(() => {
      over = true;
    });
    expect(await vm.shell("echo runs")).to.equal("runs\n");
    expect(over).to.equal(false);
    await whileFrozen(control, async () => {
      await last;
      expect(reader.differing(vm)).to.deep.equal([]);
    });
  });

  it("reads what a freeze's scan is past, and waits with the rest until the guest stands", async () => {
    await boot({ memoryMiB: 96 });
    await startChurn(vm, "maps");
    await using reader = await startSession(vm, control);
    await reader.scan("full");
    await scanAll(control);
    const before = reader.looked();
    reader.saySure(8192);
    let over = false;
    const last = reader.scan("scan frozen").finally(() => {
      over = true;
    });
    await until(10_000, "pages that are compared before the guest stands", async () => (reader.looked() > before ? true : undefined));
    expect(await vm.shell("echo runs")).to.equal("runs\n");
    expect(over).to.equal(false);
    reader.saySure(0);
    await whileFrozen(control, () => last);
  });

  it("lets a freeze release at once where little is left and there is time, and nowhere else", async () => {
    await boot({ memoryMiB: 64 });
    const aMinute = process.hrtime.bigint() + 60_000_000_000n;
    const freeze = (releasePages: number, releaseByNs: bigint) =>
      control.request("freeze", { attempt: "m", deadmanMs: 60_000, releasePages, releaseByNs: `${releaseByNs}` });
    const stays = async (releasePages: number, releaseByNs: bigint): Promise<void> => {
      expect((await freeze(releasePages, releaseByNs)).released).to.equal(undefined);
      expect((await control.request("status")).state).to.equal("frozen");
      await control.request("thaw", { attempt: "m" });
    };
    // Without a session nobody knows how much is left.
    await stays(1_000_000, aMinute);
    await using reader = await startSession(vm, control);
    await reader.scan("full");
    await stays(0, aMinute);
    await stays(1_000_000, process.hrtime.bigint());
    expect((await freeze(1_000_000, aMinute)).released).to.equal("1");
    expect((await control.request("status")).state).to.equal("released");
    expect(await refused(control.request("thaw", { attempt: "m" }))).to.equal("bad-state");
    expect(await refused(control.request("release", { attempt: "m" }))).to.equal("bad-state");
    // What changed last is there for the reader as ever.
    await reader.scan("scan frozen");
    expect(reader.differing(vm)).to.deep.equal([]);
    await control.request("return", { attempt: "m", epoch: 2 });
    expect(await vm.shell("echo runs")).to.equal("runs\n");
  });

  it("scans in portions, between which the guest runs; a freeze in the middle of them misses nothing", async () => {
    await boot({ memoryMiB: 96 });
    await startLoad(vm);
    await startChurn(vm, "maps");
    const { pages, left } = await control.request("dirty.start");
    expect(Number(left)).to.be.within(1, Number(pages) - 1);
    // Not yet a session whose marks mean something: all is marked, and as much is left as before.
    await whileFrozen(control, async (frozen) => {
      expect(Number(frozen.dirtyPages)).to.be.greaterThan(Number(left) / 2);
      expect((await control.request("dirty.scan")).left).to.equal(left);
    });
    await scanAll(control);
    await using reader = await startSession(vm, control);
    await reader.scan("full");
    for (let round = 0; round < 6; round++) {
      const counts = await loadCounts(vm);
      // A new scan each time, since a freeze ends the one that was under way.
      expect(Number((await control.request("dirty.scan")).left)).to.be.within(1, Number(pages) - 1);
      for (let portions = 0; portions < round % 3; portions++) await control.request("dirty.scan");
      await loadGoesOn(vm, counts);
      await whileFrozen(control, async () => {
        await reader.scan("scan frozen");
        expect(reader.differing(vm), `round ${round}`).to.deep.equal([]);
      });
    }
  });

  it("looks at what has changed, however much memory there is", async () => {
    const seen: Record<number, { told: number; frozen: number; entries: number }> = {};
    for (const touchedMiB of [16, 256]) {
      await boot({ memoryMiB: 384 });
      await startChurn(vm, "touch", touchedMiB);
      await using reader = await startSession(vm, control);
      const { told } = await reader.scan("full");
      // The first scan after that has all that the guest did meanwhile.
      await scanAll(control);
      await reader.scan("scan");
      const { tableEntries } = await scanAll(control);
      await reader.scan("scan");
      const frozen = await whileFrozen(control, () => reader.scan("scan frozen"));
      seen[touchedMiB] = { told, frozen: frozen.compared, entries: Number(tableEntries) };
      await vm[Symbol.asyncDispose]();
    }
    const [small, large] = [seen[16], seen[256]];
    if (!small || !large) throw new Error("nothing was seen");
    expect(large.told - small.told).to.be.greaterThan(230 * 256);
    // What the guest has never touched is not sent.
    expect(small.told).to.be.lessThan(64 * 256);
    // A guest that writes to a page a millisecond, and its kernel.
    for (const { frozen } of [small, large]) expect(frozen).to.be.within(1, 1500);
    // 512 entries a page table; 240 MiB have 120 tables.
    expect(large.entries).to.be.lessThan(110 * 512);
  });

  it("sends no page that the guest has freed", async () => {
    await boot({ memoryMiB: 192 });
    const fullScan = async (): Promise<number> => {
      await using reader = await startSession(vm, control);
      return (await reader.scan("full")).told;
    };
    const before = await fullScan();
    await vm.shell("mount -t tmpfs tmpfs /tmp; dd if=/dev/urandom of=/tmp/x bs=1M count=64 2>/dev/null");
    expect((await fullScan()) - before).to.be.greaterThan(62 * 256);
    await vm.shell("rm /tmp/x");
    expect((await fullScan()) - before).to.be.lessThan(8 * 256);

    // The same while a session lasts: written, freed, and some of it used again.
    await using reader = await startSession(vm, control);
    await reader.scan("full");
    await vm.shell("dd if=/dev/urandom of=/tmp/x bs=1M count=64 2>/dev/null; rm /tmp/x");
    expect(Number((await scanAll(control)).dirtyPages)).to.be.lessThan(16 * 256);
    expect((await reader.scan("scan")).told).to.be.lessThan(16 * 256);
    await vm.shell("dd if=/dev/urandom of=/tmp/y bs=1M count=32 2>/dev/null");
    await whileFrozen(control, async () => {
      expect((await reader.scan("scan frozen")).told).to.be.greaterThan(30 * 256);
      expect(reader.differing(vm)).to.deep.equal([]);
    });
  });

  it("leaves to the next scan what is marked when the first full one comes to it, but not when another full one does", async () => {
    await boot({ memoryMiB: 96 });
    await using reader = await startSession(vm, control);
    await vm.shell("mount -t tmpfs tmpfs /tmp; dd if=/dev/urandom of=/tmp/x bs=1M count=24 2>/dev/null");
    expect(Number((await scanAll(control)).dirtyPages)).to.be.greaterThan(24 * 256);
    const first = await reader.scan("full");
    const next = await reader.scan("scan");
    await vm.shell("dd if=/dev/urandom of=/tmp/x bs=1M count=24 conv=notrunc 2>/dev/null");
    await scanAll(control);
    const again = await reader.scan("full");
    expect(next.told).to.be.greaterThan(24 * 256);
    expect(again.told - first.told).to.be.greaterThan(23 * 256);
    await whileFrozen(control, async () => {
      await reader.scan("scan frozen");
      expect(reader.differing(vm)).to.deep.equal([]);
    });
  });

  it("takes a guest with more scattered pages than the host allows mappings", async () => {
    const limit = Number(readFileSync("/proc/sys/vm/max_map_count", "utf8"));
    await boot({ memoryMiB: 512 });
    await startChurn(vm, "sparse", Math.min(limit + 10_000, 100_000));
    const rounds = async (): Promise<number> => Number(await vm.shell("cat /run/churn"));
    const goesOn = async (): Promise<void> => {
      for (const before = await rounds(); (await rounds()) <= before; );
    };
    await using reader = await startSession(vm, control);
    await reader.scan("full");
    await goesOn();
    await scanAll(control);
    await reader.scan("scan");
    await whileFrozen(control, async () => {
      await reader.scan("scan frozen");
      expect(reader.differing(vm)).to.deep.equal([]);
    });
    await goesOn();
    expect(vm.log()).not.to.match(/ran out of memory on the host/);
  });

  describe("in a session", () => {
    beforeEach(() => boot());

    it("watches the process's writes while a session lasts, and not before or after", async () => {
      expect(watchedRanges(vm)).to.equal(0);
      for (let i = 0; i < 3; i++) {
        await control.request("dirty.start");
        expect(watchedRanges(vm)).to.be.greaterThan(2);
        await control.request("dirty.stop");
        expect(watchedRanges(vm)).to.equal(0);
        expect(existsSync(vm.path("run/dirty.map"))).to.equal(false);
      }
      await control.request("dirty.stop");
      expect(await vm.shell("echo runs")).to.equal("runs\n");
    });

    it("serves the client that began it, ends with it, and gives way to another's", async () => {
      await using other = await vm.control();
      expect(await refused(control.request("dirty.scan"))).to.equal("bad-state");
      await using reader = await startSession(vm, control);
      await reader.scan("full");
      expect(await refused(other.request("dirty.scan"))).to.equal("bad-state");
      expect(await refused(other.request("dirty.stop"))).to.equal("bad-state");

      await using newer = await startSession(vm, other);
      await newer.scan("full");
      expect(await refused(control.request("dirty.scan"))).to.equal("bad-state");
      const told = await reader.scan("scan").then(
        () => "nothing",
        (error: Error) => error.message,
      );
      expect(told).to.match(/tracks changes no more/);
      await scanAll(other);
      await newer.scan("scan");

      other.close();
      while (watchedRanges(vm) > 0) await control.request("status");
      await control.request("status");
      expect(existsSync(vm.path("run/dirty.map"))).to.equal(false);
    });

    it("has a reader that does not take an old scan for a new one", async () => {
      await using reader = await startSession(vm, control);
      await reader.scan("full");
      const told = await reader.scan("scan").then(
        () => "something",
        (error: Error) => error.message,
      );
      expect(told).to.match(/has made no scan/);
    });

    it("gives all to a copy that takes it slowly", async () => {
      await vm.shell("mount -t tmpfs tmpfs /mnt; dd if=/dev/urandom of=/mnt/x bs=1M count=24 2>/dev/null");
      const scanner = new MemoryScanner(kernelPath(), vm.path("memory"));
      try {
        let bytes = 0;
        for await (const runs of scanner.scan("full")) {
          for (const run of runs) bytes += run.data?.length ?? 0;
          // A link that is slower than the scanner: its pipe fills, and what comes meanwhile waits in the agent.
          await delay(20);
        }
        expect(bytes).to.be.greaterThan(24 << 20);
      } finally {
        scanner.end();
      }
    });

    it("serves an agent's copy, which compares where it cannot have one", async () => {
      using agent = await Control.connect(vm.path("run/control.sock"), 5000);
      const log = { info: () => undefined };
      const of = { live: { control: agent }, paths: { run: vm.path("run") }, uuid: "vm", context: { log } } as unknown as AgentVm;
      const tracking = await Tracking.begin(of);
      expect(tracking?.map).to.equal(vm.path("run/dirty.map"));
      const scanner = new MemoryScanner(kernelPath(), vm.path("memory"), tracking?.map);
      const scan = async (how: "full" | "scan" | "scan frozen"): Promise<{ pages: number; hasHeader: boolean }> => {
        let [pages, hasHeader] = [0, false];
        for await (const runs of scanner.scan(how)) {
          for (const run of runs) {
            pages += run.count;
            hasHeader ||= run.first === 0;
          }
        }
        return { pages, hasHeader };
      };
      try {
        const { pages } = await scan("full");
        await tracking?.mark();
        expect((await scan("scan")).pages).to.be.within(1, pages);
        await agent.say("freeze", { attempt: "m", deadmanMs: 60_000 });
        expect((await scan("scan frozen")).hasHeader).to.equal(true);
        expect(await Tracking.begin(of)).to.equal(undefined);
        await agent.say("thaw", { attempt: "m" });
        await tracking?.end();
        expect(watchedRanges(vm)).to.equal(0);
      } finally {
        scanner.end();
      }
    });

    it("lets a client go away while the guest is frozen for it", async () => {
      await using other = await vm.control();
      await other.request("dirty.start");
      await other.request("freeze", { attempt: "m", deadmanMs: 60_000 });
      expect(await refused(control.request("dirty.start"))).to.equal("bad-state");
      other.close();
      while ((await control.request("status")).state === "frozen");
      expect(watchedRanges(vm)).to.equal(0);
      expect(await vm.shell("echo runs")).to.equal("runs\n");
      await using reader = await startSession(vm, control);
      await reader.scan("full");
      await whileFrozen(control, async () => {
        await reader.scan("scan frozen");
        expect(reader.differing(vm)).to.deep.equal([]);
      });
    });
  });
});
