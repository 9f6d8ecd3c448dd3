import { expect } from "chai";
import { PartialFailure } from "../../../provider/reconcile/errors";
import type { Props } from "../../../provider/reconcile/handler";
import { linkReconciler } from "../../../provider/reconcile/link";
import { vmReconciler } from "../../../provider/reconcile/vm";
import { AgentPool } from "../../../provider/transport/pool";
import { FakeWorld } from "./support/fakeAgent";
import { assetsOf, urnOf } from "./support/props";

/** Two hosts of a pretended world, and what Pulumi would show of what is done with them. */
async function setting() {
  const world = new FakeWorld();
  const tokyo = await world.add("tokyo");
  const florida = await world.add("florida");
  const said: string[] = [];
  const progress: string[] = [];
  const context = {
    pool: new AgentPool({ assets: assetsOf("a") }),
    assets: () => assetsOf("a"),
    row: () => ({
      say: (text: string) => said.push(text),
      warn: (text: string) => said.push(`warning: ${text}`),
      progress: (text: string) => progress.push(text),
    }),
  };
  const vms = vmReconciler(context);
  const inputs = (more: object = {}, olds: Props = {}, name = "handler"): Props => {
    const { inputs: checked, failures } = vms.check(olds, {
      name,
      host: "tokyo",
      nics: [{ name: "lan" }],
      __urn: urnOf("Vm", name),
      __hosts: world.known,
      __provider: "code",
      ...more,
    });
    expect(failures).to.equal(undefined);
    return checked as Props;
  };
  const made = async (more: object = {}, name = "handler") => await vms.create(inputs(more, {}, name));
  return {
    world,
    tokyo,
    florida,
    said,
    progress,
    context,
    vms,
    inputs,
    made,
    async [Symbol.asyncDispose]() {
      await context.pool.close();
      await world[Symbol.asyncDispose]();
    },
  };
}

const failure = async (promise: Promise<unknown>): Promise<Error> =>
  await promise.then(
    () => {
      throw new Error("it did not fail");
    },
    (error: unknown) => error as Error,
  );

