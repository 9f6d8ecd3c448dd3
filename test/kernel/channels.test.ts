/** console.sock and guest.sock: what vm-process.md promises of them. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { statSync } from "node:fs";
import type { Socket } from "node:net";
import { expect } from "chai";
import { PATIENCE_MS } from "./support/lines";
import { Vm } from "./support/vm";

const RING_BYTES = 256 * 1024;

describe("console.sock", function () {
  this.timeout(60_000);
  let vm: Vm;
  before(async () => {
    vm = await Vm.boot();
  });
  after(() => vm?.[Symbol.asyncDispose]());

  it("is the owner's alone", async () => {
    (await vm.stream("console.sock")).socket.destroy();
    expect(statSync(vm.path("run/console.sock")).mode & 0o777).to.equal(0o600);
  });

  it("shows a new client what was said since the first line of the boot", async () => {
    const { socket, reader } = await vm.stream("console.sock");
    await reader.until(/Linux version 7\.[\s\S]*Run \/bin\/sh as init process/);
    socket.destroy();
  });

  it("is a terminal", async () => {
    expect(await vm.shell("test -t 0 && test -c /dev/mobicon && echo yes")).to.equal("yes\n");
  });

  it("shows all clients the same", async () => {
    const [one, two] = [await vm.stream("console.sock"), await vm.stream("console.sock")];
    one.socket.write("echo to'gether'\n");
    await Promise.all([one.reader.until(/\ntogether\r\n/), two.reader.until(/\ntogether\r\n/)]);
    one.socket.destroy();
    two.socket.destroy();
  });

  it("keeps exactly the last 256 KiB, in order", async () => {
    await vm.shell("i=0; while [ $i -lt 40000 ]; do echo line-$i; i=$((i+1)); done > /tmp/lines");
    // Less than a ring at once, so that this test's own client loses nothing however slow it is.
    for (let from = 1; from < 40_000; from += 10_000) await vm.shell(`sed -n '${from},${from + 9999}p' /tmp/lines`);
    const { socket, reader } = await vm.stream("console.sock");
    const shown = (await reader.bytes(RING_BYTES)).toString("latin1");
    socket.destroy();
    const numbers = [...shown.matchAll(/line-(\d+)\r\n/g)].map((match) => Number(match[1]));
    expect(numbers.length).to.be.greaterThan(15_000);
    expect(numbers.at(-1)).to.equal(39_999);
    // The first match may be cut in its digits; from the second on each follows the one before.
    for (let i = 2; i < numbers.length; i++) expect(numbers[i]).to.equal((numbers[i - 1] ?? 0) + 1);
  });

  it("does not make the guest wait for a client that does not read", async () => {
    const { socket } = await vm.stream("console.sock");
    socket.pause();
    for (let i = 0; i < 5; i++) await vm.shell("head -n 10000 /tmp/lines");
    socket.destroy();
  });

  it("takes typing faster than the guest reads it, without a loss", async () => {
    const { socket, reader } = await vm.stream("console.sock");
    socket.write("cat > /tmp/typed\n");
    const line = `${"x".repeat(99)}\n`;
    // In canonical mode the line discipline holds 4 KiB: the rest has to wait in the socket.
    socket.write(line.repeat(1000));
    socket.write("\x04");
    socket.write("wc -c < /tmp/typed; echo 'don''e'\n");
    const match = await reader.until(/(\d+)\r\ndone\r\n/, 2 * PATIENCE_MS);
    expect(match[1]).to.equal("100000");
    socket.destroy();
  });

  for (const userspace of ["seccomp", "ptrace"] as const)
    it(`keeps a new client when an older one leaves while programs start (${userspace})`, async () => {
      // Each start of a program makes a process of the host that has all of the kernel's sockets, for a moment: the longer, the larger its stack.
      const env = Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((n) => [`B${n}`, "y".repeat(120_000)]));
      await using busy = await Vm.boot({ userspace, env });
      await busy.background("while true; do /bin/true & /bin/true & /bin/true; done");
      for (let i = 0; i < 400; i++) {
        (await busy.stream("console.sock")).socket.destroy();
        await busy.shell("true");
      }
    });
});

describe("guest.sock", function () {
  this.timeout(60_000);
  let vm: Vm;
  before(async () => {
    vm = await Vm.boot();
  });
  after(() => vm?.[Symbol.asyncDispose]());

  const background = (command: string) => vm.background(command);

  it("carries bytes to the guest and from it, and ends a stream with one read of 0", async () => {
    // cat ends at the first 0.
    await background("cat /dev/mobi > /tmp/got; echo one-done > /dev/mobicon");
    const console = await vm.stream("console.sock");
    const { socket } = await vm.stream("guest.sock");
    const sent = randomBytes(1_000_000);
    socket.end(sent);
    await console.reader.until(/one-done/);
    console.socket.destroy();
    const sum = await vm.shell("sha256sum < /tmp/got");
    const { createHash } = await import("node:crypto");
    expect(sum.split(" ")[0]).to.equal(createHash("sha256").update(sent).digest("hex"));
  });

  it("carries much at once both ways, with back-pressure", async () => {
    // An echo on one open file: what comes in goes out.
    await background("cat <>/dev/mobi >&0");
    const { socket, reader } = await vm.stream("guest.sock");
    const sent = randomBytes(4_000_000);
    const written = send(socket, sent);
    const got = await reader.bytes(sent.length, 2 * PATIENCE_MS);
    await written;
    expect(got.equals(sent)).to.equal(true);
    socket.destroy();
  });

  it("gives the place to a new client: the old one is closed, the guest reads 0, then the new stream", async () => {
    const console = await vm.stream("console.sock");
    await background(
      "exec 3<>/dev/mobi; cat <&3 >/tmp/first; echo first-over > /dev/mobicon; head -c 6 <&3 >/tmp/second; echo second-over > /dev/mobicon",
    );
    const first = await vm.stream("guest.sock");
    first.socket.write("from-one");
    await untilShell(vm, "cat /tmp/first || true", "from-one");
    const second = await vm.stream("guest.sock");
    second.socket.write("second");
    await first.reader.end();
    await console.reader.until(/first-over/);
    await console.reader.until(/second-over/);
    expect(await vm.shell("cat /tmp/first; echo; cat /tmp/second")).to.equal("from-one\nsecond");
    second.socket.destroy();
    console.socket.destroy();
  });

  it("refuses what the guest writes while nobody is there, and a second opener", async () => {
    await vm.shell("exec 3<>/dev/mobi");
    expect(await vm.shell("cat /etc/passwd 2>&1 >&3 || true")).to.match(/[Bb]roken pipe/);
    expect(await vm.shell("(: <>/dev/mobi) 2>&1 || true")).to.match(/busy/);
    await vm.shell("exec 3>&-");
  });

  it("lets a new opener begin with a new client", async () => {
    await vm.shell("exec 3<>/dev/mobi");
    const { socket, reader } = await vm.stream("guest.sock");
    socket.write("old");
    expect(await vm.shell("head -c 3 <&3")).to.equal("old");
    await vm.shell("exec 3>&-");
    await reader.end();
    socket.destroy();
    await vm.shell("exec 3<>/dev/mobi");
    const next = await vm.stream("guest.sock");
    next.socket.write("new");
    expect(await vm.shell("head -c 3 <&3")).to.equal("new");
    await vm.shell("exec 3>&-");
    next.socket.destroy();
  });
});

async function send(socket: Socket, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; at += 65536) {
    if (!socket.write(bytes.subarray(at, at + 65536))) await once(socket, "drain");
  }
}

/** Until the guest's answer is this one (each question takes the guest a while, so no pause is needed). */
async function untilShell(vm: Vm, command: string, wanted: string): Promise<void> {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const got = await vm.shell(command);
    if (got === wanted) return;
    if (Date.now() > deadline) throw new Error(`${command}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
  }
}
