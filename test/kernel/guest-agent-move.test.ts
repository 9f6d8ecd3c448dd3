/** Sessions of the guest agent while the guest goes from process to process. */
import { rmSync } from "node:fs";
import { expect } from "chai";
import { GuestClient, TYPE, u64 } from "../unit/guest/support/guestClient";
import { GuestSession } from "../unit/guest/support/guestSession";
import { resumeElsewhere } from "./support/move";
import { Vm } from "./support/vm";

const MIB = 1048576;
const MOVES = 6;

describe("guest agent across moves", function () {
  this.timeout(180_000);
  let vm: Vm;
  let client: GuestClient;
  let moves = 0;
  const folders = new Set<string>();

  before(async () => {
    vm = await Vm.boot({ args: ["init=/sbin/init"], memoryMiB: 96, diskBytes: 256 * MIB });
    folders.add(vm.folder);
    (await vm.stream("guest.sock")).socket.destroy();
    ({ client } = await GuestClient.greeted(vm.path("run/guest.sock")));
  });
  after(async () => {
    await vm[Symbol.asyncDispose]();
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
  });

  const start = (...argv: string[]) => new GuestSession(client).open({ argv });

  /** Moves the guest, from one user-space mode to the other, and finds its sessions again; how much input each of them has taken. */
  async function move(sessions: readonly GuestSession[]): Promise<Map<number, number>> {
    moves++;
    vm = await resumeElsewhere(vm, 1 + moves, { userspace: moves % 2 ? "ptrace" : "seccomp" });
    folders.add(vm.folder);
    await client.closed;
    (await vm.stream("guest.sock")).socket.destroy();
    const greeted = await GuestClient.greeted(vm.path("run/guest.sock"));
    client = greeted.client;
    expect(greeted.hello.sessions.map((s) => s.id)).to.have.members(sessions.map((s) => s.id));
    for (const session of sessions) session.attach(client);
    return new Map(greeted.hello.sessions.map((s) => [s.id, s.received]));
  }

  async function linesFrom(session: GuestSession, count: number): Promise<void> {
    const wanted = session.stdout.split("\n").length + count;
    while (session.stdout.split("\n").length < wanted) {
      const frame = await session.step();
      if (frame.type === TYPE.exit) throw new Error(`ended: ${frame.payload.toString()} ${session.stdout.slice(-300)}`);
      session.ack();
    }
  }

  it("goes on with the scheduler's clock", async () => {
    const clock = async (): Promise<number> => {
      const session = start("grep", "exec_start", "/proc/self/sched");
      expect(await session.finish()).to.deep.equal({ code: 0 });
      return Number(/: +([0-9.]+)/.exec(session.stdout)?.[1]);
    };
    const before = await clock();
    await move([]);
    const after = await clock();
    expect(after).to.be.within(before, before + 60_000);
  });

  it("brings every byte of output and input once, and programs notice nothing", async () => {
    const count = start("sh", "-c", 'i=0; while read line; do i=$((i+1)); echo "$i $line"; done; seq 1 200000');
    const checks = [start("uptimecheck"), start("avxhold"), start("ramcheck", "--mib", "4", "--disk-mib", "2")];
    let sent = "";
    for (let i = 1; i <= MOVES; i++) {
      for (const session of checks) await linesFrom(session, 1);
      // On its way when the guest is frozen: what of it came is not known, so it is sent again from where the guest says.
      count.input(`line ${i}\n`);
      sent += `line ${i}\n`;
      const taken = (await move([count, ...checks])).get(count.id) ?? 0;
      // None is left: an empty frame would end the input.
      if (taken < sent.length) client.send(TYPE.stdin, count.id, u64(taken, sent.slice(taken)));
      await linesFrom(count, 1);
    }
    const expected = Array.from({ length: MOVES }, (_, i) => `${i + 1} line ${i + 1}\n`).join("");
    for (const session of checks) await linesFrom(session, 2);
    for (const session of checks) client.send(TYPE.signal, session.id, Uint8Array.of(15));
    for (const session of checks) expect(await session.finish(), session.stdout.slice(-300)).to.deep.equal({ code: 0 });
    count.endInput();
    // The flood of the end, with a move in its middle.
    while (count.stdout.length < 100_000) await count.step();
    await move([count]);
    expect(await count.finish()).to.deep.equal({ code: 0 });
    expect(count.stdout).to.equal(expected + Array.from({ length: 200_000 }, (_, i) => `${i + 1}\n`).join(""));
  });
});
