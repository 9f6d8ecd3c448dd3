/** Guests with NICs, and a peer in this process that speaks the wire format by itself. */
import { randomBytes } from "node:crypto";
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import type { ControlClient } from "./control";
import { PATIENCE_MS } from "./lines";
import { type Datagram, FLAG, keepalive, open, seal, type WireKey } from "./wire";

/** A key as both ends have it: ids 1 and 2 (of 8 bytes). */
export class LinkKey {
  constructor(
    readonly id = 1,
    readonly link = randomBytes(32),
  ) {}

  /** As end `me` (1 or 2) sees it. */
  wire(me: 1 | 2): WireKey {
    return { id: this.id, link: this.link, self: endId(me), peer: endId(me === 1 ? 2 : 1) };
  }

  /** Arguments of `nic.key` for end `me`. */
  args(nic: number, me: 1 | 2): Record<string, string | number> {
    const key = this.wire(me);
    return { nic, id: this.id, key: this.link.toString("hex"), self: key.self.toString("hex"), peer: key.peer.toString("hex") };
  }
}

const endId = (end: 1 | 2): Buffer => Buffer.from(`000000000000000${end}`, "hex");

/** `I.field` of nic.stats as numbers, texts as NaN. */
export async function counters(control: ControlClient, nic = 0): Promise<Record<string, number>> {
  const reply = await control.request("nic.stats");
  return Object.fromEntries(
    Object.entries(reply).flatMap(([key, value]) => (key.startsWith(`${nic}.`) ? [[key.slice(`${nic}.`.length), Number(value)]] : [])),
  );
}

interface Heard {
  readonly bytes: Buffer;
  readonly from: RemoteInfo;
}

/** A UDP socket that is end 2 of a link (the guest is end 1). */
export class WirePeer implements AsyncDisposable {
  epoch = 1;
  counter = 0n;
  /** Which datagrams are for this peer's key at all. */
  readable: (bytes: Buffer) => boolean = () => true;
  private readonly heard: Heard[] = [];
  private wake: (() => void) | undefined;

  private constructor(
    readonly socket: Socket,
    readonly key: WireKey,
    readonly address: string,
  ) {
    socket.on("message", (bytes, from) => {
      this.heard.push({ bytes, from });
      this.wake?.();
    });
  }

  static async open(key: LinkKey, family: 4 | 6 = 4): Promise<WirePeer> {
    const socket = createSocket(family === 4 ? "udp4" : "udp6");
    socket.bind(0, family === 4 ? "127.0.0.1" : "::1");
    await once(socket, "listening");
    const { address, port } = socket.address();
    return new WirePeer(socket, key.wire(2), family === 4 ? `${address}:${port}` : `[${address}]:${port}`);
  }

  /** Bytes as they are, to "IP:PORT" or "[IP6]:PORT". */
  async raw(to: string, bytes: Buffer): Promise<void> {
    const at = to.lastIndexOf(":");
    await new Promise<void>((resolve, reject) =>
      this.socket.send(bytes, Number(to.slice(at + 1)), to.slice(0, at).replace(/[[\]]/g, ""), (fault) =>
        fault ? reject(fault) : resolve(),
      ),
    );
  }

  /** The next datagram with this content; returns its bytes. */
  make(content: Buffer, flags = 0): Buffer {
    return seal(this.key, { flags, epoch: this.epoch, counter: ++this.counter, content });
  }

  async send(to: string, content: Buffer, flags = 0): Promise<Buffer> {
    const bytes = this.make(content, flags);
    await this.raw(to, bytes);
    return bytes;
  }

  /** Asks for a keepalive's answer and waits for it. */
  async ping(to: string, flags = 0): Promise<Datagram> {
    const stamp = randomBytes(8).readBigUInt64BE();
    await this.send(to, keepalive(1, stamp), FLAG.keepalive | flags);
    return this.until((d) => !!(d.flags & FLAG.keepalive) && d.content.readUInt32BE(0) === 2 && d.content.readBigUInt64BE(8) === stamp);
  }

  /** The next authentic datagram that fits; others are dropped. @throws Error after a while */
  async until(fits: (datagram: Datagram) => boolean, timeoutMs = PATIENCE_MS): Promise<Datagram> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      for (let one = this.heard.shift(); one; one = this.heard.shift()) {
        if (!this.readable(one.bytes)) continue;
        const datagram = open(this.key, one.bytes);
        if (fits(datagram)) return datagram;
      }
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error("no such datagram came")), Math.max(0, deadline - Date.now()));
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Forgets what has come. */
  forget(): void {
    this.heard.length = 0;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return new Promise((resolve) => this.socket.close(() => resolve()));
  }
}
