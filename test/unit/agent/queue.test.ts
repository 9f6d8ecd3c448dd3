import { expect } from "chai";
import { MoveQueue } from "../../../provider/agent/migration/queue";

/** Moves that ask for their turn; `end` gives it back. */
function setting(atOnce: number) {
  const queue = new MoveQueue(atOnce);
  const began: string[] = [];
  const ahead = new Map<string, number>();
  const turns = new Map<string, Disposable>();
  const aborts = new Map<string, AbortController>();
  const settled = async (): Promise<void> => await new Promise((resolve) => setImmediate(resolve));
  return {
    queue,
    began,
    ahead,
    ask: (name: string, ...links: string[]): Promise<void> => {
      const abort = new AbortController();
      aborts.set(name, abort);
      return queue
        .turn(new Set(links), abort.signal, (count) => ahead.set(name, count))
        .then((turn) => {
          began.push(name);
          turns.set(name, turn);
        });
    },
    end: async (name: string): Promise<void> => {
      turns.get(name)?.[Symbol.dispose]();
      await settled();
    },
    cancel: (name: string): void => aborts.get(name)?.abort(new Error("cancelled")),
    settled,
  };
}

describe("several moves out of one host", () => {
  it("copy so many at once; the others wait and hear how many come first", async () => {
    const s = setting(2);
    for (const name of ["a", "b", "c", "d"]) void s.ask(name);
    await s.settled();
    expect(s.began).to.deep.equal(["a", "b"]);
    expect([...s.ahead]).to.deep.equal([
      ["c", 2],
      ["d", 3],
    ]);
    await s.end("a");
    expect(s.began).to.deep.equal(["a", "b", "c"]);
    await s.end("b");
    await s.end("c");
    expect(s.began).to.deep.equal(["a", "b", "c", "d"]);
  });

  it("bring VMs that are linked with each other one after the other", async () => {
    const s = setting(1);
    void s.ask("a", "ab");
    void s.ask("x");
    void s.ask("b", "ab", "bc");
    void s.ask("c", "bc");
    await s.settled();
    for (const name of ["a", "b", "c"]) await s.end(name);
    expect(s.began).to.deep.equal(["a", "b", "c", "x"]);
  });

  it("let nobody wait for ever, however long the chain of the others is", async () => {
    const s = setting(1);
    void s.ask("first", "chain");
    void s.ask("patient");
    for (let i = 0; i < 20; i++) void s.ask(`n${i}`, "chain");
    await s.settled();
    for (let i = 0; i < s.began.length && !s.began.includes("patient"); i++) await s.end(s.began[i] ?? "");
    expect(s.began).to.have.length(10);
    expect(s.began.at(-1)).to.equal("patient");
  });

  it("one that is cancelled leaves the queue, waiting or not", async () => {
    const s = setting(1);
    void s.ask("a");
    const failed = s.ask("b").then(
      () => "began",
      (error: Error) => error.message,
    );
    void s.ask("c");
    s.cancel("b");
    expect(await failed).to.equal("cancelled");
    expect(s.ahead.get("c")).to.equal(1);
    await s.end("a");
    expect(s.began).to.deep.equal(["a", "c"]);
  });
});
