/** `mobitopolo exec VM -- CMD`: a program in a guest with this terminal's streams, size and signals. */
import { constants } from "node:os";
import { Fleet } from "../fleet";
import type { Scope } from "../hosts";
import { type Exit, GuestSession, type Program } from "../session";

/** Options of `exec`. */
export interface ExecOptions {
  /** true: a terminal; false: none; absent: one if stdin and stdout both are. */
  readonly tty?: boolean;
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  readonly verbose?: boolean;
}

/** Signals of this process that the guest's program gets instead. */
const FORWARDED = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;
/** So many interrupts, and the session is given up. */
const GIVE_UP_AFTER = 3;

/** @returns the program's exit code, or 128 + the signal that killed it */
export async function exec(scope: Scope, vm: string, argv: string[], options: ExecOptions): Promise<number> {
  await using fleet = new Fleet(scope);
  const at = await fleet.locate(vm);
  const { stdin, stdout, stderr } = process;
  const tty = options.tty ?? (stdin.isTTY === true && stdout.isTTY === true);
  const session = await GuestSession.start(fleet, at, program(argv, tty, options), {
    output: (stream, bytes) => void (stream === "stdout" ? stdout : stderr).write(bytes),
    moved: (host) => {
      if (options.verbose === true) stderr.write(`mobitopolo: ${vm} is on ${host} now\n`);
    },
  });
  using _terminal = tty ? rawTerminal(session) : forwardSignals(session);
  const input = pump(session);
  try {
    return codeOf(await session.exit);
  } finally {
    stdin.destroy();
    await input;
  }
}

function program(argv: string[], tty: boolean, options: ExecOptions): Program {
  return {
    argv,
    ...(options.env && { env: options.env }),
    ...(options.cwd !== undefined && { cwd: options.cwd }),
    ...(tty && { pty: { rows: process.stdout.rows ?? 24, cols: process.stdout.columns ?? 80, term: process.env.TERM ?? "xterm" } }),
  };
}

/** stdin to the guest, no faster than it takes it. A fault here shows as the session's own. */
async function pump(session: GuestSession): Promise<void> {
  try {
    for await (const bytes of process.stdin) await session.write(bytes as Buffer);
    await session.end();
  } catch {
    // stdin was closed because the program ended, or the session is lost: session.exit tells.
  }
}

function rawTerminal(session: GuestSession): Disposable {
  const { stdin, stdout } = process;
  stdin.setRawMode?.(true);
  const resize = (): void => void session.resize(stdout.rows, stdout.columns).catch(() => {});
  stdout.on("resize", resize);
  return {
    [Symbol.dispose]() {
      stdout.off("resize", resize);
      stdin.setRawMode?.(false);
    },
  };
}

function forwardSignals(session: GuestSession): Disposable {
  let interrupts = 0;
  const handlers = FORWARDED.map((name) => {
    const handler = (): void => {
      if (name === "SIGINT") interrupts += 1;
      if (interrupts >= GIVE_UP_AFTER) process.exit(128 + constants.signals.SIGINT);
      session.signal(constants.signals[name]).catch(() => {});
    };
    process.on(name, handler);
    return { name, handler };
  });
  return {
    [Symbol.dispose]() {
      for (const { name, handler } of handlers) process.off(name, handler);
    },
  };
}

function codeOf(exit: Exit): number {
  return exit.signal === undefined ? (exit.code ?? 1) : 128 + exit.signal;
}
