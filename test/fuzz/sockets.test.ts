import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { deferred, until, within } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import type { VmSpec } from "../../provider/schemas/vm";
import { boot, exec, specOf, TestAgent, wire } from "../contract/support/agents";
import { FLAG, HEADER_BYTES } from "../kernel/support/wire";
import { chooseSeed, Random } from "./support/random";

const lines = 2000;
const datagrams = 10_000;
const longestLine = 8191;

/** What may be said to a running guest without ending or stopping it. */
const verbs = [
  "status",
  "thaw",
  "release",
  "return",
  "go",
  "refuse",
  "pin",
  "disk.stats",
  "nic.add",
  "nic.key",
  "nic.peer",
  "nic.stats",
  "emulate",
  "x",
];
const values = [
  "",
  "-1",
  "0",
  "1e9",
  "4294967296",
  "99999999999999999999",
  "%00",
  "%",
  "%zz",
  "nan",
  "127.0.0.1:99999",
  "[::1]:1",
  "none",
  "a".repeat(200),
];
const keys = ["nic", "attempt", "epoch", "cpu", "mac", "mtu", "bind", "id", "key", "self", "peer", "addr", "deadmanMs", "plain", "="];

/** One line that no agent of ours says. */
function hostileLine(random: Random): Buffer {
  const words = (): string => Array.from({ length: random.below(6) }, () => `${random.of(keys)}=${random.of(values)}`).join(" ");
  // An index that no NIC has: what is asked in earnest is not asked here.
  const line = `${random.of(["t", "", "0".repeat(17), "é", "-"])} ${random.of(verbs)} ${words()} nic=${random.of(["17", "-1", "x", "4294967295"])}`;
  switch (random.below(8)) {
    case 0:
      return Buffer.concat([random.bytes(1 + random.below(300)), Buffer.from("\n")]);
    case 1:
      return Buffer.concat([Buffer.alloc(longestLine + random.below(5000), "a"), Buffer.from("\n")]);
    case 2:
      return Buffer.from(`\n\n\r\n${line}\r\n`);
    case 3:
      return Buffer.from(line.repeat(1 + random.below(50)));
    case 4:
      return Buffer.from(`t freeze attempt=${"m".repeat(64 + random.below(200))} deadmanMs=${random.of(["-1", "x", ""])}\n`);
    default:
      return Buffer.from(`${line}\n`);
  }
}

/** Says a line on a connection of its own, and hears what is answered until the connection ends or the answer to a later question comes. */
async function said(path: string, line: Buffer): Promise<string> {
  const socket: Socket = createConnection(path);
  const heard = deferred<void>();
  let text = "";
  socket.setEncoding("latin1").on("data", (chunk: string) => {
    text += chunk;
    if (/^end (ok|error)/m.test(text)) heard.resolve();
  });
  socket.on("error", () => heard.resolve());
  socket.once("close", () => heard.resolve());
  socket.write(Buffer.concat([line, Buffer.from("\nend status\n")]));
  await within(10_000, `an answer to ${JSON.stringify(line.toString("latin1").slice(0, 80))}`, heard.promise);
  socket.destroy();
  return text;
}

