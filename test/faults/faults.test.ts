import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { agentProgram } from "../contract/support/agents";
import { faults } from "./faults";

const run = promisify(execFile);
/** Each fault once, and one of them again. */
const moves = faults.length + 1;
/** The same faults at the same points each time, so that a change is what makes a difference; `npm run test:faults` looks for new ones. */
const usualSeed = "462048596";

interface Result {
  readonly moves: number;
  readonly twoCopies: number;
  readonly byFault: Readonly<Record<string, { readonly moves: number }>>;
}

/** The program as its own process: it enters a mount namespace. */
async function faultTest(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<{ result: Result; said: string; code: number }> {
  const seed = process.env.MOBITOPOLO_SEED ?? usualSeed;
  const command = ["--import", "tsx", join(__dirname, "main.ts"), "--json", "--seed", seed, ...args];
  const ended = await run(process.execPath, command, { maxBuffer: 16 << 20, env: { ...process.env, ...env } }).then(
    ({ stdout, stderr }) => ({ stdout, stderr, code: 0 }),
    (error: Error & { stdout: string; stderr: string; code: number }) => error,
  );
  expect(ended.stdout, ended.stderr).to.match(/^\{/);
  return { result: JSON.parse(ended.stdout) as Result, said: ended.stderr, code: ended.code };
}

describe("moves with faults in them", function () {
  this.timeout(600_000);

  it(`${moves} of them end with one running copy, a whole guest and a true state`, async () => {
    const { result, said } = await faultTest(["--moves", String(moves)]);
    expect(result, said).to.include({ moves, twoCopies: 0, lostGuests: 0, corruptions: 0, unrecovered: 0 });
    // Each fault was made at least once.
    expect(Object.keys(result.byFault)).to.have.members(faults.map(({ name }) => name));
  });

  it("would find two copies: an agent that returns because it heard nothing is caught by the frames of its guest", async () => {
    const folder = mkdtempSync(join(tmpdir(), "mobi-doctored-"));
    try {
      const right = "this.#doubted.resolve(";
      const text = readFileSync(await agentProgram(), "utf8");
      expect(text.split(right), "the one place where silence leads to doubt").to.have.length(2);
      const doctored = join(folder, "agent.cjs");
      writeFileSync(doctored, text.replace(right, `this.#settled.resolve({ fact: "GONE", m: this.m, journalId: "" }), ${right}`));
      const wanted = ["--moves", "1", "--fault", "link cut for good", "--point", "started"];
      const { result, said, code } = await faultTest(wanted, { MOBITOPOLO_AGENT: doctored });
      expect(result.twoCopies, said).to.equal(1);
      expect(said).to.match(/twoCopies: the peer got \d+ frames of an incarnation that another had followed/);
      expect(code).to.equal(1);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
