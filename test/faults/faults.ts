/** Every fault that the test makes: docs/migration.md says what happens in each, and a unit test compares the two. */
import type { Scene } from "./support/scene";

/** Where a move can be held, in the order in which it comes by (provider/agent/migration/holds.ts). */
export const sourcePoints = ["reserve", "precopy", "arm", "freeze", "release", "released", "resume", "settle", "retire"] as const;
/** `filling`: a move by post-copy, whose guest runs and lacks pages. */
export const targetPoints = ["go", "filling", "started", "settled"] as const;
export type Point = (typeof sourcePoints)[number] | (typeof targetPoints)[number];
export const points: readonly Point[] = [...sourcePoints, ...targetPoints];

export interface Fault {
  readonly name: string;
  /** Where it can be made. */
  readonly points: readonly Point[];
  /** The fault itself may take the only RAM with it: then the guest boots from its disk, and that is said. */
  readonly mayLoseRam?: readonly Point[];
  /** The guest may go back to the freeze, after having run at the target: what its peers heard of it cannot be recalled. */
  readonly mayRollBack?: readonly Point[];
  /** The move goes on and succeeds. */
  readonly isHarmless?: true;
  /** At the point, the move held there. */
  inflict(scene: Scene): Promise<void> | void;
  /** Before the next `up`, which is then to succeed. */
  heal?(scene: Scene): Promise<void> | void;
}

/** The guest runs at the source alone, as far as anybody knows. */
const beforeFreeze: readonly Point[] = ["reserve", "precopy", "arm", "freeze"];
const atTarget: readonly Point[] = ["started", "settled", "settle", "retire"];

export const faults: readonly Fault[] = [
  { name: "link cut", points, inflict: ({ link }) => link.cut(1500) },
  { name: "link stalled", points, inflict: ({ link }) => link.stall(2500) },
  {
    name: "link cut for good",
    points: ["precopy", "release", "released", "filling", "started"],
    inflict: ({ link }) => link.cut(),
    heal: ({ link }) => link.heal(),
  },
  { name: "source agent killed", points, inflict: ({ source }) => source.killAgent() },
  { name: "target agent killed", points, inflict: ({ target }) => target.killAgent() },
  {
    name: "source kernel killed",
    points,
    mayLoseRam: beforeFreeze,
    inflict: ({ source, vm }) => source.killKernel(vm),
  },
  {
    name: "target kernel killed",
    points,
    // The hold at `settle` and `resume` is the source's: the target may have started meanwhile, or not yet.
    mayLoseRam: ["resume", ...atTarget],
    mayRollBack: ["filling"],
    inflict: ({ target, vm }) => target.killKernel(vm),
  },
  {
    name: "source host rebooted",
    points,
    mayLoseRam: [...beforeFreeze, "release", "released", "go", "filling", "resume"],
    inflict: ({ source }) => source.reboot(),
  },
  {
    name: "target host rebooted",
    points,
    // As above.
    mayLoseRam: ["resume", ...atTarget],
    mayRollBack: ["filling", "started", "settle", "resume"],
    inflict: ({ target }) => target.reboot(),
  },
  {
    name: "target disk full",
    points: ["reserve", "precopy", "arm"],
    inflict: ({ target }) => target.fillDisk(),
    heal: ({ target }) => target.freeDisk(),
  },
  { name: "source clock jumps", points, isHarmless: true, inflict: ({ source }) => source.jumpClock() },
  { name: "target clock jumps", points, isHarmless: true, inflict: ({ target }) => target.jumpClock() },
  { name: "provider killed", points, inflict: ({ killProvider }) => killProvider() },
];
