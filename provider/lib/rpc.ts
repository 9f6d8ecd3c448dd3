import type { Duplex } from "node:stream";
import { createMessageConnection, type MessageConnection, StreamMessageReader, StreamMessageWriter } from "vscode-jsonrpc/node";

/** JSON-RPC over a stream, not listening yet. Whoever disposes of the connection ends the stream. */
export function connectionOver(stream: Duplex): MessageConnection {
  const reader = new StreamMessageReader(stream);
  // The library's watch over half a message is a timer that it never stops: a peer that is killed while it writes would keep this process alive for ever.
  reader.partialMessageTimeout = 0;
  const connection = createMessageConnection(reader, new StreamMessageWriter(stream));
  connection.onDispose(() => stream.destroy());
  return connection;
}
