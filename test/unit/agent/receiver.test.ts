import { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { zstdCompressSync } from "node:zlib";
import { expect } from "chai";
import { Receiver } from "../../../provider/agent/migration/receiver";
import { decodeRuns } from "../../../provider/agent/migration/runs";
import { encodeStreamFrame, frameType, StreamDecoder, StreamError } from "../../../provider/agent/migration/stream";
import { deferred } from "../../../provider/lib/time";

/** The far end of a connection: what is pushed comes to the receiver, what that writes is dropped. */
function wire(): { socket: TLSSocket; push: (bytes: Buffer) => void } {
  const stream = new Duplex({ read: () => undefined, write: (_chunk, _encoding, done) => done() });
  return { socket: stream as TLSSocket, push: (bytes) => stream.push(bytes) };
}

/** Frees what nobody holds any more, so that what is measured is held. */
function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
}

const self = { journalId: "j", ports: {} };

describe("a migration stream's receiver", () => {
  it("keeps few frames unpacked, however little they take packed", async () => {
    const bomb = zstdCompressSync(Buffer.alloc(1 << 20));
    const done = deferred<void>();
    let applied = 0;
    let most = 0;
    const before = process.memoryUsage().arrayBuffers;
    const receiver = new Receiver(
      {
        apply: async () => {
          if (++applied % 20 === 0) {
            collectGarbage();
            most = Math.max(most, process.memoryUsage().arrayBuffers - before);
          }
          if (applied === 400) done.resolve();
        },
        fact: () => undefined,
        failed: (error) => done.reject(error),
      },
      self,
    );
    const { socket, push } = wire();
    await receiver.serve(socket, "s", new StreamDecoder(), []);
    push(Buffer.concat(Array.from({ length: 400 }, (_, i) => encodeStreamFrame(frameType.memory, i + 1, bomb, 1))));
    await done.promise;
    // All of them at once would be 400 MiB.
    expect(most).to.be.lessThan(100 << 20);
    socket.destroy();
  });

  it("hears no more of a connection that spoke no sense", async () => {
    const failed = deferred<Error>();
    const receiver = new Receiver({ apply: async () => undefined, fact: () => undefined, failed: (error) => failed.resolve(error) }, self);
    const { socket, push } = wire();
    let pushed = 0;
    const decoder = new StreamDecoder();
    const push_ = decoder.push.bind(decoder);
    decoder.push = (chunk) => {
      pushed += 1;
      return push_(chunk);
    };
    await receiver.serve(socket, "s", decoder, []);
    push(Buffer.alloc(100, 7));
    expect(await failed.promise).to.be.instanceOf(StreamError);
    for (let i = 0; i < 10; i++) push(Buffer.alloc(100, 7));
    await new Promise((resolve) => setImmediate(resolve));
    expect(pushed).to.equal(1);
    socket.destroy();
  });

  it("takes no batch that names its units more than once", () => {
    const payload = Buffer.alloc(4 + 2 * 16);
    payload.writeUInt32BE(2, 0);
    for (const at of [4, 20]) {
      payload.writeBigUInt64BE(0n, at);
      payload.writeUInt32BE(8, at + 8);
      payload.writeUInt32BE(2, at + 12);
    }
    expect(decodeRuns(payload, 4096, 16)).to.have.length(2);
    expect(() => decodeRuns(payload, 4096, 12)).to.throw(StreamError, "more than there is");
  });
});
