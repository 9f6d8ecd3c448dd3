/** What a VM leaves on a host that it moves away from, and what that saves when it comes back: real agents, real kernels. */
import { execFileSync } from "node:child_process";
import { existsSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { until } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import type { VmSpec } from "../../provider/schemas/vm";
import { boot, exec, move, specOf, TestAgent } from "./support/agents";
import { cutting } from "./support/relay";

const MIB = 1048576;
const NOISE_MIB = 12;

describe("the basis of a way back", function () {
  this.timeout(120_000);
  let here: TestAgent;
  let there: TestAgent;
  let spec: VmSpec;

  beforeEach(async () => {
    here = await TestAgent.start("here", "127.0.0.2");
    there = await TestAgent.start("there", "127.0.0.3");
    spec = specOf(await here.provide(), { memoryMiB: 96, diskMiB: 64 });
    await there.provide();
    await boot(here, spec);
    // What nothing makes smaller: in memory, and on the disk.
    await sh(here, `blockcopy make --mib ${NOISE_MIB} --seed 1 /tmp/noise; blockcopy make --mib ${NOISE_MIB} --seed 2 /var/noise; sync`);
  });
  afterEach(async () => {
    await here[Symbol.asyncDispose]();
    await there[Symbol.asyncDispose]();
  });

  const sh = async (agent: TestAgent, script: string): Promise<string> => {
    const { stdout, stderr, code } = await exec(agent, spec.uuid, "/bin/sh", "-c", script);
    expect(code, stderr).to.equal(0);
    return stdout;
  };
  /** From the disk itself; and what was read for it does not stay in memory, where it would be new. */
  const sums = (agent: TestAgent): Promise<string> => {
    const drop = "echo 3 > /proc/sys/vm/drop_caches";
    return sh(agent, `${drop}; sha256sum /tmp/noise /var/noise; ${drop}`);
  };
  const left = ({ stateDir, socket }: TestAgent): { memory: string; disk: string } => ({
    memory: join(dirname(socket), spec.uuid, "basis.memory"),
    disk: join(stateDir, "vms", spec.uuid, "basis.disk"),
  });
  const moved = async (from: TestAgent, to: TestAgent, policy = {}): Promise<number> => {
    const end = await move(spec.uuid, from, to, policy);
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    return end.result?.bytes ?? Number.NaN;
  };

  it("what has not changed is not sent again, of memory and of disk, over and over", async () => {
    const before = await sums(here);
    expect(await moved(here, there)).to.be.greaterThan(2 * NOISE_MIB * MIB);
    for (const path of Object.values(left(here))) expect(existsSync(path), path).to.equal(true);
    // A part of it changes.
    await sh(there, "blockcopy make --mib 1 --seed 3 /tmp/more; blockcopy make --mib 1 --seed 4 /var/more; sync");
    expect(await moved(there, here)).to.be.within(2 * MIB, 6 * MIB);
    expect(await sums(here)).to.equal(before);
    // It is used up, and where the VM was last there is another.
    for (const path of Object.values(left(here))) expect(existsSync(path), path).to.equal(false);
    for (const path of Object.values(left(there))) expect(existsSync(path), path).to.equal(true);
    expect(await moved(here, there)).to.be.lessThan(6 * MIB);
    expect(await sums(there)).to.equal(before);
    expect(await sh(there, "dmesg | grep -iE 'oops|BUG:|I/O error|EXT4-fs error' || true")).to.equal("");
  });

  it("keepBasis: false leaves nothing of it, and all is sent", async () => {
    await moved(here, there, { keepBasis: false });
    for (const path of Object.values(left(here))) expect(existsSync(path), path).to.equal(false);
    expect(await moved(there, here)).to.be.greaterThan(2 * NOISE_MIB * MIB);
  });

  it("goes by gc, and then all is sent; goes with the rest by a destroy", async () => {
    const before = await sums(here);
    await moved(here, there);
    const { removed, bytes } = await here.call(protocol.storeGc, {});
    expect(removed).to.be.at.least(2);
    expect(bytes).to.be.greaterThan(2 * NOISE_MIB * MIB);
    for (const path of Object.values(left(here))) expect(existsSync(path), path).to.equal(false);
    expect(await moved(there, here)).to.be.greaterThan(2 * NOISE_MIB * MIB);
    expect(await sums(here)).to.equal(before);
    // "there" has what the VM left when it went home: it goes with the rest of it.
    const { gen } = await there.call(protocol.vmClaim, { vm: spec.uuid });
    expect(await there.call(protocol.vmDestroy, { vm: spec.uuid, owner: "test", gen })).to.deep.equal({ existed: false });
    for (const path of Object.values(left(there))) expect(existsSync(path), path).to.equal(false);
  });

  it("counts as room that the host has", async () => {
    await moved(here, there);
    const { memoryFreeMiB } = await here.call(protocol.hostFacts, {});
    const moreMiB = 512;
    execFileSync("fallocate", ["--length", `${moreMiB}MiB`, left(here).memory]);
    // Others use this machine, too.
    expect((await here.call(protocol.hostFacts, {})).memoryFreeMiB).to.be.within(memoryFreeMiB - moreMiB / 2, memoryFreeMiB + moreMiB / 2);
  });

  it("a new agent keeps it; one of another size, or a file of anything, is no harm", async () => {
    const before = await sums(here);
    await moved(here, there);
    await here.stop();
    here = await TestAgent.start("here", "127.0.0.2", here.stateDir);
    const { memory, disk } = left(here);
    for (const path of [memory, disk]) expect(existsSync(path), path).to.equal(true);
    truncateSync(disk, 100_000);
    writeFileSync(memory, Buffer.alloc(statSync(memory).size / 2, "anything"));
    expect(await moved(there, here)).to.be.greaterThan(2 * NOISE_MIB * MIB);
    expect(await sums(here)).to.equal(before);
  });

  it("answers that are lost with their connection cost bytes, and nothing else", async () => {
    const before = await sums(here);
    await moved(here, there);
    await using undo = new AsyncDisposableStack();
    // In the middle of the questions: these are some 50 kB.
    const afterBytes = [20_000, 10_000, 10_000];
    const { relay, cuts } = await cutting(afterBytes);
    const { gen } = await there.call(protocol.vmClaim, { vm: spec.uuid });
    const { needs } = await there.call(protocol.moveBegin, { vm: spec.uuid, gen, to: { host: "here", agentId: here.agentId } });
    const key = "ab".repeat(32);
    const { port, journalId } = await here.call(protocol.moveOffer, { needs, key });
    const target = { host: "here", journalId, address: "127.0.0.4", port: undo.use(await relay(here.address, port)).port };
    await there.call(protocol.moveStart, { vm: spec.uuid, attempt: needs.attempt, key, policy: {}, target });
    const end = await there.call(protocol.moveWatch, { vm: spec.uuid, attempt: needs.attempt });
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    expect(cuts()).to.equal(afterBytes.length);
    await until(5000, "it to be home", async () =>
      (await here.call(protocol.vmGet, { vm: spec.uuid })).vm?.home === "yes" ? true : undefined,
    );
    expect(await sums(here)).to.equal(before);
  });
});
