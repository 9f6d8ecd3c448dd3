import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { until } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import type { VmSpec } from "../../provider/schemas/vm";
import { boot, move, specOf, TestAgent } from "./support/agents";
import { fakeKernel } from "./support/fakes";

/** A guest that writes noise faster than its link carries it. */
describe("moves that do not converge", function () {
  this.timeout(240_000);
  let s: TestAgent;
  let t: TestAgent;
  let spec: VmSpec;
  let blobs: { kernelId: string; imageId: string };

  beforeEach(async () => {
    const { kernel, image } = fakeKernel();
    s = await TestAgent.start("source", "127.0.0.2");
    t = await TestAgent.start("target", "127.0.0.3");
    blobs = await s.provide(kernel, image);
    spec = specOf(blobs, { memoryMiB: 32, diskMiB: 64 });
    await boot(s, spec);
    for (const agent of [s, t]) writeFileSync(near(agent, "agent.pid"), String(agent.pid));
    writeFileSync(near(s, "faults"), "busy");
  });

  afterEach(async () => {
    await s[Symbol.asyncDispose]();
    await t[Symbol.asyncDispose]();
  });

  const near = (agent: TestAgent, name: string): string => join(dirname(agent.socket), name);
  const get = async (agent: TestAgent): Promise<protocol.VmReport | null> => (await agent.call(protocol.vmGet, { vm: spec.uuid })).vm;
  /** How long each stop was to be. */
  const stops = (): number[] =>
    existsSync(near(s, "throttled")) ? readFileSync(near(s, "throttled"), "utf8").trim().split("\n").map(Number) : [];

  it("throttle: the guest stands for milliseconds at a time, never longer than it may, until the rounds shrink; afterwards it runs freely", async () => {
    const end = await move(spec.uuid, s, t, { bandwidthMbps: 40, maxDowntimeMs: 30 });
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    expect(stops().length).to.be.greaterThan(3);
    expect(Math.max(...stops())).to.be.at.most(30);
    expect(end.result?.downtimeMs).to.be.lessThan(5_000);
    expect(await get(t)).to.include({ state: "running", home: "yes" });
  });

  it("abort: fails before the release, says what was too fast and what would help, and leaves the guest as it was", async () => {
    const { pid } = (await get(s)) ?? {};
    const end = await move(spec.uuid, s, t, { bandwidthMbps: 20, deadlineS: 2, onNoConvergence: "abort" });
    expect(end).to.include({ phase: "failed" });
    expect(end.fault).to.include({ running: "source" });
    expect(end.fault?.message)
      .to.match(/does not converge \(deadlineS is 2\): the guest changes \d+\.\d Mbit\/s .*the link carries \d+\.\d Mbit\/s/)
      .and.include("onNoConvergence");
    expect(stops()).to.deep.equal([]);
    expect(await get(s)).to.include({ state: "running", home: "yes", pid });
    expect((await get(s))?.lastMigration).to.include({ result: "failed" });
    await until(60_000, "the target to be clean", async () => ((await get(t)) === null ? true : undefined));
  });

  it("extend: no throttle; the deadline ends the rounds", async () => {
    const end = await move(spec.uuid, s, t, { bandwidthMbps: 40, deadlineS: 3, onNoConvergence: "extend" });
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    expect(stops()).to.deep.equal([]);
    expect(await get(t)).to.include({ state: "running", home: "yes" });
  });

  it("an agent that dies while it throttles leaves nothing behind: the guest runs on at full speed", async () => {
    writeFileSync(near(s, "faults"), "busy throttle-kill-agent");
    await move(spec.uuid, s, t, { bandwidthMbps: 40 }).catch(() => undefined);
    writeFileSync(near(s, "faults"), "");
    const { length } = stops();
    expect(length).to.equal(1);
    s = await TestAgent.start("source", "127.0.0.2", s.stateDir);
    writeFileSync(near(s, "agent.pid"), String(s.pid));
    const { uptimeMs } = (await get(s)) ?? {};
    expect(await get(s)).to.include({ state: "running", home: "yes" });
    await until(60_000, "the guest's clock to go on", async () => (((await get(s))?.uptimeMs ?? 0) > (uptimeMs ?? 0) ? true : undefined));
    expect(stops()).to.have.length(length);
    expect(await move(spec.uuid, s, t)).to.include({ phase: "done" });
  });

  it("cancelled while it is throttled: it runs freely where it was", async () => {
    const moving = move(spec.uuid, s, t, { bandwidthMbps: 20 });
    await until(60_000, "a stop", async () => (stops().length > 0 ? true : undefined));
    const [fact] = (await s.call(protocol.moveFacts, { vm: spec.uuid })).facts;
    await s.call(protocol.moveCancel, { vm: spec.uuid, attempt: fact?.attempt ?? "" });
    expect((await moving).fault).to.include({ running: "source" });
    const { length } = stops();
    const { uptimeMs } = (await get(s)) ?? {};
    await until(60_000, "the guest's clock to go on", async () =>
      ((await get(s))?.uptimeMs ?? 0) > (uptimeMs ?? 0) + 100 ? true : undefined,
    );
    expect(stops()).to.have.length(length);
  });

  it("several at once: two copy, the third waits, and all arrive", async () => {
    const others = [0, 1].map(() => specOf(blobs, { memoryMiB: 32, diskMiB: 64 }));
    for (const other of others) await boot(s, other);
    const queued: number[] = [];
    s.on(protocol.moveProgress, ({ phase, ahead }) => void (phase === "queued" && queued.push(ahead ?? -1)));
    await t.provide(fakeKernel().kernel, fakeKernel().image);
    const slow = { bandwidthMbps: 20, deadlineS: 60 };
    const moves: Promise<protocol.MoveProgress>[] = [];
    for (const vm of [spec, ...others]) {
      moves.push(move(vm.uuid, s, t, slow));
      await until(60_000, "its attempt", async () =>
        (await s.call(protocol.moveFacts, { vm: vm.uuid })).facts.length > 0 ? true : undefined,
      );
    }
    await until(60_000, "one to be queued", async () => (queued.length > 0 ? true : undefined));
    expect(queued[0]).to.equal(2);
    writeFileSync(near(s, "faults"), "");
    for (const end of await Promise.all(moves)) expect(end.fault, JSON.stringify(end)).to.equal(undefined);
  });
});
