import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { cancel } from "../../provider/cli/commands/cancel";
import { move } from "../../provider/cli/commands/move";
import { recover } from "../../provider/cli/commands/recover";
import type { Scope } from "../../provider/cli/hosts";
import { until } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import type { MigrationPolicy, VmSpec } from "../../provider/schemas/vm";
import { boot, lives, specOf, TestAgent, wire } from "./support/agents";
import { fakeKernel } from "./support/fakes";
import { endpointOf, TestProvider } from "./support/provider";

/** `mobitopolo move`, `move cancel` and `recover`, against real agents and a stand-in for the kernel. */
describe("moves at the command line", function () {
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
    spec = specOf(blobs, { name: "web", memoryMiB: 32, diskMiB: 64, nics: [nic(1)] });
    await boot(s, spec);
  });

  afterEach(async () => {
    await s[Symbol.asyncDispose]();
    await t[Symbol.asyncDispose]();
  });

  const nic = (n: number) => ({ name: "net", mac: `02:00:00:00:04:0${n}`, addresses: [`10.9.0.${n}/24`], mtu: 1400 });
  const near = (agent: TestAgent, name: string): string => join(dirname(agent.socket), name);
  const get = async (agent: TestAgent): Promise<protocol.VmReport | null> => (await agent.call(protocol.vmGet, { vm: spec.uuid })).vm;
  const clean = async (agent: TestAgent): Promise<true> =>
    await until(60_000, "it to let go", async () => ((await get(agent)) === null ? true : undefined));
  const facts = async (agent: TestAgent): Promise<protocol.MoveFacts[]> => (await agent.call(protocol.moveFacts, { vm: spec.uuid })).facts;
  const scope = (policy: MigrationPolicy = {}): Scope => ({
    hosts: [s, t].map(endpointOf),
    links: [],
    policies: new Map([[spec.uuid, policy]]),
  });
  const paper = () => {
    const lines: string[] = [];
    const notes: string[] = [];
    return { lines, notes, out: (line: string) => void lines.push(line), note: (line: string) => void notes.push(line) };
  };
  const refusal = async (work: Promise<unknown>): Promise<{ message: string; next?: string }> =>
    await work.then(
      () => expect.fail("it was not refused"),
      (error: Error) => error,
    );

  it("--dry-run says what it would come to and whether the host can take it, and changes nothing on either side", async () => {
    const state = async (): Promise<string> =>
      JSON.stringify([readFileSync(join(s.stateDir, "journal", spec.uuid), "hex"), await facts(s), await t.call(protocol.vmList, {})]);
    const before = await state();
    const io = paper();
    expect(await move(scope({ bandwidthMbps: 10 }), "web", { to: "target", dryRun: true, json: true }, io)).to.equal(0);
    const seen = JSON.parse(io.lines.join("\n")) as { prediction: protocol.MovePrediction; preflight: { ok: boolean; blobBytes: number } };
    expect(seen.prediction).to.include({ linkMbps: 10, linkFrom: "bandwidthMbps" });
    // 600 pages that the stand-in fills, some that it counts in, and blocks of 64 KiB.
    expect(seen.prediction.memoryBytes).to.be.within(600 * 4096, 700 * 4096);
    expect(seen.prediction.diskBytes % 65_536).to.equal(0);
    expect(seen.prediction.dirtyBytesPerS).to.be.greaterThan(0);
    expect(seen.preflight)
      .to.include({ ok: true })
      .and.have.property("blobBytes")
      .that.is.greaterThan(1 << 20);

    writeFileSync(join(t.stateDir, "facts-override.json"), JSON.stringify({ cpuFlags: ["avx"], memoryFreeMiB: 10, diskFreeMiB: 0 }));
    const text = paper();
    expect(await move(scope(), "web", { to: "target", dryRun: true }, text)).to.equal(1);
    expect(text.lines.join("\n"), "all at once").to.match(/CPU lacks sse2[\s\S]*32 MiB of memory[\s\S]*MiB of disk/);
    expect(await state()).to.equal(before);
  });

  it("moves, tells each phase and round as a line of JSON, and says what the program must say", async () => {
    const io = paper();
    expect(await move(scope(), "web", { to: "target", json: true }, io)).to.equal(0);
    const events = io.lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(events[0]).to.include({ event: "prediction" });
    const phases = events.filter(({ event }) => event === "progress").map(({ phase }) => phase);
    expect([...new Set(phases)]).to.include.members(["precopy", "arm", "freeze", "release", "done"]);
    const last = events.at(-1);
    expect(last).to.include({ event: "result", ok: true, from: "source", to: "target" });
    expect(last?.lastMigration).to.include({ result: "moved" });
    expect(last?.next).to.match(/set its `host` to "target"/);
    expect(await get(t)).to.include({ state: "running", home: "yes" });
    expect((await refusal(move(scope(), "web", { to: "target" }, paper()))).message).to.equal("web is on target already");
    expect((await refusal(move(scope(), "web", { to: "nowhere" }, paper()))).message).to.include("there are source, target");
  });

  it("a move that fails says why and where it runs, as its last line too", async () => {
    writeFileSync(near(s, "faults"), "busy");
    const io = paper();
    const policy = { bandwidthMbps: 20, deadlineS: 1, onNoConvergence: "abort" as const };
    expect(await move(scope(policy), "web", { to: "target", json: true }, io)).to.equal(1);
    const last = JSON.parse(io.lines.at(-1) ?? "") as Record<string, unknown>;
    expect(last).to.include({ event: "result", ok: false, running: "source" });
    expect(last.error).to.include("does not converge");
    await clean(t);
  });

  it("cancel undoes a move before its release; after it, and where there is none, it says so", async () => {
    expect((await refusal(cancel(scope(), "web", {}, paper()))).message).to.equal("no move of web is under way; it is on source");
    writeFileSync(near(s, "faults"), "busy");
    const mover = paper();
    const moving = move(scope({ bandwidthMbps: 5 }), "web", { to: "target" }, mover);
    await until(60_000, "the first round", async () => (mover.notes.some((line) => line.startsWith("pre-copy")) ? true : undefined));
    const io = paper();
    expect(await cancel(scope(), "web", { json: true }, io)).to.equal(0);
    expect(JSON.parse(io.lines[0] ?? "")).to.include({ cancelled: true, host: "source", to: "target" });
    expect(await moving).to.equal(1);
    await clean(t);
    expect(mover.notes.at(-1)).to.include("it was cancelled").and.include("It runs on source as before");
    expect(await get(s)).to.include({ state: "running", home: "yes" });

    await released();
    expect((await refusal(cancel(scope(), "web", {}, paper()))).message).to.include("past its point of no return");
    await s.stop("kill");
    s = await TestAgent.start("source", "127.0.0.2", s.stateDir);
    expect((await refusal(cancel(scope(), "web", {}, paper()))).message).to.include("past its point of no return");
    await settled();
  });

  /** A move up to the release; the target has nothing of the last frame. */
  const released = async (): Promise<void> => {
    const provider = new TestProvider([s, t], { relayed: true });
    writeFileSync(near(s, "faults"), "hold-at-freeze");
    const up = provider.up(spec, s, t).catch(() => undefined);
    await until(60_000, "the freeze", async () => (existsSync(near(s, "held")) ? true : undefined));
    for (const relay of provider.relays) relay.swallow({ toTarget: true, toSource: true });
    await provider.kill();
    await up;
    writeFileSync(near(s, "go-on"), "");
    await until(60_000, "the release", async () => ((await facts(s))[0]?.header === "released" ? true : undefined));
    writeFileSync(near(s, "faults"), "");
  };
  const settled = async (): Promise<void> => {
    const provider = new TestProvider([s, t]);
    await provider.up(spec, s, s);
    await provider.kill();
  };

  it("recover lets the released copy run again where the target is gone for good: above all epochs, with new link keys on both ends", async () => {
    const peer = specOf(blobs, { name: "db", memoryMiB: 32, diskMiB: 64, nics: [nic(2)] });
    await boot(s, peer);
    await wire([s, spec.uuid], [s, peer.uuid]);
    const link = (await get(s))?.nics[0]?.link ?? "";
    const held = async (vm: string) => (await s.call(protocol.linkGet, { link, vm })).wiring;
    const before = await held(spec.uuid);
    expect((await refusal(recover(scope(), "web", { yes: true }, paper()))).message).to.include("there is nothing to recover");
    await released();
    const floor = (await get(s))?.floor ?? 0;
    expect((await refusal(recover(scope(), "web", { yes: true }, paper()))).message, "the target can say it").to.include("target answers");

    await t.stop("kill");
    const io = paper();
    const typed = recover(scope(), "web", { ask: async () => "wep" }, io);
    expect((await refusal(typed)).message).to.equal("nothing was changed");
    expect(io.notes.join("\n")).to.match(/all that it did on target since then .* is lost/);
    expect(await recover(scope(), "web", { ask: async () => "web", json: true }, io)).to.equal(0);
    const report = JSON.parse(io.lines.join("\n")) as { epoch: number; links: object[] };
    expect(report).to.include({ host: "source", state: "running", lostOn: "target" });
    expect(report.epoch).to.equal(floor + 65_536);
    expect(report.links).to.deep.equal([{ link, peer: "db on source", ok: true }]);
    const [own, other] = [await held(spec.uuid), await held(peer.uuid)];
    expect(own?.key)
      .to.match(/^[0-9a-f]{64}$/)
      .and.not.equal(before?.key);
    expect(own?.keyId).to.equal((before?.keyId ?? 0) + 1);
    expect([other?.key, other?.keyId]).to.deep.equal([own?.key, own?.keyId]);
    expect(await get(s)).to.include({ state: "running", home: "yes", epoch: floor + 65_536 });

    // The target comes back after all, with what it had: it never ran, and lets go.
    t = await TestAgent.start("target", "127.0.0.3", t.stateDir);
    await settled();
    expect(await get(t)).to.equal(null);
    expect(await get(s)).to.include({ state: "running", home: "yes" });
  });

  it("a target that had it all and comes back after a recovery: its copy ends, the recovered one stays", async () => {
    const provider = new TestProvider([s, t], { relayed: true });
    writeFileSync(near(s, "faults"), "hold-at-freeze");
    const up = provider.up(spec, s, t).catch(() => undefined);
    await until(60_000, "the freeze", async () => (existsSync(near(s, "held")) ? true : undefined));
    for (const relay of provider.relays) relay.swallow({ toSource: true });
    writeFileSync(near(s, "go-on"), "");
    const { pid = 0 } = await until(60_000, "the target to run it", async () => {
      const report = await get(t);
      return report?.home === "yes" && report.pid !== undefined ? report : undefined;
    });
    writeFileSync(near(s, "faults"), "");
    // Before it is in doubt for the provider, which would carry the target's word.
    await t.stop("kill");
    await provider.kill();
    await up;
    expect(await recover(scope(), "web", { yes: true }, paper())).to.equal(0);
    t = await TestAgent.start("target", "127.0.0.3", t.stateDir);
    expect(await get(t), "it knows nothing of that").to.include({ home: "yes", state: "running" });
    const next = new TestProvider([s, t]);
    expect(await next.up(spec, s, s)).to.include({ host: "source", state: "running" });
    expect(await next.up(spec, t, s), "with a state that says the target").to.include({ host: "source" });
    await next.kill();
    expect(await get(t)).to.equal(null);
    expect(lives(pid)).to.equal(false);
    expect(await get(s)).to.include({ state: "running", home: "yes" });
  });
});
