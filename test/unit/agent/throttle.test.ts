import { expect } from "chai";
import { dutyOf, Throttle } from "../../../provider/agent/migration/throttle";
import { ControlError } from "../../../provider/agent/vm/control";
import { until } from "../../../provider/lib/time";

/** A VM process as far as a throttle sees it: frozen or not, with the dead man's timer. */
class FakeProcess {
  frozen = false;
  freezes = 0;
  longestMs = 0;
  dead = false;
  #timer: NodeJS.Timeout | undefined;

  async say(verb: string, values: Readonly<Record<string, string | number | undefined>> = {}): Promise<object> {
    if (this.dead) throw new ControlError(verb, "closed", "it ended");
    expect(values.attempt).to.equal("throttle");
    if (this.frozen !== (verb === "thaw")) throw new ControlError(verb, "bad-state", "not for this state");
    clearTimeout(this.#timer);
    this.frozen = verb === "freeze";
    if (!this.frozen) return {};
    this.freezes += 1;
    this.longestMs = Math.max(this.longestMs, Number(values.deadmanMs));
    this.#timer = setTimeout(() => {
      this.frozen = false;
    }, Number(values.deadmanMs));
    return {};
  }
}

describe("a guest that is slowed down", () => {
  it("stands for 5 ms at most while that is enough, and never longer than its user allows", () => {
    expect(dutyOf(0.5, 50)).to.deep.equal({ stopMs: 5, runMs: 5 });
    expect(dutyOf(0.25, 50).stopMs).to.equal(5);
    expect(dutyOf(0.1, 50)).to.deep.equal({ stopMs: 9, runMs: 1 });
    expect(dutyOf(0.02, 50)).to.deep.equal({ stopMs: 49, runMs: 1 });
    expect(dutyOf(0.02, 20)).to.deep.equal({ stopMs: 20, runMs: 1 });
    expect(dutyOf(0.02, 1)).to.deep.equal({ stopMs: 5, runMs: 1 });
    // It stands two milliseconds later than asked.
    expect(dutyOf(0.5, 50, 2)).to.deep.equal({ stopMs: 5, runMs: 3 });
    expect(dutyOf(0.1, 50, 2)).to.deep.equal({ stopMs: 27, runMs: 1 });
  });

  it("runs freely after the lift, and no stop comes later", async () => {
    const guest = new FakeProcess();
    const throttle = new Throttle(guest, 50, (reason) => expect.fail(reason));
    throttle.set(0.1);
    await until(5_000, "three stops", async () => (guest.freezes >= 3 ? true : undefined));
    await throttle.lift();
    expect(guest.frozen).to.equal(false);
    // As late as timers are, as much longer it stands.
    expect(guest.longestMs).to.be.within(9, 50);
    const { freezes } = guest;
    throttle.set(0.5);
    await throttle.lift();
    expect(guest.freezes).to.equal(freezes);
  });

  it("ends with the process, and says so", async () => {
    const guest = new FakeProcess();
    const said: string[] = [];
    const throttle = new Throttle(guest, 50, (reason) => said.push(reason));
    throttle.set(0.5);
    await until(5_000, "a stop", async () => (guest.freezes > 0 ? true : undefined));
    guest.dead = true;
    await until(5_000, "its end to be seen", async () => (said.length > 0 ? true : undefined));
    expect(said).to.deep.equal(["freeze: it ended (closed)"]);
    await throttle.lift();
  });
});
