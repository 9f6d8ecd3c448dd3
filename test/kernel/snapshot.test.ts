/** Freezing a guest and going on in another process: what the guest notices (nothing), and who may do what when. */
import { closeSync, openSync, readFileSync, readSync, rmSync, statSync, writeSync } from "node:fs";
import { expect } from "chai";
import { type ControlError, refused } from "./support/control";
import { baseWithLoad, loadCounts, loadGoesOn, startLoad } from "./support/load";
import { incoming, release, resumeElsewhere, resumeHere } from "./support/move";
import { tool, Vm, type VmOptions } from "./support/vm";

type Userspace = "seccomp" | "ptrace";

/** What may differ between two processes of one guest. */
const surroundings: readonly Pick<VmOptions, "env" | "cwd">[] = [
  { env: {} },
  { env: { A: "x".repeat(20_000) }, cwd: "/" },
  { env: Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((n) => [`B${n}`, "y".repeat(120_000)])) },
  { env: { GLIBC_TUNABLES: "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX512F,-ERMS" } },
  { env: { GLIBC_TUNABLES: "glibc.pthread.rseq=0:glibc.rtld.optional_static_tls=4096" } },
];

type Range = readonly [start: number, end: number];

/** Where libc's heap, its thread block and the stack of a process lie. */
function privateRanges(pid: number): Range[] {
  const ranges: Range[] = [];
  for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
    const [, start, end, name] = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *(.*)$/.exec(line) ?? [];
    if (start && end && (name === "" || name === "[stack]" || name === "[heap]"))
      ranges.push([Number.parseInt(start, 16), Number.parseInt(end, 16)]);
  }
  return ranges;
}

/** The 8-byte words of a file that lie in one of the ranges, as `offset: value`. */
function addressesIn(file: string, ranges: readonly Range[]): string[] {
  const bytes = readFileSync(file);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
  const found: string[] = [];
  for (let i = 0; i < words.length; i += 2) {
    const high = words[i + 1] ?? 0;
    if (high < 0x7000 || high > 0x7fff) continue;
    const value = high * 2 ** 32 + (words[i] ?? 0);
    if (ranges.some(([start, end]) => value >= start && value < end)) found.push(`${(i * 4).toString(16)}: ${value.toString(16)}`);
  }
  return found;
}

describe("a guest under load, moved again and again", function () {
  this.timeout(300_000);
  let load: { folder: string; base: string };
  const folders = new Set<string>();
  before(() => {
    load = baseWithLoad();
  });
  after(() => rmSync(load.folder, { recursive: true, force: true }));
  afterEach(() => {
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
    folders.clear();
  });

  /** Moves it `moves` times, each time to the next of `modes` and into other surroundings. */
  async function chain(modes: readonly Userspace[], moves: number): Promise<void> {
    const mode = (i: number): Userspace => modes[i % modes.length] ?? "seccomp";
    let vm = await Vm.boot({ base: load.base, memoryMiB: 128, userspace: mode(0) });
    try {
      folders.add(vm.folder);
      await startLoad(vm);
      let counts = await loadGoesOn(vm, await loadCounts(vm));
      for (let i = 1; i <= moves; i++) {
        const options = { base: load.base, userspace: mode(i), ...surroundings[i % surroundings.length] };
        vm = await (i % 3 === 0 ? resumeHere(vm, i + 1, options) : resumeElsewhere(vm, i + 1, options));
        folders.add(vm.folder);
        counts = await loadGoesOn(vm, counts);
      }
    } catch (cause) {
      throw new Error(
        `${(cause as Error).message}; the VM process: ${await vm.state()}; the VM's log ends with:\n${vm.log().slice(-3000)}`,
        { cause },
      );
    } finally {
      await vm[Symbol.asyncDispose]();
    }
  }

  it("finds nothing wrong in 20 moves by seccomp", () => chain(["seccomp"], 20));
  it("finds nothing wrong in 20 moves by ptrace", () => chain(["ptrace"], 20));
  it("finds nothing wrong in 20 moves between the two", () => chain(["seccomp", "ptrace"], 20));

  it("goes on as another user", async () => {
    let vm = await Vm.boot({ base: load.base, memoryMiB: 128 });
    try {
      folders.add(vm.folder);
      await startLoad(vm);
      const counts = await loadGoesOn(vm, await loadCounts(vm));
      vm = await resumeElsewhere(vm, 2, { base: load.base, asUser: 54321 });
      folders.add(vm.folder);
      await loadGoesOn(vm, counts);
      if (process.getuid?.() === 0) expect(statSync(`/proc/${vm.process.pid}`).uid).to.equal(54321);
    } finally {
      await vm[Symbol.asyncDispose]();
    }
  });

  it("keeps running when it is frozen and thawed at once, many times", async () => {
    await using vm = await Vm.boot({ base: load.base, memoryMiB: 128 });
    await startLoad(vm);
    let counts = await loadCounts(vm);
    const control = await vm.control();
    for (let i = 0; i < 200; i++) {
      await control.request("freeze", { attempt: `a${i}`, deadmanMs: 10_000 });
      await control.request("thaw", { attempt: `a${i}` });
    }
    counts = await loadGoesOn(vm, counts);
  });
});

