/** The last pages' direct way: from the scanner beside a guest that stands to the process that waits for it. */
import { createCipheriv, randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, mkdirSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { RunBatch } from "../../provider/agent/migration/runs";
import { until } from "../../provider/lib/time";
import type { ControlClient } from "./support/control";
import { memoryFolder, scanAll, startSession, type TrackReader } from "./support/dirty";
import { incoming, release } from "./support/move";
import { Vm } from "./support/vm";
import { directionKey } from "./support/wire";

const page = 4096;
const textBytes = 1200;
const [source, target] = ["source", "target"].map((name) => Buffer.from(name.padEnd(8, "\0"))) as [Buffer, Buffer];

/** An LZ4 block that holds its bytes as they are. */
function packed(bytes: Buffer): Buffer {
  const more = bytes.length - 15;
  return Buffer.concat([Buffer.from([0xf0]), Buffer.alloc(Math.floor(more / 255), 255), Buffer.from([more % 255]), bytes]);
}

function datagrams(key: Buffer, text: Buffer, alter: (block: Buffer) => Buffer = (block) => block): Buffer[] {
  const block = alter(packed(text));
  const total = Math.ceil(block.length / textBytes);
  return Array.from({ length: total }, (_, i) => datagram(key, block.subarray(i * textBytes, (i + 1) * textBytes), i, total));
}

function datagram(key: Buffer, text: Buffer, index: number, total: number): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt8(1, 0);
  header.writeUInt32BE(total, 4);
  header.writeBigUInt64BE(BigInt(index), 8);
  const cipher = createCipheriv("aes-256-gcm", directionKey(key, "gcm", source, target), header.subarray(4)).setAAD(header);
  return Buffer.concat([header, cipher.update(text), cipher.final(), cipher.getAuthTag()]);
}

const flipped = (bytes: Buffer, at: number): Buffer =>
  Buffer.concat([bytes.subarray(0, at), Buffer.from([(bytes[at] ?? 0) ^ 1]), bytes.subarray(at + 1)]);

/** Page 0 and the pages of `list`, as a scanner writes them. */
function textOf(page0: Buffer, list: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(page0.length);
  return Buffer.concat([length, page0, list]);
}

async function send(bind: string, all: readonly Buffer[]): Promise<void> {
  const socket = createSocket("udp4");
  const [host, port] = bind.split(":") as [string, string];
  try {
    for (const one of all)
      await new Promise((resolve, reject) => socket.send(one, Number(port), host, (error) => (error ? reject(error) : resolve(undefined))));
  } finally {
    socket.close();
  }
}

/** What is written to the disk from here on has this epoch or a later one. */
function nextEpoch(vm: Vm): number {
  const map = openSync(vm.path("run/disk.map"), "r+");
  try {
    const word = Buffer.alloc(8);
    readSync(map, word, 0, 8, 8);
    const next = word.readBigUInt64LE() + 1n;
    word.writeBigUInt64LE(next);
    writeSync(map, word, 0, 8, 8);
    return Number(next);
  } finally {
    closeSync(map);
  }
}

const runs = (control: ControlClient): Promise<unknown> =>
  until(10_000, "the guest goes on by itself", async () => ((await control.request("status")).state === "run" ? true : undefined));

