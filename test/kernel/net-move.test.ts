/** A guest's NICs over freeze, thaw and the move to another process. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { expect } from "chai";
import type { ControlClient } from "./support/control";
import { counters, LinkKey, WirePeer } from "./support/link";
import { incoming, incomingBeside, release } from "./support/move";
import { Vm } from "./support/vm";
import { arpRequest, type Datagram, directionKey, etherType, FLAG, passedOn } from "./support/wire";

const PEER_MAC = "02:00:00:00:00:02";
const isArp = (d: Datagram) => !(d.flags & FLAG.keepalive) && etherType(d.content) === 0x0806;
const isAnnouncement = (d: Datagram) => !!(d.flags & FLAG.announce);

/** Somewhere to pass frames on to. */
class Place implements AsyncDisposable {
  readonly #socket = createSocket("udp4");
  readonly #first = once(this.#socket, "message");
  frames = 0;

  async open(): Promise<string> {
    this.#socket.on("message", () => (this.frames += 1));
    this.#socket.bind(0, "127.0.0.1");
    await once(this.#socket, "listening");
    return `127.0.0.1:${this.#socket.address().port}`;
  }

  async comes(): Promise<void> {
    await this.#first;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close();
  }
}

describe("NIC of a guest that moves", function () {
  this.timeout(120_000);
  let vm: Vm;
  let control: ControlClient;
  let key: LinkKey;
  let peer: WirePeer;
  let guest: string;
  const open: AsyncDisposable[] = [];

  beforeEach(async () => {
    vm = await Vm.boot({ epoch: 5 });
    control = await vm.control();
    key = new LinkKey();
    peer = await WirePeer.open(key);
    open.push(vm, peer);
    guest = (await wire(control, "127.0.0.1:0")) as string;
    await control.request("nic.peer", { nic: 0, addr: peer.address });
    await vm.shell("mount -t proc proc /proc; ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up");
    await peer.ping(guest);
  });
  afterEach(async () => {
    for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
  });

  const wire = async (to: ControlClient, bind: string) => {
    const reply = await to.request("nic.add", { nic: 0, mac: "02:00:00:00:00:01", mtu: 1400, bind });
    await to.request("nic.key", key.args(0, 1));
    return reply.bind;
  };
  const arp = async (to: string) => {
    await peer.send(to, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    return peer.until(isArp);
  };

  it("is silent while frozen, and speaks for itself as soon as it is thawed", async () => {
    await control.request("freeze", { attempt: "m1", deadmanMs: 20000 });
    peer.forget();
    await peer.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    await control.request("thaw", { attempt: "m1" });
    // What came meanwhile waited in the socket.
    expect((await peer.until(isArp)).epoch).to.equal(5);
    expect((await arp(guest)).epoch).to.equal(5);
  });

  it("leaves no key in the guest's memory", async () => {
    await arp(guest);
    await control.request("freeze", { attempt: "m1", deadmanMs: 20000 });
    const memory = readFileSync(vm.path("memory"));
    const ends = [key.wire(1).self, key.wire(1).peer] as const;
    const secrets = { link: key.link, hex: Buffer.from(key.link.toString("hex")) } as Record<string, Buffer>;
    for (const cipher of ["gcm", "chacha"] as const) {
      secrets[`${cipher} out`] = directionKey(key.link, cipher, ends[0], ends[1]);
      secrets[`${cipher} in`] = directionKey(key.link, cipher, ends[1], ends[0]);
    }
    for (const [name, secret] of Object.entries(secrets)) {
      expect(memory.includes(secret), name).to.equal(false);
      expect(memory.includes(secret.subarray(0, 16)), `half of ${name}`).to.equal(false);
    }
    await control.request("thaw", { attempt: "m1" });
  });

  it("goes on in a new process, announced at once, with the new epoch and its floors", async () => {
    peer.epoch = 3;
    await peer.ping(guest);
    const oldEpoch = peer.make(Buffer.alloc(64));
    peer.epoch = 4;
    await peer.ping(guest);
    const heardAlready = await peer.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    await peer.until(isArp);

    const attempt = await release(vm);
    const moved = await incoming(vm.folder, attempt, 9);
    open.push(moved);
    const target = await moved.control();
    const there = (await wire(target, "127.0.0.1:0")) as string;
    peer.forget();
    const asked = performance.now();
    await target.request("go", { attempt });
    const announced = await peer.until(isAnnouncement);
    expect(announced.epoch).to.equal(9);
    // A generous bound: the test's own process must be scheduled too.
    expect(performance.now() - asked).to.be.lessThan(1000);

    expect((await arp(there)).epoch).to.equal(9);
    const before = await counters(target);
    await peer.raw(there, heardAlready);
    await peer.raw(there, oldEpoch);
    await peer.ping(there);
    const after = await counters(target);
    expect(after.dropReplayed).to.equal((before.dropReplayed as number) + 1);
    expect(after.dropOldEpoch).to.equal((before.dropOldEpoch as number) + 1);
    expect(after.peerEpoch).to.equal(4);
  });

  it("is followed by frames from its release on, where the way was told before its freeze, and only after that freeze", async () => {
    const [first, second] = [new Place(), new Place()];
    open.push(first, second);
    await control.request("nic.pass", { nic: 0, addr: await first.open() });
    await control.request("freeze", { attempt: "one", deadmanMs: 60_000 });
    await peer.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    await control.request("release", { attempt: "one" });
    await first.comes();

    await control.request("return", { attempt: "one", epoch: 8 });
    await control.request("freeze", { attempt: "two", deadmanMs: 60_000 });
    await control.request("release", { attempt: "two" });
    await peer.send(guest, arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1"));
    await control.request("nic.pass", { nic: 0, addr: await second.open() });
    await second.comes();
    expect(first.frames).to.equal(1);
    await control.request("return", { attempt: "two", epoch: 9 });
  });

  describe("that has left a process which still hears its peer", () => {
    const attempt = "follow";
    const request = arpRequest(PEER_MAC, "10.0.0.2", "10.0.0.1");
    let target: ControlClient;
    let there: string;

    beforeEach(async () => {
      await control.request("freeze", { attempt, deadmanMs: 60_000 });
      peer.forget();
      // Comes while the guest stands.
      await peer.send(guest, request);
      await control.request("release", { attempt });
      const moved = await incomingBeside(vm, attempt, 9);
      open.push(moved);
      target = await moved.control();
      there = (await wire(target, "127.0.0.1:0")) as string;
      await control.request("nic.pass", { nic: 0, addr: there });
    });

    it("gets the frames that came to the old place, and goes on speaking to its peer", async () => {
      // Comes when it has gone, and before it is there.
      await peer.send(guest, request);
      await target.request("go", { attempt });
      for (let i = 0; i < 2; i++) expect((await peer.until(isArp)).epoch).to.equal(9);
      await peer.send(guest, request);
      expect((await peer.until(isArp)).epoch).to.equal(9);
      const { rxPassedOn, roamed } = await counters(target);
      expect({ rxPassedOn, roamed }).to.deep.equal({ rxPassedOn: 3, roamed: 0 });
      expect((await target.request("nic.stats"))["0.peer"]).to.equal(peer.address);
    });

    it("is found by a peer that has moved too and knows the old place only", async () => {
      await target.request("go", { attempt });
      const moved = await WirePeer.open(key);
      open.push(moved);
      moved.epoch = peer.epoch + 2;
      await moved.send(guest, request);
      expect((await moved.until(isArp)).epoch).to.equal(9);
      expect((await target.request("nic.stats"))["0.peer"]).to.equal(moved.address);
    });

    it("believes no address that comes with frames of a peer that has not moved", async () => {
      await target.request("go", { attempt });
      await peer.until(isArp);
      const elsewhere = await WirePeer.open(key);
      open.push(elsewhere);
      await peer.raw(there, passedOn(elsewhere.address, peer.make(request)));
      await peer.until(isArp);
      // Neither twice wrapped nor cut short.
      const before = await counters(target);
      await peer.raw(there, passedOn(peer.address, passedOn(peer.address, peer.make(request))));
      await peer.raw(there, passedOn(peer.address, peer.make(request)).subarray(0, 19));
      await peer.ping(there);
      const after = await counters(target);
      expect(after.dropVersion).to.equal((before.dropVersion as number) + 2);
      expect((await target.request("nic.stats"))["0.peer"]).to.equal(peer.address);
    });

    it("keeps its frames again when it has come back", async () => {
      await control.request("return", { attempt, epoch: 7 });
      expect((await arp(guest)).epoch).to.equal(7);
      const { rxPassedOn } = await counters(control);
      expect(rxPassedOn).to.equal(0);
    });
  });
});
