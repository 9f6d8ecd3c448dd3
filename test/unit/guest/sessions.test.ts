import { expect } from "chai";
import { AgentProcess } from "./support/agentProcess";
import { GuestClient, TYPE, u64 } from "./support/guestClient";
import { GuestSession } from "./support/guestSession";

describe("guest agent: sessions", function () {
  this.timeout(60_000);
  let agent: AgentProcess;
  let client: GuestClient;

  before(async () => {
    agent = await AgentProcess.start();
    ({ client } = await GuestClient.greeted(agent.socketPath));
  });
  after(async () => {
    expect(agent.running, agent.stderr).to.equal(true);
    await agent[Symbol.asyncDispose]();
  });

  const sh = (script: string, more: object = {}) => new GuestSession(client).open({ argv: ["/bin/sh", "-c", script], ...more });

  it("tells stdout from stderr, and the exit code", async () => {
    const session = sh("echo out; echo err >&2; exit 7");
    expect(await session.finish()).to.deep.equal({ code: 7 });
    expect(session.stdout).to.equal("out\n");
    expect(session.stderr).to.equal("err\n");
  });

  it("tells the signal that ended a program", async () => {
    expect(await sh("kill -9 $$").finish()).to.deep.equal({ signal: 9 });
  });

  it("says why a program could not be started", async () => {
    const session = new GuestSession(client).open({ argv: ["/no/such/program"] });
    expect((await session.finish()).error).to.match(/can't run \/no\/such\/program: No such file/);
    expect((await sh("true", { cwd: "/no/such/folder" }).finish()).error).to.match(/folder \/no\/such\/folder/);
    expect((await sh("true", { user: "nobody-of-that-name" }).finish()).error).to.match(/no user/);
  });

  it("passes environment and folder", async () => {
    const session = sh('echo "$A $PWD"', { env: { A: "ü b" }, cwd: "/usr" });
    await session.finish();
    expect(Buffer.from(session.stdout, "latin1").toString()).to.equal("ü b /usr\n");
  });

  it("gives input and its end", async () => {
    const session = sh("wc -c");
    session.input("12345");
    session.input("678");
    session.endInput();
    expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(session.stdout.trim()).to.equal("8");
  });

  it("acknowledges input that the program has taken", async () => {
    const session = sh("cat >/dev/null");
    session.input("hello");
    await client.next((f) => f.type === TYPE.ack && f.session === session.id && f.payload.readBigUInt64BE(0) === 5n);
    session.endInput();
    expect(await session.finish()).to.deep.equal({ code: 0 });
  });

  it("signals the program's whole group", async () => {
    const session = sh("trap 'echo got; exit 3' INT; echo ready; while :; do sleep 0.05; done");
    await session.untilOutput(/ready/);
    client.send(TYPE.signal, session.id, Uint8Array.of(2));
    expect(await session.finish()).to.deep.equal({ code: 3 });
    expect(session.stdout).to.equal("ready\ngot\n");
  });

  it("ends with the program, not with what it left in the background", async () => {
    const session = sh("sleep 30 & echo $!");
    expect(await session.finish()).to.deep.equal({ code: 0 });
    process.kill(Number(session.stdout), "SIGKILL");
  });

  it("gives a terminal of the right size that can be resized", async () => {
    const session = sh("stty size; tty >/dev/null && echo tty $TERM; read x; stty size", { pty: { rows: 30, cols: 100, term: "vt100" } });
    await session.untilOutput(/tty vt100/);
    expect(session.stdout).to.match(/^30 100\r\n/);
    client.send(TYPE.resize, session.id, Uint8Array.of(0, 40, 0, 132));
    session.input("\n");
    expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(session.stdout).to.match(/40 132\r\n$/);
  });

  it("types the end of input at a terminal", async () => {
    const session = new GuestSession(client).open({ argv: ["cat"], pty: { rows: 24, cols: 80, term: "dumb" } });
    session.input("line\n");
    session.endInput();
    expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(session.stdout).to.equal("line\r\nline\r\n");
  });

  it("holds 256 KiB of output back, then stops the program, and goes on when it is acknowledged", async () => {
    const session = sh("head -c 1000000 /dev/zero");
    while (session.offset < 256 * 1024) await session.step();
    expect(session.offset).to.equal(256 * 1024);
    expect(client.frames.filter((f) => f.session === session.id && f.type === TYPE.stdout)).to.have.length(0);
    session.ack();
    expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(session.stdout).to.have.length(1_000_000);
  });

  it("hangs up a session that is closed while it runs", async () => {
    const session = sh("trap 'exit 0' HUP; echo $$; while :; do sleep 0.05; done");
    await session.untilOutput(/\d+\n/);
    session.close();
    // The agent answers in order, so after this the session is gone.
    client.send(TYPE.attach, session.id, u64(0));
    const exit = await client.next((f) => f.type === TYPE.exit && f.session === session.id);
    expect(JSON.parse(exit.payload.toString())).to.deep.equal({ error: "no such session" });
  });

  it("forgets the oldest ended session when there are too many, and refuses when all of them run", async () => {
    await using own = await AgentProcess.start();
    const { client: host } = await GuestClient.greeted(own.socketPath);
    const open = (script: string) => new GuestSession(host).open({ argv: ["/bin/sh", "-c", script] });
    const left = open("exit 4");
    await left.step();
    const running = Array.from({ length: 64 }, () => open("read x; echo $x"));
    left.attach(host);
    expect((await left.finish()).error).to.equal("no such session");
    expect((await open("true").finish()).error).to.match(/too many/);
    for (const session of running) session.input("y\n");
    for (const session of running) expect(await session.finish()).to.deep.equal({ code: 0 });
    expect(await open("exit 6").finish()).to.deep.equal({ code: 6 });
  });

  it("runs many at once", async () => {
    const many = Array.from({ length: 20 }, (_, i) => sh(`seq 1 1000; exit ${i}`));
    const ends = await Promise.all(many.map((session) => session.finish()));
    expect(ends.map((e) => e.code)).to.deep.equal(many.map((_, i) => i));
    for (const session of many) expect(session.stdout).to.equal(many[0]?.stdout);
  });
});
