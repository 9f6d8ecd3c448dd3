import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { until } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import type { VmSpec } from "../../provider/schemas/vm";
import { boot, specOf, TestAgent } from "./support/agents";
import { fakeKernel } from "./support/fakes";
import { TestProvider } from "./support/provider";

/** What the provider does when the two agents cannot hear each other, and what becomes of a move whose provider ends. */
describe("the provider between two agents", function () {
  this.timeout(240_000);
  let s: TestAgent;
  let t: TestAgent;
  let spec: VmSpec;
  const providers: TestProvider[] = [];

  beforeEach(async () => {
    const { kernel, image } = fakeKernel();
    s = await TestAgent.start("source", "127.0.0.2");
    t = await TestAgent.start("target", "127.0.0.3");
    const blobs = await s.provide(kernel, image);
    await t.provide(kernel, image);
    spec = specOf(blobs, { memoryMiB: 32, diskMiB: 64 });
    await boot(s, spec);
  });

  afterEach(async () => {
    for (const provider of providers.splice(0)) await provider.kill();
    await s[Symbol.asyncDispose]();
    await t[Symbol.asyncDispose]();
  });

  const providerOf = (options = {}): TestProvider => {
    const provider = new TestProvider([s, t], options);
    providers.push(provider);
    return provider;
  };
  const near = (agent: TestAgent, name: string): string => join(dirname(agent.socket), name);
  const get = async (agent: TestAgent): Promise<protocol.VmReport | null> => (await agent.call(protocol.vmGet, { vm: spec.uuid })).vm;
  const held = async (agent: TestAgent): Promise<true> =>
    await until(60_000, "the freeze", async () => (existsSync(near(agent, "held")) ? true : undefined));

  /** Starts an `up` that moves the VM, and cuts the agents from each other between the freeze and the release. */
  const cutAtRelease = async (provider: TestProvider, ways: { toTarget?: boolean; toSource?: boolean }): Promise<Promise<unknown>> => {
    writeFileSync(near(s, "faults"), "hold-at-freeze");
    const up = provider.up(spec, s, t).catch((error: unknown) => error);
    await held(s);
    for (const relay of provider.relays) relay.swallow(ways);
    writeFileSync(near(s, "go-on"), "");
    return up;
  };

  it("cut for good before the target had it all: the target refuses by the provider's mouth, and the source goes on", async () => {
    const provider = providerOf({ relayed: true });
    const error = await await cutAtRelease(provider, { toTarget: true, toSource: true });
    expect(error).to.be.instanceOf(Error).and.have.property("message").that.includes("It runs on source");
    expect(await get(s)).to.include({ state: "running", home: "yes" });
    expect((await get(s))?.lastMigration).to.include({ result: "failed, returned", from: "source", to: "target" });
    expect(await get(t)).to.equal(null);
    const after = await provider.refresh(spec, s);
    expect(after).to.include({ host: "source", state: "running" });
    expect(after?.lastMigration).to.include({ result: "failed, returned" });
  });

  it("cut for good, and the guest has gone on at the target before its process is told not to: it is settled there", async () => {
    writeFileSync(near(t, "faults"), "goes-first");
    const provider = providerOf({ relayed: true });
    const outs = await await cutAtRelease(provider, { toTarget: true, toSource: true });
    expect(outs).to.include({ host: "target", state: "running" });
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
    expect(await get(t)).to.include({ state: "running", home: "yes" });
    // The source's last word comes by the provider, too.
    expect((await provider.refresh(spec, t))?.lastMigration).to.include({ result: "moved" });
  });

  it("cut for good after the target had it all: the provider carries the target's word, and the source retires", async () => {
    const provider = providerOf({ relayed: true });
    const outs = await await cutAtRelease(provider, { toSource: true });
    expect(outs).to.include({ host: "target", state: "running" });
    expect(readFileSync(join(dirname(t.socket), spec.uuid, "checks"), "utf8")).to.equal("ok\n");
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
    expect(await get(t)).to.include({ state: "running", home: "yes" });
    // Also the last word, with how the move went.
    expect((await get(t))?.lastMigration).to.include({ result: "moved", from: "source", to: "target" });
    expect((await provider.refresh(spec, t))?.lastMigration).to.include({ result: "moved" });
  });

  it("a refresh alone resolves the doubt, and begins no move", async () => {
    const first = providerOf({ relayed: true });
    writeFileSync(near(s, "faults"), "hold-at-freeze");
    const up = first.up(spec, s, t).catch((error: unknown) => error);
    await held(s);
    for (const relay of first.relays) relay.swallow({ toTarget: true, toSource: true });
    await first.kill();
    await up;
    writeFileSync(near(s, "go-on"), "");
    await until(60_000, "the release", async () =>
      (await s.call(protocol.moveFacts, { vm: spec.uuid })).facts[0]?.header === "released" ? true : undefined,
    );
    expect(await providerOf().refresh(spec, s)).to.include({ host: "source", state: "running" });
    expect(await get(t)).to.equal(null);
  });

  it("a provider that is killed in the middle: the agents go on, and the next `up` attaches to the same attempt", async () => {
    writeFileSync(near(s, "faults"), "busy");
    const slow = { bandwidthMbps: 20, deadlineS: 60 };
    const first = providerOf();
    const up = first.up(spec, s, t, slow).catch((error: unknown) => error);
    await until(60_000, "the first round", async () => (first.progress.some((line) => line.startsWith("pre-copy")) ? true : undefined));
    await first.kill();
    expect(await up).to.be.instanceOf(Error);
    const [before] = (await s.call(protocol.moveFacts, { vm: spec.uuid })).facts;
    expect(before).to.include({ out: "INIT" });
    const second = providerOf();
    const attached = second.up(spec, s, t, slow);
    await until(60_000, "progress of it", async () => (second.progress.some((line) => line.startsWith("pre-copy")) ? true : undefined));
    writeFileSync(near(s, "faults"), "");
    const outs = await attached;
    expect(outs).to.include({ host: "target", state: "running" });
    expect(outs.lastMigration).to.include({ attempt: before?.attempt, result: "moved" });
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
  });

  it("a provider that is killed in the middle, and a program that was changed back: cancelled before the release", async () => {
    writeFileSync(near(s, "faults"), "busy");
    const first = providerOf();
    const up = first.up(spec, s, t, { bandwidthMbps: 5 }).catch((error: unknown) => error);
    await until(60_000, "the first round", async () => (first.progress.some((line) => line.startsWith("pre-copy")) ? true : undefined));
    await first.kill();
    await up;
    expect(await providerOf().up(spec, s, s)).to.include({ host: "source", state: "running" });
    expect((await s.call(protocol.moveFacts, { vm: spec.uuid })).facts[0]).to.include({ out: "ABORTED" });
    await until(60_000, "the target to be clean", async () => ((await get(t)) === null ? true : undefined));
  });
});
