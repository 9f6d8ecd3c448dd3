import { connect, createServer, type Server, type TLSSocket, type TlsOptions } from "node:tls";
import { deferred, within } from "../../lib/time";

/** TLS 1.3 with the job's key and nothing else; the cipher is named so that both ends hash alike (SHA-256). */
const profile = { minVersion: "TLSv1.3", maxVersion: "TLSv1.3", ciphers: "TLS_AES_128_GCM_SHA256" } as const satisfies TlsOptions;

const connectLimitMs = 10_000;
/** Silence after which TCP asks whether the other side still lives. */
const keepAliveMs = 5_000;

/** Connects to a target's agent. @throws where it is not reached or does not know the key */
export async function dial(target: { address: string; port: number }, m: string, key: Buffer, signal: AbortSignal): Promise<TLSSocket> {
  signal.throwIfAborted();
  const socket = connect({
    ...profile,
    host: target.address,
    port: target.port,
    checkServerIdentity: () => undefined,
    pskCallback: () => ({ psk: key, identity: m }),
  });
  const ready = deferred<void>();
  const abort = (): void => void socket.destroy(new Error("the move was given up"));
  signal.addEventListener("abort", abort, { once: true });
  socket.once("secureConnect", () => ready.resolve());
  socket.on("error", (error) => ready.reject(error));
  socket.once("close", () => ready.reject(new Error("the connection was closed")));
  try {
    await within(connectLimitMs, `connecting to ${target.address}:${target.port}`, ready.promise);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Listens for sources. `keyOf`: the key of an attempt, undefined for none; `accept` is told whose key opened the connection. */
export function listenTls(
  keyOf: (m: string) => Buffer | undefined,
  accept: (socket: TLSSocket, m: string) => void,
  refused: (error: Error) => void,
): Server {
  const identities = new WeakMap<object, string>();
  const pskCallback = (socket: object, identity: string): Buffer | null => {
    identities.set(socket, identity);
    return keyOf(identity) ?? null;
  };
  const server = createServer({ ...profile, pskCallback }, (socket) => {
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    socket.on("error", () => undefined);
    accept(socket, identities.get(socket) ?? "");
  });
  server.on("tlsClientError", refused);
  return server;
}
