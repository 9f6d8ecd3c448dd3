import { randomBytes } from "node:crypto";
import { z } from "zod";
import { messageOf } from "../lib/errors";
import { linkEnsure, linkGet, linkPeer, linkRemove, type VmReport, vmGet } from "../protocol/methods";
import { type LinkEnd, linkEnd, type Wiring } from "../schemas/link";
import type { Reached } from "../transport/connect";
import { AgentError, isAway } from "../transport/errors";
import { pick, same } from "./compare";
import { context } from "./context";
import { PartialFailure, ReconcileError } from "./errors";
import { type Context, Fleet } from "./fleet";
import { handlerOf, type Props, type Reconciler } from "./handler";
import { endId } from "./identity";
import { checkLink, diffLink, linkInputKeys } from "./linkCheck";
import { awaitHeard, type LinkState } from "./linkHeard";

const inputKeys = [...linkInputKeys, "uuid", "__urn", "__hosts"];

/** Link: a cable. Its key is made here, held by the two agents, and never in the state. */
export function linkReconciler(context: Context): Reconciler {
  return {
    check: checkLink,
    diff: diffLink,
    create: async (news) => await create(context, news),
    read: async (id, props) => {
      const outs = { ...props, ...(await look(context, id, props)) };
      return { props: outs, inputs: pick(outs, inputKeys) };
    },
    update: async (id, olds, news) => await wire(context, id, news, new Fleet(context, nameOf(news), olds, news), olds),
    delete: async (id, props) => await remove(context, id, props),
  };
}

/** What the engine calls for every Link. */
export const linkHandler = handlerOf(linkReconciler(context));

/** An end, and the agent that holds its VM now. */
interface Plug {
  readonly end: LinkEnd;
  readonly reached: Reached;
  readonly report: VmReport;
}

async function create(context: Context, news: Props): Promise<{ id: string; outs: Props }> {
  const id = String(news.uuid);
  const fleet = new Fleet(context, nameOf(news), news);
  try {
    return { id, outs: await wire(context, id, news, fleet) };
  } catch (error) {
    // One end may be wired already: in the state, so that it is removed or finished.
    throw new PartialFailure(id, { ...news, state: "unwired", __schemaVersion: 1 }, error);
  }
}

/** Makes both ends so, wherever their VMs are, and sees whether they hear each other. */
async function wire(context: Context, id: string, news: Props, fleet: Fleet, olds?: Props): Promise<Props> {
  const row = context.row(news.__urn);
  const plugs = await locate(fleet, news);
  const held = await Promise.all(plugs.map(({ reached, end }) => reached.agent.call(linkGet, { link: id, vm: end.vm })));
  const key = keyFor(
    held.map(({ wiring }) => wiring),
    news,
    olds,
  );
  // Where the other end is as far as it is known: a link that is right already is left in peace.
  const peers = held.map((_, index) => socketOf(held[1 - index]));
  const wirings = plugs.map((_, index) => wiringOf(id, plugs, index, news, key, peers[index]));
  const sockets = await Promise.all(
    plugs.map(async ({ reached }, index) => await reached.agent.call(linkEnsure, { wiring: need(wirings[index]) })),
  );
  await Promise.all(
    plugs.map(async ({ reached, end }, index) => {
      const { address, port } = need(sockets[1 - index]);
      if (!same(peers[index], { address, port })) await reached.agent.call(linkPeer, { vm: end.vm, nic: end.nic, peer: { address, port } });
    }),
  );
  const state = await awaitHeard(
    plugs.map(({ end, reached, report }) => ({ vm: end.vm, nic: end.nic, agent: reached.agent, running: report.state === "running" })),
  );
  if (state === "unheard") row.warn(unheardText(plugs, need(sockets[0]), need(sockets[1])));
  const ends = plugs.map(({ end, reached }) => ({ ...end, host: reached.agent.host }));
  return { ...news, ends, state, __schemaVersion: 1 };
}

function unheardText(plugs: readonly Plug[], a: { address: string; port: number }, b: { address: string; port: number }): string {
  const [first, second] = plugs.map(({ reached }) => reached.agent.host);
  return `wired, but not heard yet. If it stays so: UDP must pass between ${first ?? ""} (${a.address}:${a.port}) and ${second ?? ""} (${b.address}:${b.port})`;
}

interface LinkKey {
  readonly keyId: number;
  readonly key: string;
}

