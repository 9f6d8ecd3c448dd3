/** Cables between namespaces: as fast as the machine, or with a delay; and the one from a host's switch to QEMU's guest. */
import { execFile } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Holder } from "./holder";

const run = promisify(execFile);

/** Whether this user may make TAP devices; else AF_PACKET and Unix sockets take their place. */
export function mayMakeTaps(): boolean {
  try {
    accessSync("/dev/net/tun", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** A device of that name in each of two namespaces, joined. */
export async function plainCable(a: Holder, b: Holder, device: string): Promise<void> {
  await a.inside(`ip link add ${device} type veth peer name ${device} netns ${b.pid}`);
}

/** The same with a delay; `middle`: a namespace where devices may be put. @returns what carries the frames */
export async function slowCable(a: Holder, b: Holder, middle: Holder, device: string, delayUs: number): Promise<Holder> {
  const ends: string[] = [];
  for (const [name, holder] of Object.entries({ a, b })) {
    if (mayMakeTaps()) ends.push(`tap:${holder.pid}:${device}`);
    else {
      const end = `${device}-${name}`;
      await middle.inside(`ip link add ${end} type veth peer name ${device} netns ${holder.pid}`, `ip link set ${end} up`);
      await run(await program(), ["plain", String(holder.pid), device]);
      ends.push(`packet:${middle.pid}:${end}`);
    }
  }
  return await Holder.start(await program(), [...ends, String(delayUs)], "the delaying cable");
}

/** A port of the host's switch for QEMU's guest: words of -netdev, and what carries the frames, if something must. */
export async function guestPort(host: Holder, bridge: string, folder: string): Promise<{ netdev: string; carrier?: Holder }> {
  if (mayMakeTaps()) {
    await host.inside("ip tuntap add dev vm mode tap", `ip link set vm master ${bridge} up`);
    return { netdev: "tap,id=net,ifname=vm,script=no,downscript=no" };
  }
  await host.inside("ip link add vm type veth peer name vm-end", "ip link set vm-end up", `ip link set vm master ${bridge} up`);
  await run(await program(), ["plain", String(host.pid), "vm"]);
  const [ours, its] = [join(folder, "cable.sock"), join(folder, "nic.sock")];
  const carrier = await Holder.start(await program(), [`packet:${host.pid}:vm-end`, `unix:${ours}:${its}`, "0"], "the cable to QEMU");
  return { netdev: `dgram,id=net,local.type=unix,local.path=${its},remote.type=unix,remote.path=${ours}`, carrier };
}

let made: Promise<string> | undefined;

/** cable.c, compiled once. */
function program(): Promise<string> {
  made ??= (async () => {
    const folder = mkdtempSync(join(tmpdir(), "mobi-cable-"));
    process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
    const file = join(folder, "cable");
    await run("gcc", ["-O2", "-Wall", "-D_GNU_SOURCE", "-o", file, join(__dirname, "cable.c")]);
    return file;
  })();
  return made;
}
