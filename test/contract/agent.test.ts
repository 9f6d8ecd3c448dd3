import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import * as protocol from "../../provider/protocol/methods";
import { boot, exec, lives, move, specOf, TestAgent, wire } from "./support/agents";

describe("two agents, one topology", function () {
  this.timeout(120_000);
  let tokyo: TestAgent;
  let florida: TestAgent;
  let blobs: { kernelId: string; imageId: string };

  before(async () => {
    tokyo = await TestAgent.start("tokyo", "127.0.0.2");
    florida = await TestAgent.start("florida", "127.0.0.3");
    blobs = await tokyo.provide();
  });

  after(async () => {
    await tokyo[Symbol.asyncDispose]();
    await florida[Symbol.asyncDispose]();
  });

  it("boots a VM, runs programs in it, and leaves nothing of it", async () => {
    const spec = specOf(blobs);
    const report = await boot(tokyo, spec);
    expect(report).to.include({ state: "running", home: "yes" });
    expect(report.note).to.equal(undefined);
    expect(await exec(tokyo, spec.uuid, "/bin/sh", "-c", "echo hello; echo oops >&2; exit 3")).to.deep.equal({
      stdout: "hello\n",
      stderr: "oops\n",
      code: 3,
    });
    const { gen } = await tokyo.call(protocol.vmClaim, { vm: spec.uuid });
    expect(await tokyo.call(protocol.vmDestroy, { vm: spec.uuid, owner: "test", gen })).to.deep.equal({ existed: true });
    expect(lives(report.pid)).to.equal(false);
    expect(readdirSync(join(tokyo.stateDir, "vms"))).to.deep.equal([]);
    expect(readdirSync(join(tokyo.stateDir, "journal"))).to.deep.equal([]);
  });

  it("a new agent finds the VMs of the one before, which run on", async () => {
    const spec = specOf(blobs);
    const { pid } = await boot(tokyo, spec);
    for (const how of ["shutdown", "kill"] as const) {
      await tokyo.stop(how);
      tokyo = await TestAgent.start("tokyo", "127.0.0.2", tokyo.stateDir);
      expect((await tokyo.call(protocol.vmGet, { vm: spec.uuid })).vm).to.include({ state: "running", pid });
      expect((await exec(tokyo, spec.uuid, "/bin/echo", "still here")).stdout).to.equal("still here\n");
    }
    const { gen } = await tokyo.call(protocol.vmClaim, { vm: spec.uuid });
    const stopped = await tokyo.call(protocol.vmEnsure, { spec, owner: "test", running: false, gen });
    expect(stopped.vm).to.include({ state: "stopped", note: "stopped as asked" });
    expect(lives(pid)).to.equal(false);
    expect((await tokyo.call(protocol.vmEnsure, { spec, owner: "test", running: true, gen })).booted).to.equal(true);
    await tokyo.call(protocol.vmDestroy, { vm: spec.uuid, owner: "test", gen });
  });

  it("a program's output is whole over a move: the session is found again at the new host", async () => {
    const spec = specOf(blobs);
    await boot(tokyo, spec);
    let text = "";
    const take = (event: { data: string; offset: number }): void => {
      expect(event.offset).to.equal(text.length);
      text += Buffer.from(event.data, "base64").toString();
    };
    tokyo.on(protocol.execOutput, take);
    florida.on(protocol.execOutput, take);
    const lost = new Promise<{ movedTo?: string }>((resolve) => tokyo.on(protocol.execLost, resolve));
    const ended = new Promise<{ code?: number }>((resolve) => florida.on(protocol.execExit, resolve));
    const { session } = await tokyo.call(protocol.execStart, {
      vm: spec.uuid,
      argv: [
        "/bin/sh",
        "-c",
        "read first; i=0; while [ $i -lt 60 ]; do echo $first $i; i=$((i+1)); sleep 0.05; done; read last; echo $last",
      ],
    });
    await tokyo.call(protocol.execInput, { vm: spec.uuid, session, offset: 0, data: Buffer.from("line\n").toString("base64") });
    expect((await move(spec.uuid, tokyo, florida)).fault).to.equal(undefined);
    expect((await lost).movedTo).to.equal("florida");
    const { inputReceived } = await florida.call(protocol.execResume, { vm: spec.uuid, session, outputOffset: text.length });
    expect(inputReceived).to.equal(5);
    await florida.call(protocol.execInput, { vm: spec.uuid, session, offset: 5, data: Buffer.from("end\n").toString("base64"), end: true });
    expect((await ended).code).to.equal(0);
    expect(text).to.equal(`${Array.from({ length: 60 }, (_, i) => `line ${i}\n`).join("")}end\n`);
    for (const agent of [florida, tokyo]) {
      const { gen } = await agent.call(protocol.vmClaim, { vm: spec.uuid });
      expect(await agent.call(protocol.vmDestroy, { vm: spec.uuid, owner: "test", gen })).to.deep.equal({ existed: agent === florida });
      expect(readdirSync(join(agent.stateDir, "vms"))).to.deep.equal([]);
      expect(readdirSync(join(agent.stateDir, "journal"))).to.deep.equal([]);
    }
  });

  it("links two VMs, moves one and then the other, and the guests go on", async () => {
    const nic = (n: number) => [{ name: "net", mac: `02:00:00:00:00:0${n}`, addresses: [`10.9.0.${n}/24`], mtu: 1400 }];
    const a = specOf(blobs, { nics: nic(1) });
    const b = specOf(blobs, { nics: nic(2) });
    await boot(tokyo, a);
    await boot(tokyo, b);
    await wire([tokyo, a.uuid], [tokyo, b.uuid]);
    const ping = async (agent: TestAgent): Promise<void> => {
      const { code, stdout } = await exec(agent, a.uuid, "/bin/busybox", "ping", "-c", "3", "-W", "2", "10.9.0.2");
      expect(code, stdout).to.equal(0);
    };
    await ping(tokyo);
    await exec(tokyo, a.uuid, "/bin/sh", "-c", "echo kept > /tmp/memory; echo kept > /root/disk; sync");

    const there = await move(a.uuid, tokyo, florida);
    expect(there.fault).to.equal(undefined);
    expect(there).to.include({ phase: "done" });
    expect(there.result).to.include({ from: "tokyo", to: "florida", result: "moved" });
    await ping(florida);
    const { stdout } = await exec(florida, a.uuid, "/bin/sh", "-c", "cat /tmp/memory /root/disk");
    expect(stdout).to.equal("kept\nkept\n");
    const { vm: left } = await tokyo.call(protocol.vmGet, { vm: a.uuid });
    expect(left).to.include({ home: "no", movedTo: "florida" });
    expect((await florida.call(protocol.vmGet, { vm: a.uuid })).vm).to.include({ home: "yes", state: "running" });

    expect(await move(b.uuid, tokyo, florida)).to.include({ phase: "done" });
    await ping(florida);
    expect(await move(a.uuid, florida, tokyo)).to.include({ phase: "done" });
    await ping(tokyo);
  });
});
