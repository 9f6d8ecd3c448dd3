import { expect } from "chai";
import { AgentProcess } from "./support/agentProcess";
import { encode, GuestClient, TYPE } from "./support/guestClient";
import { GuestSession } from "./support/guestSession";

const ROUNDS = 60;
const FRAMES_PER_ROUND = 40;

/** A small generator with a seed, so that a failure can be repeated (mulberry32, public domain). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const TEXTS = [
  '{"argv":["true"]}',
  '{"argv":["cat"]}',
  '{"argv":["sh","-c","seq 1 50000"]}',
  '{"argv":["cat"],"pty":{"rows":24,"cols":80,"term":"x"}}',
  '{"argv":[]}',
  '{"argv":[1]}',
  '{"argv":["true"],"env":{"=":"","A":"b"},"cwd":""}',
  '{"runcmd":[]}',
  '{"nics":[{"index":30,"addresses":["1.2.3.4/8"],"mtu":9000}]}',
];

/** A frame that is right, nearly right, or nothing at all. */
function badFrame(random: () => number): Buffer {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  const type = pick([...Object.values(TYPE).filter((t) => t !== TYPE.signal), 0, 4, 200]);
  const session = pick([0, 1, 2, 3, 0xffffffff]);
  const random8 = () => Buffer.from(Array.from({ length: 8 }, () => (random() < 0.7 ? 0 : Math.floor(random() * 256))));
  const noise = () => Buffer.from(Array.from({ length: Math.floor(random() * 300) }, () => Math.floor(random() * 256)));
  const text = Buffer.from(pick(TEXTS));
  if (random() < 0.3) text[Math.floor(random() * text.length)] = Math.floor(random() * 256);
  const payload = pick([text, Buffer.concat([random8(), noise()]), random8(), noise(), Buffer.alloc(0), Buffer.alloc(65_536)]);
  const frame = encode(type, session, payload);
  if (random() < 0.05) frame[Math.floor(random() * 12)] = Math.floor(random() * 256);
  if (random() < 0.05) return frame.subarray(0, Math.floor(random() * frame.length));
  return frame;
}

describe("guest agent: hostile and broken streams", function () {
  this.timeout(120_000);

  it(`lives through ${ROUNDS} streams of bad frames and serves the next one`, async () => {
    await using agent = await AgentProcess.start();
    for (let seed = 1; seed <= ROUNDS; seed++) {
      const random = randomFrom(seed);
      const client = await GuestClient.connect(agent.socketPath);
      if (random() < 0.8) await client.hello();
      for (let i = 0; i < FRAMES_PER_ROUND; i++) client.socket.write(badFrame(random));
      if (random() < 0.5) await new Promise<void>((resolve) => client.socket.end(resolve));
      await client.close();
      expect(agent.running, `seed ${seed}: ${agent.stderr}`).to.equal(true);
    }
    const { client, hello } = await GuestClient.greeted(agent.socketPath);
    // The sessions that the noise has opened are given up; then all is as new.
    for (const { id } of hello.sessions) client.send(TYPE.close, id);
    const session = new GuestSession(client).open({ argv: ["echo", "alive"] });
    expect(await session.finish(), agent.stderr).to.deep.equal({ code: 0 });
    expect(session.stdout).to.equal("alive\n");
    await client.close();
    expect(agent.stderr).to.not.match(/Sanitizer|runtime error/);
  });

  it("does not grow without end when the host asks and never reads", async () => {
    await using agent = await AgentProcess.start();
    const { client } = await GuestClient.greeted(agent.socketPath);
    client.socket.pause();
    const ask = Buffer.concat(Array.from({ length: 1000 }, () => encode(TYPE.attach, 77, Buffer.alloc(8))));
    let sent = 0;
    while (sent < 400 && client.socket.write(ask)) sent++;
    await client.close();
    const { client: next } = await GuestClient.greeted(agent.socketPath);
    await next.close();
    expect(agent.running, agent.stderr).to.equal(true);
  });
});