describe("Vm against agents", () => {
  it("creates: blobs first, then the VM, with an owner token in the state", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    expect(outs)
      .to.include({ host: "tokyo", state: "running", uuid: id })
      .and.to.have.property("__owner")
      .that.matches(/^[0-9a-f]{32}$/);
    expect(s.tokyo.store).to.have.keys(assetsOf("a").kernel.id, assetsOf("a").image.id);
    expect(s.tokyo.vms.get(id)?.report.spec).to.deep.include({ name: "handler", memoryMiB: 128 });
    expect(s.vms.diff(id, outs, s.inputs({}, outs)).changes, "a second up").to.equal(false);
  });

  it("does not make a second copy where another host has the VM", async () => {
    await using s = await setting();
    const { id } = await s.made();
    expect((await failure(s.made({ host: "florida" }))).message)
      .to.include("host tokyo has a VM of the same uuid")
      .and.include(id);
  });

  it("saves a VM that exists but failed to boot, and only such a one", async () => {
    await using s = await setting();
    s.tokyo.broken.set("vm.ensure", "no-space");
    expect(await failure(s.made()), "nothing exists").not.to.be.instanceOf(PartialFailure);
    s.tokyo.broken.clear();
    s.tokyo.bootFails = true;
    const error = await failure(s.made());
    expect(error)
      .to.be.instanceOf(PartialFailure)
      .and.have.property("message")
      .that.includes("host tokyo: could not boot the VM: the kernel ended with code 1");
    expect((error as PartialFailure).properties).to.have.property("__owner", [...s.tokyo.vms.values()][0]?.report.owner);
  });

  it("moves in its update, with progress and one line that stays", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    const after = await s.vms.update(id, outs, s.inputs({ host: "florida" }, outs));
    expect(after).to.include({ host: "florida", state: "running", __owner: outs.__owner });
    expect(s.said).to.deep.equal([
      "expected on the way to florida: 15.0 MiB in 1.5 s, down 20 ms (100 Mbit/s, an earlier move; the guest changes 4.0 MiB/s)",
      "moved tokyo → florida: 14.2 MiB in 1.8 s, down 23 ms, 3 rounds",
    ]);
    expect(s.progress).to.include("pre-copy round 3: 14.2 MiB sent, 12 pages left");
    expect(s.tokyo.calls.filter((call) => call.startsWith("move.") && call !== "move.facts")).to.deep.equal([
      "move.plan",
      "move.begin",
      "move.start",
      "move.watch",
    ]);
    expect(s.florida.store.size, "kernel and image came along").to.equal(2);
    expect(after.lastMigration).to.include({ downtimeMs: 23 });
  });

  it("fails plainly where the VM still runs on the source, so that the state stays", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    s.world.outcome = "failed";
    const error = await failure(s.vms.update(id, outs, s.inputs({ host: "florida" }, outs)));
    expect(error).not.to.be.instanceOf(PartialFailure);
    expect(error.message)
      .to.include("VM handler: could not move it from tokyo to florida: the target's disk is full")
      .and.include("It runs on tokyo as before");
  });

  it("changes nothing where the target does not answer", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    await s.florida.close();
    const error = await failure(s.vms.update(id, outs, s.inputs({ host: "florida" }, outs)));
    expect(error).not.to.be.instanceOf(PartialFailure);
    expect(error.message).to.include("move it from tokyo to florida: host florida: could not").and.include("It runs on tokyo as before");
    expect(s.tokyo.calls).not.to.include("move.begin");
  });

  it("cancels what a target refuses before anything changes", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    s.florida.broken.set("move.offer", "no-space");
    const error = await failure(s.vms.update(id, outs, s.inputs({ host: "florida" }, outs)));
    expect(error.message).to.include("host florida: could not pretend: move.offer is broken").and.include("It runs on tokyo as before");
    expect(s.tokyo.calls).to.include("move.cancel");
  });

  it("finds out how a move ended when it lost sight of it", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    s.world.outcome = "lost-then-moved";
    const after = await s.vms.update(id, outs, s.inputs({ host: "florida" }, outs));
    expect(after).to.include({ host: "florida" });
    expect(s.said.at(-1)).to.include("moved tokyo → florida");
  });

  it("saves doubt as a partial failure, and the next update resolves it by the target's word", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    s.world.outcome = "in-doubt";
    const news = s.inputs({ host: "florida" }, outs);
    const error = await failure(s.vms.update(id, outs, news));
    expect(error).to.be.instanceOf(PartialFailure);
    const { properties } = error as PartialFailure;
    expect(properties).to.include({ host: "tokyo", state: "in-doubt", __owner: outs.__owner });
    expect(s.vms.diff(id, properties, news).changes).to.equal(true);
    // The target had it all the time and settles.
    s.florida
      .put({ ...need(s.tokyo.vms.get(id)).report, state: "running", home: "yes" })
      .facts.push({ attempt: "m1", in: "SETTLED", journalId: "agent-florida" });
    expect(await s.vms.update(id, properties, news)).to.include({ host: "florida", state: "running" });
    expect(s.tokyo.vms.get(id)?.report.home).to.equal("no");
  });

  it("moves all the same where an older agent cannot foresee it", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    s.tokyo.broken.set("move.plan", "failed");
    expect(await s.vms.update(id, outs, s.inputs({ host: "florida" }, outs))).to.include({ host: "florida" });
    expect(s.said).to.have.length(1);
  });

  it("ends the attempt of a source whose host rebooted, also where its target is wanted: nothing is left that could be sent", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    const vm = need(s.tokyo.vms.get(id));
    vm.facts.push({
      attempt: "m1",
      out: "OPEN",
      header: "none",
      journalId: "agent-tokyo",
      peer: { host: "florida", agentId: "agent-florida" },
    });
    s.florida
      .put({ ...vm.report, home: "no", state: "moving" })
      .facts.push({ attempt: "m1", in: "RESERVED", journalId: "agent-florida", peer: { host: "tokyo", agentId: "agent-tokyo" } });
    const after = await s.vms.update(id, outs, s.inputs({ host: "florida" }, outs));
    expect(after).to.include({ host: "florida" });
    expect(s.tokyo.calls).to.include("move.watch").and.not.to.include("move.begin");
  });

  it("ends a copy that a person's recovery elsewhere left behind, as soon as it is met", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    const vm = need(s.tokyo.vms.get(id));
    s.florida.put({ ...vm.report, floor: 7 });
    vm.report = { ...vm.report, floor: 7 + (1 << 16) };
    expect(await s.vms.update(id, outs, s.inputs({}, outs)), "where it is away").to.include({ host: "tokyo" });
    expect(await s.vms.update(id, { ...outs, host: "florida" }, s.inputs({}, outs))).to.include({ host: "tokyo" });
    expect(s.florida.vms.size).to.equal(0);
    expect(s.tokyo.vms.size).to.equal(1);
  });

  it("says where the VM is after a move that the VM survived, when what follows fails", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    s.florida.broken.set("vm.ensure", "failed");
    const error = await failure(s.vms.update(id, outs, s.inputs({ host: "florida" }, outs)));
    expect(error).to.be.instanceOf(PartialFailure).and.have.nested.property("properties.host", "florida");
  });

  it("boots a stopped VM on its disk's host before it moves it", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    const vm = need(s.tokyo.vms.get(id));
    vm.report = { ...vm.report, state: "stopped" };
    expect(await s.vms.update(id, { ...outs, state: "stopped" }, s.inputs({ host: "florida" }, outs))).to.include({
      host: "florida",
      state: "running",
    });
  });

  it("brings an older kernel from the source's store", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    const older = { ...outs, kernel: `sha256:${"7".repeat(64)}` };
    s.tokyo.store.add("7".repeat(64));
    const vm = need(s.tokyo.vms.get(id));
    vm.report = { ...vm.report, spec: { ...vm.report.spec, kernelId: "7".repeat(64) } };
    await s.vms.update(id, older, { ...s.inputs({ host: "florida" }, older), kernel: older.kernel });
    expect(s.florida.store.has("7".repeat(64))).to.equal(true);
  });

  it("finds it in refresh on the host that it moved to, and gives inputs that say so", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    await s.vms.update(id, outs, s.inputs({ host: "florida" }, outs));
    const found = await s.vms.read(id, outs);
    expect(found?.props).to.include({ host: "florida", state: "running" });
    expect(found?.inputs).to.include({ host: "florida", memoryMiB: 128 }).and.have.property("__asked");
  });

  it("keeps it in the state while its host is away, without a throw", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    await s.tokyo.close();
    const found = await s.vms.read(id, outs);
    expect(found?.props).to.include({ host: "tokyo", state: "unreachable", uuid: id });
    expect(s.said.at(-1)).to.include("warning: ").and.include("tokyo");
  });

  it("drops it from the state only by the word of the journal that had it", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    s.tokyo.vms.clear();
    expect(await s.vms.read(id, outs)).to.equal(undefined);
    s.tokyo.agentId = "another";
    await s.context.pool.close();
    expect((await s.vms.read(id, outs))?.props).to.include({ state: "unreachable" });
  });

  it("destroys it wherever it is, tombstones too, and twice", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    const after = await s.vms.update(id, outs, s.inputs({ host: "florida" }, outs));
    await s.vms.delete(id, after);
    expect([s.tokyo.vms.size, s.florida.vms.size]).to.deep.equal([0, 0]);
    await s.vms.delete(id, after);
  });

  it("does not call it destroyed while its host is away", async () => {
    await using s = await setting();
    const { id, outs } = await s.made();
    await s.tokyo.close();
    expect((await failure(s.vms.delete(id, outs))).message)
      .to.include("VM handler: could not destroy it")
      .and.include("tokyo");
  });
});

