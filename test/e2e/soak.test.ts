import { expect } from "chai";
import { GuestProgram, vmOf } from "./support/command";
import { Project } from "./support/project";
import { pair, testHosts } from "./support/topologies";

interface Check {
  readonly ok: boolean;
  readonly count: number;
  readonly why?: string;
}

/** A move with all its checks takes half a minute on a slow machine; few hosts lack what seccomp needs. */
const MOVES = { seccomp: 20, ptrace: 8 };

/** Programs in the guest that notice any damage: RAM and disk, registers, a TCP stream in both directions, time. */
const CHECKS: readonly [vm: string, argv: readonly string[]][] = [
  ["a", ["ramcheck"]],
  ["a", ["avxhold"]],
  ["a", ["uptimecheck"]],
  ["b", ["tcpstream", "--connect", "10.9.0.1:7100"]],
];

for (const userspace of ["seccomp", "ptrace"] as const) {
  const moves = MOVES[userspace];
  describe(`${moves} moves, userspace: ${userspace}`, function () {
    this.timeout(900_000);
    it("harm neither memory, disk, registers, connections nor time", async () => {
      using hosts = testHosts();
      const both = Object.fromEntries([hosts.local("left"), hosts.local("right")]);
      const topology = (host: string) => pair(both, host, "left", { a: { userspace, runcmd: ["tcpstream --listen 10.9.0.1:7100"] } });
      await using project = await Project.make(topology("left"));
      await project.up();
      const programs = CHECKS.map(([vm, argv]) => new GuestProgram<Check>(project, vm, argv));
      await Promise.all(programs.map((p) => p.next()));

      let uptimeMs = 0;
      for (let move = 0; move < moves; move += 1) {
        const host = move % 2 === 0 ? "right" : "left";
        project.write(topology(host));
        await project.up();
        const vm = await vmOf(project, "a");
        expect(vm.host, `move ${move + 1}`).to.equal(host);
        expect(vm.uptimeMs, "uptime never goes back").to.be.greaterThan(uptimeMs);
        uptimeMs = vm.uptimeMs ?? 0;
        for (const program of programs) expect(await program.next(), program.argv.join(" ")).to.include({ ok: true });
      }
      for (const program of programs) {
        expect(await program.stop(), `${program.argv.join(" ")} after ${program.lines.at(-1)?.count} checks`).to.equal(0);
      }
    });
  });
}
