import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { expect } from "chai";
import { encodeStreamFrame, encodeStreamJson, type Frame, frameType, StreamDecoder } from "../../provider/agent/migration/stream";
import { dial } from "../../provider/agent/migration/tls";
import { until, within } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import { boot, exec, specOf, TestAgent } from "../contract/support/agents";
import { mangled } from "./support/mangle";
import { chooseSeed, Random } from "./support/random";
import { asAttempt, type Recording, record } from "./support/recorder";

const cases = 200;
const key = "5e".repeat(32);

/** A target's agent, its offer, and a kernel that waits for the last frame. */
class Waiting {
  attempt = "";
  epoch = 100;
  #port = 0;
  #offers = 0;

  constructor(
    readonly agent: TestAgent,
    readonly recording: Recording,
  ) {}

  /** An attempt that waits: the one of before, if it still does. */
  async offer(): Promise<void> {
    if ((await this.fact())?.in === "RESERVED") return;
    this.#offers += 1;
    this.epoch += 2;
    this.attempt = `f0220000-${this.#offers.toString(16).padStart(8, "0")}`;
    const { needs } = this.recording;
    const from = { host: "nowhere", agentId: "00000000" };
    const offered = {
      needs: { ...needs, attempt: this.attempt, epochTarget: this.epoch, from },
      key,
    };
    const { port, missing } = await this.agent.call(protocol.moveOffer, offered);
    expect(missing).to.deep.equal([]);
    this.#port = port;
  }

  async fact(): Promise<protocol.MoveFacts | undefined> {
    const { facts } = await this.agent.call(protocol.moveFacts, { vm: this.recording.needs.spec.uuid });
    return facts.find(({ attempt }) => attempt === this.attempt);
  }

  /**
   * Says it all, and waits until it is refused or worked through.
   * @param after said on the same connection when a fact has come; then it waits for the end
   */
  async send(bytes: Buffer, after?: Buffer): Promise<void> {
    const target = { address: this.agent.address, port: this.#port };
    const socket: TLSSocket = await dial(target, this.attempt, Buffer.from(key, "hex"), AbortSignal.timeout(20_000));
    // A target that refuses may also reset: either is an end.
    const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    const over = new Promise<void>((resolve) => {
      const decoder = new StreamDecoder();
      const last = lastSequence(bytes);
      socket.on("data", (chunk: Buffer) => {
        for (const { type, payload } of decoder.push(chunk)) {
          if (type === frameType.fact && after) {
            socket.write(after);
            continue;
          }
          if (type === frameType.fact || (type === frameType.ack && Number(payload.readBigUInt64BE()) >= last)) resolve();
          if (type === frameType.ready && last === 0) resolve();
        }
      });
    });
    socket.write(bytes);
    if (!after) await within(20_000, "an answer to the stream", Promise.race([over, closed]));
    else await until(20_000, "the guest to have settled", async () => ((await this.fact())?.in === "SETTLED" ? true : undefined));
    socket.end();
    await within(20_000, "the connection's end", closed);
  }

  /** What the agent has logged since `at`, in characters. */
  log(at: number): string {
    return readFileSync(join(this.agent.stateDir, "agent.log"), "utf8").slice(at);
  }
}

const bytesOf = (frames: readonly Frame[]): Buffer =>
  Buffer.concat(frames.map(({ type, sequence, payload, codec }) => encodeStreamFrame(type, sequence, payload, codec)));

describe(`${cases} mangled streams, on an agent with a kernel that waits`, function () {
  this.timeout(600_000);

  it("never resume the guest, never harm the agent, and are refused by name", async () => {
    const random = new Random(chooseSeed("agent"));
    await using source = await TestAgent.start("source", "127.0.0.2");
    await using target = await TestAgent.start("target", "127.0.0.3");
    const blobs = await source.provide();
    await target.provide();
    const spec = specOf(blobs, { memoryMiB: 48 });
    await boot(source, spec);
    const recording = await record(source, spec.uuid);
    const waiting = new Waiting(target, recording);
    let refused = 0;
    for (let i = 0; i < cases; i++) {
      await waiting.offer();
      const { how, bytes } = mangled(asAttempt(recording, waiting.attempt, waiting.epoch), random);
      const logged = waiting.log(0).length;
      await waiting.send(bytes);
      const what = `case ${i}, ${how}`;
      const fact = await waiting.fact();
      expect(existsSync(`/proc/${target.pid}`), what).to.equal(true);
      const { vm } = await target.call(protocol.vmGet, { vm: spec.uuid });
      expect(vm?.state ?? "none", what).to.be.oneOf(["none", "moving", "stopped"]);
      expect(vm?.home ?? "no", what).to.equal("no");
      const said = waiting.log(logged);
      expect(said, what).to.not.match(/a failure that nobody awaited|the guest runs here/);
      if (fact?.in === "RESERVED") continue;
      refused += 1;
      expect(said, what).to.match(/"reason":"[^"]{8,1000}.*an incoming move is refused/);
    }
    expect(refused).to.be.greaterThan(cases / 3);

    // That the streams are worth mangling: as it was recorded, it resumes the guest.
    await waiting.offer();
    // And once it runs, no word of the stream ends it any more.
    const strange = encodeStreamJson(frameType.fact, 0, { fact: "ABORTED", m: waiting.attempt, journalId: "0", unheardOf: true });
    await waiting.send(bytesOf(asAttempt(recording, waiting.attempt, waiting.epoch)), strange);
    const logged = waiting.log(0);
    expect(logged).to.include("the guest runs here").and.not.include("a failure that nobody awaited");
    expect((await exec(target, spec.uuid, "/bin/echo", "whole")).stdout).to.equal("whole\n");
    await target.call(protocol.moveTell, { vm: spec.uuid, attempt: waiting.attempt, fact: "CLOSED", journalId: "0000000000000000" });
  });
});

/** The last numbered frame of what is sent; Infinity where it does not end in order. */
function lastSequence(bytes: Buffer): number {
  try {
    const sequences = new StreamDecoder().push(bytes).map(({ sequence }) => sequence);
    return Math.max(0, ...sequences);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
