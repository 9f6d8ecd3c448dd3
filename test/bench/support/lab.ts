/**
 * Three hosts on one machine, each a network namespace of its own. All have the data network, a switch that is as fast as the machine; the
 * guest's frames go there. Source and target also have the link under test, for the migration alone: what it carries is counted at its device.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { guestPort, plainCable, slowCable } from "./cable";
import { Holder } from "./holder";

const run = promisify(execFile);

/** A link as it should be. */
export interface LinkShape {
  /** @default as fast as the machine */
  readonly mbps?: number;
  /** Round trip. @default none is added */
  readonly rttMs?: number;
}
/** A link as it was found to be, by TCP and by small datagrams. */
export interface LinkMeasured {
  readonly tcpMbps: number;
  readonly rttMs: number;
}

/** Whether a link is what it should be: TCP fills nine tenths of the rate (headers take a twentieth), and the round trip is its own and little more. */
export function isAsAsked(asked: LinkShape, { tcpMbps, rttMs }: LinkMeasured): boolean {
  const rateFits = asked.mbps === undefined || (tcpMbps > 0.9 * asked.mbps && tcpMbps <= asked.mbps);
  const delayFits = asked.rttMs === undefined || (rttMs >= asked.rttMs && rttMs < asked.rttMs + 3);
  return rateFits && delayFits;
}

export type HostName = "source" | "target" | "peer";
/**
 * An agent has one address. Those of source and target are on the link under test: between these two, that is the way. The peer's way to the
 * same addresses is the data network.
 */
export const ADDRESS: Record<HostName, string> = { source: "10.78.0.1", target: "10.78.0.2", peer: "10.77.0.3" };
/** Addresses in the network of the guest under test. */
export const GUEST_ADDRESS = "10.9.0.1";
export const PEER_ADDRESS = "10.9.0.2";
/** The device of the link under test, at both of its ends. */
const DEVICE = "mig";
/** What waits for the link is lost after so long: twice the longest round trip here. */
const QUEUE_MS = 100;
const BRIDGE = "br0";

/** The network of one measurement; disposal ends its processes, and with them the namespaces go. */
export class Lab implements AsyncDisposable {
  private constructor(
    /** For what belongs to this measurement; removed with it. */
    readonly folder: string,
    private readonly holders: Record<HostName, Holder>,
    private readonly undo: AsyncDisposableStack,
  ) {}

  static async make(shape: LinkShape): Promise<Lab> {
    await using undo = new AsyncDisposableStack();
    // Short: sockets live below it.
    const folder = mkdtempSync("/tmp/mobi-lab-");
    undo.defer(() => rmSync(folder, { recursive: true, force: true }));
    const source = undo.use(await Holder.namespace());
    const target = undo.use(await Holder.namespace());
    const peer = undo.use(await Holder.namespace());
    await layDataNetwork({ source, target, peer });
    if (shape.rttMs === undefined) await plainCable(source, target, DEVICE);
    else undo.use(await slowCable(source, target, peer, DEVICE, Math.round((shape.rttMs * 1000) / 2)));
    for (const [name, holder] of Object.entries({ source, target }) as [HostName, Holder][]) {
      await holder.inside(`ip addr add ${ADDRESS[name]}/24 dev ${DEVICE}`, `ip link set ${DEVICE} up`);
      if (shape.mbps !== undefined) await holder.inside(`tc qdisc replace dev ${DEVICE} root ${tbf(shape.mbps)}`);
    }
    return new Lab(folder, { source, target, peer }, undo.move());
  }

  /** Commands in front of a program that is to run on that host. */
  enter(host: HostName): readonly string[] {
    return this.holders[host].enter;
  }

  /** Runs a shell script on that host. @returns its stdout */
  inside(host: HostName, script: string): Promise<string> {
    return this.holders[host].inside(script);
  }

  /** Bytes of all frames that the link under test has carried so far, in both directions. */
  async wireBytes(): Promise<number> {
    const [device] = JSON.parse(await this.inside("source", `ip -s -j link show ${DEVICE}`)) as {
      stats64: { rx: { bytes: number }; tx: { bytes: number } };
    }[];
    if (device === undefined) throw new Error(`${DEVICE} has no counters`);
    return device.stats64.rx.bytes + device.stats64.tx.bytes;
  }

  /** What the link really does: three seconds of TCP, and the smallest of 20 round trips. */
  async measure(): Promise<LinkMeasured> {
    const check = [process.execPath, join(__dirname, "linkcheck.mjs")];
    const [command = "", ...args] = [...this.enter("target"), ...check, "serve", ADDRESS.target];
    await using _server = await Holder.start(command, args, "the link's check");
    const [asker = "", ...words] = [...this.enter("source"), ...check, "measure", ADDRESS.target];
    return JSON.parse((await run(asker, words, { timeout: 20_000 })).stdout) as LinkMeasured;
  }

  /** A port of that host's switch for a guest of QEMU's: the words of -netdev. */
  async guestPort(host: HostName): Promise<string> {
    const { netdev, carrier } = await guestPort(this.holders[host], BRIDGE, join(this.folder, host));
    if (carrier) this.undo.use(carrier);
    return netdev;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.undo.disposeAsync();
  }
}

/** A burst of 2 ms at full rate, but never less than a few frames. */
function tbf(mbps: number): string {
  const burstBytes = Math.max(8_000, Math.round((mbps * 1e6 * 0.002) / 8));
  return `tbf rate ${mbps}mbit burst ${burstBytes} latency ${QUEUE_MS}ms`;
}

async function layDataNetwork(holders: Record<HostName, Holder>): Promise<void> {
  for (const holder of Object.values(holders))
    await holder.inside(`ip link add ${BRIDGE} type bridge forward_delay 0`, `ip link set ${BRIDGE} up`);
  await holders.peer.inside(`ip addr add ${ADDRESS.peer}/24 dev ${BRIDGE}`, `ip addr add ${PEER_ADDRESS}/24 dev ${BRIDGE}`);
  for (const name of ["source", "target"] as const) {
    await holders.peer.inside(
      `ip link add to-${name} type veth peer name data netns ${holders[name].pid}`,
      `ip link set to-${name} master ${BRIDGE} up`,
      `ip route add ${ADDRESS[name]} dev ${BRIDGE}`,
    );
    await holders[name].inside(`ip link set data master ${BRIDGE} up`, `ip route add ${ADDRESS.peer} dev ${BRIDGE}`);
  }
}
