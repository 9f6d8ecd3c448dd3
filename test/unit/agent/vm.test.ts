import { randomUUID } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { parseSocketName, parseStats, socketName } from "../../../provider/agent/link/wire";
import { readOptions } from "../../../provider/agent/options";
import { lastLines } from "../../../provider/agent/vm/console";
import { Control, ControlError } from "../../../provider/agent/vm/control";
import { leastLoaded } from "../../../provider/agent/vm/cpu";
import { createOverlay, overlayLayout, overlayVirtualBytes } from "../../../provider/agent/vm/overlay";

describe("parts of a VM", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "mobi-vm-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("an overlay is as docs/formats/overlay.md says, and all holes", async () => {
    const base = join(folder, "base");
    writeFileSync(base, Buffer.alloc(100_000, 1));
    const path = join(folder, "disk.overlay");
    await createOverlay(path, base, "ab".repeat(32), 64);
    const header = readFileSync(path).subarray(0, 96);
    expect(header.toString("latin1", 0, 8)).to.equal("MOBIDSK1");
    expect([header.readUInt32LE(8), header.readUInt32LE(12), header.readBigUInt64LE(16), header.readBigUInt64LE(24)]).to.deep.equal([
      1,
      65536,
      67108864n,
      100000n,
    ]);
    expect(header.toString("latin1", 32, 96)).to.equal("ab".repeat(32));
    expect(await overlayVirtualBytes(path)).to.equal(67108864);
    expect(overlayLayout(67108864)).to.deep.equal({ blocks: 1024, bitmapBytes: 4096, dataOffset: 8192 });
    expect(statSync(path).size).to.equal(8192 + 67108864);
    expect(statSync(path).blocks * 512).to.be.lessThan(65536);
  });

  it("a VM goes to the CPU with the fewest, and stays where it is as good", () => {
    expect(
      leastLoaded(
        new Map([
          [0, 2],
          [1, 1],
        ]),
      ),
    ).to.equal(1);
    expect(
      leastLoaded(
        new Map([
          [0, 1],
          [1, 1],
        ]),
        1,
      ),
    ).to.equal(1);
    expect(
      leastLoaded(
        new Map([
          [0, 0],
          [1, 1],
        ]),
        1,
      ),
    ).to.equal(0);
    expect(leastLoaded(new Map([[0, 0]]), 7)).to.equal(0);
  });

  it("the last lines of a console", () => {
    expect(lastLines("a\nb\nc\n", 2)).to.equal("b\nc\n");
    expect(lastLines("a\nb\nc", 2)).to.equal("b\nc");
    expect(lastLines("a\n", 5)).to.equal("a\n");
  });

  it("names of sockets and counters of NICs", () => {
    for (const [address, port] of [
      ["10.0.0.1", 5],
      ["fd00::1", 65535],
    ] as const)
      expect(parseSocketName(socketName(address, port))).to.deep.equal({ address, port });
    expect(parseSocketName("none")).to.equal(undefined);
    const spec = { nics: [{ name: "a" }, { name: "b" }] } as Parameters<typeof parseStats>[1];
    const stats = parseStats(
      { "0.txFrames": "7", "1.peer": "10.0.0.1:5", "1.bind": "10.0.0.2:6", "1.cipher": "aes", "10.txFrames": "9" },
      spec,
      [],
    );
    expect(stats).to.deep.equal([
      { nic: "a", counters: { txFrames: 7 } },
      { nic: "b", local: "10.0.0.2:6", peer: "10.0.0.1:5", counters: {} },
    ]);
  });

  it("a control channel matches answers by tag, names refusals, and ends with its process", async () => {
    const path = join(folder, "control.sock");
    const server = createServer((socket) => {
      socket.write(`mobi-control 1 build=${"a".repeat(64)} vm=${randomUUID()}\n`);
      socket.on("data", (chunk) => {
        for (const line of chunk.toString().trim().split("\n")) {
          const [tag, verb] = line.split(" ");
          if (verb === "echo") setTimeout(() => socket.write(`${tag} ok said=${line.split("say=")[1]}\n`), 5);
          else if (verb === "end") socket.destroy();
          else socket.write(`junk\n${tag} error bad-state it is ${verb}\n`);
        }
      });
    }).listen(path);
    const control = await Control.connect(path, 1000);
    const both = await Promise.all([control.say("echo", { say: "a b%" }), control.say("echo", { say: "ü" })]);
    expect(both.map((fields) => fields.said)).to.deep.equal(["a b%", "ü"]);
    const refusal = await control.say("thaw").catch((error: unknown) => error);
    expect(refusal).to.be.instanceOf(ControlError).with.property("code", "bad-state");
    expect(await control.say("end").catch((error: unknown) => error)).to.have.property("code", "closed");
    await control.closed;
    expect(await control.say("status").catch((error: unknown) => error)).to.have.property("code", "closed");
    server.close();
  });

  it("a command line that is wrong is told how it should be", () => {
    const { options } = readOptions([
      "--name",
      "tokyo",
      "--state",
      "/tmp/x",
      "--address",
      "127.0.0.2",
      "--ports",
      "100-200",
      "--memory-mib",
      "64",
    ]);
    expect(options).to.deep.equal({
      hostName: "tokyo",
      address: "127.0.0.2",
      ports: { from: 100, to: 200 },
      stateDir: "/tmp/x",
      memoryLimitMiB: 64,
    });
    for (const bad of [
      [],
      ["--name", "To/kyo"],
      ["--name", "a", "--ports", "5-4"],
      ["--name", "a", "--address", "host"],
      ["--name", "a", "--what"],
      ["--name", "a", "--disk-mib", "-1"],
    ]) {
      expect(() => readOptions(bad), bad.join(" ")).to.throw("--name HOST");
    }
  });
});
