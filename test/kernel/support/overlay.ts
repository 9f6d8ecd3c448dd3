/** `disk.overlay` and `disk.map` (docs/formats/overlay.md), made and read by tests. */
import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, openSync, readFileSync, readSync, statSync, writeSync } from "node:fs";

export const BLOCK_BYTES = 65536;
const HEADER_BYTES = 4096;

/** An empty overlay over `base`; `virtualBytes` may be larger than the base. */
export function createOverlay(path: string, base: string, virtualBytes: number): void {
  const blocks = virtualBytes / BLOCK_BYTES;
  if (!Number.isInteger(blocks)) throw new RangeError(`${virtualBytes} is no multiple of ${BLOCK_BYTES}`);
  const header = Buffer.alloc(HEADER_BYTES);
  header.write("MOBIDSK1", 0, "ascii");
  header.writeUInt32LE(1, 8);
  header.writeUInt32LE(BLOCK_BYTES, 12);
  header.writeBigUInt64LE(BigInt(virtualBytes), 16);
  header.writeBigUInt64LE(BigInt(statSync(base).size), 24);
  header.write(hashOf(base), 32, "ascii");
  const fd = openSync(path, "wx", 0o600);
  try {
    writeSync(fd, header, 0, HEADER_BYTES, 0);
    ftruncateSync(fd, dataOffset(blocks) + virtualBytes);
  } finally {
    closeSync(fd);
  }
}

export function hashOf(file: string): string {
  return createHash("sha256").update(readFileSync(file)).digest("hex");
}

/** Where block 0 lies in the file. */
export function dataOffset(blocks: number): number {
  return HEADER_BYTES + Math.ceil(Math.ceil(blocks / 8) / 4096) * 4096;
}

/** Where the data of an overlay end: what lies behind is of a freeze. */
export function endOfData(overlay: string): number {
  const fd = openSync(overlay, "r");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    readSync(fd, header, 0, HEADER_BYTES, 0);
    const virtualBytes = Number(header.readBigUInt64LE(16));
    return dataOffset(virtualBytes / BLOCK_BYTES) + virtualBytes;
  } finally {
    closeSync(fd);
  }
}

/** The disk as a guest sees it after a cold open: the bitmap alone is trusted. */
export function readDisk(overlay: string, base: string): Buffer {
  const fd = openSync(overlay, "r");
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    readSync(fd, header, 0, HEADER_BYTES, 0);
    const virtualBytes = Number(header.readBigUInt64LE(16));
    const blocks = virtualBytes / BLOCK_BYTES;
    const bitmap = Buffer.alloc(Math.ceil(blocks / 8));
    readSync(fd, bitmap, 0, bitmap.length, HEADER_BYTES);
    const disk = Buffer.alloc(virtualBytes);
    readFileSync(base).copy(disk);
    for (let i = 0; i < blocks; i++) {
      if (((bitmap[i >> 3] ?? 0) >> (i & 7)) & 1) readSync(fd, disk, i * BLOCK_BYTES, BLOCK_BYTES, dataOffset(blocks) + i * BLOCK_BYTES);
    }
    return disk;
  } finally {
    closeSync(fd);
  }
}

export interface DiskMap {
  readonly epoch: number;
  /** Per block: 0, or the epoch of its last write. */
  readonly blocks: Uint32Array;
}

export function readMap(path: string): DiskMap {
  const bytes = readFileSync(path);
  if (bytes.toString("ascii", 0, 8) !== "MOBIMAP1") throw new Error(`${path} is no disk map`);
  const count = Number(bytes.readBigUInt64LE(16));
  return { epoch: Number(bytes.readBigUInt64LE(8)), blocks: Uint32Array.from({ length: count }, (_, i) => bytes.readUInt32LE(24 + 4 * i)) };
}

/** What an agent does before it copies: raises the epoch, returns the one before. */
export function raiseEpoch(path: string): number {
  const fd = openSync(path, "r+");
  try {
    const word = Buffer.alloc(8);
    readSync(fd, word, 0, 8, 8);
    const before = word.readBigUInt64LE(0);
    word.writeBigUInt64LE(before + 1n);
    writeSync(fd, word, 0, 8, 8);
    return Number(before);
  } finally {
    closeSync(fd);
  }
}
