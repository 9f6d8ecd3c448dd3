/** The control channel of a VM process, as vm-process.md promises it, under friendly and hostile clients. */
import { randomBytes } from "node:crypto";
import { statSync } from "node:fs";
import { expect } from "chai";
import { type ControlClient, ControlError } from "./support/control";
import { Vm } from "./support/vm";

describe("control channel", function () {
  this.timeout(60_000);
  let vm: Vm;

  before(async () => {
    vm = await Vm.boot();
  });
  after(() => vm?.[Symbol.asyncDispose]());

  const connect = () => vm.control();
  /** A client that has just closed has its place until the process has seen it. */
  const connectWhenFree = async () => {
    for (;;) {
      const client = await connect();
      if (!client.greeting.startsWith("- error busy")) return client;
      client.close();
    }
  };
  /** The guest and its control thread are unharmed. */
  const alive = async () => {
    await using client = await connectWhenFree();
    const status = await client.request("status");
    expect(status.pid).to.equal(String(vm.process.pid));
  };

  it("greets with the build and the vm, and its file is the owner's alone", async () => {
    await using client = await connect();
    expect(client.greeting).to.match(/^mobi-control 1 build=[0-9a-f]{64} vm=00000000-0000-4000-8000-000000000001$/);
    expect(statSync(vm.path("run/control.sock")).mode & 0o777).to.equal(0o600);
  });

  it("answers in order, one reply per request, however they arrive", async () => {
    await using client = await connect();
    const requests = Array.from({ length: 200 }, (_, i) => `r${i} ${i % 3 ? "status" : "no.such"}\n`).join("");
    for (let at = 0; at < requests.length; at += 37) client.raw(requests.slice(at, at + 37));
    for (let i = 0; i < 200; i++)
      expect(await client.lines.next()).to.match(i % 3 ? new RegExp(`^r${i} ok pid=`) : new RegExp(`^r${i} error unknown-verb `));
  });

  it("names what is wrong with a value and with a state", async () => {
    await using client = await connect();
    expect(await fault(client.request("pin", { cpu: "many" }))).to.equal("bad-value");
    expect(await fault(client.request("pin", { cpu: 1023 }))).to.equal("bad-value");
    expect(await fault(client.request("pin"))).to.equal("bad-request");
    expect(await fault(client.request("pin", { cpu: "99999999999999999999999" }))).to.equal("bad-value");
  });

  const malformed: Record<string, string | Uint8Array> = {
    "an empty line": "\n",
    "no verb": "1\n",
    "a tag that is too long": `${"a".repeat(17)} status\n`,
    "a tag with a strange byte": "a-b status\n",
    "two blanks": "1  status\n",
    "a blank at the end": "1 status \n",
    "an argument without =": "1 pin cpu\n",
    "the same argument twice": "1 pin cpu=0 cpu=0\n",
    "a byte 0": Buffer.from("1 sta\0tus\n", "latin1"),
    "a control byte": "1 status\r\n",
    "bytes above ASCII": Buffer.from("1 status x=\xff\n", "latin1"),
    "bad percent-coding": "1 pin cpu=%4\n",
    "a coded byte 0": "1 pin cpu=%00\n",
    "too many arguments": `1 pin ${Array.from({ length: 40 }, (_, i) => `a${i}=1`).join(" ")}\n`,
    "a line of 8192 bytes": `1 status x=${"y".repeat(8192 - 11)}\n`,
    "a line without end": "1 status ".padEnd(20_000, "z"),
  };
  for (const [what, bytes] of Object.entries(malformed)) {
    it(`drops a client that sends ${what}`, async () => {
      await using client = await connect();
      client.raw(bytes);
      expect(await client.lines.next()).to.match(/^- error bad-request /);
      await client.lines.end();
      await alive();
    });
  }

  it("takes a line of exactly 8191 bytes", async () => {
    await using client = await connect();
    client.raw(`${"1 status x=".padEnd(8191, "y")}\n`);
    expect(await client.lines.next()).to.match(/^1 ok pid=/);
  });

  it("decodes values", async () => {
    await using client = await connect();
    client.raw("1 pin cpu=%30\n");
    expect(await client.lines.next()).to.equal("1 ok");
  });

  it("serves half lines only when they are whole, and others meanwhile", async () => {
    await using slow = await connect();
    slow.raw("1 sta");
    await alive();
    slow.raw("tus\n");
    expect(await slow.lines.next()).to.match(/^1 ok /);
  });

  it("answers what was asked by a client that has ended its side", async () => {
    await using client = await connect();
    client.raw("1 status\n2 status\n3 sta");
    client.end();
    expect(await client.lines.next()).to.match(/^1 ok /);
    expect(await client.lines.next()).to.match(/^2 ok /);
    await client.lines.end();
  });

  it("has room for eight clients, tells a ninth, and takes one again when another has gone", async () => {
    await using fresh = await Vm.boot();
    const clients: ControlClient[] = [];
    for (let i = 0; i < 8; i++) clients.push(await fresh.control());
    expect((await fresh.control()).greeting).to.match(/^- error busy /);
    for (const client of clients) await client.request("status");
    clients[3]?.close();
    // Its place is free when the process has seen the end: at the latest when it has answered a request that came later.
    await clients[0]?.request("status");
    expect((await fresh.control()).greeting).to.match(/^mobi-control 1 /);
  });

  it("survives clients that vanish in the middle, and random bytes", async () => {
    for (let i = 0; i < 60; i++) {
      await using client = await connectWhenFree();
      client.raw(i % 2 ? randomBytes(1 + ((i * 977) % 9000)) : `x${i} status\ny${i} sta`);
      client.close();
    }
    await alive();
  });

  it("survives a client that asks and never reads", async () => {
    await using deaf = await connect();
    deaf.pause();
    for (let i = 0; i < 2000; i++) deaf.send("status");
    await alive();
    deaf.close();
    await alive();
  });

  it("pins the process", async () => {
    await using client = await connect();
    await client.request("pin", { cpu: 0 });
    expect((await client.request("status")).cpu).to.equal("0");
  });

  it("quit ends the process with code 0", async () => {
    await using other = await Vm.boot();
    const client = await other.control();
    await client.request("quit");
    expect(await other.exited).to.deep.equal({ code: 0, signal: null });
  });

  it("poweroff syncs and ends the process with code 0", async () => {
    await using other = await Vm.boot();
    await other.shell("echo kept > /root/file");
    await (await other.control()).request("poweroff");
    expect(await other.exited).to.deep.equal({ code: 0, signal: null });
  });

  it("refuses bad arguments with code 64 and says why", async () => {
    await using wrong = Vm.start({ args: ["mobi.nosuch=1"] });
    expect(await wrong.exited).to.deep.equal({ code: 64, signal: null });
    expect(wrong.log()).to.include("mobi.nosuch=1");
  });
});

async function fault(request: Promise<unknown>): Promise<string> {
  try {
    await request;
  } catch (error) {
    if (error instanceof ControlError) return error.code;
    throw error;
  }
  return "none";
}
