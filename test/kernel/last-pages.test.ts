/** `go last=`: the pages that changed last are put into place by the process that becomes the guest. */
import { closeSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { expect } from "chai";
import { RunBatch } from "../../provider/agent/migration/runs";
import { incoming, release } from "./support/move";
import { Vm } from "./support/vm";

const page = 4096;

/** Eight neighbouring words of a page, as if they had changed. */
const wordsOf = (bytes: Buffer, piece: number): Buffer =>
  Buffer.concat([Buffer.alloc(64).fill(0xff, piece, piece + 1), bytes.subarray(64 * piece, 64 * (piece + 1))]);

/**
 * Breaks a piece of each page that holds the kernel's variables or the code of its stubs, and fills one that is zero.
 * @returns what mends that, and the pages with the stubs' code (where the process that waits has nothing of the file mapped) and with zeros
 */
function damage(file: string): { list: Buffer; stubs: number; zero: number } {
  const memory = readFileSync(file);
  const bytesOf = (n: number): Buffer => memory.subarray(n * page, (n + 1) * page);
  const holds = (n: number): boolean => bytesOf(n).some((byte) => byte !== 0);
  let stubs = 1;
  // Before the variables, it is all of the kernel's image that is in the memory.
  while (!holds(stubs)) stubs += 1;
  let zero = memory.length / page - 1;
  while (holds(zero)) zero -= 1;
  const mending = new RunBatch(page);
  const fd = openSync(file, "r+");
  const numbers = [stubs, ...Array.from({ length: 512 }, (_, i) => 2048 + i)].filter(holds);
  expect(numbers.length).to.be.greaterThan(50);
  for (const n of numbers) {
    const piece = (7 * n) % 64;
    if (n % 64 === 5) mending.add({ first: n, count: 1, data: bytesOf(n) });
    else mending.add({ first: n, count: 1, data: wordsOf(bytesOf(n), piece), isWords: true });
    writeSync(fd, Buffer.alloc(64, 0xa5), 0, 64, n * page + 64 * piece);
  }
  mending.add({ first: zero, count: 1, data: null });
  writeSync(fd, Buffer.alloc(page, 0xa5), 0, page, zero * page);
  closeSync(fd);
  return { list: mending.take(), stubs, zero };
}

describe("the pages that changed last", function () {
  this.timeout(60_000);

  it("are put into their places by `go`, once it has looked through them", async () => {
    const first = await Vm.boot();
    const attempt = await release(first);
    const { list, stubs, zero } = damage(first.path("memory"));
    const vm = await incoming(first.folder, attempt, 2);
    try {
      await using control = await vm.control();
      const last = vm.path("last");
      const runs = list.readUInt32BE();
      const set = (at: number, hex: string): Buffer =>
        Buffer.concat([list.subarray(0, at), Buffer.from(hex, "hex"), list.subarray(at + hex.length / 2)]);
      const wrong: Readonly<Record<string, Buffer>> = {
        cut: list.subarray(0, -1),
        longer: Buffer.concat([list, Buffer.alloc(3)]),
        "page 0": set(4, "0000000000000000"),
        outside: set(4, "1000000000000000"),
        "no pages": set(12, "00000000"),
        "all pages": set(12, "ffffffff"),
        "of the image": set(16, "00000003"),
        late: set(16, "00000005"),
        "more runs": set(0, "ffffffff"),
        "more words": set(4 + 16 * runs, "ffffffff"),
        "another bitmap": set(8 + 16 * runs, "fe"),
      };
      const said = async (bytes: Buffer): Promise<string> => {
        writeFileSync(last, bytes);
        return await control.request("go", { attempt, last }).then(
          () => "it went",
          (error: Error) => error.message,
        );
      };
      for (const [how, bytes] of Object.entries(wrong))
        expect(await said(bytes), how).to.match(/bad-value last: not pages of this memory: Invalid argument/);
      // Each of these by itself is right; what was read of them would be as well.
      const many = Buffer.concat(
        Array.from({ length: 1 + (128 << 10) / 20 }, () => Buffer.from("0000000100000000000000010000000100000002", "hex")),
      );
      expect(await said(many)).to.match(/bad-value last: not pages of this memory: File too large/);
      expect((await control.request("status")).state).to.equal("part");
      writeFileSync(last, list);
      await control.request("go", { attempt, last });
      const memory = readFileSync(vm.path("memory"));
      for (const n of [stubs, zero]) expect(memory.subarray(n * page, (n + 1) * page).includes(Buffer.alloc(64, 0xa5))).to.equal(false);
      expect(await vm.shell("echo runs")).to.equal("runs\n");
    } finally {
      await vm[Symbol.asyncDispose]();
      rmSync(vm.folder, { recursive: true, force: true });
    }
  });
});
