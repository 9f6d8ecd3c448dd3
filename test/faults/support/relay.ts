/** The link between two agents, to be cut and stalled: a TCP relay before whatever port a target offers. */
import { once } from "node:events";
import { type AddressInfo, createConnection, createServer, type Server, type Socket } from "node:net";

export class Link implements AsyncDisposable {
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  #state: "open" | "cut" | "stalled" = "open";
  #timer: NodeJS.Timeout | undefined;

  /** A port on that address that leads to the other. */
  async before(address: string, port: number): Promise<number> {
    const server = createServer((near) => {
      const far = createConnection({ host: address, port });
      for (const socket of [near, far]) {
        this.#sockets.add(socket);
        socket.on("error", () => undefined);
        socket.once("close", () => {
          this.#sockets.delete(socket);
          near.destroy();
          far.destroy();
        });
      }
      near.pipe(far);
      far.pipe(near);
      if (this.#state === "cut") near.destroy();
      else if (this.#state === "stalled") this.#hush(near, far);
    });
    server.listen(0, address);
    await once(server, "listening");
    this.#servers.push(server);
    return (server.address() as AddressInfo).port;
  }

  /** No connection, for so long or until healed. */
  cut(forMs?: number): void {
    this.#state = "cut";
    for (const socket of this.#sockets) socket.destroy();
    this.#later(forMs);
  }

  /** Connections stay, and nothing passes. */
  stall(forMs: number): void {
    this.#state = "stalled";
    this.#hush(...this.#sockets);
    this.#later(forMs);
  }

  heal(): void {
    clearTimeout(this.#timer);
    this.#state = "open";
    for (const socket of this.#sockets) socket.resume();
  }

  #hush(...sockets: Socket[]): void {
    for (const socket of sockets) socket.pause();
  }

  #later(forMs: number | undefined): void {
    clearTimeout(this.#timer);
    if (forMs !== undefined) this.#timer = setTimeout(() => this.heal(), forMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.heal();
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(this.#servers.map(async (server) => once(server.close(), "close")));
  }
}
