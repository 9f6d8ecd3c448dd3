/** What a guest has of its devices after it went on in another process. */
import { createHash, randomBytes } from "node:crypto";
import { rmSync, statSync } from "node:fs";
import { expect } from "chai";
import { release, resume, resumeElsewhere, resumeHere } from "./support/move";
import { BLOCK_BYTES, endOfData, readMap } from "./support/overlay";
import { imagePath, Vm } from "./support/vm";

describe("a guest in a new process", function () {
  this.timeout(120_000);
  let vm: Vm;
  const folders = new Set<string>();
  beforeEach(async () => {
    vm = await Vm.boot();
  });
  afterEach(async () => {
    await vm[Symbol.asyncDispose]();
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    folders.clear();
  });
  const elsewhere = async (epoch = 2) => {
    folders.add(vm.folder);
    vm = await resumeElsewhere(vm, epoch);
    folders.add(vm.folder);
  };

  it("has its console's ring, and a terminal that works", async () => {
    await vm.shell("echo before-the-move");
    await elsewhere();
    const { socket, reader } = await vm.stream("console.sock");
    await reader.until(/Linux version 7\.[\s\S]*before-the-move/);
    socket.destroy();
    expect(await vm.shell("echo after")).to.equal("after\n");
  });

  it("has its disk: what was written and not flushed, what comes after, and a map that names all of it", async () => {
    await vm.shell("dd if=/dev/urandom of=/root/a bs=64k count=40 2>/dev/null; sha256sum /root/a > /root/sum");
    await elsewhere();
    await vm.shell("echo 3 > /proc/sys/vm/drop_caches 2>/dev/null; sha256sum -c /root/sum");
    const map = readMap(vm.path("run/disk.map"));
    expect(map.epoch).to.equal(1);
    expect(new Set(map.blocks)).to.deep.equal(new Set([0, 1]));
    await vm.shell(
      "dd if=/dev/urandom of=/root/b bs=64k count=40 2>/dev/null; sha256sum /root/b > /root/sum-b; sync; sha256sum -c /root/sum-b",
    );
    await vm.kill();
    vm = await Vm.boot({ folder: vm.folder, epoch: 9 });
    await vm.shell("cd /; sha256sum -c /root/sum && sha256sum -c /root/sum-b");
  });

  it("knows at a resume what was allocated and never flushed; a cold boot forgets it", async () => {
    const base = Math.ceil(statSync(imagePath()).size / BLOCK_BYTES);
    // Past the file system and the page cache, so that nothing flushes it.
    const block = base + 7;
    await vm.shell(`dd if=/dev/urandom of=/dev/mbda bs=64k seek=${block} count=1 oflag=direct conv=notrunc 2>/dev/null`);
    const sum = () => vm.shell(`dd if=/dev/mbda bs=64k skip=${block} count=1 iflag=direct 2>/dev/null | sha256sum`);
    const before = await sum();
    const attempt = await release(vm);
    const end = endOfData(vm.path("disk.overlay"));
    expect(statSync(vm.path("disk.overlay")).size, "the bits of the freeze").to.be.greaterThan(end);
    vm = await resume(vm.folder, attempt, 2);
    folders.add(vm.folder);
    expect(await sum()).to.equal(before);
    await vm.kill();
    vm = await Vm.boot({ folder: vm.folder, epoch: 9 });
    expect(statSync(vm.path("disk.overlay")).size).to.equal(end);
  });

  it("keeps its disk right while it is busy, over many moves", async () => {
    await vm.background(
      "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); dd if=/dev/urandom of=/root/w-$((i%9)) bs=4k count=$((i%60+1)) 2>/dev/null; sha256sum /root/w-$((i%9)) > /root/s-$((i%9)); done; touch /tmp/stopped",
    );
    for (let epoch = 2; epoch < 10; epoch++) {
      if (epoch % 2) await elsewhere(epoch);
      else vm = await resumeHere(vm, epoch);
      await vm.shell("ls /root > /dev/null");
    }
    folders.add(vm.folder);
    await vm.shell("touch /tmp/stop; until [ -e /tmp/stopped ]; do sleep 0.1; done; sync");
    await vm.shell("echo 3 > /proc/sys/vm/drop_caches 2>/dev/null; for s in /root/s-*; do sha256sum -c $s || exit 1; done");
  });

  it("sees the end of its command stream, and the next one is whole", async () => {
    await vm.background("exec 3<>/dev/mobi; cat <&3 >/tmp/first; cat <&3 >/tmp/second");
    const old = await vm.stream("guest.sock");
    old.socket.write("the old stream");
    await elsewhere();
    await old.reader.end();
    const { socket } = await vm.stream("guest.sock");
    const bytes = randomBytes(500_000);
    socket.end(bytes);
    const sum = createHash("sha256").update(bytes).digest("hex");
    await vm.shell(`until [ "$(sha256sum < /tmp/second)" = "${sum}  -" ]; do sleep 0.05; done`);
    expect(await vm.shell("cat /tmp/first")).to.equal("the old stream");
  });

  it("obeys on its control socket: halt, statistics, pin", async () => {
    await vm.shell("echo x > /root/x; sync");
    vm = await resumeHere(vm, 2);
    folders.add(vm.folder);
    await using control = await vm.control();
    await control.request("pin", { cpu: 0 });
    expect(Number((await control.request("disk.stats")).allocated)).to.be.greaterThan(0);
    await control.request("poweroff");
    expect(await vm.exited, vm.log()).to.deep.equal({ code: 0, signal: null });
  });
});
