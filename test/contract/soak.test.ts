import { expect } from "chai";
import * as protocol from "../../provider/protocol/methods";
import { boot, exec, move, specOf, TestAgent, wire } from "./support/agents";

const moves = 8;

/** What each program of uml-kernel/guest/load says once a second. */
interface Check {
  readonly ok: boolean;
  readonly count: number;
  readonly why?: string;
}

for (const userspace of ["seccomp", "ptrace"] as const) {
  describe(`${moves} moves of a busy guest, userspace: ${userspace}`, function () {
    this.timeout(180_000);

    it("harm neither its memory, disk and registers nor its TCP stream", async () => {
      await using tokyo = await TestAgent.start("tokyo", "127.0.0.2");
      await using florida = await TestAgent.start("florida", "127.0.0.3");
      const blobs = await tokyo.provide();
      const nic = (n: number) => [{ name: "net", mac: `02:00:00:00:01:0${n}`, addresses: [`10.9.0.${n}/24`], mtu: 1400 }];
      const a = specOf(blobs, { nics: nic(1), userspace, memoryMiB: 128 });
      const b = specOf(blobs, { nics: nic(2), userspace });
      await boot(tokyo, a);
      await boot(tokyo, b);
      await wire([tokyo, a.uuid], [tokyo, b.uuid]);
      const start = async (vm: string, command: string): Promise<void> => {
        const { code, stderr } = await exec(tokyo, vm, "/bin/sh", "-c", `setsid ${command} </dev/null >/tmp/out.$$ 2>&1 &`);
        expect(code, stderr).to.equal(0);
      };
      await start(a.uuid, "ramcheck");
      await start(a.uuid, "avxhold");
      await start(a.uuid, "uptimecheck");
      await start(a.uuid, "tcpstream --listen 10.9.0.1:7100");
      await start(b.uuid, "tcpstream --connect 10.9.0.1:7100");

      let [here, there] = [tokyo, florida];
      for (let i = 0; i < moves; i++) {
        const end = await move(a.uuid, here, there);
        expect(end.fault, JSON.stringify(end)).to.equal(undefined);
        [here, there] = [there, here];
        await new Promise((resolve) => setTimeout(resolve, 1500));
        await allRight(here, a.uuid, 4);
        await allRight(tokyo, b.uuid, 1);
      }
      expect((await here.call(protocol.vmGet, { vm: a.uuid })).vm).to.include({ state: "running" });
    });
  });
}

/** Every program's last word is that all is right, and its count has grown since the word before. */
async function allRight(agent: TestAgent, vm: string, programs: number): Promise<void> {
  const { stdout } = await exec(agent, vm, "/bin/sh", "-c", "for f in /tmp/out.*; do tail -n 2 $f | tr '\\n' ' '; echo; done");
  const lines = stdout.trim().split("\n");
  expect(lines, stdout).to.have.length(programs);
  for (const line of lines) {
    const words = line
      .trim()
      .split(/(?<=\}) /)
      .map((word) => JSON.parse(word) as Check);
    expect(
      words.every((word) => word.ok),
      line,
    ).to.equal(true);
    expect(words.at(-1)?.count, line).to.be.greaterThan(words.length > 1 ? (words[0]?.count ?? 0) : 0);
  }
}
