import { createHash } from "node:crypto";
import { expect } from "chai";
import { AgentProcess } from "./support/agentProcess";
import { encode, GuestClient, TYPE, u64 } from "./support/guestClient";
import { GuestSession } from "./support/guestSession";

const sha256 = (text: string) => createHash("sha256").update(text, "latin1").digest("hex");

describe("guest agent: streams that end and begin", function () {
  this.timeout(60_000);
  let agent: AgentProcess;

  beforeEach(async () => {
    agent = await AgentProcess.start();
  });
  afterEach(async () => {
    expect(agent.running, agent.stderr).to.equal(true);
    await agent[Symbol.asyncDispose]();
  });

  it("says nothing before HELLO and skips what comes before it", async () => {
    const client = await GuestClient.connect(agent.socketPath);
    client.socket.write(
      Buffer.concat([
        Buffer.from("\0\0\0\x0a\0\0garbage\0\0\0\x0a"),
        encode(TYPE.open, 5, '{"argv":["true"]}'),
        encode(TYPE.hello, 0, "MOBIGUEST1"),
      ]),
    );
    const first = await client.next(() => true);
    expect(first.type).to.equal(TYPE.hello);
    expect(JSON.parse(first.payload.toString())).to.deep.include({ version: 1, sessions: [] });
    await client.close();
  });

  it("serves the newest client", async () => {
    const { client: old } = await GuestClient.greeted(agent.socketPath);
    const { client, hello } = await GuestClient.greeted(agent.socketPath);
    await old.closed;
    expect(hello.bootId).to.match(/^[0-9a-f-]{36}$/);
    await client.close();
  });

  it("brings every byte of output once, over many streams", async () => {
    const { client } = await GuestClient.greeted(agent.socketPath);
    const session = new GuestSession(client).open({ argv: ["seq", "1", "120000"] });
    const expected = Array.from({ length: 120_000 }, (_, i) => `${i + 1}\n`).join("");
    let streams = 1;
    for (let frame = await session.step(); frame.type !== TYPE.exit; frame = await session.step()) {
      // Acknowledged or not at the break: the next stream must bring what is missing, no more and no less.
      if (streams % 3 !== 0) session.ack();
      await session.client.close();
      const { client: next, hello } = await GuestClient.greeted(agent.socketPath);
      expect(hello.sessions.map((s) => s.id)).to.deep.equal([session.id]);
      expect(hello.sessions[0]?.sent).to.be.at.most(session.offset);
      session.attach(next);
      streams++;
    }
    expect(streams).to.be.greaterThan(10);
    expect(sha256(session.stdout)).to.equal(sha256(expected));
    await session.client.close();
  });

  it("sends again from an older offset as long as it is not acknowledged", async () => {
    const { client } = await GuestClient.greeted(agent.socketPath);
    const session = new GuestSession(client).open({ argv: ["printf", "0123456789"] });
    while (session.stdout.length < 10) await session.step();
    const { client: next } = await GuestClient.greeted(agent.socketPath);
    session.offset = 4;
    session.stdout = "0123";
    session.attach(next);
    expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(session.stdout).to.equal("0123456789");
    await next.close();
  });

  it("keeps the exit until it is closed", async () => {
    const { client } = await GuestClient.greeted(agent.socketPath);
    const session = new GuestSession(client).open({ argv: ["sh", "-c", "exit 9"] });
    await session.step();
    const { client: next, hello } = await GuestClient.greeted(agent.socketPath);
    expect(hello.sessions).to.have.length(1);
    session.attach(next);
    expect(await session.finish()).to.deep.equal({ code: 9 });
    // finish() has closed it: a HELLO in the middle of the stream begins anew, and tells.
    expect((await next.hello()).sessions).to.deep.equal([]);
    await next.close();
  });

  it("takes every byte of input once, though the host repeats what it is not sure of", async () => {
    let { client } = await GuestClient.greeted(agent.socketPath);
    const input = Array.from({ length: 40_000 }, (_, i) => `${i}\n`).join("");
    const session = new GuestSession(client).open({ argv: ["sha256sum"] });
    let taken = 0;
    for (let streams = 0; taken < input.length; streams++) {
      // A whole window, in pieces that overlap; then the stream breaks somewhere.
      for (let at = taken; at < Math.min(input.length, taken + 65_536); at += 5_000) {
        client.send(
          TYPE.stdin,
          session.id,
          u64(Math.max(0, at - 300), input.slice(Math.max(0, at - 300), Math.min(at + 5_000, taken + 65_536))),
        );
      }
      await client.next((f) => f.type === TYPE.ack && f.session === session.id && f.payload.readBigUInt64BE(0) > BigInt(taken));
      await client.close();
      const again = await GuestClient.greeted(agent.socketPath);
      client = again.client;
      taken = again.hello.sessions[0]?.received ?? 0;
      session.attach(client);
      expect(streams).to.be.lessThan(200);
    }
    client.send(TYPE.stdin, session.id, u64(input.length));
    expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(session.stdout.slice(0, 64)).to.equal(sha256(input));
    await client.close();
  });

  it("goes on running a session while nobody listens", async () => {
    const { client } = await GuestClient.greeted(agent.socketPath);
    const session = new GuestSession(client).open({
      argv: ["sh", "-c", `echo one; while ! test -e ${agent.folder}/go; do sleep 0.02; done; echo two; touch ${agent.folder}/done`],
    });
    await session.untilOutput(/one/);
    await client.close();
    await import("node:fs").then(({ writeFileSync }) => writeFileSync(`${agent.folder}/go`, ""));
    await agent.fileAppears("done");
    const { client: next } = await GuestClient.greeted(agent.socketPath);
    session.attach(next);
    expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(session.stdout).to.equal("one\ntwo\n");
    await next.close();
  });
});