describe("hostile words to a VM process", function () {
  this.timeout(300_000);
  let agent: TestAgent;
  let a: VmSpec;
  let b: VmSpec;

  before(async () => {
    agent = await TestAgent.start("host", "127.0.0.6");
    const blobs = await agent.provide();
    const nic = (n: number) => [{ name: "net", mac: `02:00:00:00:03:0${n}`, addresses: [`10.9.0.${n}/24`], mtu: 1400 }];
    a = specOf(blobs, { memoryMiB: 48, nics: nic(1) });
    b = specOf(blobs, { memoryMiB: 48, nics: nic(2) });
    await boot(agent, a);
    await boot(agent, b);
    await wire([agent, a.uuid], [agent, b.uuid]);
  });
  after(async () => await agent[Symbol.asyncDispose]());

  const report = async (): Promise<protocol.VmReport> => {
    const { vm } = await agent.call(protocol.vmGet, { vm: a.uuid });
    if (!vm) throw new Error("the VM is gone");
    return vm;
  };
  const ping = async (): Promise<void> => {
    const { code, stdout } = await exec(agent, a.uuid, "/bin/busybox", "ping", "-c", "2", "-i", "0.2", "-W", "2", "10.9.0.2");
    expect(code, stdout).to.equal(0);
  };

  it(`${lines} lines to the control socket: each is answered by name, and the guest does not notice`, async () => {
    const random = new Random(chooseSeed("control socket"));
    const path = join(dirname(agent.socket), a.uuid, "control.sock");
    const before = await report();
    let answered = 0;
    for (let i = 0; i < lines; i++) {
      const line = hostileLine(random);
      const text = await said(path, line);
      expect(text, `line ${i}`).to.match(/^mobi-control 1 build=/);
      for (const reply of text.trimEnd().split("\n").slice(1)) {
        expect(reply, `line ${i}: ${line.toString("latin1").slice(0, 100)}`).to.match(
          /^(\S{1,16} ok( \S+)*|(\S{1,16}|-) error (bad-request|unknown-verb|bad-state|bad-value|busy|failed) .*)$/,
        );
        answered += 1;
      }
    }
    expect(answered).to.be.greaterThan(lines);
    expect(await report()).to.include({ state: "running", pid: before.pid, epoch: before.epoch });
    await ping();
  });

  it(`${datagrams} datagrams to the NIC's port: each is counted by its fault, and the link stays where it is`, async () => {
    const random = new Random(chooseSeed("UDP port"));
    const [nic] = (await report()).nics;
    const port = Number(nic?.local?.split(":").at(-1));
    const drops = async (): Promise<Record<string, number>> =>
      Object.fromEntries(Object.entries((await report()).nics[0]?.counters ?? {}).filter(([name]) => name.startsWith("drop")));
    const total = (counts: Record<string, number>): number => Object.values(counts).reduce((sum, count) => sum + count, 0);
    const before = await drops();
    const socket = createSocket("udp4");
    socket.bind(0, "127.0.0.7");
    await once(socket, "listening");
    let sent = 0;
    for (let i = 0; i < datagrams; i++) {
      const bytes = hostileDatagram(random);
      await new Promise<void>((resolve, reject) => socket.send(bytes, port, agent.address, (error) => (error ? reject(error) : resolve())));
      sent += 1;
      // Not faster than they are read: what a socket's buffer loses is counted by nobody.
      if (i % 100 === 99)
        await until(10_000, "the datagrams to be counted", async () => (total(await drops()) - total(before) >= sent ? true : undefined));
    }
    socket.close();
    const after = await drops();
    expect(total(after) - total(before)).to.equal(datagrams);
    for (const name of ["dropUnauthentic", "dropVersion", "dropKeyId"])
      expect((after[name] ?? 0) - (before[name] ?? 0), name).to.be.greaterThan(0);
    expect((await report()).nics[0]?.peer).to.equal(nic?.peer);
    await ping();
  });
});

/** From nobody who has the key. */
function hostileDatagram(random: Random): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(random.below(4) ? 1 : random.below(256), 0);
  header.writeUInt8(random.of([0, FLAG.announce, FLAG.keepalive, FLAG.plain, FLAG.checksum, FLAG.chacha, random.below(256)]), 1);
  header.writeUInt16BE(random.below(4) ? 1 : random.below(65536), 2);
  header.writeUInt32BE(random.of([0, 1, 2, 0x7fffffff, 0xffffffff]), 4);
  header.writeBigUInt64BE(random.of([0n, 1n, 2n ** 48n, 2n ** 64n - 1n]), 8);
  const whole = Buffer.concat([
    header,
    random.bytes(random.of([0, 1, 15, 16, 17, 60, 300])),
    Buffer.alloc(random.of([0, 0, 0, 1400, 9000, 60_000]), 7),
  ]);
  return random.below(10) === 0 ? whole.subarray(0, random.below(HEADER_BYTES)) : whole;
}
