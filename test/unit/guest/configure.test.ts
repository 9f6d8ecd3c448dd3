import { expect } from "chai";
import { AgentProcess } from "./support/agentProcess";
import { GuestClient, TYPE } from "./support/guestClient";

describe("guest agent: CONFIGURE", function () {
  this.timeout(60_000);
  let agent: AgentProcess;
  let client: GuestClient;

  beforeEach(async () => {
    agent = await AgentProcess.start();
    ({ client } = await GuestClient.greeted(agent.socketPath));
  });
  afterEach(async () => {
    expect(agent.running, agent.stderr).to.equal(true);
    await agent[Symbol.asyncDispose]();
  });

  async function configure(wanted: unknown): Promise<{ ok: boolean; faults?: string[]; pending?: string[] }> {
    client.send(TYPE.configure, 0, typeof wanted === "string" ? wanted : JSON.stringify(wanted));
    return JSON.parse((await client.next((f) => f.type === TYPE.result)).payload.toString());
  }

  it("runs the commands once per boot, in order, and keeps what they print", async () => {
    const runcmd = ["echo first", `false; echo $(wc -l < ${"$LOG"}) >/dev/null; echo second`, `touch ${agent.folder}/done`];
    expect(await configure({ nics: [], runcmd })).to.deep.equal({ ok: true, pending: [] });
    await agent.fileAppears("done");
    expect(agent.read("runcmd.log")).to.match(/^\+ echo first\nfirst\n[\s\S]*second\n/);
    expect(await configure({ nics: [], runcmd: [`touch ${agent.folder}/again`] })).to.deep.equal({ ok: true, pending: [] });
    await configure({ nics: [] });
    expect(() => agent.read("again")).to.throw(/ENOENT/);
  });

  it("names what it can't understand", async () => {
    // An index that no machine has: nothing of this one is touched.
    const { ok, faults, pending } = await configure({
      nics: [
        {
          index: 31,
          name: "a",
          mtu: 1500,
          addresses: ["10.0.0.1/24", "10.0.0.256/24", "fd00::1/129"],
          routes: [{ to: "default", via: "nowhere" }],
        },
        { index: 99, name: "b", addresses: [] },
      ],
    });
    expect(ok).to.equal(false);
    expect(pending).to.deep.equal(["eth31"]);
    expect(faults).to.have.length(4);
    expect(faults?.join("\n")).to.match(/10\.0\.0\.256\/24[\s\S]*fd00::1\/129[\s\S]*nowhere[\s\S]*index 99/);
  });

  it("answers what is no JSON object with a fault", async () => {
    for (const text of ["", "nul", "[1,2", '{"nics":[}', '"\\ud800"', "[".repeat(60_000), '{"a":1e5}', '{"a":"\u0001"}']) {
      expect(await configure(text), text.slice(0, 20)).to.deep.include({ ok: false });
    }
    expect(await configure({ unknown: [null, true, false, -5, "ü\u{1f600}\n"] })).to.deep.include({ ok: true });
  });
});
