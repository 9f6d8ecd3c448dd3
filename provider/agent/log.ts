import { closeSync, openSync, renameSync, statSync, writeSync } from "node:fs";
import pino, { type Logger } from "pino";

const limitBytes = 8 * 1048576;

/** Logs JSON lines to a file that is renamed to `.1` when it is long: two files at most. Keys of links and jobs never get here. */
export function openLog(path: string, level: string): Logger {
  let fd = openSync(path, "a", 0o600);
  let bytes = statSync(path).size;
  const write = (line: string): void => {
    if (bytes > limitBytes) {
      closeSync(fd);
      renameSync(path, `${path}.1`);
      fd = openSync(path, "a", 0o600);
      bytes = 0;
    }
    bytes += writeSync(fd, line);
  };
  return pino(
    { level, base: undefined, redact: { paths: ["key", "*.key"], remove: true }, timestamp: pino.stdTimeFunctions.isoTime },
    { write },
  );
}
