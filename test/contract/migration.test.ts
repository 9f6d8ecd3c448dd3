import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { until } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import type { VmSpec } from "../../provider/schemas/vm";
import { boot, move, specOf, TestAgent } from "./support/agents";
import { fakeKernel } from "./support/fakes";
import { cutting, swallowing } from "./support/relay";

/** The commit protocol against a stand-in for the kernel: faults at will, in milliseconds. The real kernel's moves are in agent.test.ts. */
describe("moves and their faults", function () {
  this.timeout(60_000);
  let s: TestAgent;
  let t: TestAgent;
  let blobs: { kernelId: string; imageId: string };
  let spec: VmSpec;
  let kernel: string;
  let image: string;
  const folders: TestAgent[] = [];

  beforeEach(async () => {
    ({ kernel, image } = fakeKernel());
    s = await TestAgent.start("source", "127.0.0.2");
    t = await TestAgent.start("target", "127.0.0.3");
    blobs = await s.provide(kernel, image);
    spec = specOf(blobs, { memoryMiB: 32, diskMiB: 64 });
    await boot(s, spec);
    for (const agent of [s, t]) writeFileSync(join(dirname(agent.socket), "agent.pid"), String(agent.pid));
    folders.push(s, t);
  });

  afterEach(async () => {
    await s[Symbol.asyncDispose]();
    await t[Symbol.asyncDispose]();
  });

  const faults = (agent: TestAgent, words: string): void => writeFileSync(join(dirname(agent.socket), "faults"), words);
  const again = async (agent: TestAgent, address: string): Promise<TestAgent> => {
    const next = await TestAgent.start(agent.name, address, agent.stateDir);
    writeFileSync(join(dirname(next.socket), "agent.pid"), String(next.pid));
    return next;
  };
  const get = async (agent: TestAgent): Promise<protocol.VmReport | null> => (await agent.call(protocol.vmGet, { vm: spec.uuid })).vm;
  const header = async (agent: TestAgent): Promise<string | undefined> =>
    (await agent.call(protocol.moveFacts, { vm: spec.uuid })).facts.at(-1)?.header;
  const checks = (agent: TestAgent): string => readFileSync(join(dirname(agent.socket), spec.uuid, "checks"), "utf8");

  it("moves there and back, many times, and every page and block is right", async () => {
    for (let i = 0; i < 3; i++) {
      const there = await move(spec.uuid, s, t);
      expect(there.fault, JSON.stringify(there)).to.equal(undefined);
      expect(checks(t)).to.equal("ok\n");
      expect(await get(t)).to.include({ state: "running", home: "yes" });
      expect(await get(s)).to.include({ home: "no", movedTo: "target" });
      const back = await move(spec.uuid, t, s);
      expect(back.fault).to.equal(undefined);
      expect(checks(s)).to.equal("ok\n");
    }
    const told = await until(5000, "the new host to know how the move went", async () => (await get(s))?.lastMigration);
    expect(told).to.include({ from: "target", to: "source", result: "moved" });
  });

  it("a process that dies at the freeze: nothing is left at the target, and the note says it", async () => {
    faults(s, "die-at-freeze");
    const end = await move(spec.uuid, s, t);
    expect(end).to.include({ phase: "failed" });
    await until(5000, "the target to be clean", async () =>
      (await get(t)) === null && readdirSync(join(t.stateDir, "journal")).length === 0 ? true : undefined,
    );
    expect((await get(s))?.state).to.equal("stopped");
  });

  it("a target that cannot resume: the guest goes on at the source, rolled back to the freeze", async () => {
    faults(t, "no-go");
    const end = await move(spec.uuid, s, t);
    expect(end.fault).to.include({ running: "source" });
    expect(end.result).to.include({ result: "failed, returned" });
    expect(await get(s)).to.include({ state: "running", home: "yes" });
    expect(await get(t)).to.equal(null);
    await until(5000, "the target's record of it to go", async () =>
      readdirSync(join(t.stateDir, "journal")).length === 0 ? true : undefined,
    );
    faults(t, "");
    expect(await move(spec.uuid, s, t)).to.include({ phase: "done" });
  });

  it("a source agent killed at the freeze: the guest is thawed, and moves at the next try", async () => {
    faults(s, "freeze-kill-agent");
    await move(spec.uuid, s, t).catch(() => undefined);
    faults(s, "");
    s = await again(s, "127.0.0.2");
    expect(await get(s)).to.include({ state: "running", home: "yes" });
    // The target lets go of the attempt when it hears that it was given up.
    for (const fact of (await s.call(protocol.moveFacts, { vm: spec.uuid })).facts) {
      expect(fact.out).to.equal("ABORTED");
      await t.call(protocol.moveTell, { vm: spec.uuid, attempt: fact.attempt, fact: "ABORTED", journalId: fact.journalId });
    }
    expect(await get(t)).to.equal(null);
    expect(await move(spec.uuid, s, t)).to.include({ phase: "done" });
  });

  it("a source agent killed after the release: the next run finishes the move", async () => {
    faults(s, "release-kill-agent");
    await move(spec.uuid, s, t).catch(() => undefined);
    faults(s, "");
    s = await again(s, "127.0.0.2");
    expect(await get(s)).to.include({ state: "in-doubt" });
    const end = await move(spec.uuid, s, t);
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    expect(checks(t)).to.equal("ok\n");
    expect(await get(t)).to.include({ state: "running", home: "yes" });
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
  });

  it("a source process killed after the release: the copy in its file is moved all the same", async () => {
    faults(s, "die-at-release");
    const end = await move(spec.uuid, s, t);
    faults(s, "");
    // The word was said: only the target's answer counts.
    if (end.phase !== "done") expect(await move(spec.uuid, s, t)).to.include({ phase: "done" });
    expect(await get(t)).to.include({ state: "running", home: "yes" });
  });

  it("a target agent killed when the guest runs there: it settles, and the source learns it", async () => {
    faults(t, "go-kill-agent");
    const gone = new Promise<void>((resolve) => t.rpc.onClose(resolve));
    const moving = move(spec.uuid, s, t);
    await gone;
    faults(t, "");
    t = await again(t, "127.0.0.3");
    expect(await get(t)).to.include({ state: "running", home: "yes" });
    const { facts } = await t.call(protocol.moveFacts, { vm: spec.uuid });
    expect(facts.at(-1)?.in).to.equal("SETTLED");
    for (const fact of facts)
      await s.call(protocol.moveTell, { vm: spec.uuid, attempt: fact.attempt, fact: "SETTLED", journalId: fact.journalId });
    expect(await moving).to.include({ phase: "done" });
    // The new agent has no stream to the source: its last word comes by the courier too.
    for (const fact of (await s.call(protocol.moveFacts, { vm: spec.uuid })).facts) {
      expect(fact.out).to.equal("CLOSED");
      await t.call(protocol.moveTell, { vm: spec.uuid, attempt: fact.attempt, fact: "CLOSED", journalId: fact.journalId });
    }
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
  });

  it("a source that can neither release nor thaw: its attempt is undone by the next run, never finished beside the running guest", async () => {
    faults(s, "release-refused thaw-refused");
    const end = await move(spec.uuid, s, t);
    expect(end.fault).to.include({ running: "in-doubt" });
    faults(s, "");
    // The dead man thaws what nobody thawed; the journal still says OPEN.
    await until(15_000, "the dead man", async () =>
      ((await get(s))?.uptimeMs ?? 0) > 0 && (await header(s)) === "run" ? true : undefined,
    );
    const { facts } = await s.call(protocol.moveFacts, { vm: spec.uuid });
    expect(facts.at(-1)).to.include({ out: "OPEN", header: "run" });
    const refused = await move(spec.uuid, s, t).catch((error: Error) => error.message);
    expect(refused).to.match(/broken off before its release/);
    expect(await get(s)).to.include({ state: "running", home: "yes" });
    expect((await get(t))?.state).to.not.equal("running");
    expect(await move(spec.uuid, s, t)).to.include({ phase: "done" });
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
  });

  it("a source that lost its copy after the release does not take another move, or a boot, for an answer", async () => {
    faults(s, "release-kill-agent");
    await move(spec.uuid, s, t).catch(() => undefined);
    faults(s, "");
    // A reboot of the source: process and memory file are gone, the journal says OPEN.
    const folder = join(dirname(s.socket), spec.uuid);
    process.kill((JSON.parse(readFileSync(join(folder, "process.json"), "utf8")) as { pid: number }).pid, "SIGKILL");
    rmSync(folder, { recursive: true });
    s = await again(s, "127.0.0.2");
    const { gen } = await s.call(protocol.vmClaim, { vm: spec.uuid });
    const codeOf = async (work: Promise<unknown>): Promise<string | undefined> =>
      await work.then(
        () => "none",
        (error: { data?: protocol.RpcFault }) => error.data?.code,
      );
    expect(await codeOf(s.call(protocol.moveBegin, { vm: spec.uuid, gen, to: { host: "third", agentId: "00000000" } }))).to.equal(
      "in-doubt",
    );
    expect(await codeOf(s.call(protocol.vmEnsure, { spec, owner: "test", running: true, gen }))).to.equal("in-doubt");
    const [fact] = (await s.call(protocol.moveFacts, { vm: spec.uuid })).facts;
    expect(fact).to.include({ out: "OPEN", header: "none" });
    // Only the target's own word lets it boot.
    const { facts } = await t.call(protocol.moveTell, {
      vm: spec.uuid,
      attempt: fact?.attempt ?? "",
      fact: "QUERY",
      journalId: fact?.journalId ?? "",
    });
    expect(facts.at(-1)?.in).to.equal("GONE");
    await s.call(protocol.moveTell, {
      vm: spec.uuid,
      attempt: fact?.attempt ?? "",
      fact: "GONE",
      journalId: facts.at(-1)?.journalId ?? "",
    });
    expect(await codeOf(s.call(protocol.vmEnsure, { spec, owner: "test", running: true, gen }))).to.equal("none");
    await t.call(protocol.moveTell, { vm: spec.uuid, attempt: fact?.attempt ?? "", fact: "ABORTED", journalId: fact?.journalId ?? "" });
    expect(await get(s)).to.include({ state: "running", home: "yes" });
  });

  it("a source that lost its copy asks the target, and boots from its disk when that has refused", async () => {
    faults(s, "release-kill-agent");
    await move(spec.uuid, s, t).catch(() => undefined);
    faults(s, "");
    const folder = join(dirname(s.socket), spec.uuid);
    process.kill((JSON.parse(readFileSync(join(folder, "process.json"), "utf8")) as { pid: number }).pid, "SIGKILL");
    rmSync(folder, { recursive: true });
    s = await again(s, "127.0.0.2");
    const end = await move(spec.uuid, s, t);
    expect(end.fault).to.include({ running: "source" });
    expect(end.fault?.message).to.match(/boots it from its disk/);
    expect(await get(s)).to.include({ state: "stopped", home: "yes" });
    const { gen } = await s.call(protocol.vmClaim, { vm: spec.uuid });
    expect((await s.call(protocol.vmEnsure, { spec, owner: "test", running: true, gen })).booted).to.equal(true);
    await until(5000, "the target to be clean", async () => ((await get(t)) === null ? true : undefined));
  });

  it("a target that cannot settle tries again until it can", async () => {
    faults(t, "settle-blocked");
    const moving = move(spec.uuid, s, t);
    const state = async (): Promise<true | undefined> => ((await get(t))?.state === "settling" ? true : undefined);
    await until(10_000, "the guest to run at the target", state);
    faults(t, "");
    rmSync(join(t.stateDir, "vms", spec.uuid, "vm.json"), { recursive: true });
    expect(await moving).to.include({ phase: "done" });
    expect(await get(t)).to.include({ state: "running", home: "yes" });
  });

  /** A move over a way to the target that the test makes. */
  const moveBy = async (
    way: (address: string, port: number) => Promise<{ address: string; port: number }>,
  ): Promise<protocol.MoveProgress> => {
    await t.provide(kernel, image);
    const { gen } = await s.call(protocol.vmClaim, { vm: spec.uuid });
    const { needs } = await s.call(protocol.moveBegin, { vm: spec.uuid, gen, to: { host: "target", agentId: t.agentId } });
    const key = "ab".repeat(32);
    const { port, journalId } = await t.call(protocol.moveOffer, { needs, key });
    const target = { host: "target", journalId, ...(await way(t.address, port)) };
    await s.call(protocol.moveStart, { vm: spec.uuid, attempt: needs.attempt, key, policy: {}, target });
    const end = await s.call(protocol.moveWatch, { vm: spec.uuid, attempt: needs.attempt });
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    expect(checks(t)).to.equal("ok\n");
    expect(await get(t)).to.include({ state: "running", home: "yes" });
    return end;
  };

  for (const [what, afterBytes, awayMs] of [
    ["again and again", [1_300_000, 60_000, 60_000, 60_000], 0],
    ["for 20 s", [1_300_000], 20_000],
  ] as const)
    it(`survives its link being cut in the middle, ${what}, and does not start over`, async () => {
      await using undo = new AsyncDisposableStack();
      await fillWithNoise();
      const whole = await move(spec.uuid, s, t);
      await move(spec.uuid, t, s, { keepBasis: false });
      // 1.6 MB in several frames, most of which arrive before the first cut.
      expect(whole.result?.bytes).to.be.within(1_600_000, 1_800_000);
      const { relay, cuts, passed } = await cutting(afterBytes, awayMs);
      const end = await moveBy(async (address, port) => ({ address: "127.0.0.4", port: undo.use(await relay(address, port)).port }));
      expect(cuts()).to.equal(afterBytes.length);
      expect(end.result?.seconds).to.be.greaterThan(awayMs / 1000);
      expect(passed()).to.be.lessThan(1.5 * (whole.result?.bytes ?? 0));
    });

  /** 400 pages that no compression makes smaller. */
  const fillWithNoise = async (): Promise<void> => {
    faults(s, "busy");
    const since = (await get(s))?.uptimeMs ?? 0;
    // 20 pages in each of its ticks of 2 ms.
    await until(10_000, "all of them", async () => (((await get(s))?.uptimeMs ?? 0) > since + 60 ? true : undefined));
    faults(s, "");
  };

  it("stands back while it copies, at both hosts, and has its usual weight afterwards", async () => {
    // A host without autogroups has nothing to set.
    if (!existsSync("/proc/self/autogroup")) return;
    const weight = ({ pid }: TestAgent): string | undefined => /nice (\d+)/.exec(readFileSync(`/proc/${pid}/autogroup`, "latin1"))?.[1];
    const usual = async (): Promise<true> =>
      await until(10_000, "their usual weight", async () => (weight(s) === "4" && weight(t) === "4" ? true : undefined));
    await fillWithNoise();
    await usual();
    const moving = move(spec.uuid, s, t, { bandwidthMbps: 5 });
    const back = new Set<TestAgent>();
    await until(20_000, "both to stand back", async () => {
      for (const agent of [s, t]) if (weight(agent) === "19") back.add(agent);
      return back.size === 2 ? true : undefined;
    });
    expect(await moving).to.include({ phase: "done" });
    await usual();
  });

  it("survives a link that swallows all that is on a connection: it is made anew, and goes on where it was", async () => {
    await using undo = new AsyncDisposableStack();
    const end = await moveBy(async (address, port) => undo.use(await swallowing(address, port, 2600)));
    expect(end.result?.seconds).to.be.greaterThan(10);
  });

  it("refuses before anything changes what the target cannot have", async () => {
    const refusal = async (laid: object): Promise<{ code?: string; message: string }> => {
      writeFileSync(join(t.stateDir, "facts-override.json"), JSON.stringify(laid));
      try {
        await move(spec.uuid, s, t);
        throw new Error("it moved");
      } catch (error) {
        const data = error instanceof Error && "data" in error ? (error.data as protocol.RpcFault) : undefined;
        return { message: error instanceof Error ? error.message : "", ...(data && { code: data.code }) };
      } finally {
        rmSync(join(t.stateDir, "facts-override.json"));
      }
    };
    expect(await refusal({ cpuFlags: ["avx"] })).to.include({ code: "cpu-features" });
    expect((await refusal({ cpuFlags: ["avx"] })).message).to.match(/CPU lacks sse2/);
    expect(await refusal({ diskFreeMiB: 0 })).to.include({ code: "no-space" });
    expect(await refusal({ memoryFreeMiB: 10 })).to.include({ code: "no-space" });
    expect(await get(s)).to.include({ home: "yes" });
    expect(await get(t)).to.equal(null);
    expect(readdirSync(join(t.stateDir, "vms"))).to.deep.equal([]);
    expect(await move(spec.uuid, s, t)).to.include({ phase: "done" });
  });

  it("an older run is refused, and so is another owner", async () => {
    await s.call(protocol.vmClaim, { vm: spec.uuid });
    const { gen } = await s.call(protocol.vmClaim, { vm: spec.uuid });
    const codeOf = async (work: Promise<unknown>): Promise<string | undefined> =>
      await work.then(
        () => "none",
        (error: { data?: protocol.RpcFault }) => error.data?.code,
      );
    expect(await codeOf(s.call(protocol.vmEnsure, { spec, owner: "test", running: true, gen: gen - 1 }))).to.equal("stale-gen");
    expect(await codeOf(s.call(protocol.vmEnsure, { spec, owner: "test", running: true, gen }))).to.equal("none");
    expect(await codeOf(s.call(protocol.vmEnsure, { spec, owner: "other", running: true, gen }))).to.equal("not-ours");
    expect(await codeOf(s.call(protocol.vmDestroy, { vm: spec.uuid, owner: "other", gen }))).to.equal("not-ours");
  });
});
