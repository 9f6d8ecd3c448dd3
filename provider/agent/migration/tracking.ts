import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Mutex } from "../../lib/mutex";
import { type Control, ControlError } from "../vm/control";
import type { Vm } from "../vm/vm";

/** Between the portions of the first scan: each takes the guest about as long, for all of it is armed. A later one finds little to do. */
const guestsTurnMs = 1;

/**
 * The running guest's own kernel marks the pages that change (docs/formats/vm-process.md, `dirty.*`), in a map that the scanner then takes the marks from:
 * what it costs to find them follows from how many they are, not from how much memory there is. A freeze makes the last marks itself.
 */
export class Tracking {
  /** A scan is of one who asks. */
  readonly #turn = new Mutex();

  private constructor(
    private readonly control: Control,
    /** Path of the map. */
    readonly map: string,
    /** A freeze can say which of the changed pages may travel when the guest runs again. */
    readonly mayBeLate: boolean,
  ) {}

  /** From here on changes are marked. Undefined where kernel or host cannot do it, or the guest stands: all memory is compared then. */
  static async begin({ live, paths, uuid, context }: Vm): Promise<Tracking | undefined> {
    if (!live) return undefined;
    try {
      const { map = "", late, left } = await live.control.say("dirty.start");
      await allOf(live.control, left, guestsTurnMs);
      return new Tracking(live.control, join(paths.run, map), late === "1");
    } catch (error) {
      if (!(error instanceof ControlError) || error.code === "closed") throw error;
      context.log.info({ vm: uuid, reason: error.message }, "changed pages are found by comparing all memory");
      return undefined;
    }
  }

  /** Marks what has changed since the last marks; the guest runs on. @returns how many pages are marked */
  async mark(): Promise<number> {
    using _turn = await this.#turn.lock();
    const { left, dirtyPages } = await this.control.say("dirty.scan");
    return Number((await allOf(this.control, left)) ?? dirtyPages);
  }

  /** Nothing is marked or watched any more. The process does that by itself when this connection ends, and at its own end. */
  async end(): Promise<void> {
    await this.control.say("dirty.stop").catch(() => undefined);
  }
}

/** A scan goes in portions, between which the guest has a turn. */
async function allOf(control: Control, left: string | undefined, pauseMs = 0): Promise<string | undefined> {
  let dirtyPages: string | undefined;
  for (let pages = left; Number(pages) > 0; ) {
    if (pauseMs > 0) await sleep(pauseMs);
    ({ left: pages, dirtyPages } = await control.say("dirty.scan"));
  }
  return dirtyPages;
}
