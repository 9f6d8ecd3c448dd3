import { expect } from "chai";
import type { Case } from "../../bench/support/cases";
import { goalsOf } from "../../bench/support/goals";
import { speedKept } from "../../bench/support/guest";
import { summarize } from "../../bench/support/report";
import type { Move, Outcome } from "../../bench/support/side";

/** The benchmark's arithmetic: what it says must follow from the runs. */
describe("bench:migrate's report", () => {
  const settings = { name: "downtime-limit 20", capabilities: [], parameters: {} };
  const slowPages: Case = { name: "pages, slow", link: { mbps: 8, rttMs: 50 }, load: { dirty: "pages" }, memoryMiB: 128, qemu: [settings] };
  const move = (gapMs: number, bytes: number, more: Partial<Move> = {}): Move => ({
    gapMs,
    bytes,
    totalS: 2,
    guestOk: true,
    quietGapMs: 1,
    reported: { downtimeMs: gapMs },
    ...more,
  });
  const never: Outcome = { failed: "not done in 300 s", afterS: 300, bytes: 9 };
  const result = (c: Case, ours: Outcome[], ...qemu: Outcome[][]) => {
    const summary = summarize(c, { ours, qemu: qemu.map((runs) => ({ settings, runs })) }, [], [0.5, 2]);
    return { machine: { cpus: "", qemu: "", taps: true }, cases: [summary], touched: [] };
  };

  it("takes medians, and divides them", () => {
    const [summary] = result(slowPages, [move(10, 100), move(90, 300), move(20, 200)], [move(100, 600)]).cases;
    expect(summary?.ours).to.include({ gapMs: 20, bytes: 200, guestOk: true });
    expect(summary?.ratio).to.deep.equal({ gap: 5, bytes: 3, total: 1 });
    expect(summary?.machineLoad).to.deep.equal([0.5, 2]);
  });

  it("ours is held against the best that QEMU does with any settings", () => {
    const [summary] = result(slowPages, [move(10, 100)], [move(100, 600)], [move(90, 800)], [never]).cases;
    expect(summary?.qemu?.gapMs).to.equal(90);
    expect(summary?.qemuOtherSettings?.map((r) => r.gapMs)).to.deep.equal([100, null]);
    expect(summary?.ratio).to.deep.equal({ gap: 9, bytes: 6, total: 1 });
  });

  it("one guest that is not right is not outvoted", () => {
    const [summary] = result(slowPages, [move(1, 1), move(1, 1), move(1, 1, { guestOk: false, why: "page 7" })], [never]).cases;
    expect(summary?.ours.guestOk).to.equal(false);
    expect(summary?.qemu).to.include({ guestOk: null, gapMs: null });
    expect(summary?.ratio).to.deep.equal({ gap: null, bytes: null, total: null });
  });

  it("goals: reached, missed, and a QEMU that does not end", () => {
    const reached = (ours: Outcome[], qemu: Outcome[]): boolean[] => goalsOf(result(slowPages, ours, qemu)).map((g) => g.reached);
    // QEMU's gap over ours, its bytes over ours (2 is enough for these pages), and our gap.
    expect(reached([move(100, 100)], [move(900, 200)])).to.deep.equal([true, true, true]);
    expect(reached([move(160, 100)], [move(900, 190)])).to.deep.equal([false, false, false]);
    expect(reached([move(100, 100)], [never])).to.deep.equal([true, true, true]);
    expect(reached([never], [never])).to.deep.equal([false, false, false]);
  });

  it("what a program did not do is held against the move alone", () => {
    const at = (atMs: number, count: number) => ({ atMs, count });
    // 1 a millisecond; then 10 s, 4 of which are the move, and 1 s is missing.
    expect(speedKept([at(0, 0), at(2000, 2000), at(12_000, 11_000)], 4000)).to.equal(0.75);
    expect(speedKept([at(0, 0), at(2000, 2000), at(12_000, 12_000)], 4000)).to.equal(1);
    expect(speedKept([undefined, undefined, undefined], 4000)).to.equal(undefined);
  });

  it("the gap's growth with touched memory is told by the extremes", () => {
    const touched = [10, 12.9, 13.1].map((gapMs, i) => {
      const [summary] = result(slowPages, [move(gapMs, 1)]).cases;
      if (!summary) throw new Error("no summary");
      return { ...summary, touchedMib: 32 << i };
    });
    const growth = (some: typeof touched): boolean | undefined =>
      goalsOf({ machine: { cpus: "", qemu: "", taps: true }, cases: [], touched: some })[0]?.reached;
    expect(growth(touched.slice(0, 2))).to.equal(true);
    expect(growth(touched)).to.equal(false);
  });
});
