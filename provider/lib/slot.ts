import { createHash } from "node:crypto";
import { type FileHandle, open, rename } from "node:fs/promises";
import { dirname } from "node:path";
import { errnoOf } from "./errors";
import { syncFolder, UnreadableStateError } from "./files";

const magic = "MOBISLT1";
const headerBytes = 8 + 8 + 4 + 32;

/**
 * A small record that is always either the old or the new one, in a file that never grows: two halves, written in turn, each with a
 * number and a checksum. Since the space is taken at creation, a full disk cannot stop an update.
 */
export class SlotFile {
  readonly #file: FileHandle;
  readonly #halfBytes: number;
  #sequence: bigint;
  #value: unknown;

  private constructor(
    readonly path: string,
    file: FileHandle,
    halfBytes: number,
    sequence: bigint,
    value: unknown,
  ) {
    this.#file = file;
    this.#halfBytes = halfBytes;
    this.#sequence = sequence;
    this.#value = value;
  }

  /** The record as last written. */
  get value(): unknown {
    return this.#value;
  }

  /** Opens the slot, or makes one that holds `initial`. @throws UnreadableStateError where neither half is whole */
  static async open(path: string, initial: unknown, halfBytes = 16384): Promise<SlotFile> {
    try {
      const file = await open(path, "r+");
      const { sequence, value } = await readNewest(path, file, halfBytes);
      return new SlotFile(path, file, halfBytes, sequence, value);
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") throw error;
    }
    const temporary = `${path}.new`;
    const file = await open(temporary, "w+", 0o600);
    await file.write(Buffer.alloc(2 * halfBytes), 0, 2 * halfBytes, 0);
    const slot = new SlotFile(path, file, halfBytes, 0n, initial);
    await slot.write(initial);
    await rename(temporary, path);
    await syncFolder(dirname(path));
    return slot;
  }

  /** Durable when this resolves. @throws RangeError if the record does not fit */
  async write(value: unknown): Promise<void> {
    const sequence = this.#sequence + 1n;
    const half = encode(sequence, value, this.#halfBytes);
    await this.#file.write(half, 0, half.length, Number(sequence % 2n) * this.#halfBytes);
    await this.#file.datasync();
    this.#sequence = sequence;
    this.#value = value;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function encode(sequence: bigint, value: unknown, halfBytes: number): Buffer {
  const body = Buffer.from(JSON.stringify(value));
  if (headerBytes + body.length > halfBytes) throw new RangeError(`a record of ${body.length} bytes does not fit a slot of ${halfBytes}`);
  const half = Buffer.alloc(headerBytes + body.length);
  half.write(magic, 0, "latin1");
  half.writeBigUInt64LE(sequence, 8);
  half.writeUInt32LE(body.length, 16);
  body.copy(half, headerBytes);
  digest(half, body.length).copy(half, 20);
  return half;
}

function digest(half: Buffer, bodyBytes: number): Buffer {
  return createHash("sha256")
    .update(half.subarray(0, 20))
    .update(half.subarray(headerBytes, headerBytes + bodyBytes))
    .digest();
}

async function readNewest(path: string, file: FileHandle, halfBytes: number): Promise<{ sequence: bigint; value: unknown }> {
  let newest: { sequence: bigint; value: unknown } | undefined;
  for (const index of [0, 1]) {
    const half = Buffer.alloc(halfBytes);
    await file.read(half, 0, halfBytes, index * halfBytes);
    const bodyBytes = half.readUInt32LE(16);
    if (half.toString("latin1", 0, 8) !== magic || bodyBytes > halfBytes - headerBytes) continue;
    if (!digest(half, bodyBytes).equals(half.subarray(20, headerBytes))) continue;
    const sequence = half.readBigUInt64LE(8);
    if (newest && newest.sequence > sequence) continue;
    newest = { sequence, value: JSON.parse(half.toString("utf8", headerBytes, headerBytes + bodyBytes)) };
  }
  if (newest) return newest;
  await file.close();
  throw new UnreadableStateError(path, "neither half of the slot has a right checksum");
}
