import { rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { until, within } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import type { MigrationPolicy, VmSpec } from "../../provider/schemas/vm";
import { boot, exec, move, specOf, TestAgent } from "./support/agents";
import { TestProvider } from "./support/provider";

/** A guest that changes more than its link carries: it goes on before all of it is there. */
const policy: MigrationPolicy = { bandwidthMbps: 60, onNoConvergence: "postcopy" };

/** The real kernel's: what it does with pages that are missing is in test/kernel/postcopy.test.ts. */
describe("post-copy", function () {
  this.timeout(180_000);
  let s: TestAgent;
  let t: TestAgent;
  let spec: VmSpec;

  beforeEach(async () => {
    s = await TestAgent.start("source", "127.0.0.2");
    t = await TestAgent.start("target", "127.0.0.3");
    spec = specOf(await s.provide(), { memoryMiB: 96, diskMiB: 64 });
    await boot(s, spec);
    // Incompressible pages, of which each is checked by what it holds.
    await sh(s, "setsid dirty --mib 24 --mib-per-s 40 --whole --state /tmp/dirty </dev/null >/dev/null 2>&1 &");
    await until(60_000, "the load", async () => (await sh(s, "test -e /tmp/dirty && echo there || true")).includes("there") || undefined);
  });

  afterEach(async () => {
    await s[Symbol.asyncDispose]();
    await t[Symbol.asyncDispose]();
  });

  const sh = async (agent: TestAgent, script: string): Promise<string> => {
    const { stdout, stderr, code } = await within(60_000, script, exec(agent, spec.uuid, "/bin/sh", "-c", script));
    if (code !== 0) throw new Error(`${script}: ${stderr}`);
    return stdout;
  };
  const get = async (agent: TestAgent): Promise<protocol.VmReport | null> => (await agent.call(protocol.vmGet, { vm: spec.uuid })).vm;
  const again = async (agent: TestAgent): Promise<TestAgent> => await TestAgent.start(agent.name, agent.address, agent.stateDir);
  /** All that the guest's program has written is as it should be, and it goes on. */
  const isRight = async (agent: TestAgent): Promise<void> => {
    const look = async (): Promise<{ ok: boolean; count: number }> => JSON.parse(await sh(agent, "look /tmp/dirty --check"));
    const before = await look();
    expect(before.ok, JSON.stringify(before)).to.equal(true);
    await until(60_000, "the program to go on", async () => ((await look()).count > before.count ? true : undefined));
  };
  /** Begins a move; resolves when the guest runs at the target and lacks pages. */
  const filling = async (): Promise<{ moving: Promise<protocol.MoveProgress> }> => {
    const lacks = new Promise<void>((resolve) => s.on(protocol.moveProgress, ({ pagesLeft }) => void ((pagesLeft ?? 0) > 0 && resolve())));
    const moving = move(spec.uuid, s, t, policy);
    moving.catch(() => undefined);
    await within(
      60_000,
      "the guest to run at the target",
      Promise.race([lacks, moving.then(() => Promise.reject(new Error("it ended before")))]),
    );
    return { moving };
  };

  it("the guest goes on after a short pause; what it lacks comes when it touches it, then the rest", async () => {
    const lefts: number[] = [];
    s.on(protocol.moveProgress, ({ pagesLeft }) => void (pagesLeft !== undefined && lefts.push(pagesLeft)));
    const end = await move(spec.uuid, s, t, policy);
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    expect(end).to.include({ phase: "done" });
    // 24 MiB take 3.4 s on this link.
    expect(Math.max(...lefts)).to.be.greaterThan(1000);
    expect(end.result?.downtimeMs).to.be.lessThan(1000);
    expect(await get(t)).to.include({ state: "running", home: "yes" });
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
    await isRight(t);
    // It is an ordinary guest again.
    expect(await move(spec.uuid, t, s, { maxDowntimeMs: 10_000 })).to.include({ phase: "done" });
    await isRight(s);
  });

  it("while pages are missing it says so, and nothing else may be done with it", async () => {
    const { moving } = await filling();
    const report = await get(t);
    expect(report?.state).to.equal("settling");
    expect(report?.note).to.match(/it runs; \d+ of its pages are still to come from source/);
    const { gen } = await t.call(protocol.vmClaim, { vm: spec.uuid });
    const { error } = await t.call(protocol.moveBegin, { vm: spec.uuid, gen, to: { host: "third", agentId: "ffffffff" } }).then(
      () => ({ error: "" }),
      (fault: Error) => ({ error: fault.message }),
    );
    expect(error).to.include("not settled yet");
    expect(await moving).to.include({ phase: "done" });
    await isRight(t);
  });

  it("a target agent killed meanwhile: the guest stands for what it touches; the next run connects the two, and it goes on", async () => {
    await filling();
    await t.stop("kill");
    t = await again(t);
    expect((await get(t))?.note).to.include("connects the two again");
    expect(await move(spec.uuid, s, t, policy)).to.include({ phase: "done" });
    await isRight(t);
  });

  it("a source agent killed meanwhile: the next run serves the rest from its file", async () => {
    await filling();
    await s.stop("kill");
    s = await again(s);
    expect(await get(s)).to.include({ state: "in-doubt" });
    expect(await move(spec.uuid, s, t, policy)).to.include({ phase: "done" });
    await isRight(t);
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
  });

  it("both agents killed meanwhile: a refresh connects them, says how many pages are left, and waits", async () => {
    await filling();
    await Promise.all([s.stop("kill"), t.stop("kill")]);
    [s, t] = [await again(s), await again(t)];
    const provider = new TestProvider([s, t]);
    try {
      expect(await provider.refresh(spec, s)).to.include({ host: "target", state: "running" });
      expect(provider.progress.join("\n")).to.match(/settle: .*, \d+ pages left/);
    } finally {
      await provider.kill();
    }
    await isRight(t);
  });

  it("the source's frozen process killed meanwhile: its pages are in the file", async () => {
    const { pid } = (await get(s)) ?? {};
    const { moving } = await filling();
    process.kill(pid ?? 0, "SIGKILL");
    expect(await moving).to.include({ phase: "done" });
    await isRight(t);
  });

  it("the target's kernel killed meanwhile: the guest returns to the freeze at its source, and that is said", async () => {
    const { moving } = await filling();
    const { pid } = (await get(t)) ?? {};
    process.kill(pid ?? 0, "SIGKILL");
    const end = await moving;
    expect(end.result).to.include({ result: "failed, returned" });
    expect(end.fault).to.include({ running: "source" });
    expect(await get(s)).to.include({ state: "running", home: "yes" });
    await isRight(s);
    await until(60_000, "the target to be clean", async () => ((await get(t)) === null ? true : undefined));
  });

  it("a person recovers it at its source meanwhile: what ran at the target ends as soon as it hears of that", async () => {
    await filling();
    const [fact] = (await s.call(protocol.moveFacts, { vm: spec.uuid })).facts;
    await t.call(protocol.moveTell, { vm: spec.uuid, attempt: fact?.attempt ?? "", fact: "ABORTED", journalId: fact?.journalId ?? "" });
    expect(await get(t)).to.equal(null);
    await until(60_000, "the source to run it", async () => ((await get(s))?.state === "running" ? true : undefined));
    await isRight(s);
  });

  it("the source's host gone for good: a person recovers it at the target, from its disk, and a source that comes back lets go", async () => {
    await filling();
    await s.stop("kill");
    const alone = new TestProvider([s, t]);
    const { message } = await alone.up(spec, s, t).then(
      () => new Error("it moved"),
      (error: Error) => error,
    );
    await alone.kill();
    expect(message).to.include("source does not answer").and.include("if it is gone for good: mobitopolo recover");
    const [fact] = (await t.call(protocol.moveFacts, { vm: spec.uuid })).facts;
    const { gen } = await t.call(protocol.vmClaim, { vm: spec.uuid });
    const { vm } = await t.call(protocol.vmRecover, { vm: spec.uuid, gen, attempt: fact?.attempt ?? "" });
    expect(vm).to.include({ state: "stopped", home: "yes" });
    expect(vm.note).to.include("what was in RAM is lost");
    await boot(t, spec);
    expect(await sh(t, "echo it runs")).to.equal("it runs\n");
    s = await again(s);
    const provider = new TestProvider([s, t]);
    try {
      // The first tells the source, the second the target that it has heard.
      for (const _ of [1, 2]) expect(await provider.refresh(spec, t)).to.include({ host: "target", state: "running" });
    } finally {
      await provider.kill();
    }
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
  });

  it("powered off meanwhile: it has arrived, and is stopped", async () => {
    const { moving } = await filling();
    // It answers while pages are missing.
    expect(await sh(t, "echo it runs")).to.equal("it runs\n");
    expect((await get(t))?.state).to.equal("settling");
    void exec(t, spec.uuid, "/bin/sh", "-c", "poweroff -f").catch(() => undefined);
    expect(await moving).to.include({ phase: "done" });
    expect(await get(t)).to.include({ state: "stopped", home: "yes" });
    expect(await get(s)).to.include({ home: "no", movedTo: "target" });
  });

  it("the source's memory lost meanwhile (its host rebooted): what ran ends, and the VM boots from its disk at the source", async () => {
    const { pid } = (await get(s)) ?? {};
    await filling();
    await s.stop("kill");
    process.kill(pid ?? 0, "SIGKILL");
    rmSync(join(dirname(s.socket), spec.uuid), { recursive: true });
    s = await again(s);
    const provider = new TestProvider([s, t]);
    try {
      expect(await provider.refresh(spec, s)).to.include({ host: "source", state: "stopped" });
    } finally {
      await provider.kill();
    }
    await until(60_000, "the target to be clean", async () => ((await get(t)) === null ? true : undefined));
    expect(await get(s)).to.include({ state: "stopped", home: "yes" });
    await boot(s, spec);
    expect(await sh(s, "echo it runs")).to.equal("it runs\n");
  });
});
