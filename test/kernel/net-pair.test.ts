/** Two guests, wired NIC to NIC over the host's loopback. */
import { expect } from "chai";
import type { ControlClient } from "./support/control";
import { counters, LinkKey } from "./support/link";
import { Vm } from "./support/vm";

describe("link between two guests", function () {
  this.timeout(90_000);
  const vms: Vm[] = [];
  const controls: ControlClient[] = [];
  const bound: string[] = [];

  before(async () => {
    for (const end of [0, 1]) {
      const vm = await Vm.boot({ epoch: 3 });
      vms.push(vm);
      controls.push(await vm.control());
      await vm.shell(`mount -t proc proc /proc; true ${end}`);
    }
  });
  after(async () => {
    for (const vm of vms) await vm[Symbol.asyncDispose]();
  });

  const control = (end: number) => controls[end] as ControlClient;
  const shell = (end: number, command: string) => (vms[end] as Vm).shell(command);

  const wire = async (bind: string, mtu: number, key: LinkKey | "plain") => {
    for (const end of [0, 1]) {
      bound[end] = (await control(end).request("nic.add", { nic: 0, mac: `02:00:00:00:00:0${end + 1}`, mtu, bind })).bind as string;
      await control(end).request("nic.key", key === "plain" ? { nic: 0, id: 0, plain: 1 } : key.args(0, (end + 1) as 1 | 2));
      await shell(end, `ip addr add 10.0.0.${end + 1}/24 dev eth0; ip link set eth0 up`);
    }
    await point();
  };
  const point = async () => {
    for (const end of [0, 1]) await control(end).request("nic.peer", { nic: 0, addr: bound[1 - end] as string });
  };
  const ping = (bytes: number, count = 5) => shell(0, `ping -c ${count} -i 0.2 -s ${bytes} 10.0.0.2`);
  afterEach(async () => {
    for (const end of [0, 1]) await control(end).request("nic.remove", { nic: 0 });
  });

  for (const [name, bind] of [
    ["IPv4", "127.0.0.1:0"],
    ["IPv6", "[::1]:0"],
  ] as const)
    for (const mtu of [1400, 9000])
      it(`pings over ${name} at MTU ${mtu} with full packets`, async () => {
        await wire(bind, mtu, new LinkKey());
        expect(await ping(mtu - 28)).to.contain("0% packet loss");
        const stats = await counters(control(0));
        expect(stats.txHostRefused).to.equal(0);
        expect(stats.dropUnauthentic).to.equal(0);
      });

  it("carries a TCP stream with every byte right", async () => {
    await wire("127.0.0.1:0", 1400, new LinkKey());
    const made = await shell(0, "mount -t tmpfs t /tmp; dd if=/dev/urandom of=/tmp/x bs=64k count=64 2>/dev/null; md5sum < /tmp/x");
    const sum = made.split(" ")[0] as string;
    const received = shell(1, "nc -l -p 9001 | md5sum");
    await shell(0, "for i in 1 2 3 4 5 6 7 8 9 10; do nc -w 5 10.0.0.2 9001 < /tmp/x && break; usleep 300000; done");
    expect(await received).to.contain(sum);
  });

  it("works in plain mode, when both ends ask for it", async () => {
    await wire("127.0.0.1:0", 1400, "plain");
    expect(await ping(1000)).to.contain("0% packet loss");
  });

  it("keeps two ends apart that do not have the same key", async () => {
    await wire("127.0.0.1:0", 1400, new LinkKey());
    await control(1).request("nic.key", new LinkKey(1).args(0, 2));
    await shell(0, "ping -c 2 -i 0.2 -W 1 10.0.0.2 && exit 1; true").catch(() => "");
    const stats = await counters(control(1));
    expect(stats.dropUnauthentic).to.be.greaterThan(0);
    expect(stats.rxFrames).to.equal(0);
  });

  it("goes on when one end is bound to another port, without being told", async () => {
    await wire("127.0.0.1:0", 1400, new LinkKey());
    expect(await ping(100, 2)).to.contain("0% packet loss");
    await control(1).request("nic.add", { nic: 0, mac: "02:00:00:00:00:02", mtu: 1400, bind: "127.0.0.1:0" });
    expect(await ping(100, 3)).to.contain("0% packet loss");
    expect((await counters(control(0))).roamed).to.equal(1);
  });
});
