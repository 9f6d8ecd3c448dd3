import { once } from "node:events";
import { type AddressInfo, createConnection, createServer, type Socket } from "node:net";

/**
 * A TCP relay on 127.0.0.4 that cuts its first connections: when the client has sent so much on it, what came until then arrives, and both ends are closed.
 * @param afterBytes of each connection that is cut
 * @param awayMs so long after a cut it takes no connection
 */
export async function cutting(
  afterBytes: readonly number[],
  awayMs = 0,
): Promise<{
  relay: (address: string, port: number) => Promise<AsyncDisposable & { port: number }>;
  cuts: () => number;
  /** Bytes of the client's that it has passed on. */
  passed: () => number;
}> {
  let cuts = 0;
  let passed = 0;
  let backAtMs = 0;
  const relay = async (address: string, port: number): Promise<AsyncDisposable & { port: number }> => {
    const open = new Set<Socket>();
    const server = createServer((near) => {
      if (performance.now() < backAtMs) {
        near.on("error", () => undefined).destroy();
        return;
      }
      const far = createConnection({ host: address, port });
      let left = afterBytes[cuts] ?? Infinity;
      for (const socket of [near, far]) {
        open.add(socket);
        socket.on("error", () => undefined);
        socket.once("close", () => {
          open.delete(socket);
          near.destroy();
          far.destroy();
        });
      }
      near.on("data", (chunk: Buffer) => {
        if (left <= 0) return;
        left -= chunk.length;
        passed += chunk.length;
        if (left > 0) far.write(chunk);
        else {
          cuts += 1;
          far.end(chunk);
          far.once("close", () => {
            backAtMs = performance.now() + awayMs;
          });
        }
      });
      far.on("data", (chunk: Buffer) => near.write(chunk));
    });
    server.listen(0, "127.0.0.4");
    await once(server, "listening");
    return {
      port: (server.address() as AddressInfo).port,
      async [Symbol.asyncDispose]() {
        for (const socket of open) socket.destroy();
        server.close();
        await once(server, "close");
      },
    };
  };
  return { relay, cuts: () => cuts, passed: () => passed };
}

/**
 * A TCP relay on 127.0.0.4 that swallows, from when it is told to, what goes one way or both, on all connections for good: neither side sees an end.
 * @param firstBytes the first connection swallows all by itself, once its client has sent so much
 */
export async function swallowing(address: string, port: number, firstBytes = Infinity) {
  const swallowed = { toTarget: false, toSource: false };
  const open = new Set<Socket>();
  let connections = 0;
  const server = createServer((near) => {
    const far = createConnection({ host: address, port });
    let left = connections++ === 0 ? firstBytes : Infinity;
    for (const socket of [near, far]) {
      open.add(socket);
      socket.on("error", () => undefined);
      socket.once("close", () => {
        open.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.on("data", (chunk: Buffer) => {
      left -= chunk.length;
      if (left > 0 && !swallowed.toTarget) far.write(chunk);
    });
    far.on("data", (chunk: Buffer) => left > 0 && !swallowed.toSource && near.write(chunk));
  });
  server.listen(0, "127.0.0.4");
  await once(server, "listening");
  return {
    address: "127.0.0.4",
    port: (server.address() as AddressInfo).port,
    swallow: (ways: Partial<typeof swallowed>): void => void Object.assign(swallowed, ways),
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
export type Swallowing = Awaited<ReturnType<typeof swallowing>>;
