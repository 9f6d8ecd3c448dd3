/** What set-up prints: one line per step, and, for long steps, a progress line that a terminal overwrites and a log gets every 15 s. */

const isTerminal = Boolean(process.stderr.isTTY);
const startedMs = Date.now();
let liveLine = false;

/** @param {number} ms @returns {string} as "2 min 05 s" */
export function duration(ms) {
  const seconds = Math.round(ms / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

/** @param {number} bytes @returns {string} as "14.2 MiB" */
export const size = (bytes) => (bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`);

function print(line) {
  if (liveLine) process.stderr.write("\r\x1b[K");
  liveLine = false;
  process.stderr.write(`${line}\n`);
}

/**
 * A step of set-up with a short name, as "kernel".
 * @param {string} name
 * @returns {{ say(line: string): void, progress(line: string): void, done(line: string): void }}
 */
export function step(name) {
  const beganMs = Date.now();
  let lastMs = 0;
  const label = name.padEnd(8);
  return {
    say: (line) => print(`[${duration(Date.now() - startedMs).padStart(10)}] ${label} ${line}`),
    progress(line) {
      const now = Date.now();
      if (now - lastMs < (isTerminal ? 200 : 15_000)) return;
      lastMs = now;
      if (!isTerminal) return this.say(line);
      process.stderr.write(
        `\r\x1b[K[${duration(now - startedMs).padStart(10)}] ${label} ${line}`.slice(0, (process.stderr.columns ?? 120) + 3),
      );
      liveLine = true;
    },
    done(line) {
      const tookMs = Date.now() - beganMs;
      this.say(tookMs < 1000 ? line : `${line} (${duration(tookMs)})`);
    },
  };
}
