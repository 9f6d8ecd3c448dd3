/** One measured move: the same story for both sides. */
import { setTimeout as delay } from "node:timers/promises";
import type { Case } from "./cases";
import { COPY, CopyWatch, GapWatch, PROBE } from "./gap";
import { type Guest, type Progress, Subject, speedKept } from "./guest";
import type { Lab } from "./lab";

/** A move as it was measured from outside. */
export interface Move {
  /** The longest silence that a peer heard, with probes 1 ms apart. */
  readonly gapMs: number;
  /** The longest that a client which copies waited for a block. */
  readonly copyGapMs?: number;
  /** From the first command to the end of all. */
  readonly totalS: number;
  /** On the link under test, both directions, headers included. */
  readonly bytes: number;
  /** The guest's memory, disk, programs and kernel are right afterwards. */
  readonly guestOk: boolean;
  /** What is not right. */
  readonly why?: string;
  readonly reported: Reported;
  /** The longest silence in the seconds before: what this machine does by itself. */
  readonly quietGapMs: number;
  /** The part of its speed that the guest's program kept during the move, of 1. */
  readonly speedKept?: number;
  readonly guestSyscallNs?: number;
}
/** What the tool itself says of the move. */
export interface Reported {
  readonly downtimeMs: number;
  /** Copies of memory, the last one included. */
  readonly rounds?: number;
}
/** A move that did not come to its end. */
export interface NoMove {
  readonly failed: string;
  /** It was not the tool that failed, but the measurement. */
  readonly broken?: true;
  readonly afterS: number;
  readonly bytes: number;
}
export type Outcome = Move | NoMove;

/** One of the two that are compared. */
export interface Side {
  readonly name: string;
  /** Starts the hosts, the guest and its peer; whatever it starts is registered in `undo`. */
  start(undo: AsyncDisposableStack, lab: Lab, c: Case): Promise<Started>;
}
export interface Started {
  readonly guest: Guest;
  /** A system call in a guest of this side's that has nothing else to do: how fast the machine is at what such guests take of it. */
  readonly guestSyscallNs?: number;
  /** Starts a program of the image's on the peer, until all ends. */
  onPeer(argv: readonly string[], take: (stdout: string) => void): Promise<void>;
  /** Moves the guest; returns at the end of all. @throws MoveFailed */
  move(): Promise<{ readonly guest: Guest; readonly reported: Reported }>;
}
/** The tool itself says that it did not move the guest, or does not come to an end. */
export class MoveFailed extends Error {
  override readonly name = "MoveFailed";
}

/** How long a move may take. */
export const MOVE_LIMIT_S = 300;
/** The guest's speed and the peer's silence are looked at for so long before a move, at least. */
const QUIET_MS = 2000;

/** Starts all, moves once, looks at what came of it. */
export async function measure(side: Side, undo: AsyncDisposableStack, lab: Lab, c: Case): Promise<Outcome> {
  const started = await side.start(undo, lab, c);
  const subject = await Subject.prepare(started.guest, c.load);
  const [gaps, copy] = [new GapWatch(), c.load.copied ? new CopyWatch() : undefined];
  if (copy) await started.onPeer(COPY, (text) => copy.feed(text));
  await started.onPeer(PROBE, (text) => gaps.feed(text));
  const atFirst = await subject.progress(started.guest);
  await delay(QUIET_MS);
  const before = await subject.progress(started.guest);
  // To ask the guest is to start programs in it, which its peer hears: nothing is asked while silence is measured.
  await gaps.settled();
  await copy?.goesOn();
  const listenMs = (c.listenS ?? 0) * 1000;
  const quietFromMs = performance.now();
  await delay(Math.max(QUIET_MS, listenMs));
  const quietGapMs = gaps.longestMs(quietFromMs);

  const bytesBefore = await lab.wireBytes();
  const beganMs = performance.now();
  const bytes = async (): Promise<number> => (await lab.wireBytes()) - bytesBefore;
  const moved = await started.move().catch((error: Error) => error);
  const totalS = (performance.now() - beganMs) / 1000;
  if (moved instanceof MoveFailed) return { failed: moved.message, afterS: totalS, bytes: await bytes() };
  if (moved instanceof Error) throw moved;

  let gapMs = Number.POSITIVE_INFINITY;
  let copyGapMs: number | undefined;
  let atEnd: Progress | undefined;
  const why = await (async () => {
    await delay(Math.max(0, beganMs + listenMs - performance.now()));
    await gaps.settled();
    gapMs = gaps.longestMs(beganMs);
    await copy?.goesOn();
    copyGapMs = copy?.longestMs(beganMs);
    atEnd = await subject.progress(moved.guest);
    await subject.check(moved.guest);
  })().then(
    () => undefined,
    (error: Error) => error.message,
  );
  const kept = speedKept([atFirst, before, atEnd], totalS * 1000);
  return {
    gapMs,
    ...(copyGapMs !== undefined && { copyGapMs }),
    totalS,
    bytes: await bytes(),
    guestOk: why === undefined,
    ...(why !== undefined && { why }),
    reported: moved.reported,
    quietGapMs,
    ...(kept !== undefined && { speedKept: kept }),
    ...(started.guestSyscallNs !== undefined && { guestSyscallNs: started.guestSyscallNs }),
  };
}