describe("a frozen guest", function () {
  this.timeout(60_000);
  let vm: Vm;
  beforeEach(async () => {
    vm = await Vm.boot();
  });
  afterEach(() => vm[Symbol.asyncDispose]());

  it("is thawed when the client that froze it goes away", async () => {
    const [one, other] = [await vm.control(), await vm.control()];
    await one.request("freeze", { attempt: "m", deadmanMs: 60_000 });
    expect((await other.request("status")).state).to.equal("frozen");
    one.close();
    let state: string | undefined = "frozen";
    while (state === "frozen") state = (await other.request("status")).state;
    expect(state).to.equal("run");
    expect(await vm.shell("echo runs")).to.equal("runs\n");
  });

  it("is thawed after its limit", async () => {
    const control = await vm.control();
    await control.request("freeze", { attempt: "m", deadmanMs: 50 });
    let state: string | undefined = "frozen";
    while (state === "frozen") state = (await control.request("status")).state;
    expect(state).to.equal("run");
  });

  it("is as it was, byte for byte, whatever its process is asked meanwhile", async () => {
    const control = await vm.control();
    await control.request("freeze", { attempt: "m", deadmanMs: 60_000 });
    const before = readFileSync(vm.path("memory"));
    for (let i = 0; i < 20; i++) expect((await control.request("status")).state).to.equal("frozen");
    expect(readFileSync(vm.path("memory")).equals(before)).to.equal(true);
    await control.request("thaw", { attempt: "m" });
    expect(await vm.shell("echo runs")).to.equal("runs\n");
  });

  it("has no dead man once it is released, and returns only with a higher epoch", async () => {
    await using other = await vm.control();
    const one = await vm.control();
    await one.request("freeze", { attempt: "m", deadmanMs: 60_000 });
    await one.request("release", { attempt: "m" });
    one.close();
    for (let i = 0; i < 20; i++) expect((await other.request("status")).state).to.equal("released");
    expect(await refused(other.request("thaw", { attempt: "m" }))).to.equal("bad-state");
    expect(await refused(other.request("return", { attempt: "other", epoch: 5 }))).to.equal("bad-state");
    expect(await refused(other.request("return", { attempt: "m", epoch: 1 }))).to.equal("bad-value");
    await other.request("return", { attempt: "m", epoch: 5 });
    expect(await other.request("status")).to.include({ state: "run", epoch: "5" });
    expect(await vm.shell("echo runs")).to.equal("runs\n");
  });

  it("does each thing in its state only, and for its attempt only", async () => {
    const control = await vm.control();
    for (const verb of ["thaw", "release", "return", "go", "refuse"]) {
      expect(await refused(control.request(verb, { attempt: "m", epoch: 9 })), verb).to.equal("bad-state");
    }
    expect(await refused(control.request("freeze", { attempt: "m" }))).to.equal("bad-request");
    await control.request("freeze", { attempt: "m", deadmanMs: 60_000 });
    for (const verb of ["thaw", "release"]) expect(await refused(control.request(verb, { attempt: "n" })), verb).to.equal("bad-state");
    expect(await refused(control.request("freeze", { attempt: "m", deadmanMs: 1 }))).to.equal("bad-state");
    await control.request("thaw", { attempt: "m" });
  });

  it("holds the lock, also through its stubs", async () => {
    expect(JSON.parse(tool("header", vm.path("memory")))).to.include({ state: "run", locked: true });
    expect(() => tool("cas", vm.path("memory"), "run", "part"))
      .to.throw()
      .with.property("status", 75);
    const second = Vm.start({ folder: vm.folder, incoming: true });
    expect((await second.exited).code).to.equal(75);
  });

  for (const userspace of ["seccomp", "ptrace"] as const) {
    it(`has no address of its process's heap and stack in its memory (${userspace})`, async () => {
      await using own = await Vm.boot({ userspace });
      await own.shell("echo started");
      const control = await own.control();
      await control.request("freeze", { attempt: "m", deadmanMs: 60_000 });
      const ranges = privateRanges(own.process.pid ?? 0);
      expect(ranges.length).to.be.greaterThan(1);
      expect(addressesIn(own.path("memory"), ranges)).to.deep.equal([]);
      await control.request("thaw", { attempt: "m" });
    });
  }

  it("stands still: CLOCK_MONOTONIC does not jump, the real-time clock is the host's", async () => {
    const control = await vm.control();
    const uptime = async () => BigInt((await control.request("status")).uptimeNs ?? 0);
    const before = await uptime();
    const started = process.hrtime.bigint();
    await control.request("freeze", { attempt: "m", deadmanMs: 60_000 });
    const frozen = await uptime();
    while (process.hrtime.bigint() - started < 1_500_000_000n) expect(await uptime()).to.equal(frozen);
    await control.request("thaw", { attempt: "m" });
    expect(Number((await uptime()) - before)).to.be.lessThan(1_400_000_000);
    expect(Math.abs(Number(await vm.shell("date +%s")) - Date.now() / 1000)).to.be.lessThan(2);
  });
});

