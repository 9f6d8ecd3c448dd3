import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { compiled } from "./support/compile";
import { freeAddress, Program } from "./support/program";

const MIB = 1048576;
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

describe("blockcopy", function () {
  this.timeout(60_000);
  let program: string;
  let folder: string;
  let file: string;

  before(() => {
    program = compiled("blockcopy");
    folder = mkdtempSync(join(tmpdir(), "mobi-blockcopy-"));
    file = make("contents", 1);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  function make(name: string, mib: number, seed = 7): string {
    const path = join(folder, name);
    const { status, stderr } = spawnSync(program, ["make", "--mib", String(mib), "--seed", String(seed), path], { encoding: "utf8" });
    expect(status, stderr).to.equal(0);
    return path;
  }

  /** Contents and handler, as the example has them. */
  async function chain(...handlerArgs: string[]) {
    const [contentsAt, handlerAt] = [await freeAddress(), await freeAddress()];
    const contents = new Program(program, ["serve", "--listen", contentsAt, "--file", file]);
    const handler = new Program(program, ["handle", "--listen", handlerAt, "--from", contentsAt, ...handlerArgs]);
    return { contents, handler, handlerAt };
  }

  it("makes the same bytes from the same seed", () => {
    expect(readFileSync(file)).to.have.length(MIB);
    expect(sha256(readFileSync(make("again", 1)))).to.equal(sha256(readFileSync(file)));
    expect(sha256(readFileSync(make("other", 1, 8)))).not.to.equal(sha256(readFileSync(file)));
  });

  it("copies through the handler, block by block, with the right sum", async () => {
    const { contents, handler, handlerAt } = await chain("--upstream-block", "10000");
    await using _contents = contents;
    await using _handler = handler;
    const out = join(folder, "copy");
    await using copy = new Program(program, ["copy", "--from", handlerAt, "--out", out, "--block", "5000"]);
    expect(await copy.ended, copy.stderr).to.equal(0);
    expect(copy.lines.at(-1)).to.deep.include({
      bytes: MIB,
      sha256: sha256(readFileSync(file)),
      connections: 1,
      reconnects: 0,
      roundTrips: Math.ceil(MIB / 5000),
    });
    expect(sha256(readFileSync(out))).to.equal(sha256(readFileSync(file)));
  });

  it("copies as many bytes as are asked for, beginning anew at the file's end", async () => {
    const { contents, handler, handlerAt } = await chain();
    await using _contents = contents;
    await using _handler = handler;
    await using copy = new Program(program, ["copy", "--from", handlerAt, "--mib", "2.5"]);
    expect(await copy.ended, copy.stderr).to.equal(0);
    const bytes = readFileSync(file);
    expect(copy.lines.at(-1)).to.deep.include({
      bytes: 2.5 * MIB,
      sha256: sha256(Buffer.concat([bytes, bytes, bytes.subarray(0, MIB / 2)])),
    });
  });

  it("serves from its cache when the contents are gone, and only then", async () => {
    for (const cache of [true, false]) {
      const { contents, handler, handlerAt } = await chain(...(cache ? ["--cache"] : []));
      await using _contents = contents;
      await using _handler = handler;
      await using first = new Program(program, ["copy", "--from", handlerAt]);
      expect(await first.ended, first.stderr).to.equal(0);
      await using second = new Program(program, ["copy", "--from", handlerAt, "--mib", "1000", "--pace-us", "500"]);
      await second.line((line) => "bytes" in line);
      await contents[Symbol.asyncDispose]();
      if (cache) {
        const { bytes } = second.lines.at(-1) ?? {};
        await second.line((line) => Number(line.bytes) > Number(bytes));
      } else {
        expect(await second.ended).to.equal(1);
        expect(second.stderr).to.match(/connection lost after \d+ bytes/);
      }
    }
  });

  it("keeps to a pace until a line or a signal lifts it", async () => {
    const { contents, handler, handlerAt } = await chain();
    await using _contents = contents;
    await using _handler = handler;
    for (const lift of [(p: Program) => p.process.stdin?.write("go\n"), (p: Program) => p.process.kill("SIGUSR1")]) {
      // 256 blocks: half a minute, if it is not lifted.
      await using copy = new Program(program, ["copy", "--from", handlerAt, "--pace-us", "120000", "--pace-until-line"]);
      await copy.line((line) => "bytes" in line);
      lift(copy);
      expect(await copy.ended, copy.stderr).to.equal(0);
      expect(copy.lines.at(-1)).to.deep.include({ bytes: MIB, sha256: sha256(readFileSync(file)) });
      expect(copy.lines.at(-1)?.seconds).to.be.within(0.5, 20);
    }
  });

  it("sees the silence of an echo that stands still", async () => {
    const at = await freeAddress();
    await using echo = new Program(program, ["echo", "--listen", at]);
    await using probe = new Program(program, ["probe", at, "--interval-ms", "1"]);
    await probe.line((line) => Number(line.received) > 50);
    echo.process.kill("SIGSTOP");
    const from = probe.lines.length;
    await probe.line((line) => probe.lines.indexOf(line) > from + 1 && Number(line.maxGapMs) > 250);
    echo.process.kill("SIGCONT");
    const { received } = probe.lines.at(-1) ?? {};
    await probe.line((line) => Number(line.received) > Number(received) + 50);
    probe.process.kill("SIGTERM");
    expect(await probe.ended, probe.stderr).to.equal(0);
  });
});
