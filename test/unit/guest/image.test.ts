/** The image's file system: the same bytes from the same inputs, everything root's, nothing of this machine in it. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";

type ImageModule = typeof import("../../../uml-kernel/image.mjs");

const sha256 = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex");

describe("guest image", function () {
  this.timeout(300_000);
  let image: Awaited<ReturnType<ImageModule["ensureImage"]>>;
  let folder: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "mobi-image-"));
    const { ensureImage } = (await import("../../../uml-kernel/image.mjs")) as ImageModule;
    image = await ensureImage();
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  /** A command of debugfs, which is in Debian's e2fsprogs, as mke2fs is. */
  function debugfs(command: string): string {
    const { stdout, error } = spawnSync("debugfs", ["-R", command, image.path], {
      encoding: "utf8",
      env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin`, DEBUGFS_PAGER: "cat" },
    });
    if (error) throw error;
    return stdout;
  }

  it("is named by its bytes, with its inputs beside it", () => {
    expect(image.id).to.equal(sha256(image.path));
    const inputs = JSON.parse(readFileSync(join(image.path, "../inputs.json"), "utf8"));
    expect(inputs.image.sha256).to.equal(image.id);
    expect(inputs.packages.map((p: { name: string }) => p.name)).to.include.members(["busybox-static", "iproute2", "libc6"]);
    for (const p of inputs.packages) expect(p.sha256).to.match(/^[0-9a-f]{64}$/);
  });

  it("has the same bytes when it is made again", async () => {
    const { ensureImage } = (await import("../../../uml-kernel/image.mjs")) as ImageModule;
    const { cacheRoot } = await import("../../../scripts/lib/cache.mjs");
    // Another cache, umask and time, but the same packages.
    const cache = join(folder, "cache");
    mkdirSync(join(cache, "image"), { recursive: true });
    symlinkSync(join(cacheRoot(), "apt"), join(cache, "apt"));
    copyFileSync(join(cacheRoot(), "image/package-names.json"), join(cache, "image/package-names.json"));
    const before = process.env.MOBITOPOLO_CACHE;
    const umask = process.umask(0o077);
    process.env.MOBITOPOLO_CACHE = cache;
    try {
      const again = await ensureImage();
      expect(again.path.startsWith(cache)).to.equal(true);
      expect(again.buildId).to.equal(image.buildId);
      expect(again.id).to.equal(image.id);
    } finally {
      process.umask(umask);
      if (before === undefined) delete process.env.MOBITOPOLO_CACHE;
      else process.env.MOBITOPOLO_CACHE = before;
    }
  });

  it("belongs to root, with the modes that matter", () => {
    for (const path of ["/", "/usr/bin", "/etc", "/usr/sbin", "/root", "/tmp", "/usr/lib/x86_64-linux-gnu"]) {
      for (const line of debugfs(`ls -l ${path}`)
        .split("\n")
        .filter((l) => /^\s*\d+\s+\d+ \(/.test(l))) {
        expect(line, path).to.match(/^\s*\d+\s+\d+ \(\d+\)\s+0\s+0\s/);
        expect(line).to.match(/1-Jan-2026/);
      }
    }
    expect(debugfs("stat /etc/shadow")).to.match(/Mode:\s+0600/);
    expect(debugfs("stat /tmp")).to.match(/Mode:\s+01777/);
    expect(debugfs("stat /root")).to.match(/Mode:\s+0700/);
    expect(debugfs("stat /sbin/init")).to.match(/Mode:\s+0755/);
  });

  it("holds no keys and no machine's id", () => {
    expect(debugfs("ls /etc")).not.to.match(/machine-id|ssh_host/);
    expect(
      debugfs("ls -p /etc/dropbear")
        .split("\n")
        .filter((l) => /^\//.test(l) && !/\/\.{1,2}\//.test(l)),
    ).to.deep.equal([]);
    expect(debugfs("cat /etc/shadow")).to.match(/^root:\*:/);
  });

  it("is refused, not made wrong, when an entry can't be written", async () => {
    const { makeExt4 } = await import("../../../uml-kernel/image/ext4.mjs");
    // The machine's own e2fsprogs will do here.
    const tools = { mke2fs: "/usr/sbin/mke2fs", debugfs: "/usr/sbin/debugfs" };
    const debian = { dir: folder, packages: [], programs: [], libraries: [], tools, loader: "/lib64/ld-linux-x86-64.so.2" };
    const source = join(folder, "file");
    writeFileSync(source, "x");
    chmodSync(source, 0o644);
    mkdirSync(join(folder, "out"));
    const entries = [{ path: "/no/such/folder/file", kind: "file" as const, mode: 0o644, source }];
    let fault = "";
    await makeExt4(join(folder, "out/image"), entries, debian).catch((error: Error) => {
      fault = error.message;
    });
    expect(fault).to.match(/writing the image: .*not found/i);
  });
});