describe("Link against agents", () => {
  const linked = async (s: Awaited<ReturnType<typeof setting>>) => {
    const links = linkReconciler(s.context);
    const a = await s.made({}, "a");
    const b = await s.made({ host: "florida" }, "b");
    const inputs = (hostA = "tokyo", more: object = {}) =>
      links.check(
        {},
        {
          ends: [
            { vm: a.id, instance: "i", host: hostA, nic: "lan" },
            { vm: b.id, instance: "i", host: "florida", nic: "lan" },
          ],
          __urn: urnOf("Link", "a-b"),
          __hosts: s.world.known,
          ...more,
        },
      ).inputs as Props;
    const { id, outs } = await links.create(inputs());
    return { links, a, b, inputs, id, outs };
  };

  it("wires both ends with one key that is not in the state, and sees them hear each other", async () => {
    await using s = await setting();
    const { outs, id, a, b } = await linked(s);
    const [one, two] = [s.tokyo.links.get(`${id} ${a.id}`), s.florida.links.get(`${id} ${b.id}`)];
    expect(one?.wiring.key)
      .to.match(/^[0-9a-f]{64}$/)
      .and.equal(two?.wiring.key);
    expect([one?.wiring.selfId, one?.wiring.peerId]).to.deep.equal([two?.wiring.peerId, two?.wiring.selfId]);
    expect(one?.peer).to.deep.equal({ address: (s.world.known[1] as { dataAddress: string }).dataAddress, port: 20_001 });
    expect(outs.state).to.equal("up");
    expect(JSON.stringify(outs)).not.to.include(one?.wiring.key);
  });

  it("follows a VM that moved, with the key that the other end still has", async () => {
    await using s = await setting();
    const { links, a, b, inputs, id, outs } = await linked(s);
    const key = s.florida.links.get(`${id} ${b.id}`)?.wiring.key;
    await s.vms.update(a.id, a.outs, { ...s.inputs({}, a.outs, "a"), host: "florida" });
    s.tokyo.links.clear();
    const after = await links.update(id, outs, inputs("florida"));
    expect(after).to.have.nested.property("ends[0].host", "florida");
    expect(s.florida.links.get(`${id} ${a.id}`)?.wiring.key).to.equal(key);
  });

  it("leaves a link that is right in peace: its peers are not forgotten for a moment", async () => {
    await using s = await setting();
    const { links, id, outs, inputs } = await linked(s);
    s.tokyo.calls.length = 0;
    await links.update(id, outs, inputs());
    expect(s.tokyo.calls).to.include("link.ensure").and.not.to.include("link.peer");
    for (const { wiring, peer } of s.tokyo.links.values()) expect(wiring.peer).to.deep.equal(peer).and.have.property("port", 20_001);
  });

  it("takes a new key where a VM was replaced", async () => {
    await using s = await setting();
    const { links, b, inputs, id, outs } = await linked(s);
    const before = s.florida.links.get(`${id} ${b.id}`)?.wiring;
    const news = inputs();
    const ends = (news.ends as object[]).map((end, index) => (index === 0 ? { ...end, instance: "j" } : end));
    await links.update(id, outs, { ...news, ends });
    const after = s.florida.links.get(`${id} ${b.id}`)?.wiring;
    expect(after?.key).not.to.equal(before?.key);
    expect(after?.keyId).to.equal((before?.keyId ?? 0) + 1);
  });

  it("tells in refresh that an end lost its wiring", async () => {
    await using s = await setting();
    const { links, id, outs } = await linked(s);
    expect((await links.read(id, outs))?.props.state).to.equal("up");
    s.tokyo.links.clear();
    expect((await links.read(id, outs))?.props.state).to.equal("unwired");
  });

  it("is removed from both ends, also where one VM is gone", async () => {
    await using s = await setting();
    const { links, a, id, outs } = await linked(s);
    s.tokyo.vms.delete(a.id);
    s.tokyo.links.clear();
    await links.delete(id, outs);
    expect(s.florida.links.size).to.equal(0);
  });
});

function need<T>(value: T | undefined): T {
  expect(value).not.to.equal(undefined);
  return value as T;
}
