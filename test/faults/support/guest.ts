/** What goes on in the guests all the while: sums of RAM and disk, and a TCP stream that both ends check. */
import { until, within } from "../../../provider/lib/time";
import type { AgentConnection } from "../../../provider/transport/rpc";
import { exec } from "../../contract/support/agents";

/** A program's last words. */
interface Word {
  readonly ok: boolean;
  readonly count: number;
  readonly why?: string;
}

const execLimitMs = 30_000;

/** Runs a shell command in a guest. @throws Error where it fails */
export async function shell(agent: AgentConnection, vm: string, command: string): Promise<string> {
  const on: Parameters<typeof exec>[0]["on"] = (type, handler) => {
    const heard = agent.on(type, handler);
    return () => heard[Symbol.dispose]();
  };
  const call = agent.call.bind(agent) as Parameters<typeof exec>[0]["call"];
  const ran = await within(execLimitMs, `\`${command}\` in the guest`, exec({ call, on }, vm, "/bin/sh", "-c", command));
  if (ran.code !== 0) throw new Error(`${command}: ${ran.stderr || ran.error || `ended with ${ran.code ?? ran.signal}`}`);
  return ran.stdout;
}

/** A program that goes on after the shell; what it says stands in /tmp/out.NAME. It runs a fifth of the time: the machine is not ours alone. */
async function start(agent: AgentConnection, vm: string, name: string, command: string, gently = false): Promise<void> {
  const pace = "while kill -CONT $p; do sleep 0.2; kill -STOP $p; sleep 0.8; done 2>/dev/null";
  const body = gently ? `${command} >/tmp/out.${name} 2>&1 & p=$!; ${pace}` : `exec ${command} >/tmp/out.${name} 2>&1`;
  await shell(agent, vm, `rm -f /tmp/out.${name}; setsid /bin/sh -c '${body}' </dev/null >/dev/null 2>&1 &`);
}

/** The checks of a guest's own memory and disk. */
export async function startChecks(agent: AgentConnection, vm: string): Promise<void> {
  await shell(agent, vm, "rm -f /var/tmp/ramcheck.*");
  await start(agent, vm, "ram", "ramcheck --mib 4 --disk-mib 1", true);
}

/** A program that writes noise over its memory, and knows what should be there. */
export async function startWriter(agent: AgentConnection, vm: string): Promise<void> {
  await shell(
    agent,
    vm,
    "rm -f /tmp/written; setsid dirty --mib 8 --mib-per-s 24 --whole --state /tmp/written </dev/null >/dev/null 2>&1 &",
  );
  await until(
    30_000,
    "the writer to begin",
    async () => (await shell(agent, vm, "look /tmp/written || true")).includes('"ok":true') || undefined,
  );
}

/** Its memory is looked at as a whole. @throws Error with what is wrong */
export async function stopWriter(agent: AgentConnection, vm: string): Promise<void> {
  const said = await shell(agent, vm, "look /tmp/written --check || true; killall -9 dirty");
  if (!said.includes('"ok":true')) throw new Error(`the writer says: ${said.trim()}`);
}

/** A stream in both directions between two guests. */
export async function startStream(listener: [AgentConnection, string], connector: [AgentConnection, string], port: number): Promise<void> {
  for (const [agent, vm] of [listener, connector]) await shell(agent, vm, "killall -9 tcpstream 2>/dev/null; rm -f /tmp/out.tcp; true");
  await start(...listener, "tcp", `tcpstream --mbps 2 --listen 10.9.0.1:${port}`);
  await start(...connector, "tcp", `tcpstream --mbps 2 --connect 10.9.0.1:${port}`);
}

/** Waits until each program has said that all is right, and more of it than at the first look. @throws Error with what is wrong */
export async function allRight(agent: AgentConnection, vm: string, names: readonly string[]): Promise<void> {
  /** Undefined while one has not said anything yet. */
  const look = async (): Promise<Map<string, Word> | undefined> => {
    const text = await shell(agent, vm, `for f in ${names.join(" ")}; do tail -n 1 /tmp/out.$f | grep . || echo; done`);
    const lines = text.split("\n").slice(0, names.length);
    if (lines.includes("")) return undefined;
    const words = lines.map((line) => JSON.parse(line) as Word);
    const wrong = words.find(({ ok }) => !ok);
    if (wrong) throw new Error(`a check says: ${JSON.stringify(wrong)}`);
    return new Map(names.map((name, i) => [name, words[i] ?? { ok: false, count: 0 }]));
  };
  const first = await until(30_000, `${names.join(", ")} to speak`, look);
  await until(30_000, `${names.join(", ")} to go on`, async () => {
    const now = await look();
    return names.every((name) => (now?.get(name)?.count ?? 0) > (first.get(name)?.count ?? 0)) ? true : undefined;
  });
}
