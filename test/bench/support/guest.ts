/** What a guest is given to do before it is moved, and what it must show afterwards: the same for both sides. */
import { setTimeout as delay } from "node:timers/promises";
import type { Load } from "./cases";
import { GUEST_ADDRESS } from "./lab";

/** A guest that runs shell commands. */
export interface Guest {
  /** Runs a script in the guest's shell. @returns its stdout @throws Error when it ends with another code than 0 */
  sh(script: string): Promise<string>;
}

/** What the load had done at a moment. */
export interface Progress {
  readonly count: number;
  readonly atMs: number;
}

const DIRTY = "/tmp/dirty";
const SPIN = "/tmp/spin";
const ECHO = `${GUEST_ADDRESS}:7002`;
/** What a client copies, and where it is served. */
const CONTENTS = "/tmp/contents";
export const SERVED_AT = `${GUEST_ADDRESS}:7001`;
const KEPT = "/tmp/kept /var/kept";
/** Filling a set and compressing nothing takes a TCG guest some seconds per 100 MiB. */
const LOAD_READY_TRIES = 120;

/** The load of a case and the things that must be the same afterwards. */
export class Subject {
  private constructor(
    private readonly load: Load,
    private readonly kept: string,
    private readonly complaints: string,
  ) {}

  /** Starts the load, waits until it runs steadily. */
  static async prepare(guest: Guest, load: Load): Promise<Subject> {
    await background(guest, `blockcopy echo --listen ${ECHO}`);
    await guest.sh("blockcopy make --mib 0.0625 --seed 7 /tmp/kept; blockcopy make --mib 0.0625 --seed 8 /var/kept; sync");
    if (load.dirty !== undefined) {
      const more = `${load.dirty === "pages" ? "--whole" : ""} ${load.touchMib === undefined ? "" : `--touch-mib ${load.touchMib}`}`;
      await background(guest, `dirty --mib 32 --mib-per-s 4 ${more} --state ${DIRTY}`);
    }
    if (load.copied) {
      await guest.sh(`blockcopy make --mib 4 --seed 9 ${CONTENTS}`);
      await background(guest, `blockcopy serve --listen ${SERVED_AT} --file ${CONTENTS}`);
    }
    if (load.spin) await background(guest, `spin --state ${SPIN}`);
    const subject = new Subject(load, await whatIsKept(guest), await complaintsOf(guest));
    await subject.#running(guest);
    return subject;
  }

  /** What the program whose speed counts has done so far; undefined for an idle guest. */
  async progress(guest: Guest): Promise<Progress | undefined> {
    const file = this.load.spin ? SPIN : this.load.dirty === undefined ? undefined : DIRTY;
    if (file === undefined) return undefined;
    const before = performance.now();
    const { count } = await look(guest, file);
    return { count, atMs: (before + performance.now()) / 2 };
  }

  /** @throws Error with what is wrong in the guest now */
  async check(guest: Guest): Promise<void> {
    const kept = await whatIsKept(guest);
    if (kept !== this.kept) throw new Error(`the guest kept «${kept}», which was «${this.kept}»`);
    const complaints = await complaintsOf(guest);
    if (complaints !== this.complaints) throw new Error(`the guest's kernel complains: ${complaints.slice(-300)}`);
    await this.#running(guest);
  }

  /** All that the load's programs hold is right, and they go on. */
  async #running(guest: Guest): Promise<void> {
    for (const file of [...(this.load.dirty === undefined ? [] : [DIRTY]), ...(this.load.spin ? [SPIN] : [])]) {
      const before = await firstLook(guest, file);
      await delay(300);
      const after = await look(guest, file);
      if (after.count <= before.count) throw new Error(`the guest's ${file.slice("/tmp/".length)} stands still at ${after.count}`);
    }
  }
}

/**
 * The part of its full speed that a program kept during a move, of 1. Its full speed is that between the first two looks. What is missing at
 * the last one, some time after the move, is held against the move alone; the shorter that was, the less exact is this.
 */
export function speedKept([atFirst, before, atEnd]: readonly [Progress?, Progress?, Progress?], moveMs: number): number | undefined {
  if (!atFirst || !before || !atEnd) return undefined;
  const fullPerMs = (before.count - atFirst.count) / (before.atMs - atFirst.atMs);
  const missingMs = atEnd.atMs - before.atMs - (atEnd.count - before.count) / fullPerMs;
  const kept = 1 - missingMs / moveMs;
  return Number.isFinite(kept) ? kept : undefined;
}

async function background(guest: Guest, command: string): Promise<void> {
  await guest.sh(`setsid ${command} < /dev/null > /dev/null 2>&1 &`);
}

/** What the kernel has found wrong since it booted. */
async function complaintsOf(guest: Guest): Promise<string> {
  return (
    await guest.sh("dmesg | grep -iE 'oops:|BUG:|kernel panic|call trace|segfault|I/O error|EXT4-fs error' | tail -5 || true")
  ).trim();
}

/** Bytes in memory and on the disk (read from it, not from the page cache), and the boot that this is. */
async function whatIsKept(guest: Guest): Promise<string> {
  return (await guest.sh(`echo 3 > /proc/sys/vm/drop_caches; cat ${KEPT} /proc/sys/kernel/random/boot_id | sha256sum`)).trim();
}

interface Look {
  readonly ok: boolean;
  readonly why?: string;
  readonly count: number;
}

async function look(guest: Guest, file: string, ...more: string[]): Promise<Look> {
  // Its exit code says what its line says better.
  const said = await guest.sh(`look ${file} ${more.join(" ")} || true`);
  const line = JSON.parse(said.trim() || "{}") as Look;
  if (!line.ok) throw new Error(`the guest's load says: ${line.why ?? said}`);
  return line;
}

/** A whole check; the load may still be on its way to its first one. */
async function firstLook(guest: Guest, file: string): Promise<Look> {
  for (let i = 0; i < LOAD_READY_TRIES; i += 1) {
    if ((await guest.sh(`test -e ${file} && echo there || true`)).includes("there")) return await look(guest, file, "--check");
    await delay(250);
  }
  throw new Error(`the guest's load did not make ${file}`);
}
