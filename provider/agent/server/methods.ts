import { stat } from "node:fs/promises";
import * as protocol from "../../protocol/methods";
import type { AgentContext } from "../context";
import { AgentFault } from "../errors";
import { hostFacts, someKernel } from "../host";
import { ensureLink, getLink, removeLink, setLinkPeer } from "../link/ensure";
import type { Moves } from "../migration/moves";
import type { Store } from "../store/store";
import { dropBases } from "../vm/basis";
import { destroyVm } from "../vm/destroy";
import { ensureVm } from "../vm/ensure";
import type { Vms } from "../vm/vms";
import { execHandlers } from "./exec";
import { type Handler, handle } from "./rpc";

/** The parts of one agent. */
export interface Agent {
  readonly context: AgentContext;
  readonly store: Store;
  readonly vms: Vms;
  readonly moves: Moves;
  /** Ends the agent; VMs go on. */
  end(): void;
  /** Ends the agent and removes its state folder's own files. */
  retire(): Promise<void>;
}

/** So much later the answer to the request that ends the agent is written. */
const answerMs = 20;

/** Every method of the wire contract, with what answers it. */
export function handlers(agent: Agent): Handler[] {
  return [
    ...hostHandlers(agent),
    ...storeHandlers(agent),
    ...vmHandlers(agent),
    ...linkHandlers(agent),
    ...moveHandlers(agent),
    ...execHandlers(agent.vms),
  ];
}

function hostHandlers(agent: Agent): Handler[] {
  const { context, vms } = agent;
  return [
    handle(protocol.hello, async ({ protocol: theirs, client }) => {
      if (theirs > protocol.PROTOCOL_VERSION)
        throw new AgentFault("too-old", "greet", `this agent speaks protocol ${protocol.PROTOCOL_VERSION}, ${client} needs ${theirs}`, {
          next: "`pulumi up` replaces the agent's program",
        });
      return {
        agentId: context.agentId,
        protocol: protocol.PROTOCOL_VERSION,
        version: context.version,
        hostName: context.hostName,
        uid: process.getuid?.() ?? 0,
        bootId: context.bootId,
        address: context.address,
        ports: context.ports,
      };
    }),
    handle(protocol.hostFacts, async () => await hostFacts(context, vms, await someKernel(vms))),
    handle(protocol.shutdown, async () => {
      setTimeout(() => agent.end(), answerMs);
      return {};
    }),
    handle(protocol.retireHost, async () => {
      const here = vms
        .all()
        .filter((vm) => vm.file && !vm.journal.value.tombstone)
        .map((vm) => vm.uuid);
      const owed = vms
        .all()
        .filter((vm) => vm.journal.value.in.some((one) => one.state === "SETTLED" && !one.closed) || vm.journal.value.out?.state === "OPEN")
        .map((vm) => vm.uuid);
      const stay = [...new Set([...here, ...owed])];
      if (stay.length > 0) return { removed: false, vms: stay };
      for (const vm of vms.all()) {
        await vm.dropState();
        await vms.forget(vm);
      }
      setTimeout(() => void agent.retire(), answerMs);
      return { removed: true, vms: [] };
    }),
  ];
}

function storeHandlers({ store, vms }: Agent): Handler[] {
  return [
    handle(protocol.storeMissing, async ({ ids }) => ({ missing: await store.missing(ids) })),
    handle(protocol.storeImport, async ({ id, path, zstd, remove }) => {
      await store.take(id, path, { zstd: zstd ?? false, remove: remove ?? false });
      return {};
    }),
    handle(protocol.storePath, async ({ id }) => {
      const path = await store.path(id);
      return { path, bytes: (await stat(path)).size };
    }),
    handle(protocol.storeGc, async () => {
      const [blobs, bases] = [await store.collect(vms.usedBlobs()), await dropBases(vms)];
      return { removed: blobs.removed + bases.removed, bytes: blobs.bytes + bases.bytes };
    }),
  ];
}

function vmHandlers({ vms, moves }: Agent): Handler[] {
  return [
    handle(protocol.vmClaim, async ({ vm }) => ({ gen: await vms.claim(vm) })),
    handle(protocol.vmList, async () => {
      const reports = await Promise.all(vms.all().map((vm) => vms.report(vm.uuid)));
      return { vms: reports.filter((report) => report !== null) };
    }),
    handle(protocol.vmGet, async ({ vm }) => ({ vm: await vms.report(vm) })),
    handle(protocol.vmEnsure, async (request) => await ensureVm(vms, request)),
    handle(protocol.vmDestroy, async (request) => await destroyVm(vms, request, (vm) => moves.cancelFor(vm))),
  ];
}

function linkHandlers({ vms }: Agent): Handler[] {
  return [
    handle(protocol.linkEnsure, async ({ wiring, gen }) => {
      if (gen !== undefined) vms.checkGen(wiring.vm, gen, "wire a link");
      return await ensureLink(vms, wiring);
    }),
    handle(protocol.linkPeer, async (request) => {
      await setLinkPeer(vms, request);
      return {};
    }),
    handle(protocol.linkGet, async (request) => getLink(vms, request)),
    handle(protocol.linkRemove, async (request) => await removeLink(vms, request)),
  ];
}

function moveHandlers({ moves }: Agent): Handler[] {
  return [
    handle(protocol.moveBegin, async ({ vm, gen, to }) => await moves.begin(vm, gen, to)),
    handle(protocol.movePlan, async ({ vm, to, policy }) => await moves.plan(vm, to, policy)),
    handle(protocol.moveCheck, async ({ needs }) => await moves.check(needs)),
    handle(protocol.vmRecover, async ({ vm, gen, attempt }) => await moves.recoverByHand(vm, gen, attempt)),
    handle(protocol.vmOverrule, async ({ vm, floor }) => ({ removed: await moves.overrule(vm, floor) })),
    handle(protocol.moveOffer, async ({ needs, key }) => await moves.offer(needs, key)),
    handle(protocol.moveStart, async (request) => {
      await moves.start(request);
      return {};
    }),
    handle(
      protocol.moveWatch,
      async ({ vm, attempt }, client) =>
        await moves.watch(
          vm,
          attempt,
          (progress) => void client.connection.sendNotification(protocol.moveProgress, progress).catch(() => undefined),
          client,
        ),
    ),
    handle(protocol.moveCancel, async ({ vm, attempt }) => {
      await moves.cancel(vm, attempt);
      return {};
    }),
    handle(protocol.moveFacts, async ({ vm }) => ({ facts: await moves.facts(vm) })),
    handle(protocol.moveTell, async (request) => ({ facts: await moves.tell(request) })),
  ];
}
