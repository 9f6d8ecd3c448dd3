/**
 * `npm run bench:smoke [-- --json]`: one table with the figures that matter, on this machine's loopback, in two or three minutes.
 * Two VMs of 128 MiB with one sealed link at MTU 1500; medians where a figure is taken several times.
 */
import { readFileSync, statSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { renderTable } from "../../provider/cli/table";
import { GuestProgram, inGuest, mobitopolo, status, vmOf } from "../e2e/support/command";
import { Project } from "../e2e/support/project";
import { pair, testHosts } from "../e2e/support/topologies";
import { median } from "./support/median";

/** One line of the table. */
interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** What this machine should reach at least (or at most), where the project has said so. */
  readonly goal?: { readonly atMost?: number; readonly atLeast?: number };
}
interface Probe {
  readonly t: number;
  readonly sent: number;
  readonly received: number;
  readonly maxGapMs: number;
}

const MOVES = 6;
const A = "10.9.0.1";
const topology = (hosts: Record<string, object>, host: string) => ({
  ...pair(hosts, host, "left", {
    a: { memoryMiB: 128, runcmd: [`blockcopy echo --listen ${A}:7002 &`, "iperf3 -s -D"] },
    b: { memoryMiB: 128 },
  }),
  links: [{ ends: ["a:peer", "b:peer"], mtu: 1500 }],
});

void main();

async function main(): Promise<void> {
  const figures = await measure();
  const asJson = process.argv.includes("--json");
  process.stdout.write(asJson ? `${JSON.stringify({ figures })}\n` : `${table(figures)}\n`);
  process.exitCode = figures.every(reached) ? 0 : 1;
}

async function measure(): Promise<Figure[]> {
  using hosts = testHosts();
  const both = Object.fromEntries([hosts.local("left"), hosts.local("right")]);
  await using project = await Project.make(topology(both, "left"));
  say("two VMs come up");
  await project.up();
  await inGuest(project, "b", "ping", "-c", "1", A);
  return [
    await boot(project),
    ...(await freeze(project)),
    ...(await moves(project, both)),
    ...(await link(project)),
    ...(await guest(project)),
    await nothingToDo(project),
  ];
}

/** From the making of the VM's run folder (its memory file and process come next) to the first word of the guest's agent. */
async function boot(project: Project): Promise<Figure> {
  say("boot");
  const { hosts, vms } = await status(project);
  const took = vms.map((vm) => {
    const facts = hosts.find((h) => h.name === vm.host)?.facts;
    const log = readFileSync(join(facts?.stateDir ?? "", "agent.log"), "utf8").split("\n");
    const hello = log.find((line) => line.includes(vm.uuid) && line.includes("guest agent said hello")) ?? "{}";
    return Date.parse((JSON.parse(hello) as { time: string }).time) - statSync(join(facts?.runDir ?? "", vm.uuid)).birthtimeMs;
  });
  return { name: "boot to guest agent", value: Math.min(...took), unit: "ms" };
}

/** Freeze and thaw over the control channel, as a move does them. */
async function freeze(project: Project): Promise<Figure[]> {
  say("freeze and thaw");
  const { hosts } = await status(project);
  const vm = await vmOf(project, "a");
  const runDir = hosts.find((h) => h.name === vm.host)?.facts?.runDir ?? "";
  using control = await Control.open(join(runDir, vm.uuid, "control.sock"));
  const frozen: number[] = [];
  const thawed: number[] = [];
  for (let i = 0; i < 10; i += 1) {
    const reply = await control.ask("freeze attempt=save deadmanMs=2000");
    frozen.push(Number(/frozenNs=(\d+)/.exec(reply)?.[1]) / 1e6);
    const before = performance.now();
    await control.ask("thaw attempt=save");
    thawed.push(performance.now() - before);
  }
  return [
    { name: "freeze", value: median(frozen), unit: "ms" },
    { name: "thaw", value: median(thawed), unit: "ms" },
  ];
}

/** Idle moves there and back, seen by the peer's probes 1 ms apart. */
async function moves(project: Project, both: Record<string, object>): Promise<Figure[]> {
  const probe = new GuestProgram<Probe>(project, "b", ["blockcopy", "probe", `${A}:7002`, "--interval-ms", "1"]);
  await probe.next();
  const seen: { gapMs: number; bytes: number; seconds: number; downtimeMs: number }[] = [];
  for (let i = 0; i < MOVES; i += 1) {
    say(`idle move ${i + 1} of ${MOVES}`);
    const from = probe.lines.length;
    project.write(topology(both, i % 2 === 0 ? "right" : "left"));
    await project.up();
    await probe.next();
    await probe.next();
    const { lastMigration: move } = await vmOf(project, "a");
    if (move === undefined) throw new Error("no move is recorded");
    seen.push({ gapMs: Math.max(...probe.lines.slice(from).map((l) => l.maxGapMs)), ...move });
  }
  await probe.stop();
  return [
    { name: "idle move: gap a peer sees", value: median(seen.map((m) => m.gapMs)), unit: "ms", goal: { atMost: 20 } },
    { name: "idle move: downtime by the agents", value: median(seen.map((m) => m.downtimeMs)), unit: "ms" },
    { name: "idle move: bytes", value: median(seen.map((m) => m.bytes)), unit: "B" },
    { name: "idle move: duration", value: median(seen.map((m) => m.seconds)), unit: "s" },
  ];
}

