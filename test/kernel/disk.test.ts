/** The disk: what the guest wrote is what a reader of overlay.md finds, through crashes, full hosts and copies in use. */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { appendFileSync, closeSync, copyFileSync, openSync, readSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { BLOCK_BYTES, dataOffset, hashOf, raiseEpoch, readDisk, readMap } from "./support/overlay";
import { imagePath, newFolder, Vm, type VmOptions } from "./support/vm";

const SECTOR_BYTES = 512;
const TAIL_BLOCKS = 64;

/** Deterministic numbers, so that a failure can be had again. */
class Numbers {
  constructor(private state: number) {}
  below(limit: number): number {
    this.state = (Math.imul(this.state, 1103515245) + 12345) & 0x7fffffff;
    return (this.state >> 8) % limit;
  }
}

describe("disk", function () {
  this.timeout(120_000);
  let folder: string;
  let options: VmOptions;
  /** Blocks: [0, fs) are the root file system, then random bytes of the base, then nothing up to the end. */
  let fs: number;
  let end: number;
  const vms: Vm[] = [];

  beforeEach(() => {
    folder = newFolder();
    const base = join(folder, "base");
    copyFileSync(imagePath(), base);
    fs = Math.ceil(statSync(base).size / BLOCK_BYTES);
    end = fs + 2 * TAIL_BLOCKS;
    appendFileSync(base, Buffer.alloc(fs * BLOCK_BYTES - statSync(base).size));
    // Not a whole block at its end.
    appendFileSync(base, randomBytes(TAIL_BLOCKS * BLOCK_BYTES - 20 * SECTOR_BYTES));
    options = { folder, base, diskBytes: end * BLOCK_BYTES };
  });
  afterEach(async () => {
    for (const vm of vms.splice(0)) await vm[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  });

  const boot = async (more: VmOptions = {}) => {
    const vm = await Vm.boot({ ...options, ...more });
    vms.push(vm);
    return vm;
  };
  const overlay = () => join(folder, "disk.overlay");
  const map = () => join(folder, "run/disk.map");
  const asOnDisk = () => readDisk(overlay(), options.base ?? "");
  const tail = () => asOnDisk().subarray(fs * BLOCK_BYTES);
  /** Fills sectors behind the file system with a byte, past the page cache. */
  const fill = (vm: Vm, sector: number, count: number, byte: number) => vm.shell(filling(fs, sector, count, byte));

  it("reads and writes as a model does, in pieces of any size", async () => {
    const vm = await boot();
    const model = tail();
    const numbers = new Numbers(7);
    const sectors = (end - fs) * (BLOCK_BYTES / SECTOR_BYTES);
    for (let i = 0; i < 60; i++) {
      const count = 1 + numbers.below(i % 5 ? 40 : 400);
      const at = numbers.below(sectors - count);
      const byte = 1 + i;
      await fill(vm, at, count, byte);
      model.fill(byte, at * SECTOR_BYTES, (at + count) * SECTOR_BYTES);
    }
    const seen = await vm.shell(`dd if=/dev/mbda bs=64k skip=${fs} iflag=direct 2>/dev/null | sha256sum`);
    writeFileSync(join(folder, "model"), model);
    expect(seen.split(" ")[0], "as the guest reads it").to.equal(hashOf(join(folder, "model")));
    await vm.shell("sync");
    expect(tail().equals(model), "as a reader of the overlay finds it").to.equal(true);
    await vm.kill();
    expect(tail().equals(model), "after the process was killed").to.equal(true);
  });

  it("keeps what was synced and a sound file system when the process is killed, again and again", async () => {
    for (let round = 0; round < 3; round++) {
      const vm = await boot();
      for (let i = 0; i < round; i++) expect(await vm.shell(`cat /root/kept-${i}`)).to.equal(`kept ${i}\n`);
      await vm.background(
        "i=0; while :; do i=$((i+1)); dd if=/dev/urandom of=/root/noise-$((i%20)) bs=1k count=$((i%300)); [ $((i%7)) = 0 ] && sync; done",
      );
      await vm.shell(`echo kept ${round} > /root/kept-${round}; sync`);
      await vm.kill();
      writeFileSync(join(folder, "merged"), asOnDisk().subarray(0, fs * BLOCK_BYTES));
      // Journal first (exit code 1: repaired), then there is nothing to find.
      fsck(["-fp", join(folder, "merged")], [0, 1]);
      fsck(["-fn", join(folder, "merged")], [0]);
    }
  });

  it("names exactly the blocks that were written since an epoch", async () => {
    const vm = await boot();
    const perBlock = BLOCK_BYTES / SECTOR_BYTES;
    await fill(vm, 3 * perBlock, 1, 1);
    await fill(vm, 100 * perBlock + 5, perBlock, 2);
    const first = raiseEpoch(map());
    expect(changed(first)).to.deep.equal([3, 100, 101]);
    const second = raiseEpoch(map());
    expect(changed(second)).to.deep.equal([]);
    await fill(vm, 3 * perBlock + 9, 2, 3);
    await fill(vm, 127 * perBlock, perBlock, 4);
    expect(changed(second + 1)).to.deep.equal([3, 127]);
  });

  /** Blocks behind the file system that were written in this epoch or later. */
  const changed = (epoch: number): number[] => {
    const found: number[] = [];
    readMap(map()).blocks.forEach((value, block) => {
      if (block >= fs && value >= epoch) found.push(block - fs);
    });
    return found;
  };

  it("can be copied while it is written: the last look finds all that an earlier one saw half done", async () => {
    const vm = await boot();
    await vm.background(
      `i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); ${filling(fs, 0, 4000, 0, "$((i * 131 % 12000))", "$((i % 7))")}; done; touch /tmp/stopped`,
    );
    const copy = Buffer.from(tail());
    const fd = openSync(overlay(), "r");
    let last = 1;
    const copyRound = () => {
      const since = last;
      last = raiseEpoch(map());
      for (const block of changed(since))
        readSync(fd, copy, block * BLOCK_BYTES, BLOCK_BYTES, dataOffset(end) + (fs + block) * BLOCK_BYTES);
    };
    for (let round = 0; round < 40; round++) {
      copyRound();
      await vm.shell("true");
    }
    await vm.shell("touch /tmp/stop; until [ -e /tmp/stopped ]; do sleep 0.1; done; sync");
    copyRound();
    closeSync(fd);
    expect(copy.equals(tail())).to.equal(true);
  });

  it("gives the host its room back when the guest discards", async () => {
    const vm = await boot();
    const bytes = 8 * 1048576;
    await vm.shell(`dd if=/dev/urandom of=/root/big bs=1M count=${bytes / 1048576} 2>/dev/null; sync`);
    const before = statSync(overlay()).blocks * SECTOR_BYTES;
    expect(before).to.be.greaterThan(bytes);
    await vm.shell("rm /root/big; sync; fstrim /");
    // All but blocks that it shares with others.
    expect(statSync(overlay()).blocks * SECTOR_BYTES).to.be.lessThan(before - bytes + 8 * BLOCK_BYTES);
    await vm.kill();
    writeFileSync(join(folder, "merged"), asOnDisk().subarray(0, fs * BLOCK_BYTES));
    fsck(["-fp", join(folder, "merged")], [0, 1]);
    fsck(["-fn", join(folder, "merged")], [0]);
  });

  it("gives the guest EIO when the host has no room, harms nothing, and counts it", async () => {
    const room = (fs + TAIL_BLOCKS) * BLOCK_BYTES;
    const vm = await boot({ fileLimitBytes: Math.ceil(room / 1048576) * 1048576 });
    const model = tail();
    const perBlock = BLOCK_BYTES / SECTOR_BYTES;
    const fault = await fill(vm, 126 * perBlock + 3, 5, 9).then(
      () => "none",
      (error: Error) => error.message,
    );
    expect(fault).to.match(/I\/O error/);
    await fill(vm, 2 * perBlock, 3, 8);
    model.fill(8, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 3 * SECTOR_BYTES);
    await vm.shell("sync; echo still > /root/file; sync");
    expect(tail().equals(model)).to.equal(true);
    await using control = await vm.control();
    const stats = await control.request("disk.stats");
    expect(Number(stats.noSpace)).to.equal(1);
    expect(Number(stats.errors)).to.equal(1);
  });

  it("refuses a base of another size or hash, with code 1 and its name in the log", async () => {
    const wrongHash = Vm.start({ ...options, args: [`mobi.basehash=${"0".repeat(64)}`] });
    vms.push(wrongHash);
    expect((await wrongHash.exited).code).to.equal(1);
    expect(wrongHash.log()).to.include("the overlay is of another base");
    appendFileSync(options.base ?? "", Buffer.alloc(SECTOR_BYTES));
    const wrongSize = Vm.start(options);
    vms.push(wrongSize);
    expect((await wrongSize.exited).code).to.equal(1);
    expect(wrongSize.log()).to.include("another size");
  });

  it("boots from the hash that the overlay names", async () => {
    const vm = await boot({ args: ["init=/bin/sh", `mobi.basehash=${hashOf(options.base ?? "")}`] });
    expect(await vm.shell("echo fine")).to.equal("fine\n");
  });
});

/** A guest's command that fills sectors with one byte. */
function filling(
  fsBlocks: number,
  sector: number,
  count: number,
  byte: number,
  sectorText = String(sector),
  byteText = String(byte),
): string {
  const start = `$((${fsBlocks * (BLOCK_BYTES / SECTOR_BYTES)} + ${sectorText}))`;
  return `b=$(printf %03o $((${byteText}))); dd if=/dev/zero bs=512 count=${count} 2>/dev/null | tr '\\000' "\\\\$b" | dd of=/dev/mbda bs=512 seek=${start} conv=notrunc,fsync iflag=fullblock oflag=direct 2>&1 | { ! grep -i error; }`;
}

function fsck(args: string[], allowed: number[]): void {
  let code = 0;
  let output = "";
  try {
    output = execFileSync("e2fsck", args, { encoding: "utf8", stdio: "pipe", env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` } });
  } catch (error) {
    const failed = error as { status: number | null; stdout: string; stderr: string };
    code = failed.status ?? 255;
    output = failed.stdout + failed.stderr;
  }
  expect(allowed, `e2fsck ${args.join(" ")}:\n${output}`).to.include(code);
}
