/** SUMS and HELD of the migration stream: which units (pages, blocks) a target has still from an earlier visit of the VM. */
import { hash } from "node:crypto";
import { Bits } from "./bits";
import { StreamError } from "./stream";

const rangeBytes = 12;
/** Of SHA-256, the first half: nobody finds two pages with the same. */
export const sumBytes = 16;
/** So many units may one question name: to answer it, each is read. */
export const maxUnits = 1024;

export interface SumsRange {
  readonly first: number;
  readonly count: number;
}

/** Of one unit. */
export function sumOf(bytes: Buffer): Buffer {
  return hash("sha256", bytes, "buffer").subarray(0, sumBytes);
}

/** @param sums of all units of the ranges, in order */
export function encodeSums(ranges: readonly SumsRange[], sums: readonly Buffer[]): Buffer {
  const table = Buffer.alloc(4 + ranges.length * rangeBytes);
  table.writeUInt32BE(ranges.length, 0);
  for (const [i, { first, count }] of ranges.entries()) {
    table.writeBigUInt64BE(BigInt(first), 4 + i * rangeBytes);
    table.writeUInt32BE(count, 12 + i * rangeBytes);
  }
  return Buffer.concat([table, ...sums]);
}

/**
 * @param units of the copy; page 0 of a memory is never asked for
 * @returns each unit's number with its sum
 * @throws StreamError
 */
export function decodeSums(payload: Buffer, units: number, lowest: 0 | 1): { unit: number; sum: Buffer }[] {
  if (payload.length < 4) throw new StreamError("sums are cut short");
  const ranges = payload.readUInt32BE(0);
  let at = 4 + ranges * rangeBytes;
  if (ranges > maxUnits || at > payload.length) throw new StreamError(`sums claim ${ranges} ranges`);
  const named: { unit: number; sum: Buffer }[] = [];
  for (let i = 0; i < ranges; i++) {
    const first = payload.readBigUInt64BE(4 + i * rangeBytes);
    const count = payload.readUInt32BE(12 + i * rangeBytes);
    if (count === 0 || first < BigInt(lowest) || first + BigInt(count) > BigInt(units))
      throw new StreamError(`sums of ${count} at ${first} lie outside of ${units}`);
    if (named.length + count > maxUnits) throw new StreamError(`sums of more than ${maxUnits} units`);
    if (at + count * sumBytes > payload.length) throw new StreamError("there are fewer sums than are claimed");
    for (let unit = Number(first); unit < Number(first) + count; unit++, at += sumBytes)
      named.push({ unit, sum: payload.subarray(at, at + sumBytes) });
  }
  if (at !== payload.length) throw new StreamError("there are more sums than are claimed");
  return named;
}

/** The answer: a bit for each unit that was asked for, in order. @throws StreamError */
export function decodeHeld(payload: Buffer, units: number): Bits {
  const held = new Bits(units);
  if (payload.length !== held.bytes.length) throw new StreamError("an answer about what is held has another length than its question");
  return new Bits(units, payload);
}
