#!/usr/bin/env node
/** The `mobitopolo` command. */
import { Command, CommanderError, Option } from "commander";
import { cancel } from "./commands/cancel";
import { exec } from "./commands/exec";
import { gc } from "./commands/gc";
import { console as consoleCommand, logs } from "./commands/logs";
import { move } from "./commands/move";
import { recover } from "./commands/recover";
import { status } from "./commands/status";
import { CliError, explain } from "./errors";
import { resolveScope, type Scope, type ScopeOptions } from "./hosts";

/** Runs the command line. @returns the exit code: a program's own for `exec`, 2 for faults of ours (125 for `exec`, as a program may say 2) */
export async function main(argv: readonly string[]): Promise<number> {
  let code = 0;
  const program = commandLine((result) => {
    code = result;
  });
  try {
    await program.parseAsync(argv, { from: "user" });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    process.stderr.write(`mobitopolo: ${explain(error)}\n`);
    return argv.includes("exec") ? 125 : 2;
  }
}

function commandLine(done: (code: number) => void): Command {
  const program = new Command("mobitopolo")
    .description("Looks into the VMs of a Mobitopolo stack, wherever they run.")
    .addOption(new Option("--hosts <file>", "hosts to ask, as YAML or JSON (`hosts:` of a topology), instead of the stack's"))
    .addOption(
      new Option("--local <name>", "a local host to ask instead of the stack's (repeatable)").argParser((v, all: string[] = []) => [
        ...all,
        v,
      ]),
    )
    .addOption(new Option("-s, --stack <name>", "the Pulumi stack (default: the selected one of the project in this folder)"))
    .addOption(new Option("-C, --cwd <folder>", "look for the Pulumi project there"))
    .exitOverride()
    .enablePositionalOptions()
    .showHelpAfterError();
  const scope = (): Promise<Scope> => resolveScope(program.opts<ScopeOptions>());

  program
    .command("status")
    .description("hosts, VMs and links with their counters")
    .option("--json", "all of it as JSON")
    .action(async (options: { json?: boolean }) => done(await status(await scope(), options)));

  program
    .command("exec")
    .description("run a program in a VM; streams, exit code and terminal are this one's, also when the VM moves")
    .argument("<vm>", "name or uuid")
    .argument("[command...]", "program and arguments, after -- (default: a login shell)")
    .option("-t, --tty", "give it a terminal (default: if stdin and stdout are one)")
    .option("-T, --no-tty", "give it none")
    .option("-e, --env <NAME=VALUE>", "set a variable (repeatable)", (v: string, all: string[] = []) => [...all, v])
    .option("-w, --workdir <folder>", "folder in the guest")
    .option("-v, --verbose", "say on stderr when the VM moves")
    .passThroughOptions()
    .action(async (vm: string, command: string[], options: { tty?: boolean; env?: string[]; workdir?: string; verbose?: boolean }) =>
      done(
        await exec(await scope(), vm, programOf(command), {
          tty: options.tty,
          env: environment(options.env),
          cwd: options.workdir,
          verbose: options.verbose,
        }),
      ),
    );

  program
    .command("console")
    .description("the VM's console on this terminal; leave with Ctrl-]")
    .argument("<vm>", "name or uuid")
    .action(async (vm: string) => done(await consoleCommand(await scope(), vm)));

  program
    .command("logs")
    .description("what the VM wrote to its console")
    .argument("<vm>", "name or uuid")
    .option("-f, --follow", "and what it writes from now on")
    .option("-n, --lines <count>", "only the last lines", (v) => Number.parseInt(v, 10))
    .action(async (vm: string, options: { follow?: boolean; lines?: number }) => done(await logs(await scope(), vm, options)));

  program
    .command("gc")
    .description("remove kernels and images that no VM uses from the hosts' stores")
    .option("--json", "as JSON")
    .action(async (options: { json?: boolean }) => done(await gc(await scope(), options)));

  const moving = program
    .command("move")
    .description("move a VM live, by hand")
    .argument("<vm>", "name or uuid")
    .option("--to <host>", "where to (required)")
    .option("--dry-run", "only say what it would come to, and whether the host can take it; nothing is changed")
    .option("--json", "one JSON object per phase and round, and a last one with the result")
    .action(async (vm: string, { to, ...options }: { to?: string; dryRun?: boolean; json?: boolean }) => {
      // Not a required option: its subcommand has none.
      if (to === undefined) throw new CliError("bad-input", `where is ${vm} to move?`, "say it: --to HOST");
      done(await move(await scope(), vm, { ...options, to }));
    });
  moving
    .command("cancel")
    .description("undo a move that is not past its point of no return")
    .argument("<vm>", "name or uuid")
    .option("--json", "as JSON")
    .action(async (vm: string, options: { json?: boolean }) => done(await cancel(await scope(), vm, options)));

  program
    .command("recover")
    .description("let a VM run again whose move's target is gone for good; what it did there is lost")
    .argument("<vm>", "name or uuid")
    .option("-y, --yes", "do not ask")
    .option("--json", "as JSON")
    .action(async (vm: string, options: { yes?: boolean; json?: boolean }) => done(await recover(await scope(), vm, options)));

  return program;
}

/** With options passed through, commander leaves the `--` where it stands. */
function programOf(command: readonly string[]): string[] {
  const program = command[0] === "--" ? command.slice(1) : [...command];
  return program.length === 0 ? ["/bin/sh", "-l"] : program;
}

function environment(pairs: readonly string[] | undefined): Record<string, string> | undefined {
  if (pairs === undefined) return undefined;
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at <= 0) throw new CliError("bad-input", `--env ${pair}: its form is NAME=VALUE`);
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
}

if (require.main === module) {
  void main(process.argv.slice(2)).then((code) => {
    process.exitCode = code;
    // A terminal that was read from keeps Node alive; output is flushed first.
    process.stdout.write("", () => process.exit(code));
  });
}
