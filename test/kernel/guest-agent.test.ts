/** The guest agent where it belongs: in a guest of our kernel, from our image, over guest.sock. */
import { expect } from "chai";
import { type ExitReport, GuestClient, type Hello, TYPE } from "../unit/guest/support/guestClient";
import { GuestSession } from "../unit/guest/support/guestSession";
import { Vm } from "./support/vm";

const MIB = 1048576;

describe("guest agent in a guest", function () {
  this.timeout(60_000);
  let vm: Vm;
  let client: GuestClient;
  let hello: Hello;

  before(async () => {
    vm = await Vm.boot({ args: ["init=/sbin/init"], memoryMiB: 96, diskBytes: 512 * MIB });
    // The socket is made late in the boot; this waits for it.
    (await vm.stream("guest.sock")).socket.destroy();
    ({ client, hello } = await GuestClient.greeted(vm.path("run/guest.sock")));
  });
  after(async () => vm[Symbol.asyncDispose]());

  async function run(script: string): Promise<string> {
    const session = new GuestSession(client).open({ argv: ["/bin/sh", "-c", script] });
    const end = await session.finish();
    expect(end, `${script}: ${session.stdout}${session.stderr}`).to.deep.equal({ code: 0 } satisfies ExitReport);
    return session.stdout;
  }

  async function configure(wanted: object): Promise<unknown> {
    client.send(TYPE.configure, 0, JSON.stringify(wanted));
    return JSON.parse((await client.next((f) => f.type === TYPE.result)).payload.toString());
  }

  it("greets with the boot's id", async () => {
    expect(hello.version).to.equal(1);
    expect(hello.bootId).to.equal((await run("cat /proc/sys/kernel/random/boot_id")).trim());
  });

  it("has grown the root file system to the disk's size", async () => {
    const [blocks, free] = (await run("stat -f -c '%b %f' /")).trim().split(" ").map(Number);
    expect((blocks as number) * 4096).to.be.within(490 * MIB, 512 * MIB);
    expect((free as number) * 4096).to.be.greaterThan(400 * MIB);
  });

  it("sets host name, addresses and routes, takes back what is no longer wanted, and waits for a NIC that comes later", async () => {
    const eth0 = {
      index: 0,
      name: "lan",
      mtu: 1400,
      addresses: ["10.9.0.1/24", "fd09::1/64"],
      routes: [
        { to: "10.8.3.0/24", via: "10.9.0.254" },
        { to: "default", via: "10.9.0.253" },
      ],
    };
    expect(await configure({ hostname: "handler", nics: [eth0] })).to.deep.equal({ ok: true, pending: ["eth0"] });
    // The agent sets routes last.
    await run("ip link add eth0 type dummy; until ip route | grep -q 'default via'; do sleep 0.02; done");
    expect(await run("hostname; ip -o link show eth0; ip -o addr show dev eth0; ip route")).to.match(
      /handler\n[\s\S]*UP[\s\S]*mtu 1400[\s\S]*10\.9\.0\.1\/24[\s\S]*fd09::1\/64[\s\S]*default via 10\.9\.0\.253 dev eth0[\s\S]*10\.8\.3\.0\/24 via 10\.9\.0\.254/,
    );
    // By hand: what others have set is theirs.
    await run("ip addr add 10.99.0.1/24 dev eth0");
    expect(await configure({ nics: [{ index: 0, name: "lan", mtu: 1500, addresses: ["10.9.0.2/24"] }] })).to.deep.equal({
      ok: true,
      pending: [],
    });
    const after = await run("ip -o link show eth0; ip -o addr show dev eth0; ip route");
    expect(after)
      .to.match(/mtu 1500[\s\S]*10\.9\.0\.2\/24/)
      .and.to.match(/10\.99\.0\.1\/24/);
    expect(after).not.to.match(/10\.9\.0\.1\/24|fd09::1|10\.8\.3\.0|default via/);
    // Gone and made anew: set again, without being asked.
    await run("ip link del eth0; ip link add eth0 type dummy; until ip addr show dev eth0 | grep -q 10.9.0.2/24; do sleep 0.02; done");
  });

  it("says what it can't set", async () => {
    const answer = await configure({
      nics: [{ index: 0, name: "lan", mtu: 1500, addresses: ["10.9.0.2/24"], routes: [{ to: "10.7.0.0/16", via: "192.0.2.1" }] }],
    });
    expect(answer).to.deep.include({ ok: false });
    expect(JSON.stringify(answer)).to.match(/eth0: route 0: Network is unreachable/);
  });

  it("runs commands once per boot", async () => {
    const watcher = new GuestSession(client).open({
      argv: ["/bin/sh", "-c", "until test -e /run/ran; do sleep 0.02; done; cat /run/mobi/runcmd.log"],
    });
    expect(await configure({ nics: [], runcmd: ["echo one >/root/one", "cat /root/one; touch /run/ran"] })).to.deep.include({ ok: true });
    await watcher.finish();
    expect(watcher.stdout).to.match(/\+ echo one[\s\S]*one\n/);
  });

  it("gives a shell on a terminal, with job control", async () => {
    const session = new GuestSession(client).open({ argv: [], pty: { rows: 25, cols: 90, term: "xterm" } });
    session.input(`stty size; sh -c 'trap "exit 42" INT; echo rea""dy; while :; do sleep 0.05; done'\n`);
    await session.untilOutput(/25 90[\s\S]*ready/);
    client.send(TYPE.signal, session.id, Uint8Array.of(2));
    session.input("echo $?; exit 5\n");
    expect(await session.finish()).to.deep.equal({ code: 5 });
    expect(session.stdout).to.match(/42\r\n/);
  });

  it("loses no byte when streams change under a session", async () => {
    const session = new GuestSession(client).open({ argv: ["seq", "1", "100000"] });
    let streams = 0;
    for (let frame = await session.step(); frame.type !== TYPE.exit; frame = await session.step()) {
      if (streams++ % 2) session.ack();
      await client.close();
      ({ client } = await GuestClient.greeted(vm.path("run/guest.sock")));
      session.attach(client);
    }
    expect(streams).to.be.greaterThan(5);
    expect(session.stdout).to.equal(Array.from({ length: 100_000 }, (_, i) => `${i + 1}\n`).join(""));
  });

  it("keeps many processes and many clients apart", async () => {
    const count = 120;
    await run(`cd /tmp; for i in $(seq ${count}); do mkfifo f$i; (read word < f$i; echo $word > done$i) > /dev/null 2>&1 & done`);
    await using undo = new AsyncDisposableStack();
    // Each takes a descriptor of its own number in the VM's process, where each process of the guest has one too.
    for (let i = 0; i < 8; i++) await undo.use(await vm.control()).request("status");
    // All of them touch memory that they had not before.
    await run(`cd /tmp; for i in $(seq ${count}); do echo go > f$i; done`);
    await run(`cd /tmp; until [ $(cat done* | grep -c go) = ${count} ]; do sleep 0.02; done; rm f* done*`);
  });

  it("tells its programs' turns in less than ten milliseconds", async () => {
    const told = await run("for i in $(seq 20); do grep exec_start /proc/self/sched; done");
    const times = [...told.matchAll(/: +([0-9.]+)/g)].map(([, ms]) => Number(ms));
    expect(times).to.have.length(20);
    // A clock that goes by jiffies says the same, or multiples of its step.
    expect(times.filter((ms) => ms % 10 !== 0)).to.have.length.greaterThan(10);
    expect(times).to.deep.equal([...times].sort((a, b) => a - b));
  });

  it("has a root shell on the console", async () => {
    expect(await vm.shell("id -un; tty; pwd")).to.match(/^root\n\/dev\/mobicon\n\/root\n/m);
  });

  it("powers off in order: the root file system is read-only before the end", async () => {
    await run("head -c 3000000 /dev/urandom > /root/data; sync");
    const control = await vm.control();
    await control.request("halt", {});
    expect(await vm.exited).to.deep.equal({ code: 0, signal: null });
    expect(vm.log()).to.match(/re-mounted [0-9a-f-]+ ro/);
  });
});
