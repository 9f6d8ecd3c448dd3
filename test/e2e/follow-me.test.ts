import { expect } from "chai";
import { inGuest, status, vmOf } from "./support/command";
import { filesBelow, processesOf } from "./support/leftovers";
import { Project } from "./support/project";
import { pair, testHosts } from "./support/topologies";

/** The whole way of a topology: up, nothing to do, preview of a move, move, destroy. */
describe("a topology on two local hosts", function () {
  this.timeout(300_000);
  it("comes up, moves a running VM in place, and leaves nothing", async () => {
    using hosts = testHosts();
    const both = Object.fromEntries([hosts.local("tokyo"), hosts.local("florida")]);
    await using project = await Project.make(pair(both, "tokyo", "florida"));

    const created = await project.up();
    expect(created.created).to.be.greaterThanOrEqual(5);
    expect(await inGuest(project, "a", "ping", "-c", "3", "-i", "0.2", "10.9.0.2")).to.match(/ 0% packet loss/);

    expect(await project.up(), "a second up").to.not.have.any.keys("created", "updated", "replaced", "deleted");

    project.write(pair(both, "florida", "florida"));
    const planned = await project.preview();
    expect(planned.update, "the Vm and its Link").to.equal(2);
    expect(planned).to.not.have.any.keys("create", "delete", "replace", "create-replacement", "delete-replaced");

    const before = await vmOf(project, "a");
    const bootId = await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id");
    const moved = await project.up();
    expect(moved.updated).to.equal(2);
    const after = await vmOf(project, "a");
    expect(after.host).to.equal("florida");
    expect(after.uuid).to.equal(before.uuid);
    expect(after.uptimeMs).to.be.greaterThan(before.uptimeMs ?? 0);
    expect(await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id"), "the same boot").to.equal(bootId);
    expect(await inGuest(project, "a", "ping", "-c", "3", "-i", "0.2", "10.9.0.2")).to.match(/ 0% packet loss/);
    expect(await project.up(), "an up after the move").to.not.have.any.keys("created", "updated", "replaced", "deleted");

    const runDirs = (await status(project)).hosts.map((h) => h.facts?.runDir ?? "");
    await project.destroy();
    expect(processesOf(hosts.folder, ...runDirs), "processes").to.deep.equal([]);
    for (const dir of runDirs) expect(filesBelow(dir), dir).to.deep.equal([]);
    for (const host of ["tokyo", "florida"]) {
      expect(filesBelow(hosts.stateDir(host), ["store", "program", "lock", "agent.log"]), `files of ${host}`).to.deep.equal([]);
    }
  });

  it("shows a move as one update and no replacement: of the Vm, and of nothing else where it has no link", async () => {
    using hosts = testHosts();
    const both = Object.fromEntries([hosts.local("from"), hosts.local("to")]);
    const alone = (host: string) => ({ hosts: both, vms: { a: { host, memoryMiB: 64, diskMiB: 64 } } });
    await using project = await Project.make(alone("from"));
    await project.up();
    project.write(alone("to"));
    const planned = await project.preview();
    expect(planned).to.include({ update: 1 });
    expect(planned).to.not.have.any.keys("create", "delete", "replace", "create-replacement", "delete-replaced");
    expect((await project.up()).updated).to.equal(1);
    expect(await vmOf(project, "a")).to.include({ host: "to", state: "running" });
  });

  it("is found again by refresh when a VM is where the state does not say", async () => {
    using hosts = testHosts();
    const both = Object.fromEntries([hosts.local("here"), hosts.local("there")]);
    await using project = await Project.make(pair(both, "here", "there"));
    await project.up();
    // The state says what it said before the move.
    const checkpoint = (await project.must("stack", "export")).stdout;
    project.write(pair(both, "there", "there"));
    await project.up();
    await project.restore(checkpoint);
    expect(project.resources("Vm").get("a")?.host).to.equal("here");
    await project.refresh();
    expect(project.resources("Vm").get("a")?.host).to.equal("there");
    expect(await project.up()).to.not.have.any.keys("created", "replaced", "deleted");
    expect((await vmOf(project, "a")).host).to.equal("there");
  });
});
