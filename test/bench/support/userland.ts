/** The guest of the other side: our image's own static programs in an initramfs, with Debian's kernel modules for its devices. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { GUEST_ADDRESS } from "./lab";

/** Below the folder of a kernel's modules. Which needs which differs between kernels: init goes over them until none is left. */
const MODULES = [
  "drivers/virtio/virtio",
  "drivers/virtio/virtio_ring",
  "drivers/virtio/virtio_pci_modern_dev",
  "drivers/virtio/virtio_pci_legacy_dev",
  "drivers/virtio/virtio_pci",
  "net/core/failover",
  "drivers/net/net_failover",
  "drivers/net/virtio_net",
  "drivers/block/virtio_blk",
];
const PROGRAMS = ["busybox", "mobi-check", "blockcopy"];
/** Ends the answer to a command, with the command's exit code. */
export const ANSWER_END = "@@done";

const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for pass in 1 2 3 4; do for m in /modules/*.ko; do insmod $m 2>/dev/null && rm $m; done; done
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
stty raw -echo
ip link set lo up
ip addr add ${GUEST_ADDRESS}/24 dev eth0 && ip link set eth0 up && mount -t ext4 /dev/vda /var
echo "${ANSWER_END} $?"
while read -r line; do
  eval "$line"
  echo "${ANSWER_END} $?"
done
`;

/**
 * Writes the initramfs. Debian's older kernels have plain modules, the newer ones xz: the machine's xz unpacks those.
 * @param image our guest image @param modules folder of the kernel's modules @returns its path
 */
export function makeInitramfs(folder: string, image: string, modules: string): string {
  const work = join(folder, "programs");
  mkdirSync(work, { recursive: true });
  for (const name of PROGRAMS) dumpFromImage(image, `/usr/bin/${name}`, join(work, name));
  const archive = new Cpio();
  for (const path of ["bin", "dev", "proc", "sys", "tmp", "var", "modules"]) archive.folder(path);
  for (const name of PROGRAMS) archive.file(`bin/${name}`, readFileSync(join(work, name)), 0o755);
  for (const name of ["dirty", "look", "spin"]) archive.link(`bin/${name}`, "mobi-check");
  for (const module of MODULES) archive.file(`modules/${basename(module)}.ko`, readModule(join(modules, `${module}.ko`)), 0o644);
  archive.file("init", Buffer.from(INIT), 0o755);
  const path = join(folder, "initramfs.cpio");
  writeFileSync(path, archive.end());
  return path;
}

/** Where a program of the guest's lies, to be run on a host. */
export const programOnHost = (folder: string, name: string): string => join(folder, "programs", name);

function dumpFromImage(image: string, from: string, to: string): void {
  const debugfs = ["/usr/sbin/debugfs", "/sbin/debugfs"].find((path) => existsSync(path)) ?? "debugfs";
  execFileSync(debugfs, ["-R", `dump -p ${from} ${to}`, image], { stdio: "pipe" });
  if (!existsSync(to)) throw new Error(`${image} has no ${from}: build it again with npm run image:build`);
  execFileSync("chmod", ["755", to]);
}

function readModule(path: string): Buffer {
  if (existsSync(path)) return readFileSync(path);
  if (existsSync(`${path}.xz`)) return execFileSync("xz", ["-dc", `${path}.xz`], { maxBuffer: 64 << 20 });
  throw new Error(`Debian's kernel has no module ${path}`);
}

/** The «newc» format of cpio, as far as an initramfs needs it (Documentation/driver-api/early-userspace/buffer-format.rst of Linux). */
class Cpio {
  readonly #parts: Buffer[] = [];
  #inode = 1;

  folder(path: string): void {
    this.#entry(path, 0o040755, Buffer.alloc(0));
  }

  file(path: string, bytes: Buffer, mode: number): void {
    this.#entry(path, 0o100000 | mode, bytes);
  }

  link(path: string, to: string): void {
    this.#entry(path, 0o120777, Buffer.from(to));
  }

  end(): Buffer {
    this.#entry("TRAILER!!!", 0, Buffer.alloc(0));
    return Buffer.concat(this.#parts);
  }

  #entry(path: string, mode: number, bytes: Buffer): void {
    const name = Buffer.from(`${path}\0`);
    const fields = [this.#inode++, mode, 0, 0, 1, 0, bytes.length, 0, 0, 0, 0, name.length, 0];
    const head = Buffer.concat([Buffer.from(`070701${fields.map((n) => n.toString(16).padStart(8, "0")).join("")}`), name]);
    this.#parts.push(padded(head), padded(bytes));
  }
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
