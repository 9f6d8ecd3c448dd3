import { expect } from "chai";
import { otherAssets } from "./support/assets";
import { inGuest, vmOf } from "./support/command";
import { Project } from "./support/project";
import { pair, testHosts } from "./support/topologies";

/** What runs is not replaced by an upgrade. */
describe("a second provider version with another default kernel", function () {
  this.timeout(300_000);
  it("changes nothing about running VMs, and they can still be moved", async () => {
    using hosts = testHosts();
    using newer = otherAssets();
    const both = Object.fromEntries([hosts.local("east"), hosts.local("west")]);
    await using project = await Project.make(pair(both, "east", "west"));
    await project.up();
    const before = await vmOf(project, "a");
    const build = await inGuest(project, "a", "uname", "-v");

    project.setEnv({ MOBITOPOLO_ASSETS: newer.folder });
    expect(await project.up(), "an up of the newer version").to.not.have.any.keys("created", "updated", "replaced", "deleted");
    project.write(pair(both, "west", "west"));
    await project.up();
    const after = await vmOf(project, "a");
    expect(after.host).to.equal("west");
    expect(after.uuid).to.equal(before.uuid);
    expect(await inGuest(project, "a", "uname", "-v"), "still the old kernel").to.equal(build);
  });
});