describe("the direct way of the last pages", function () {
  this.timeout(120_000);
  const open: AsyncDisposable[] = [];
  const folders = new Set<string>();
  afterEach(async () => {
    for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    folders.clear();
  });

  describe("at the process that waits", () => {
    const key = randomBytes(32);
    let vm: Vm;
    let control: ControlClient;
    let attempt: string;
    let page0: Buffer;
    let list: Buffer;
    let last: string;

    beforeEach(async () => {
      const first = await Vm.boot();
      attempt = await release(first);
      const memory = readFileSync(first.path("memory"));
      page0 = memory.subarray(0, 1024);
      // One of the kernel's variables' pages: without it, no guest.
      const lacking = Array.from({ length: 512 }, (_, i) => 2048 + i).filter((n) =>
        memory.subarray(n * page, (n + 1) * page).some((byte) => byte !== 0),
      );
      const batch = new RunBatch(page);
      const file = openSync(first.path("memory"), "r+");
      for (const n of lacking.slice(0, 8)) {
        batch.add({ first: n, count: 1, data: memory.subarray(n * page, (n + 1) * page) });
        writeSync(file, randomBytes(page), 0, page, n * page);
      }
      list = batch.take();
      closeSync(file);
      vm = await incoming(first.folder, attempt, 7);
      folders.add(vm.folder);
      control = await vm.control();
      open.push(vm, control);
      last = vm.path("last");
      writeFileSync(last, list);
    });

    const listen = async (): Promise<string> => {
      const { bind } = await control.request("direct", { attempt, epoch: 7, key: key.toString("hex"), bind: "127.0.0.1:0" });
      return bind as string;
    };

    it("goes on by itself when all of them are there, in whatever order, beside whatever else comes", async () => {
      const all = datagrams(key, textOf(page0, list));
      expect(all.length).to.be.greaterThan(20);
      const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = all;
      const bind = await listen();
      await send(bind, [
        Buffer.alloc(0),
        Buffer.from("x"),
        randomBytes(1232),
        randomBytes(9000),
        flipped(first, 40),
        flipped(first, 15),
        flipped(first, 7),
        first.subarray(0, -1),
        ...datagrams(randomBytes(32), textOf(page0, list)),
        // Sealed rightly, and not of a set as it is made.
        datagram(key, Buffer.alloc(10), 64, 65),
        datagram(key, Buffer.alloc(10), 3, 64),
      ]);
      expect((await control.request("status")).state).to.equal("part");
      const shuffled = [...all.slice(7), second, first, second, ...all.slice(2, 7)];
      await send(bind, shuffled.slice(0, -1));
      expect((await control.request("status")).state).to.equal("part");
      await send(bind, shuffled.slice(-1));
      await runs(control);
      const { epoch, resumedAtNs } = await control.request("status");
      expect(Number(epoch)).to.equal(7);
      expect(Number(process.hrtime.bigint() - BigInt(resumedAtNs as string))).to.be.within(0, 60e9);
      expect(await vm.shell("echo runs")).to.equal("runs\n");
      await control.request("direct", { attempt, off: 1 }).then(
        () => expect.fail("it heard that while its guest ran"),
        (error: Error) => expect(error.message).to.match(/bad-state/),
      );
    });

    it("goes on only by its agent's word once that has ended it, or where one is missing", async () => {
      const all = datagrams(key, textOf(page0, list));
      const bind = await listen();
      await send(bind, all.slice(1));
      await control.request("direct", { attempt, off: 1 });
      await send(bind, all).catch(() => undefined);
      expect((await control.request("status")).state).to.equal("part");
      await control.request("go", { attempt, last });
      expect(await vm.shell("echo runs")).to.equal("runs\n");
    });

    it("touches nothing where they are wrong, and takes one set only", async () => {
      const wrong: Readonly<Record<string, Buffer[]>> = {
        "the list ends early": datagrams(key, textOf(page0, list.subarray(0, -1))),
        "the list goes on": datagrams(key, textOf(page0, Buffer.concat([list, Buffer.alloc(3)]))),
        "no list": datagrams(key, Buffer.concat([Buffer.from("00001001", "hex"), Buffer.alloc(5000)])),
        "no header": datagrams(key, textOf(Buffer.alloc(1024), list)),
        "of another size": datagrams(key, textOf(flipped(page0, 18), list)),
        "another kernel's": datagrams(key, textOf(flipped(page0, 96), list)),
        "packed wrongly": datagrams(key, textOf(page0, list), (block) => block.subarray(0, -1)),
      };
      const before = readFileSync(vm.path("memory"));
      for (const [how, all] of Object.entries(wrong)) {
        const bind = await listen();
        await send(bind, all);
        expect((await control.request("status")).state, how).to.equal("part");
        // Nobody listens there any more.
        await send(bind, datagrams(key, textOf(page0, list))).catch(() => undefined);
        expect((await control.request("status")).state, how).to.equal("part");
        expect(readFileSync(vm.path("memory")).equals(before), how).to.equal(true);
      }
      await control.request("go", { attempt, last });
      expect(await vm.shell("echo runs")).to.equal("runs\n");
    });

    it("says what is wrong with the words for it", async () => {
      const good = { attempt, epoch: 7, key: key.toString("hex"), bind: "127.0.0.1:0" };
      for (const [change, answer] of [
        [{ attempt: "another" }, /bad-state the copy is of another attempt/],
        [{ key: "00" }, /bad-value key is 64 hex digits/],
        [{ bind: "here" }, /bad-value bind is IP:PORT/],
        [{ epoch: "x" }, /bad-value/],
      ] as const)
        await control.request("direct", { ...good, ...change }).then(
          () => expect.fail(`it took ${JSON.stringify(change)}`),
          (error: Error) => expect(error.message).to.match(answer),
        );
    });
  });

  describe("from the scanner", () => {
    let vm: Vm;
    let control: ControlClient;
    let reader: TrackReader;

    beforeEach(async () => {
      const folder = memoryFolder();
      folders.add(folder);
      vm = await Vm.boot({ folder, memoryMiB: 96 });
      open.push(vm);
      control = await vm.control();
      open.push(control);
      reader = await startSession(vm, control);
      open.push(reader);
      await reader.scan("full");
    });

    it("moves a guest before its reader hears of the pages", async () => {
      await vm.shell("echo before >/root/told");
      await scanAll(control);
      await reader.scan("scan");
      const attempt = "direct";
      const folder = memoryFolder();
      folders.add(folder);
      mkdirSync(join(folder, "run"), { mode: 0o700 });
      reader.copy.set(readFileSync(vm.path("memory")).subarray(0, page));
      reader.copy.writeUInt32LE(4, 8);
      writeFileSync(join(folder, "memory"), reader.copy, { mode: 0o600 });
      const next = await incoming(folder, attempt, 2);
      open.push(next);
      await using there = await next.control();
      const key = randomBytes(32).toString("hex");
      const { bind } = await there.request("direct", { attempt, epoch: 2, key, bind: "127.0.0.1:0" });
      reader.leadOn(`${bind},${key},${nextEpoch(vm)},${vm.path("run/disk.map")}`);
      const pass = reader.scan("scan frozen direct");
      const releaseByNs = `${process.hrtime.bigint() + 10_000_000_000n}`;
      await control.request("freeze", { attempt, deadmanMs: 60_000, releasePages: 24_576, releaseByNs });
      await runs(there);
      expect((await pass).sent).to.be.greaterThan(100);
      expect(await next.shell("cat /root/told")).to.equal("before\n");
    });

    it("goes by the reader only where the guest is not released, or a block has changed", async () => {
      const key = randomBytes(32).toString("hex");
      const deaf = createSocket("udp4");
      let heard = 0;
      let epoch = 10;
      deaf.on("message", () => (heard += 1));
      deaf.bind(0, "127.0.0.1");
      await once(deaf, "listening");
      try {
        const to = `127.0.0.1:${deaf.address().port},${key}`;
        const freeze = async (attempt: string, more: Readonly<Record<string, number | string>>): Promise<number> => {
          const pass = reader.scan("scan frozen direct");
          const { released } = await control.request("freeze", { attempt, deadmanMs: 60_000, ...more });
          const { sent } = await pass;
          if (released === "1") await control.request("return", { attempt, epoch: (epoch += 1) });
          else await control.request("thaw", { attempt });
          return sent;
        };
        const soon = { releasePages: 24_576, releaseByNs: `${process.hrtime.bigint() + 60_000_000_000n}` };
        reader.leadOn(`${to},${nextEpoch(vm)},${vm.path("run/disk.map")}`);
        expect(await freeze("not-released", {}), "not released").to.equal(0);
        // Blocks that were written before, or then.
        reader.leadOn(`${to},0,${vm.path("run/disk.map")}`);
        expect(await freeze("a-block", soon), "a block").to.equal(0);
        expect(await freeze("no-way", soon), "a way is for one set").to.equal(0);
        reader.leadOn(`${to},${nextEpoch(vm)},${vm.path("run/no map")}`);
        expect(await freeze("no-map", soon), "no map").to.equal(0);
        reader.leadOn(`${to},${nextEpoch(vm)},${vm.path("run/disk.map")}`);
        expect(await freeze("sent", soon), "sent").to.be.greaterThan(100);
        await until(5000, "datagrams", async () => (heard > 0 ? true : undefined));
      } finally {
        deaf.close();
      }
    });
  });
});
