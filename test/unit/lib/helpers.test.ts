import { expect } from "chai";
import { Mutex } from "../../../provider/lib/mutex";
import { DeadlineError, until, within } from "../../../provider/lib/time";
import { UndoStack } from "../../../provider/lib/undo";

describe("shared helpers", () => {
  it("an undo stack takes back in reverse order, all of it, unless committed", async () => {
    const done: number[] = [];
    let thrown: unknown;
    try {
      await using undo = new UndoStack();
      undo.add(() => done.push(1));
      undo.add(() => {
        throw new Error("two");
      });
      undo.add(async () => done.push(3));
    } catch (error) {
      thrown = error;
    }
    expect(done).to.deep.equal([3, 1]);
    expect(thrown).to.be.instanceOf(AggregateError);
    {
      await using undo = new UndoStack();
      undo.add(() => done.push(4));
      undo.commit();
    }
    expect(done).to.deep.equal([3, 1]);
  });

  it("a mutex lets one in at a time, in order, also after a failure", async () => {
    const mutex = new Mutex();
    const seen: string[] = [];
    const work = async (name: string, fails: boolean): Promise<void> =>
      await mutex.run(async () => {
        seen.push(`${name} in`);
        await new Promise((resolve) => setImmediate(resolve));
        seen.push(`${name} out`);
        if (fails) throw new Error(name);
      });
    await Promise.allSettled([work("a", true), work("b", false), work("c", false)]);
    expect(seen).to.deep.equal(["a in", "a out", "b in", "b out", "c in", "c out"]);
  });

  it("nothing waits without a deadline", async () => {
    const faultOf = async (work: Promise<unknown>): Promise<unknown> =>
      await work.then(
        () => undefined,
        (error: unknown) => error,
      );
    expect(await faultOf(within(5, "the end", new Promise(() => undefined)))).to.be.instanceOf(DeadlineError);
    expect(await faultOf(until(20, "a wonder", async () => undefined))).to.be.instanceOf(DeadlineError);
    let tries = 0;
    expect(await until(1000, "the third try", async () => (++tries === 3 ? tries : undefined))).to.equal(3);
    expect(await faultOf(until(1000, "it", async () => undefined, AbortSignal.abort(new Error("enough"))))).to.have.property(
      "message",
      "enough",
    );
  });
});