describe("a process that waits for a guest", function () {
  this.timeout(60_000);

  /** A released guest, made ready to come, whose header a test then damages. */
  async function waiting(change: (header: Buffer) => void): Promise<{ vm: Vm; attempt: string }> {
    const first = await Vm.boot();
    const attempt = await release(first);
    const file = openSync(first.path("memory"), "r+");
    const header = Buffer.alloc(4096);
    readSync(file, header, 0, 4096, 0);
    change(header);
    writeSync(file, header, 0, 4096, 0);
    closeSync(file);
    return { vm: await incoming(first.folder, attempt, 2), attempt };
  }

  async function goFails(change: (header: Buffer) => void): Promise<{ text: string; code: number | null; state: string }> {
    const { vm, attempt } = await waiting(change);
    try {
      const control = await vm.control();
      const text = await control.request("go", { attempt }).then(
        () => "it went",
        (error: Error) => error.message,
      );
      const { code } = await vm.exited;
      return { text, code, state: JSON.parse(tool("header", vm.path("memory"))).state };
    } finally {
      await vm[Symbol.asyncDispose]();
      rmSync(vm.folder, { recursive: true, force: true });
    }
  }

  it("listens already, and serves who came early when the guest is there", async () => {
    const { vm, attempt } = await waiting(() => undefined);
    try {
      const early = await vm.stream("console.sock");
      await vm.stream("guest.sock");
      await using control = await vm.control();
      await control.request("go", { attempt });
      // What the guest had written before it came here.
      await early.reader.until(/Linux version/);
      expect(await vm.shell("echo runs")).to.equal("runs\n");
    } finally {
      await vm[Symbol.asyncDispose]();
      rmSync(vm.folder, { recursive: true, force: true });
    }
  });

  it("refuses a guest of another kernel, and leaves the copy as it is", async () => {
    const { text, code, state } = await goFails((header) => header.write("f".repeat(64), 96));
    expect(text).to.match(/build id/);
    expect([code, state]).to.deep.equal([76, "part"]);
  });

  it("refuses, by name, a guest that has seen what this CPU lacks", async () => {
    const { text, code, state } = await goFails((header) => {
      // CPUID leaf 7, EBX: a processor that never was.
      header.writeUInt32LE((header.readUInt32LE(240 + 4 * 4) | (1 << 27)) >>> 0, 240 + 4 * 4);
      header.writeBigUInt64LE(header.readBigUInt64LE(232) | (1n << 40n), 232);
    });
    expect(text).to.match(/lacks: avx512er,xstate40/);
    expect([code, state]).to.deep.equal([77, "part"]);
  });

  it("goes for its own attempt only, and refuses for good when told so", async () => {
    const { vm, attempt } = await waiting(() => undefined);
    try {
      const control = await vm.control();
      expect((await control.request("status")).state).to.equal("part");
      expect(
        await control.request("go", { attempt: "another" }).then(
          () => "",
          (e: ControlError) => e.code,
        ),
      ).to.equal("bad-state");
      await control.request("refuse", { attempt });
      expect((await vm.exited).code).to.equal(0);
      expect(JSON.parse(tool("header", vm.path("memory"))).state).to.equal("refused");
    } finally {
      await vm[Symbol.asyncDispose]();
      rmSync(vm.folder, { recursive: true, force: true });
    }
  });
});

describe("a guest that ends by itself", function () {
  this.timeout(60_000);
  it("says so in its memory file, also after a move", async () => {
    let vm = await Vm.boot();
    const folder = vm.folder;
    try {
      vm = await resumeHere(vm, 2);
      const control = await vm.control();
      await control.request("poweroff");
      expect((await vm.exited).code).to.equal(0);
      expect(JSON.parse(tool("header", vm.path("memory")))).to.include({ state: "haltedByGuest", locked: false, epoch: 2 });
    } finally {
      await vm[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
