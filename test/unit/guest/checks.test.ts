/** The programs that tests run in guests to notice damage: each must say so when there is some. */
import { once } from "node:events";
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { compiled } from "./support/compile";
import { freeAddress, Program } from "./support/program";

describe("mobi-check", function () {
  this.timeout(60_000);
  let program: string;

  before(() => {
    program = compiled("mobi-check");
  });

  for (const name of ["avxhold", "uptimecheck", "spin"]) {
    it(`${name}: a line per second, and 0 at the end`, async () => {
      await using check = new Program(program, [name, "--seconds", "1.2"]);
      expect(await check.ended, check.stderr).to.equal(0);
      expect(check.lines[0]).to.deep.include({ ok: true });
    });
  }

  it("guestbench: nanoseconds", async () => {
    for (const what of ["syscall", "forkexec"]) {
      await using bench = new Program(program, ["guestbench", what, "--seconds", "0.2"]);
      expect(await bench.ended, bench.stderr).to.equal(0);
      expect(bench.lines[0]?.ns).to.be.greaterThan(10);
    }
  });

  it("ramcheck: right while nothing is touched, wrong when a byte is", async () => {
    const folder = mkdtempSync(join(tmpdir(), "mobi-ramcheck-"));
    try {
      await using check = new Program(program, ["ramcheck", "--mib", "1", "--disk-mib", "1", "--dir", folder, "--disk-dir", tmpdir()]);
      await check.line((line) => line.ok === true);
      const [name] = readdirSync(folder);
      writeFileSync(join(folder, name as string), "x", { flag: "r+" });
      expect(await check.ended).to.equal(1);
      expect(check.lines.at(-1)).to.deep.include({ ok: false });
      expect(String(check.lines.at(-1)?.why)).to.match(/sum/);
      rmSync(join(tmpdir(), name as string));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  for (const form of [[], ["--whole"]]) {
    it(`dirty ${form.join("")}: keeps its pace, right while nothing is touched, wrong when a byte is`, async () => {
      const folder = mkdtempSync(join(tmpdir(), "mobi-dirty-"));
      const state = join(folder, "state");
      const look = async (...more: string[]): Promise<Record<string, unknown>> => {
        await using looking = new Program(program, ["look", state, ...more]);
        await looking.ended;
        return looking.lines[0] ?? {};
      };
      const begunMs = performance.now();
      try {
        await using dirty = new Program(program, [
          "dirty",
          "--mib",
          "2",
          "--touch-mib",
          "3",
          "--mib-per-s",
          "4",
          "--state",
          state,
          ...form,
        ]);
        await dirty.line((line) => line.ok === true);
        const before = await look("--check");
        expect(before).to.deep.include({ ok: true, checked: 1, bytes: 2 << 20 });
        // 1024 pages a second, and no more however late one looks.
        expect(before.count).to.be.within(200, 100 + 1.1 * (performance.now() - begunMs));
        // A byte of a page that is written but once.
        const memory = openSync(`/proc/${dirty.process.pid}/mem`, "r+");
        writeSync(memory, Buffer.from([1]), 0, 1, Number(before.address) + (2 << 20) + 5000);
        closeSync(memory);
        expect(await look("--check")).to.deep.include({ ok: false });
        expect(await dirty.ended).to.equal(1);
        expect(String(dirty.lines.at(-1)?.why)).to.match(/page 513 of 768/);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
  }

  it("ramcheck --rewrite: right after its own writes", async () => {
    const folder = mkdtempSync(join(tmpdir(), "mobi-ramcheck-"));
    await using check = new Program(program, [
      "ramcheck",
      "--mib",
      "1",
      "--disk-mib",
      "1",
      "--rewrite",
      "--dir",
      folder,
      "--disk-dir",
      tmpdir(),
      "--seconds",
      "1.5",
    ]);
    expect(await check.ended, check.stderr).to.equal(0);
    expect(readdirSync(folder)).to.deep.equal([]);
    rmSync(folder, { recursive: true });
  });

  /** Passes a connection on; `spoil` may change bytes on the way or end it all. */
  async function proxy(to: string, spoil: (bytes: Buffer, destroy: () => void) => void) {
    // Nothing is read before the way is whole: what is cut is then a connection.
    const server = createServer({ pauseOnConnect: true }, (left) => {
      const right = connect(Number(to.split(":")[1]), "127.0.0.1", () => left.resume());
      for (const socket of [left, right]) socket.on("error", () => {});
      left.on("data", (bytes) => {
        spoil(bytes, () => {
          left.resetAndDestroy();
          right.resetAndDestroy();
        });
        right.write(bytes);
      });
      right.pipe(left);
      left.on("end", () => right.end());
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    return { server, at: `127.0.0.1:${typeof address === "object" && address ? address.port : 0}` };
  }

  async function stream(spoil: (bytes: Buffer, destroy: () => void) => void) {
    const at = await freeAddress();
    const listener = new Program(program, ["tcpstream", "--listen", at]);
    await listener.line(() => true);
    const between = await proxy(at, spoil);
    return { listener, between };
  }

  it("tcpstream: both directions right, and an orderly end on both sides", async () => {
    const at = await freeAddress();
    await using listener = new Program(program, ["tcpstream", "--listen", at]);
    await using connector = new Program(program, ["tcpstream", "--connect", at, "--seconds", "1.2"]);
    expect(await connector.ended, connector.stderr).to.equal(0);
    expect(await listener.ended, listener.stderr).to.equal(0);
    expect(Number(listener.lines.at(-1)?.count)).to.be.greaterThan(1_000_000);
    expect(listener.lines.at(-1)?.count).to.equal(connector.lines.at(-1)?.sentBytes);
  });

  it("tcpstream: notices one changed bit and a lost connection", async () => {
    for (const [spoil, why] of [
      [(bytes: Buffer) => void bytes.writeUInt8(bytes.readUInt8(0) ^ 1, 0), /word \d+ is/],
      [(_: Buffer, destroy: () => void) => destroy(), /connection lost/],
    ] as const) {
      const { listener, between } = await stream((bytes, destroy) => spoil(bytes, destroy));
      await using _listener = listener;
      await using _connector = new Program(program, ["tcpstream", "--connect", between.at]);
      const code = await listener.ended;
      between.server.close();
      expect(code, listener.stderr).to.equal(1);
      expect(String(listener.lines.at(-1)?.why)).to.match(why);
    }
  });
});
