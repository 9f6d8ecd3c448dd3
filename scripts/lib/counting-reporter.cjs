/**
 * mocha's spec reporter, which also leaves its counts and what failed in the file that MOBITOPOLO_TEST_COUNTS names, and does not let a run hang
 * that is over: what a test left open keeps the process alive, so it is named, and the run fails.
 */
const { writeFileSync } = require("node:fs");
const { reporters, Runner } = require("mocha");

const leftOpenAfterMs = 15_000;

module.exports = class CountingReporter extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    runner.once(Runner.constants.EVENT_RUN_END, () => {
      const file = process.env.MOBITOPOLO_TEST_COUNTS;
      const failed = this.failures.map((test) => `${test.fullTitle()}\n${test.err?.stack ?? test.err}`);
      if (file) writeFileSync(file, JSON.stringify({ ...this.stats, failed }));
      setTimeout(() => {
        console.error(`all tests have ended, but they left open: ${leftOpen().join(", ")}`);
        process.exit(1);
      }, leftOpenAfterMs).unref();
    });
  }
};

/** The event loop's handles, with what they say of themselves. */
function leftOpen() {
  return process._getActiveHandles().map((handle) => {
    const facts = [handle.spawnfile, handle.pid, handle.remoteAddress, handle.remotePort, handle._pipeName, handle.path, handle.fd];
    return [handle.constructor.name, ...facts.filter((fact) => fact !== undefined && fact !== null)].join(" ");
  });
}
