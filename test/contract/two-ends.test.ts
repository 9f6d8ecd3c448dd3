import { expect } from "chai";
import { until } from "../../provider/lib/time";
import { boot, exec, move, specOf, TestAgent, wire } from "./support/agents";

const rounds = 5;

describe("two ends of a link that move at the same time", function () {
  this.timeout(120_000);

  it("find each other by themselves: frames that come to either's old place follow it", async () => {
    await using undo = new AsyncDisposableStack();
    const agents: TestAgent[] = [];
    for (const n of [2, 3, 4, 5]) agents.push(undo.use(await TestAgent.start(`host${n}`, `127.0.0.${n}`)));
    const [one, two, three, four] = agents as [TestAgent, TestAgent, TestAgent, TestAgent];
    const blobs = await one.provide();
    await two.provide();
    const nic = (n: number) => [{ name: "net", mac: `02:00:00:00:01:0${n}`, addresses: [`10.9.0.${n}/24`], mtu: 1400 }];
    const a = specOf(blobs, { nics: nic(1) });
    const b = specOf(blobs, { nics: nic(2) });
    await boot(one, a);
    await boot(two, b);
    await wire([one, a.uuid], [two, b.uuid]);
    await exec(one, a.uuid, "/bin/sh", "-c", "setsid tcpstream --listen 10.9.0.1:7100 </dev/null >/tmp/out 2>&1 &");
    await exec(two, b.uuid, "/bin/sh", "-c", "setsid tcpstream --connect 10.9.0.1:7100 </dev/null >/tmp/out 2>&1 &");
    const word = async (agent: TestAgent, vm: string): Promise<{ ok: boolean; count: number; why?: string }> =>
      await until(30_000, "the stream to speak", async () => {
        const { stdout } = await exec(agent, vm, "/bin/sh", "-c", "tail -n 1 /tmp/out");
        return stdout.trim() === "" ? undefined : JSON.parse(stdout);
      });
    let [aHere, aThere, bHere, bThere] = [one, three, two, four];
    for (let i = 0; i < rounds; i++) {
      const ends = await Promise.all([move(a.uuid, aHere, aThere), move(b.uuid, bHere, bThere)]);
      for (const end of ends) expect(end.fault, JSON.stringify(end)).to.equal(undefined);
      [aHere, aThere, bHere, bThere] = [aThere, aHere, bThere, bHere];
      for (const [agent, vm] of [
        [aHere, a.uuid],
        [bHere, b.uuid],
      ] as const) {
        const before = await word(agent, vm);
        expect(before.ok, JSON.stringify(before)).to.equal(true);
        await until(20_000, `the stream to go on after round ${i}`, async () =>
          (await word(agent, vm)).count > before.count ? true : undefined,
        );
      }
    }
  });
});
