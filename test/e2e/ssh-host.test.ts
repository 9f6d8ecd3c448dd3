import { expect } from "chai";
import { inGuest, vmOf } from "./support/command";
import { processesOf } from "./support/leftovers";
import { Project } from "./support/project";
import { startSshd } from "./support/sshd";
import { loopback, pair, testHosts } from "./support/topologies";

/** One host is this machine, the other lies behind a real OpenSSH server of an ordinary user. */
describe("a host behind SSH", function () {
  this.timeout(300_000);
  it("gets a running VM from a local host and gives it back", async () => {
    await using sshd = await startSshd({ address: loopback() });
    using hosts = testHosts();
    const both = Object.fromEntries([hosts.local("near"), hosts.ssh("far", sshd)]);
    await using project = await Project.make(pair(both, "near", "near"));
    await project.up();
    const bootId = await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id");
    for (const host of ["far", "near"]) {
      project.write(pair(both, host, "near"));
      await project.up();
      expect((await vmOf(project, "a")).host).to.equal(host);
      expect(await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id")).to.equal(bootId);
      expect(await inGuest(project, "b", "ping", "-c", "3", "-i", "0.2", "10.9.0.1")).to.match(/ 0% packet loss/);
    }
    await project.destroy();
    expect(processesOf(sshd.home), "processes on the SSH host").to.deep.equal([]);
  });
});
