/** A real sshd for tests, run by an ordinary user: the machine's, else Debian's package unpacked in the cache. */
import { join } from "node:path";
import { cachePath } from "./cache.mjs";
import { unpack } from "./debian.mjs";
import { SetupError } from "./errors.mjs";
import { isExecutable, which } from "./run.mjs";

/**
 * @param {{ say?: (line: string) => void }} [options]
 * @returns {Promise<{ path: string, env: { LD_LIBRARY_PATH?: string } }>} `env`: what the unpacked one needs to find its libraries
 */
export async function sshdProgram({ say } = {}) {
  const installed = await which("sshd", `${process.env.PATH}:/usr/sbin:/usr/local/sbin`);
  if (installed) return { path: installed, env: {} };
  const dir = cachePath("sshd");
  const path = join(dir, "usr/sbin/sshd");
  // Only the files: its maintainer scripts would want a user and a service.
  await unpack(["openssh-server"], dir, { closure: "missing", say });
  if (!(await isExecutable(path))) throw new SetupError("Debian's openssh-server brought no sshd", { next: "install openssh-server" });
  return { path, env: { LD_LIBRARY_PATH: join(dir, "usr/lib/x86_64-linux-gnu") } };
}
