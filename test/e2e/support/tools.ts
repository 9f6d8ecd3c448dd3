/** The project's own scripts, as the tests use them: the Pulumi CLI and sshd, set up if they are missing. */

/** A program with the environment that it needs. */
export interface Tool {
  readonly command: string;
  readonly env: NodeJS.ProcessEnv;
}

interface CliModule {
  pulumiCommand(options: { cwd?: string }): Promise<Tool>;
}
interface SshdModule {
  sshdProgram(options?: object): Promise<{ path: string; env: NodeJS.ProcessEnv }>;
}

/** The real Pulumi CLI and its environment (Node 24 first on PATH, no account, no update check). */
export async function pulumi(cwd: string): Promise<Tool> {
  const scripts: CliModule = await import("../../../scripts/lib/cli.mjs");
  return scripts.pulumiCommand({ cwd });
}

/** OpenSSH's server, from the machine or the project's cache. */
export async function sshdProgram(): Promise<Tool> {
  const scripts: SshdModule = await import("../../../scripts/lib/sshd.mjs");
  const { path, env } = await scripts.sshdProgram();
  return { command: path, env };
}
