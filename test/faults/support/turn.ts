/** One move with one fault in it, and what the next commands make of it. */
import { messageOf } from "../../../provider/lib/errors";
import { within } from "../../../provider/lib/time";
import type { MigrationPolicy } from "../../../provider/schemas/vm";
import type { Fault, Point } from "../faults";
import { targetPoints } from "../faults";
import { allRight, shell, startChecks, startWriter, stopWriter } from "./guest";
import type { TestHost } from "./host";
import type { Scene, World } from "./scene";

export interface Turn {
  readonly fault: string;
  readonly point: Point;
  /** How the first `up` ended. */
  readonly first: string;
  readonly ramLost: boolean;
  readonly rolledBack: boolean;
  readonly seconds: number;
  readonly twoCopies: string[];
  readonly lostGuests: string[];
  readonly corruptions: string[];
  readonly unrecovered: string[];
}

const upLimitMs = 180_000;
const pointLimitMs = 60_000;
/** Its rounds are over with the first, and nothing fits. */
const postcopyAtOnce: MigrationPolicy = { onNoConvergence: "postcopy", deadlineS: 0.001, maxDowntimeMs: 1 };

/** Moves the VM to the other host, with the fault at the point. */
export async function turn(world: World, fault: Fault, point: Point): Promise<Turn> {
  const begunMs = performance.now();
  const [source, target] = world.vm.outs.host === world.hosts[0].name ? world.hosts : [world.hosts[1], world.hosts[0]];
  const found = { twoCopies: [] as string[], lostGuests: [] as string[], corruptions: [] as string[], unrecovered: [] as string[] };
  const bootId = await boot(world);
  const staleBefore = await world.staleFrames();
  // What it writes between the last scan and the freeze is what it lacks then.
  if (point === "filling") await startWriter(await world.home(), world.id);
  const first = await faulty(world, fault, point, source, target);
  if (fault.isHarmless && first !== "moved") found.unrecovered.push(`a harmless fault ended the move: ${first}`);

  const attempt = async (what: string, work: () => Promise<void>): Promise<boolean> => {
    try {
      await within(upLimitMs, what, work());
      return true;
    } catch (error) {
      found.unrecovered.push(`${what}: ${messageOf(error)}`);
      return false;
    }
  };
  const oneCopyAtMost = (when: string): void => {
    const running = world.running();
    if (running.length > 1) found.twoCopies.push(`${when}: running on ${running.join(" and ")}`);
  };
  await world.nextRun();
  if (await attempt("refresh", async () => await world.provider.refresh(world.vm))) {
    oneCopyAtMost("after the refresh");
    const untrue = untruth(world);
    if (untrue) found.unrecovered.push(`refresh says what is not so: ${untrue}`);
  }
  await fault.heal?.(scene(world, source, target));
  await world.nextRun();
  let ramLost = false;
  let rolledBack = false;
  if (await attempt("the next up", async () => await world.up(target))) {
    oneCopyAtMost("after the up");
    if (world.running().join() !== target.name)
      found.lostGuests.push(`it should run on ${target.name}, and runs on [${world.running().join()}]`);
    const now = await boot(world).catch((error: unknown) => void found.lostGuests.push(`its guest does not answer: ${messageOf(error)}`));
    ramLost = now !== undefined && now !== bootId;
    if (ramLost && !fault.mayLoseRam?.includes(point)) found.lostGuests.push("its RAM is lost, and nothing that the fault killed had it");
    if (point === "filling" && now === bootId)
      await stopWriter(await world.home(), world.id).catch((error: unknown) => void found.corruptions.push(messageOf(error)));
    if (now !== undefined)
      rolledBack = await checkGuest(world, { ramLost, mayRollBack: fault.mayRollBack?.includes(point) ?? false }, found);
  }
  // What a left-behind copy says, it says by now: the guests have talked.
  const stale = (await world.staleFrames()) - staleBefore;
  if (stale > 0) found.twoCopies.push(`the peer got ${stale} frames of an incarnation that another had followed`);
  return { fault: fault.name, point, first, ramLost, rolledBack, seconds: (performance.now() - begunMs) / 1000, ...found };
}

/** The move, held at the point, and the fault there. @returns how the `up` ended */
async function faulty(world: World, fault: Fault, point: Point, source: TestHost, target: TestHost): Promise<string> {
  const holder = (targetPoints as readonly string[]).includes(point) ? target : source;
  holder.hold(point);
  let killed: () => void = () => undefined;
  const gone = new Promise<string>((resolve) => {
    killed = () => resolve("the provider was killed");
  });
  const up = world.up(target, point === "filling" ? postcopyAtOnce : {}).then(
    () => "moved",
    (error: unknown) => `failed: ${messageOf(error).split("\n")[0]}`,
  );
  const held = await Promise.race([holder.held(pointLimitMs).then(() => undefined), up]);
  if (held !== undefined) {
    holder.letGo();
    throw new Error(`the move came to its end (${held}) and not to ${point}`);
  }
  await fault.inflict({
    ...scene(world, source, target),
    killProvider: async () => {
      await world.provider.kill();
      killed();
    },
  });
  holder.letGo();
  return await within(upLimitMs, "the up with a fault in it", Promise.race([up, gone]));
}

const scene = (world: World, source: TestHost, target: TestHost): Scene => ({
  source,
  target,
  link: world.link,
  vm: world.id,
  killProvider: async () => undefined,
});

const boot = async (world: World): Promise<string> => await shell(await world.home(), world.id, "cat /proc/sys/kernel/random/boot_id");

/** What the state says that the memory files do not. */
function untruth(world: World): string | undefined {
  const { host, state } = world.vm.outs;
  const running = world.running();
  if (state === "running" && running.join() !== host) return `running on ${String(host)}, where [${running.join()}] is so`;
  if (state === "stopped" && running.length > 0) return `stopped, while it runs on ${running.join()}`;
  if (state !== "running" && state !== "stopped" && state !== "moving" && state !== "settling")
    return `${String(state)}, with all hosts there`;
  return undefined;
}

/** The guest's own checks, and the peer's stream. @returns whether the stream was broken by going back to the freeze, as it may be */
async function checkGuest(
  world: World,
  { ramLost, mayRollBack }: { ramLost: boolean; mayRollBack: boolean },
  found: Pick<Turn, "corruptions" | "unrecovered">,
): Promise<boolean> {
  const here = await world.home();
  const peer = await world.provider.reach(world.third.known);
  const marker = await shell(here, world.id, "cat /root/marker").catch(messageOf);
  if (marker.trim() !== world.marker) found.corruptions.push(`the disk says ${marker.trim()}, not what was written to it`);
  if (ramLost) await startChecks(here, world.id);
  else await allRight(here, world.id, ["ram"]).catch((error: unknown) => void found.corruptions.push(messageOf(error)));
  const stream = async (): Promise<void> => {
    await allRight(here, world.id, ["tcp"]);
    await allRight(peer, String(world.peer.id), ["tcp"]);
  };
  if (!ramLost) {
    const broken = await stream().then(() => undefined, messageOf);
    if (broken === undefined) return false;
    if (!mayRollBack) found.corruptions.push(`the stream: ${broken}`);
  }
  await world.restream();
  await stream().catch((error: unknown) => void found.unrecovered.push(`no new stream: ${messageOf(error)}`));
  return !ramLost;
}
