import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { inGuest, mobitopolo, status, vmOf } from "./support/command";
import { Project } from "./support/project";
import { pair, testHosts } from "./support/topologies";

/** `pulumi up` in a session of its own, so that a Ctrl-C reaches all of it as from a terminal. */
function upInTerminal(project: Project) {
  const child = spawn(project.tool.command, ["up", "--yes", "--skip-preview", "--non-interactive"], {
    cwd: project.folder,
    env: project.tool.env,
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  let text = "";
  const changed = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (said: string) => {
      text += said;
      for (const check of changed) check();
    });
  const closed = once(child, "close").then(([code]) => code as number | null);
  return {
    closed,
    /** Resolves when it has said that. */
    says: async (what: RegExp): Promise<void> => {
      await Promise.race([
        new Promise<void>((resolve) => {
          const check = (): void => void (what.test(text) && resolve());
          changed.add(check);
          check();
        }),
        closed.then(() => Promise.reject(new Error(`it ended before it said ${what}:\n${text}`))),
      ]);
    },
    interrupt: (): void => void process.kill(-(child.pid ?? 0), "SIGINT"),
  };
}

describe("Ctrl-C during an `up` that moves a VM", function () {
  this.timeout(300_000);
  for (const times of [1, 2]) {
    it(
      times === 1 ? "once: the move is finished and recorded" : "twice: the agents go on, and the next `up` attaches to that very move",
      async () => {
        using hosts = testHosts();
        const both = Object.fromEntries([hosts.local("here"), hosts.local("there")]);
        const slow = { a: { migration: { bandwidthMbps: 12 } } };
        await using project = await Project.make(pair(both, "here", "here", slow));
        await project.up();
        const bootId = await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id");
        project.write(pair(both, "there", "here", slow));

        const up = upInTerminal(project);
        await up.says(/pre-copy/);
        up.interrupt();
        if (times === 2) {
          await up.says(/\^C|cancel/i);
          up.interrupt();
        }
        expect(await up.closed).not.to.equal(0);
        if (times === 1) {
          expect((await vmOf(project, "a")).host).to.equal("there");
          expect(project.resources("Vm").get("a")?.host, "recorded").to.equal("there");
        } else await project.run("cancel", "--yes");

        await project.up();
        const after = await vmOf(project, "a");
        expect(after.host).to.equal("there");
        expect(await inGuest(project, "a", "cat", "/proc/sys/kernel/random/boot_id"), "the same boot").to.equal(bootId);
        const attempts = new Set(
          [...readFileSync(join(hosts.stateDir("here"), "agent.log"), "utf8").matchAll(/"attempt":"([^"]+)".*a pre-copy round ended/g)].map(
            ([, m]) => m,
          ),
        );
        const last = project.resources("Vm").get("a")?.lastMigration;
        expect(last).to.include({ result: "moved", from: "here", to: "there" });
        expect([...attempts], "one attempt").to.deep.equal([(last as { attempt: string }).attempt]);
        expect((await status(project)).vms.filter(({ name }) => name === "a")).to.have.length(1);

        // By hand, from there: the state's own hosts and policies are used.
        const moved = await mobitopolo(project, "move", "a", "--to", "here", "--json");
        expect(moved.code, moved.text).to.equal(0);
        expect(JSON.parse(moved.stdout.trim().split("\n").at(-1) ?? "")).to.include({ event: "result", ok: true, to: "here" });
        await project.refresh();
        expect(project.resources("Vm").get("a")).to.have.nested.property("lastMigration.to", "here");
      },
    );
  }
});
