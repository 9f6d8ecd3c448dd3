/** Takes a real move in, keeps its frames, and sends the guest home: so that what is mangled later is a stream that would resume a guest. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import type { TLSSocket } from "node:tls";
import { zstdDecompressSync } from "node:zlib";
import { decodeFinal, encodeFinal } from "../../../provider/agent/migration/messages";
import { encodeStreamFrame, encodeStreamJson, type Frame, frameType, StreamDecoder } from "../../../provider/agent/migration/stream";
import { listenTls } from "../../../provider/agent/migration/tls";
import { within } from "../../../provider/lib/time";
import * as protocol from "../../../provider/protocol/methods";
import type { TestAgent } from "../../contract/support/agents";

export interface Recording {
  readonly needs: protocol.MoveNeeds;
  /** Numbered frames, FINAL last. */
  readonly frames: readonly Frame[];
}

const address = "127.0.0.5";
const journalId = "0123456789abcdef";

/** Moves a VM to nowhere. It runs at its source again afterwards, and the attempt is over there. */
export async function record(source: TestAgent, vm: string): Promise<Recording> {
  const { gen } = await source.call(protocol.vmClaim, { vm });
  const { needs } = await source.call(protocol.moveBegin, { vm, gen, to: { host: "recorder", agentId: "ffffffff" } });
  const key = randomBytes(32);
  const frames: Frame[] = [];
  const server = listenTls(
    () => key,
    (socket) => take(socket, needs.attempt, frames),
    () => undefined,
  );
  server.listen(0, address);
  await once(server, "listening");
  try {
    const { port } = server.address() as AddressInfo;
    const target = { host: "recorder", address, port, journalId };
    await source.call(protocol.moveStart, { vm, attempt: needs.attempt, key: key.toString("hex"), policy: {}, target });
    const end = await within(60_000, "the recorded move", source.call(protocol.moveWatch, { vm, attempt: needs.attempt }));
    if (end.result?.result !== "failed, returned") throw new Error(`the guest did not come home: ${JSON.stringify(end)}`);
    return { needs, frames };
  } finally {
    server.close();
  }
}

function take(socket: TLSSocket, m: string, frames: Frame[]): void {
  const decoder = new StreamDecoder();
  socket.on("data", (chunk: Buffer) => {
    for (const frame of decoder.push(chunk)) {
      if (frame.type === frameType.hello) socket.write(encodeStreamJson(frameType.ready, 0, { journalId, received: frames.length }));
      if (frame.sequence === 0) continue;
      frames.push(frame);
      const ack = Buffer.alloc(8);
      ack.writeBigUInt64BE(BigInt(frame.sequence));
      socket.write(encodeStreamFrame(frameType.ack, 0, ack));
      if (frame.type === frameType.final)
        socket.write(encodeStreamJson(frameType.fact, 0, { fact: "GONE", m, journalId, reason: "it was only recorded" }));
    }
  });
}

/** The recorded stream as one of another attempt: HELLO first, FINAL with that attempt's name and epoch. */
export function asAttempt({ needs, frames }: Recording, attempt: string, epoch: number): Frame[] {
  const hello = encodeStreamJson(frameType.hello, 0, {
    protocol: 6,
    m: attempt,
    vm: needs.spec.uuid,
    stream: randomBytes(8).toString("hex"),
  });
  const last = frames.at(-1);
  if (last?.type !== frameType.final) throw new Error("the recording has no end");
  const { message, page0 } = decodeFinal(last.codec === 1 ? zstdDecompressSync(last.payload) : last.payload);
  const final = { ...last, codec: 0 as const, payload: encodeFinal({ ...message, m: attempt, epoch }, page0) };
  return [...new StreamDecoder().push(hello), ...frames.slice(0, -1), final];
}
