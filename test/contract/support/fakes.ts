import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const made: string[] = [];
process.once("exit", () => {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
});

/** A program that behaves as `linux` does from outside (fake-kernel.mjs), and an empty image: paths for MOBITOPOLO_KERNEL and MOBITOPOLO_IMAGE. */
export function fakeKernel(): { kernel: string; image: string } {
  const folder = mkdtempSync(join(tmpdir(), "mobi-fake-"));
  made.push(folder);
  const kernel = join(folder, "linux");
  writeFileSync(kernel, `#!${process.execPath}\n${readFileSync(join(__dirname, "fake-kernel.mjs"), "utf8")}`);
  chmodSync(kernel, 0o755);
  const image = join(folder, "image");
  writeFileSync(image, Buffer.alloc(1 << 20));
  return { kernel, image };
}
