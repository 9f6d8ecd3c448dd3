import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { defaultAssets } from "../../provider/lib/assets";
import { otherAssets } from "./support/assets";
import { inGuest, vmOf } from "./support/command";
import { filesBelow } from "./support/leftovers";
import { smallDisk } from "./support/namespace";
import { Project, type ProjectOptions } from "./support/project";
import { makeKey, startSshd } from "./support/sshd";
import { loopback, pair, type TestHosts, testHosts } from "./support/topologies";

/** Every fault of an input or a host: a clear error, the VM still runs where it ran, nothing is left behind. */
describe("bad input, said at preview", function () {
  this.timeout(300_000);
  it("an unknown property", async () => {
    using hosts = testHosts();
    const one = Object.fromEntries([hosts.local("one")]);
    await using project = await Project.make(pair(one, "one", "one", { a: { memmoryMiB: 256 } }));
    const text = await project.previewFails();
    expect(text).to.contain("memmoryMiB");
    expect(text).to.contain("a");
  });

  it("two VMs with one NIC address on a link", async () => {
    using hosts = testHosts();
    const one = Object.fromEntries([hosts.local("one")]);
    const nics = [{ name: "peer", addresses: ["10.9.0.1/24"] }];
    await using project = await Project.make(pair(one, "one", "one", { b: { nics } }));
    const text = await project.previewFails();
    expect(text).to.contain("10.9.0.1");
    expect(text).to.match(/a:peer|b:peer/);
  });
});

/** A running pair on `here`, told to move its VM a to `there`, which cannot take it: `prepare` sees to that. @returns what the failed `up` said */
async function refusedMove(
  hosts: TestHosts,
  there: [string, object],
  prepare: (project: Project) => Promise<void> | void,
  options: ProjectOptions & { after?: () => Promise<void> } = {},
): Promise<string> {
  const both = Object.fromEntries([hosts.local("here"), there]);
  await using project = await Project.make(pair(both, "here", "here"), options);
  await project.up();
  await prepare(project);
  const before = await vmOf(project, "a");
  const bootId = await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id");

  project.write(pair(both, "there", "here"));
  const text = await project.upFails();

  const after = await vmOf(project, "a");
  expect(after.host, "it runs where it ran").to.equal("here");
  expect(after.state).to.equal("running");
  expect(after.pid, "the same process").to.equal(before.pid);
  expect(await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id")).to.equal(bootId);
  expect(await inGuest(project, "b", "ping", "-c", "2", "-i", "0.2", "10.9.0.1")).to.match(/ 0% packet loss/);
  expect(
    filesBelow(hosts.stateDir("there")).filter((f) => f.includes(before.uuid)),
    "files of it at the target",
  ).to.deep.equal([]);
  project.write(pair(both, "here", "here"));
  await options.after?.();
  return text;
}

describe("a target that cannot take the VM", function () {
  this.timeout(300_000);
  it("is down", async () => {
    using hosts = testHosts();
    await using sshd = await startSshd({ address: loopback() });
    const text = await refusedMove(hosts, hosts.ssh("there", sshd), () => sshd.stop(), { after: () => sshd.restart() });
    expect(text).to.contain("there");
    expect(text).to.match(/ECONNREFUSED|refused|unreachable/);
  });

  it("shows another host key than the one declared", async () => {
    using hosts = testHosts();
    await using sshd = await startSshd({ address: loopback() });
    const other = makeKey(join(hosts.folder, "other_key"));
    const hostKey = readFileSync(`${other}.pub`, "utf8").split(" ").slice(0, 2).join(" ");
    const one = Object.fromEntries([hosts.ssh("there", { ...sshd, hostKey })]);
    await using project = await Project.make(pair(one, "there", "there"));
    const text = await project.upFails();
    expect(text).to.match(/host key/i);
    expect(text).to.contain("there");
    expect(filesBelow(sshd.home), "nothing was written there").to.deep.equal([]);
  });

  it("lacks a CPU feature that the guest was shown", async () => {
    using hosts = testHosts();
    const text = await refusedMove(hosts, hosts.local("there"), () => {
      writeFileSync(join(hosts.stateDir("there"), "facts-override.json"), JSON.stringify({ cpuFlags: ["fpu", "sse", "sse2"] }));
    });
    expect(text).to.match(/CPU feature|avx/i);
    expect(text).to.contain("there");
  });

  it("has a full disk", async () => {
    using hosts = testHosts();
    await using disk = await smallDisk(hosts.stateDir("there"), 400);
    const there = hosts.local("there");
    const text = await refusedMove(
      hosts,
      there,
      async (project) => {
        // There and back first, so that kernel and image are there and only the VM itself has no room.
        for (const host of ["there", "here"]) {
          project.write(pair(Object.fromEntries([hosts.local("here"), there]), host, "here"));
          await project.up();
        }
        await disk.fill(8);
      },
      { wrapper: disk.wrapper },
    );
    expect(text).to.match(/space|ENOSPC|full/i);
    expect(text).to.contain("there");
  });

  for (const what of ["kernel", "image"] as const) {
    it(`cannot get the VM's ${what}`, async () => {
      using hosts = testHosts();
      using newer = otherAssets();
      const text = await refusedMove(hosts, hosts.local("there"), (project) => {
        // Neither the provider has it any more (a newer version's default is another) nor the source's store.
        project.setEnv({ MOBITOPOLO_ASSETS: newer.folder });
        rmSync(join(hosts.stateDir("here"), "store", defaultAssets()[what].id));
      });
      expect(text).to.contain(what);
    });
  }
});
