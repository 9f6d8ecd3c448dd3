/** NICs of real guests: against an independent implementation of the wire format, and against each other. */
import { randomBytes } from "node:crypto";
import { expect } from "chai";
import type { ControlClient } from "./support/control";
import { ControlError } from "./support/control";
import { counters, LinkKey, WirePeer } from "./support/link";
import { Vm } from "./support/vm";
import { arpRequest, type Datagram, etherType, FLAG, frame, keepalive, seal } from "./support/wire";

const PEER_MAC = "02:00:00:00:00:02";
const isFrame = (type: number) => (d: Datagram) => !(d.flags & FLAG.keepalive) && etherType(d.content) === type;
const isAnnouncement = (d: Datagram) => (d.flags & (FLAG.announce | FLAG.keepalive)) === (FLAG.announce | FLAG.keepalive);

describe("NIC", function () {
  this.timeout(90_000);
  let vm: Vm;
  let control: ControlClient;
  let key: LinkKey;
  let peer: WirePeer;
  /** Where the guest's socket is. */
  let guest: string;

  before(async () => {
    vm = await Vm.boot({ epoch: 5 });
    control = await vm.control();
    await vm.shell("mount -t proc proc /proc; mount -t sysfs sys /sys; true");
  });
  after(() => vm?.[Symbol.asyncDispose]());

  const add = (bind: string, mtu = 1400) => control.request("nic.add", { nic: 0, mac: "02:00:00:00:00:01", mtu, bind });
  const up = () => vm.shell("ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up");

  beforeEach(async () => {
    key = new LinkKey();
    peer = await WirePeer.open(key);
    guest = (await add("127.0.0.1:0")).bind as string;
    await control.request("nic.key", key.args(0, 1));
    await up();
    await control.request("nic.peer", { nic: 0, addr: peer.address });
  });
  afterEach(async () => {
    await control.request("nic.remove", { nic: 0 });
    await peer[Symbol.asyncDispose]();
  });

  /** What was dropped for `reason` while `work` ran, once the guest has seen all that was sent. */
  const dropped = async (reason: string, work: () => Promise<void>) => {
    await peer.ping(guest);
    const before = await counters(control);
    await work();
    await peer.ping(guest);
    const after = await counters(control);
    return (after[reason] as number) - (before[reason] as number);
  };

  it("announces itself to its peer, sealed as another implementation reads it", async () => {
    const heard = await peer.until(isAnnouncement);
    expect(heard).to.include({ epoch: 5, keyId: 1 });
    expect(heard.content.readUInt32BE(0)).to.equal(1);
  });

  it("announces again until it is answered, then measures the round trip", async () => {
    await control.request("nic.announce");
    const [first, second] = [await peer.until(isAnnouncement), await peer.until(isAnnouncement)];
    expect(second.counter > first.counter).to.equal(true);
    await peer.send(guest, keepalive(2, second.content.readBigUInt64BE(8)), FLAG.keepalive);
    await peer.ping(guest);
    const stats = await counters(control);
    expect(stats.rttUs).to.be.greaterThan(0);
    expect(stats.peerEpoch).to.equal(1);
    expect(stats.lastHeardMs).to.be.lessThan(5000);
  });

  it("carries frames both ways, in AES-GCM and in ChaCha20-Poly1305, and answers in the peer's cipher", async () => {
    await peer.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    const answer = await peer.until(isFrame(0x0806));
    expect(answer.content.subarray(28, 32)).to.deep.equal(Buffer.from([10, 0, 0, 1]));
    expect(answer.flags & FLAG.chacha).to.equal(0);
    await peer.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"), FLAG.chacha);
    expect((await peer.until(isFrame(0x0806))).flags & FLAG.chacha).to.equal(FLAG.chacha);
  });

  it("passes on a frame of an EtherType of one's own, through a bridge", async () => {
    const otherKey = new LinkKey(3);
    await using other = await WirePeer.open(otherKey);
    await control.request("nic.add", { nic: 1, mac: "02:00:00:00:00:03", bind: "127.0.0.1:0" });
    await control.request("nic.key", otherKey.args(1, 1));
    await control.request("nic.peer", { nic: 1, addr: other.address });
    await vm.shell("brctl addbr br0 && brctl addif br0 eth0 && brctl addif br0 eth1 && ip link set eth1 up && ip link set br0 up");
    try {
      const sent = frame("02:00:00:00:00:99", PEER_MAC, 0x88b5, randomBytes(200));
      await peer.send(guest, sent);
      expect((await other.until(isFrame(0x88b5))).content.equals(sent)).to.equal(true);
    } finally {
      await vm.shell("ip link set br0 down; brctl delif br0 eth0; brctl delif br0 eth1; brctl delbr br0");
      await control.request("nic.remove", { nic: 1 });
    }
  });

  it("drops every forgery: one flipped bit anywhere", async () => {
    const flips = 8 * 64;
    const reasons = ["dropUnauthentic", "dropVersion", "dropKeyId", "dropOldEpoch", "dropReplayed"];
    await peer.ping(guest);
    const before = await counters(control);
    for (let bit = 0; bit < flips; bit++) {
      const bytes = peer.make(frame("02:00:00:00:00:01", PEER_MAC, 0x88b5, Buffer.alloc(18)));
      bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
      await peer.raw(guest, bytes);
      if (bit % 64 === 63) await peer.ping(guest);
    }
    await peer.ping(guest);
    const after = await counters(control);
    const sum = reasons.reduce((n, reason) => n + (after[reason] as number) - (before[reason] as number), 0);
    expect(sum).to.equal(flips);
    expect(after.rxFrames).to.equal(before.rxFrames);
  });

  it("drops what it has heard already, and what is older than its window, but takes what comes late", async () => {
    const late = peer.make(keepalive(2, 0n), FLAG.keepalive);
    const first = await peer.send(guest, keepalive(2, 0n), FLAG.keepalive);
    expect(await dropped("dropReplayed", () => peer.raw(guest, first))).to.equal(1);
    expect(await dropped("dropReplayed", () => peer.raw(guest, late))).to.equal(0);
    expect(await dropped("dropReplayed", () => peer.raw(guest, late))).to.equal(1);
    const old = peer.make(keepalive(2, 0n), FLAG.keepalive);
    const within = peer.counter + 1n;
    peer.counter += 3000n;
    await peer.ping(guest);
    expect(await dropped("dropReplayed", () => peer.raw(guest, old))).to.equal(1);
    const recent = seal(peer.key, { flags: FLAG.keepalive, epoch: 1, counter: peer.counter - 1020n, content: keepalive(2, 0n) });
    expect(peer.counter - 1020n > within).to.equal(true);
    expect(await dropped("dropReplayed", () => peer.raw(guest, recent))).to.equal(0);
  });

  it("does not hear a copy of an older epoch, nor follows it", async () => {
    await peer.ping(guest);
    const left = peer.make(keepalive(1, 0n), FLAG.keepalive);
    peer.epoch = 9;
    peer.counter = 0n;
    await peer.ping(guest);
    const before = await counters(control);
    expect(await dropped("dropOldEpoch", () => peer.raw(guest, left))).to.equal(1);
    const after = await counters(control);
    expect(after.peerEpoch).to.equal(9);
    expect(after.roamed).to.equal(before.roamed);
  });

  it("drops and counts truncated, over-long, unknown and nonsensical datagrams", async () => {
    const whole = () => peer.make(frame("02:00:00:00:00:01", PEER_MAC, 0x88b5, Buffer.alloc(50)));
    const cases: [string, () => Buffer][] = [
      ["dropVersion", () => whole().subarray(0, 15)],
      ["dropUnauthentic", () => whole().subarray(0, 16)],
      ["dropUnauthentic", () => whole().subarray(0, 32)],
      ["dropUnauthentic", () => whole().subarray(0, -1)],
      ["dropVersion", () => seal(peer.key, { flags: 0, epoch: 1, counter: ++peer.counter, content: Buffer.alloc(64) }, 2)],
      ["dropVersion", () => peer.make(Buffer.alloc(64), 0x20)],
      ["dropKeyId", () => seal({ ...peer.key, id: 77 }, { flags: 0, epoch: 1, counter: ++peer.counter, content: Buffer.alloc(64) })],
      ["dropUnauthentic", () => seal(peer.key, { flags: FLAG.plain, epoch: 1, counter: ++peer.counter, content: Buffer.alloc(64) })],
      ["dropTooLong", () => peer.make(frame("02:00:00:00:00:01", PEER_MAC, 0x88b5, Buffer.alloc(1405)))],
      ["dropMalformed", () => peer.make(Buffer.alloc(13))],
      ["dropMalformed", () => peer.make(Buffer.concat([Buffer.from("ffff0010", "hex"), Buffer.alloc(60)]), FLAG.checksum)],
      ["dropMalformed", () => peer.make(Buffer.alloc(3), FLAG.checksum)],
      ["dropMalformed", () => peer.make(Buffer.alloc(5), FLAG.keepalive)],
    ];
    for (const [reason, make] of cases) expect(await dropped(reason, () => peer.raw(guest, make())), reason).to.equal(1);
    for (let i = 0; i < 300; i++) {
      await peer.raw(guest, randomBytes(1 + ((i * 31) % 2000)));
      if (i % 50 === 49) await peer.ping(guest);
    }
    expect(await vm.shell("echo alive")).to.contain("alive");
  });

  it("follows an authentic peer to a new address at once, and nobody else", async () => {
    await peer.ping(guest);
    await using moved = await WirePeer.open(key);
    await moved.raw(guest, randomBytes(100));
    expect((await counters(control)).roamed).to.equal(0);
    moved.counter = peer.counter + 1n;
    await moved.ping(guest);
    expect((await control.request("nic.stats"))["0.peer"]).to.equal(moved.address);
    // A datagram that was under way from the old place, older than what came from the new one.
    expect(await droppedBy(moved, () => peer.send(guest, keepalive(2, 0n), FLAG.keepalive))).to.equal(0);
    expect((await control.request("nic.stats"))["0.peer"]).to.equal(moved.address);
  });

  const droppedBy = async (from: WirePeer, work: () => Promise<unknown>) => {
    const before = await counters(control);
    await work();
    await from.ping(guest);
    return ((await counters(control)).dropUnauthentic as number) - (before.dropUnauthentic as number);
  };

  it("is heard from its own new address when its socket is bound anew", async () => {
    await peer.ping(guest);
    const moved = (await add("127.0.0.1:0")).bind as string;
    expect(moved).to.not.equal(guest);
    const heard = await peer.until(isAnnouncement);
    expect(heard.epoch).to.equal(5);
    await peer.ping(moved);
  });

  it("takes another MTU where it is, and keeps its peer", async () => {
    await peer.ping(guest);
    expect((await add(guest, 9000)).bind).to.equal(guest);
    await peer.ping(guest);
    expect(await vm.shell("cat /sys/class/net/eth0/mtu")).to.equal("9000\n");
    const long = frame("02:00:00:00:00:01", PEER_MAC, 0x88b5, Buffer.alloc(8900));
    expect(await dropped("dropTooLong", async () => void (await peer.send(guest, long)))).to.equal(0);
  });

  it("goes where nic.peer points, and nowhere without a peer", async () => {
    await using other = await WirePeer.open(key);
    other.epoch = 2;
    await control.request("nic.peer", { nic: 0, addr: other.address });
    await other.until(isAnnouncement);
    await control.request("nic.peer", { nic: 0, addr: "none" });
    const before = await counters(control);
    await vm.shell("ping -c 1 -W 1 10.0.0.7 || true");
    const after = await counters(control);
    expect(after.dropNoPeer).to.be.greaterThan(before.dropNoPeer as number);
    expect(after.txDatagrams).to.equal(before.txDatagrams);
  });

  it("takes a new key beside the old one, and sends with it when the peer does", async () => {
    await peer.ping(guest);
    const next = new LinkKey(2);
    await control.request("nic.key", next.args(0, 1));
    await peer.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    // The announcements are already under the new key: this peer cannot read them.
    const answer = await heardUnder(peer, 1);
    expect(answer.keyId).to.equal(1);
    await using renewed = await WirePeer.open(next);
    renewed.counter = peer.counter + 1n;
    await renewed.ping(guest);
    await renewed.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    expect((await renewed.until(isFrame(0x0806))).keyId).to.equal(2);
    peer.counter = renewed.counter + 1n;
    await peer.ping(guest);
  });

  /** The next frame under this key id; others (of keys that this peer does not have) are dropped unread. */
  const heardUnder = async (from: WirePeer, id: number) => {
    from.readable = (bytes) => bytes.readUInt16BE(2) === id;
    return from.until(isFrame(0x0806));
  };

  it("speaks plain only when asked to, and then without a seal", async () => {
    await control.request("nic.key", { nic: 0, id: 0, plain: 1 });
    expect(await droppedPlain(() => peer.send(guest, Buffer.alloc(64)))).to.equal(1);
    await peer.raw(
      guest,
      seal(
        { ...peer.key, id: 0 },
        { flags: FLAG.plain, epoch: 1, counter: ++peer.counter, content: arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1") },
      ),
    );
    peer.readable = (bytes) => (bytes.readUInt8(1) & FLAG.plain) !== 0;
    const answer = await peer.until(isFrame(0x0806));
    expect(answer.flags & FLAG.plain).to.equal(FLAG.plain);
  });

  const droppedPlain = async (work: () => Promise<unknown>) => {
    const ask = () =>
      peer.raw(
        guest,
        seal({ ...peer.key, id: 0 }, { flags: FLAG.plain | FLAG.keepalive, epoch: 1, counter: ++peer.counter, content: keepalive(1, 7n) }),
      );
    const answered = (d: Datagram) => !!(d.flags & FLAG.keepalive) && d.content.readUInt32BE(0) === 2;
    peer.readable = (bytes) => (bytes.readUInt8(1) & FLAG.plain) !== 0;
    const before = await counters(control);
    await work();
    await ask();
    await peer.until(answered);
    const after = await counters(control);
    peer.readable = () => true;
    return (after.dropKeyId as number) - (before.dropKeyId as number);
  };

  it("never counts back when it is removed and made again with the same key", async () => {
    const highest = (await counters(control)).counter as number;
    await control.request("nic.remove", { nic: 0 });
    await add(guest);
    await control.request("nic.key", key.args(0, 1));
    await control.request("nic.peer", { nic: 0, addr: peer.address });
    expect((await counters(control)).counter).to.be.greaterThan(highest);
  });

  it("refuses bad arguments by name", async () => {
    const bad: [string, Record<string, string | number>][] = [
      ["nic.add", { nic: 32, mac: PEER_MAC, bind: "127.0.0.1:0" }],
      ["nic.add", { nic: 1, mac: "01:00:00:00:00:02", bind: "127.0.0.1:0" }],
      ["nic.add", { nic: 1, mac: PEER_MAC, mtu: 575, bind: "127.0.0.1:0" }],
      ["nic.add", { nic: 1, mac: PEER_MAC, mtu: 9001, bind: "127.0.0.1:0" }],
      ["nic.add", { nic: 1, mac: PEER_MAC, bind: "localhost:0" }],
      ["nic.add", { nic: 1, mac: PEER_MAC, bind: "127.0.0.1:65536" }],
      ["nic.key", { nic: 0, id: 65536, key: "00", self: "00", peer: "00" }],
      ["nic.key", { nic: 0, id: 1, key: "zz".repeat(32), self: "00".repeat(8), peer: "11".repeat(8) }],
      ["nic.key", { nic: 0, id: 1, key: "00".repeat(32), self: "11".repeat(8), peer: "11".repeat(8) }],
      ["nic.peer", { nic: 0, addr: "[::1]:7000" }],
      ["nic.remove", { nic: 9 }],
    ];
    for (const [verb, args] of bad) {
      const fault = await control.request(verb, args).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(fault, `${verb} ${JSON.stringify(args)}`).to.be.instanceOf(ControlError);
      expect((fault as ControlError).code).to.equal("bad-value");
    }
  });
});
