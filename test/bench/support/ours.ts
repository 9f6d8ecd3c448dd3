/** Our side: real agents, each on its own host, and real VMs; the peer is a VM too, on a third host. */
import { join } from "node:path";
import { within } from "../../../provider/lib/time";
import * as protocol from "../../../provider/protocol/methods";
import type { VmSpec } from "../../../provider/schemas/vm";
import { boot, exec, move, specOf, TestAgent, wire } from "../../contract/support/agents";
import type { Case } from "./cases";
import type { Guest } from "./guest";
import { ADDRESS, GUEST_ADDRESS, type HostName, type Lab, PEER_ADDRESS } from "./lab";
import { MOVE_LIMIT_S, MoveFailed, type Side, type Started } from "./side";

const PEER_MEMORY_MIB = 64;
const DISK_MIB = 64;
const MTU = 1400;
/** The rounds' own deadline comes first. */
const WATCH_MS = (MOVE_LIMIT_S + 60) * 1000;

export const ours: Side = {
  name: "ours",
  async start(undo: AsyncDisposableStack, lab: Lab, c: Case): Promise<Started> {
    const source = await startAgent(undo, lab, "source");
    const target = await startAgent(undo, lab, "target");
    const peerHost = await startAgent(undo, lab, "peer");
    // Kernel and image are there, as they are on a host that has had a VM before; QEMU's base image is, too.
    const [blobs] = await Promise.all([source.provide(), target.provide(), peerHost.provide()]);
    const at = (address: string, mac: string): Partial<VmSpec> => ({
      diskMiB: DISK_MIB,
      nics: [{ name: "net", addresses: [`${address}/24`], mac, mtu: MTU }],
    });
    const { uuid } = await boot(source, specOf(blobs, { memoryMiB: c.memoryMiB, ...at(GUEST_ADDRESS, "02:00:00:00:09:01") }));
    const peer = await boot(peerHost, specOf(blobs, { memoryMiB: PEER_MEMORY_MIB, ...at(PEER_ADDRESS, "02:00:00:00:09:02") }));
    await wire([source, uuid], [peerHost, peer.uuid]);
    const syscall = JSON.parse(await guestOf(peerHost, peer.uuid).sh("guestbench syscall")) as { ns: number };
    return {
      guest: guestOf(source, uuid),
      guestSyscallNs: syscall.ns,
      onPeer: starterOn(peerHost, peer.uuid),
      async move() {
        const end = await within(WATCH_MS, "our move", move(uuid, source, target));
        if (end.phase !== "done") throw new MoveFailed(end.fault?.message ?? `it ended in phase ${end.phase}`);
        if (end.result === undefined) throw new Error("the agent says nothing about the move that it made");
        return { guest: guestOf(target, uuid), reported: { downtimeMs: end.result.downtimeMs, rounds: end.result.rounds } };
      },
    };
  },
};

async function startAgent(undo: AsyncDisposableStack, lab: Lab, host: HostName): Promise<TestAgent> {
  return undo.use(await TestAgent.start(host, ADDRESS[host], join(lab.folder, host), [], lab.enter(host)));
}

function guestOf(agent: TestAgent, vm: string): Guest {
  return {
    async sh(script) {
      const run = await exec(agent, vm, "sh", "-c", script);
      if (run.code !== 0) throw new Error(`«${script}» ended with ${run.code ?? run.signal ?? run.error}: ${run.stderr}`);
      return run.stdout;
    },
  };
}

/** Starts programs that run until their VM is destroyed. An agent's events have one listener. */
function starterOn(agent: TestAgent, vm: string): Started["onPeer"] {
  const takers = new Map<number, (stdout: string) => void>();
  return async (argv, take) => {
    agent.on(protocol.execOutput, ({ session, data }) => takers.get(session)?.(Buffer.from(data, "base64").toString()));
    const { session } = await agent.call(protocol.execStart, { vm, argv: [...argv] });
    takers.set(session, take);
  };
}
