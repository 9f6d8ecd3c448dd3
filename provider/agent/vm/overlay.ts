import { type FileHandle, open, stat } from "node:fs/promises";

/** docs/formats/overlay.md */
export const blockBytes = 65536;
const headerBytes = 4096;

/** Where things lie in an overlay of this virtual size. */
export function overlayLayout(virtualBytes: number): { blocks: number; bitmapBytes: number; dataOffset: number } {
  const blocks = Math.ceil(virtualBytes / blockBytes);
  const bitmapBytes = Math.ceil(Math.ceil(blocks / 8) / 4096) * 4096;
  return { blocks, bitmapBytes, dataOffset: headerBytes + bitmapBytes };
}

/** Virtual size for a disk of so many MiB over this base: never smaller than the base. */
export function virtualBytesOf(diskMiB: number, baseBytes: number): number {
  return Math.ceil(Math.max(diskMiB * 1048576, baseBytes) / blockBytes) * blockBytes;
}

/** Makes an empty overlay: nothing allocated, all holes. */
export async function createOverlay(path: string, basePath: string, baseHash: string, diskMiB: number): Promise<void> {
  const baseBytes = (await stat(basePath)).size;
  const virtualBytes = virtualBytesOf(diskMiB, baseBytes);
  const { blocks, dataOffset } = overlayLayout(virtualBytes);
  const header = Buffer.alloc(headerBytes);
  header.write("MOBIDSK1", 0, "latin1");
  header.writeUInt32LE(1, 8);
  header.writeUInt32LE(blockBytes, 12);
  header.writeBigUInt64LE(BigInt(virtualBytes), 16);
  header.writeBigUInt64LE(BigInt(baseBytes), 24);
  header.write(baseHash, 32, 64, "latin1");
  const file = await open(path, "wx", 0o600);
  try {
    await file.write(header, 0, header.length, 0);
    await file.truncate(dataOffset + blocks * blockBytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Virtual size as the overlay's header has it. */
export async function overlayVirtualBytes(path: string): Promise<number> {
  const file = await open(path, "r");
  try {
    return await virtualBytesIn(file);
  } finally {
    await file.close();
  }
}

export async function virtualBytesIn(overlay: FileHandle): Promise<number> {
  const { buffer } = await overlay.read(Buffer.alloc(32), 0, 32, 0);
  return Number(buffer.readBigUInt64LE(16));
}
