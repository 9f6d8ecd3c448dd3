import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { until } from "../../provider/lib/time";
import * as protocol from "../../provider/protocol/methods";
import { boot, exec, move, specOf, TestAgent, wire } from "./support/agents";

/** `THROTTLE="32 8"`: MiB that are written to all the time at 4 MiB/s, and the link's Mbit/s. */
const [setMiB = 8, linkMbps = 16] = (process.env.THROTTLE ?? "8 16").split(" ").map(Number);

/** Puts a program into the guest. */
async function put(agent: TestAgent, vm: string, path: string, bytes: Buffer): Promise<void> {
  const { session } = await agent.call(protocol.execStart, { vm, argv: ["/bin/sh", "-c", `cat > ${path}; chmod 755 ${path}`] });
  const ended = new Promise<void>((resolve) => agent.on(protocol.execExit, (event) => void (event.session === session && resolve())));
  const portion = 32 << 10;
  for (let at = 0; at < bytes.length; at += portion) {
    const data = bytes.subarray(at, at + portion).toString("base64");
    await agent.call(protocol.execInput, { vm, session, offset: at, data, end: at + portion >= bytes.length });
  }
  await ended;
}

interface Probe {
  readonly maxGapMs: number;
}

describe(`a guest that writes 4 MiB/s of noise over ${setMiB} MiB, on a link of ${linkMbps} Mbit/s`, function () {
  this.timeout(500_000);

  it("arrives with a pause of milliseconds, since it is throttled, and has all of its time again", async () => {
    await using tokyo = await TestAgent.start("tokyo", "127.0.0.2");
    await using florida = await TestAgent.start("florida", "127.0.0.3");
    const blobs = await tokyo.provide();
    await florida.provide();
    const nic = (n: number) => [{ name: "net", mac: `02:00:00:00:03:0${n}`, addresses: [`10.9.0.${n}/24`], mtu: 1400 }];
    const a = specOf(blobs, { nics: nic(1), memoryMiB: 96, runcmd: ["blockcopy echo --listen 10.9.0.1:7002 &"] });
    const b = specOf(blobs, { nics: nic(2) });
    await boot(tokyo, a);
    await boot(tokyo, b);
    await wire([tokyo, a.uuid], [tokyo, b.uuid]);
    const folder = mkdtempSync(join(tmpdir(), "mobi-dirty-"));
    execFileSync("gcc", ["-O2", "-static", "-o", join(folder, "dirty"), join(__dirname, "guest/dirty.c")]);
    await put(tokyo, a.uuid, "/tmp/dirty", readFileSync(join(folder, "dirty")));
    rmSync(folder, { recursive: true });
    await exec(tokyo, a.uuid, "/bin/sh", "-c", `setsid /tmp/dirty ${setMiB} 4 </dev/null >/tmp/count 2>&1 &`);
    const gaps: number[] = [];
    let text = "";
    // A client of its own: one connection has one listener for what programs say.
    const prober = await TestAgent.start("tokyo", "127.0.0.2", tokyo.stateDir);
    prober.on(protocol.execOutput, ({ data }) => {
      text += Buffer.from(data, "base64").toString();
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) gaps.push((JSON.parse(line) as Probe).maxGapMs);
    });
    await prober.call(protocol.execStart, { vm: b.uuid, argv: ["blockcopy", "probe", "10.9.0.1:7002", "--interval-ms", "1"] });
    await until(30_000, "the set to be written once", async () =>
      Number((await exec(tokyo, a.uuid, "tail", "-n", "1", "/tmp/count")).stdout) >= 256 * setMiB && gaps.length > 0 ? true : undefined,
    );

    const shares: number[] = [];
    tokyo.on(protocol.moveProgress, ({ guestShare = 1 }) => void shares.push(guestShare));
    const before = gaps.length;
    const end = await move(a.uuid, tokyo, florida, { bandwidthMbps: linkMbps });
    expect(end.fault, JSON.stringify(end)).to.equal(undefined);
    const after = gaps.length;
    await until(10_000, "two more probes", async () => (gaps.length > after + 2 ? true : undefined));
    const gapMs = Math.max(...gaps.slice(before));
    process.stdout.write(`      ${JSON.stringify({ ...end.result, gapMs, leastShare: Math.min(...shares) })}\n`);
    expect(Math.min(...shares), "it was throttled").to.be.lessThan(1);
    prober.rpc.dispose();
    // The set as a whole takes 4 s on this link; figures are for the benchmarks.
    expect(gapMs, "less than without a throttle").to.be.lessThan(2000);

    const count = async (): Promise<number> => Number((await exec(florida, a.uuid, "tail", "-n", "1", "/tmp/count")).stdout);
    const [first, begun] = [await count(), performance.now()];
    const last = await until(20_000, "it to write on", async () => {
      const now = await count();
      return now > first + 3 * 1024 ? now : undefined;
    });
    const mibPerS = (last - first) / 256 / ((performance.now() - begun) / 1000);
    expect(mibPerS, "no longer held back").to.be.greaterThan(1);
  });
});
