/** Child processes of set-up: output kept for the error, progress read line by line. */
import { spawn } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { createInterface } from "node:readline";
import { SetupError } from "./errors.mjs";

/**
 * Runs a program to its end.
 * @param {string} file @param {readonly string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, input?: string, onLine?: (line: string) => void, what?: string, next?: string, ok?: readonly number[], timeoutMs?: number }} [options]
 *   `onLine` gets each line of stdout and stderr; `what` names the work in the error; `ok`: exit codes that are no error (default 0)
 * @returns {Promise<{ stdout: string, stderr: string, code: number }>}
 */
export function run(file, args, options = {}) {
  const what = options.what ?? `${file} ${args[0] ?? ""}`.trim();
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      timeout: options.timeoutMs,
    });
    const kept = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"]) {
      const stream = child[name];
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        kept[name] += text;
      });
      if (options.onLine) createInterface({ input: stream }).on("line", options.onLine);
    }
    child.stdin?.on("error", () => {});
    child.stdin?.end(options.input);
    child.on("error", (cause) =>
      reject(new SetupError(`${what}: ${file} can't be started (${cause.code ?? cause.message})`, { next: options.next, cause })),
    );
    child.on("close", (code, signal) => {
      if (code !== null && (options.ok ?? [0]).includes(code)) return resolve({ ...kept, code });
      const end = code === null ? `killed by ${signal}` : `exit code ${code}`;
      reject(new SetupError(`${what} failed (${end}): ${lastLines(`${kept.stdout}\n${kept.stderr}`)}`, { next: options.next }));
    });
  });
}

/** The few lines of an output that say what was wrong. */
function lastLines(text) {
  const lines = text
    .split("\n")
    .map((l) => l.trim())
    .filter(Boolean);
  const faults = lines.filter((l) => /\b(error|fatal|undefined reference)\b|^E:/i.test(l) && !/^make/.test(l));
  return (faults.length ? faults.slice(0, 3) : lines.slice(-3)).join(" | ").slice(0, 800) || "no output";
}

/** @param {string} name @param {string} [path] @returns {Promise<string | undefined>} where a program lies on the path */
export async function which(name, path = process.env.PATH ?? "") {
  for (const dir of path.split(delimiter).filter(Boolean)) {
    const file = join(dir, name);
    if (await isExecutable(file)) return file;
  }
  return undefined;
}

/** @param {string} file */
export const isExecutable = (file) =>
  access(file, constants.X_OK).then(
    () => true,
    () => false,
  );