async function link(project: Project): Promise<Figure[]> {
  say("link");
  const tcp = await iperf(project, "-t", "5");
  const udp = await iperf(project, "-u", "-b", "0", "-l", "64", "-t", "3");
  const rtt = await pingMs(project, 400);
  say("ping to a guest that computes");
  const spin = new GuestProgram<unknown>(project, "a", ["spin"]);
  const busy = await pingMs(project, 400);
  await spin.stop();
  const { packets = 0, lost_packets = 0, seconds = 1 } = udp.sum ?? {};
  return [
    { name: "link: sealed TCP, MTU 1500", value: (tcp.sum_received?.bits_per_second ?? 0) / 1e6, unit: "Mbit/s", goal: { atLeast: 4000 } },
    { name: "link: 64-byte UDP received", value: (packets - lost_packets) / seconds / 1000, unit: "kpps" },
    { name: "link: round trip", value: rtt * 1000, unit: "µs" },
    { name: "link: round trip to a computing guest", value: busy * 1000, unit: "µs", goal: { atMost: 1000 } },
  ];
}

interface IperfEnd {
  readonly sum_received?: { bits_per_second: number };
  readonly sum?: { packets?: number; lost_packets?: number; seconds: number };
}

/** iperf3 from b to a; its server may still be closing the test before, so it is asked again. */
async function iperf(project: Project, ...options: string[]): Promise<IperfEnd> {
  let why = "";
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const run = await mobitopolo(project, "exec", "-T", "b", "--", "iperf3", "-c", A, ...options, "-J");
    const { end, error } = JSON.parse(run.stdout || "{}") as { end?: IperfEnd; error?: string };
    if (error === undefined && end?.sum_received !== undefined) return end;
    why = error ?? run.text;
    await delay(1000);
  }
  throw new Error(`iperf3 ${options.join(" ")}: ${why}`);
}

async function guest(project: Project): Promise<Figure[]> {
  say("guest");
  const ns = async (what: string): Promise<number> => (JSON.parse(await inGuest(project, "a", "guestbench", what)) as { ns: number }).ns;
  return [
    { name: "guest system call", value: await ns("syscall"), unit: "ns" },
    { name: "guest fork + exec", value: (await ns("forkexec")) / 1000, unit: "µs" },
  ];
}

async function nothingToDo(project: Project): Promise<Figure> {
  say("pulumi up with nothing to do");
  const took: number[] = [];
  for (let i = 0; i < 3; i += 1) {
    const before = performance.now();
    await project.up();
    took.push((performance.now() - before) / 1000);
  }
  return { name: "pulumi up with nothing to do", value: median(took), unit: "s" };
}

/** Mean round trip in ms, 5 ms apart. */
async function pingMs(project: Project, count: number): Promise<number> {
  const said = await inGuest(project, "b", "ping", "-q", "-c", String(count), "-i", "0.005", A);
  const mean = /= [\d.]+\/([\d.]+)\//.exec(said)?.[1];
  if (mean === undefined) throw new Error(`ping said no mean: ${said}`);
  return Number(mean);
}

/** A client of one VM's control channel (docs/formats/vm-process.md). */
class Control implements Disposable {
  readonly #waiting: ((line: string) => void)[] = [];
  #tag = 0;
  private constructor(readonly socket: ReturnType<typeof connect>) {}

  static async open(path: string): Promise<Control> {
    const socket = connect(path);
    const control = new Control(socket);
    const greeting = new Promise<string>((resolve, reject) => {
      control.#waiting.push(resolve);
      socket.once("error", reject);
    });
    createInterface({ input: socket }).on("line", (line) => control.#waiting.shift()?.(line));
    if (!(await greeting).startsWith("mobi-control 1 ")) throw new Error(`${path} speaks another protocol`);
    return control;
  }

  async ask(request: string): Promise<string> {
    this.#tag += 1;
    const answer = new Promise<string>((resolve) => this.#waiting.push(resolve));
    this.socket.write(`b${this.#tag} ${request}\n`);
    const line = await answer;
    if (!line.startsWith(`b${this.#tag} ok`)) throw new Error(`${request}: ${line}`);
    return line;
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

const reached = ({ value, goal }: Figure): boolean =>
  value <= (goal?.atMost ?? Number.POSITIVE_INFINITY) && value >= (goal?.atLeast ?? Number.NEGATIVE_INFINITY);

function table(figures: readonly Figure[]): string {
  const goalText = ({ goal }: Figure): string =>
    goal?.atMost !== undefined ? `≤ ${goal.atMost}` : goal?.atLeast !== undefined ? `≥ ${goal.atLeast}` : "";
  return renderTable(
    [{ title: "FIGURE" }, { title: "VALUE", right: true }, { title: "UNIT" }, { title: "GOAL", right: true }, { title: "" }],
    figures.map((f) => [
      f.name,
      f.value >= 100 ? Math.round(f.value).toLocaleString("en") : f.value.toPrecision(3),
      f.unit,
      goalText(f),
      f.goal === undefined ? "" : reached(f) ? "reached" : "MISSED",
    ]),
  );
}

const say = (text: string): void => void process.stderr.write(`bench: ${text}\n`);