/** The key that an end still holds; a new one where none does, where a VM was replaced (its counters began anew), or where sealing changed. */
function keyFor(held: readonly (Wiring | null)[], news: Props, olds?: Props): LinkKey {
  // Where they differ, the newest: a recovery gives new keys to the ends that it reaches.
  const [kept] = held.filter((wiring) => wiring !== null).sort((a, b) => b.keyId - a.keyId);
  const seal = news.seal !== false;
  const rotate = olds !== undefined && (!same(instances(olds), instances(news)) || olds.seal !== news.seal);
  if (kept && !rotate && kept.seal === seal) return { keyId: kept.keyId, key: kept.key };
  const keyId = kept ? (kept.keyId % 65_535) + 1 : 1;
  return seal ? { keyId, key: randomBytes(32).toString("hex") } : { keyId: 0, key: "" };
}

const instances = (props: Props): unknown[] => endsIn(props).map(({ instance }) => instance);

interface Socket {
  readonly address: string;
  readonly port: number;
}

const socketOf = (end?: { address?: string; port?: number }): Socket | undefined =>
  end?.address === undefined || end.port === undefined ? undefined : { address: end.address, port: end.port };

function wiringOf(link: string, plugs: readonly Plug[], index: number, news: Props, { keyId, key }: LinkKey, peer?: Socket): Wiring {
  const self = need(plugs[index]).end;
  const other = need(plugs[1 - index]).end;
  const ids = { selfId: endId(link, self.vm, self.nic), peerId: endId(link, other.vm, other.nic) };
  const mode = { mtu: Number(news.mtu), seal: news.seal !== false, keyId, key };
  return { link, vm: self.vm, nic: self.nic, ...mode, ...ids, ...(peer ? { peer } : {}) };
}

/** The agents that have the two VMs now: where the inputs say, else on any host that is known. */
async function locate(fleet: Fleet, props: Props): Promise<Plug[]> {
  return await Promise.all(
    endsIn(props).map(async (end) => {
      const away: string[] = [];
      for (const name of new Set([end.host, ...fleet.names])) {
        const plug = await plugOn(fleet, name, end).catch((error: unknown) => {
          if (isAway(error)) away.push(messageOf(error));
          else throw error;
          return undefined;
        });
        if (plug) return plug;
      }
      throw new ReconcileError(
        nameOf(props),
        `wire NIC ${end.nic} of VM ${end.vm}`,
        "no host that answers has this VM",
        away.length > 0 ? away.join("\n  ") : "next: pulumi refresh",
      );
    }),
  );
}

async function plugOn(fleet: Fleet, name: string, end: LinkEnd): Promise<Plug | undefined> {
  const reached = await fleet.reach(name);
  const { vm } = await reached.agent.call(vmGet, { vm: end.vm });
  return vm?.home === "yes" ? { end, reached, report: vm } : undefined;
}

/** What refresh tells: whether both ends hold the link, and where. */
async function look(context: Context, id: string, props: Props): Promise<{ state?: LinkState; ends?: LinkEnd[] }> {
  const fleet = new Fleet(context, nameOf(props), props);
  try {
    const plugs = await locate(fleet, props);
    const held = await Promise.all(plugs.map(({ reached, end }) => reached.agent.call(linkGet, { link: id, vm: end.vm })));
    const ends = plugs.map(({ end, reached }) => ({ ...end, host: reached.agent.host }));
    const [first] = held;
    if (held.some(({ wiring }) => wiring === null || wiring.keyId !== first?.wiring?.keyId)) return { ends, state: "unwired" };
    return { ends };
  } catch (error) {
    // The VMs' own rows say what is wrong with them.
    context.row(props.__urn).warn(messageOf(error));
    return {};
  }
}

/** Removes both ends, wherever they are; what is missing is fine. */
async function remove(context: Context, id: string, props: Props): Promise<void> {
  const fleet = new Fleet(context, nameOf(props), props);
  for (const end of endsIn(props)) {
    for (const name of new Set([end.host, ...fleet.names])) if (await removeOn(fleet, name, id, end.vm, name === end.host)) break;
  }
}

async function removeOn(fleet: Fleet, name: string, link: string, vm: string, expected: boolean): Promise<boolean> {
  try {
    const { agent } = await fleet.reach(name);
    return (await agent.call(linkRemove, { link, vm })).existed;
  } catch (error) {
    if (error instanceof AgentError && error.code === "not-found") return false;
    // Only the host where the end is said to be must answer.
    if (!expected && isAway(error)) return false;
    throw error;
  }
}

const endsIn = (props: Props): LinkEnd[] => z.array(linkEnd).parse(props.ends);
const nameOf = (props: Props): string => `Link ${typeof props.__urn === "string" ? props.__urn.split("::").at(-1) : String(props.uuid)}`;

function need<T>(value: T | undefined): T {
  if (value === undefined) throw new TypeError("a link has two ends");
  return value;
}
