import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { inGuest, vmOf } from "./support/command";
import { processGone } from "./support/leftovers";
import { Project } from "./support/project";
import { pair, type TestHosts, testHosts } from "./support/topologies";

/** Kills a host's agent as a crash would. */
async function killAgent(hosts: TestHosts, host: string): Promise<void> {
  const { pid } = JSON.parse(readFileSync(join(hosts.stateDir(host), "agent.json"), "utf8")) as { pid: number };
  process.kill(pid, "SIGKILL");
  await processGone(pid);
}

describe("agents that die", function () {
  this.timeout(300_000);

  it("lose no VM, also not one that had left and come home", async () => {
    using hosts = testHosts();
    const both = Object.fromEntries([hosts.local("home"), hosts.local("away")]);
    await using project = await Project.make(pair(both, "home", "home"));
    await project.up();
    const bootId = await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id");
    for (const host of ["away", "home"]) {
      project.write(pair(both, host, "home"));
      await project.up();
      for (const agent of ["home", "away"]) await killAgent(hosts, agent);
      // An `up` with nothing to change calls no agent; a refresh looks, and so starts them.
      await project.refresh();
      expect(await project.up(), `an up after both agents died, VM on ${host}`).to.not.have.any.keys("created", "replaced", "deleted");
      expect(await vmOf(project, "a")).to.include({ host, state: "running" });
      expect(await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id"), "the same boot").to.equal(bootId);
      expect(await inGuest(project, "a", "ping", "-c", "2", "-i", "0.2", "10.9.0.2")).to.match(/ 0% packet loss/);
    }
  });
});
