import { expect } from "chai";
import { judge, plainCourse, type Round, throttleNow } from "../../../provider/agent/migration/rounds";

const policy = { maxDowntimeMs: 50, deadlineMs: 300_000 };
const round = (bytes: number, ms: number, scanMs = 0): Round => ({ bytes, ms, scanMs });

describe("when pre-copy ends", () => {
  it("never after the first round: nothing is known of the guest yet", () => {
    expect(judge([round(10e6, 100)], policy, 100).next).to.equal("round");
  });

  it("when the last copy is estimated to fit", () => {
    const verdict = judge([round(10e6, 100), round(100e3, 2)], policy, 102);
    expect(verdict).to.include({ next: "final", why: "fits" });
    expect(verdict.estimateMs).to.be.lessThan(10);
  });

  it("goes on while rounds shrink", () => {
    // 8 Mbit/s = 1 byte/µs; 300 kB take 300 ms: too long for 50 ms, but less than before.
    expect(judge([round(10e6, 10_000), round(3e6, 3_000)], policy, 13_000).next).to.equal("round");
    expect(judge([round(10e6, 10_000), round(3e6, 3_000), round(900e3, 900)], policy, 14_000)).to.include({ next: "round" });
  });

  const stuck = [round(10e6, 10_000), round(9e6, 9_000), round(9e6, 9_000), round(9e6, 9_000), round(9e6, 9_000), round(9e6, 9_000)];

  it("extend: after four rounds that did not shrink (one that writes in bursts has lulls), each round doubles the downtime", () => {
    const extend = { ...policy, onNoConvergence: "extend" as const };
    expect(judge(stuck.slice(0, 4), extend, 20_000)).to.include({ next: "round", why: "go on" });
    expect(judge([...stuck.slice(0, 5), round(5e6, 5_000)], extend, 40_000)).to.include({ next: "round", why: "go on" });
    const seen: number[] = [];
    let verdict = judge(stuck, extend, 40_000);
    for (const rounds = [...stuck]; verdict.next === "round"; verdict = judge(rounds, extend, 40_000, verdict.course)) {
      expect(verdict.why).to.equal("extend");
      seen.push(verdict.course.allowedMs);
      rounds.push(round(9e6, 9_000));
    }
    expect(seen).to.deep.equal([100, 200, 400, 800, 1600, 3200, 6400]);
    expect(verdict).to.include({ next: "final", why: "fits a longer downtime" });
    expect(judge(stuck, extend, 300_000)).to.include({ next: "final", why: "deadline" });
  });

  it("postcopy: goes on at the target as soon as the guest outruns the link, and at the deadline; what fits is copied as ever", () => {
    const postcopy = { ...policy, onNoConvergence: "postcopy" as const };
    expect(judge(stuck.slice(0, 2), postcopy, 19_000)).to.include({ next: "final", why: "post-copy", late: true });
    expect(judge([round(10e6, 10_000), round(3e6, 3_000)], postcopy, 13_000)).to.include({ next: "round", why: "go on" });
    expect(judge(stuck, postcopy, 300_000)).to.include({ next: "final", why: "deadline", late: true });
    expect(judge([round(30e6, 3_000), round(3e3, 0.3)], postcopy, 4_000))
      .to.include({ next: "final", why: "fits" })
      .and.not.have.property("late");
  });

  it("abort: gives up instead, also at the deadline", () => {
    const abort = { ...policy, onNoConvergence: "abort" as const };
    expect(judge(stuck.slice(0, 4), abort, 20_000)).to.include({ next: "round" });
    expect(judge(stuck, abort, 40_000)).to.include({ next: "give up", why: "not shrinking", dirtyRate: 1000, linkRate: 1000 });
    expect(judge(stuck.slice(0, 4), abort, 300_000)).to.include({ next: "give up", why: "deadline" });
  });

  it("throttle: slows the guest as soon as it outruns the link, judges that by its own rounds, and extends when it has no more to take", () => {
    let course = judge(stuck.slice(0, 2), policy, 20_000).course;
    expect(course).to.deep.equal({ share: 0.25 / 0.9, allowedMs: 50, since: 2 });
    expect(judge(stuck.slice(0, 3), policy, 20_000, course), "carries what was written before the step").to.deep.include({
      why: "go on",
      course,
    });
    const shares: number[] = [];
    for (let n = 4; course.allowedMs === 50; n += 2) {
      course = judge(
        Array.from({ length: n }, () => round(9e6, 9_000)),
        policy,
        40_000,
        course,
      ).course;
      shares.push(course.share);
    }
    expect(shares.map((share) => share.toFixed(3))).to.deep.equal(["0.069", "0.020", "0.020"]);
    expect(course.allowedMs).to.equal(100);
  });

  it("throttle: within a round, at once by as much as the measured rate asks for, and once only", () => {
    const course = plainCourse(policy);
    const seen = [round(34e6, 34_000)];
    // A set of 32 MB, all of it written again each eight seconds: round after round would be of 32 MB.
    expect(throttleNow(4000, seen, policy, course)).to.deep.equal({ share: 0.0625, allowedMs: 50, since: 1 });
    expect(throttleNow(1e6, seen, policy, course)?.share).to.equal(0.02);
    expect(throttleNow(800, seen, policy, course), "rounds shrink").to.equal(undefined);
    expect(throttleNow(4000, seen, policy, { ...course, share: 0.0625 }), "slowed down already").to.equal(undefined);
    for (const onNoConvergence of ["extend", "postcopy", "abort"] as const)
      expect(throttleNow(4000, seen, { ...policy, onNoConvergence }, course)).to.equal(undefined);
  });

  it("throttle: not where the search takes the time, for that would help nothing", () => {
    const quiet = [round(10e6, 1_000, 75), ...Array.from({ length: 6 }, () => round(4e3, 80, 75))];
    expect(judge(quiet, policy, 600)).to.include({ next: "final", why: "fits a longer downtime" });
  });

  it("ends at the deadline whatever happens", () => {
    expect(judge([round(10e6, 10_000)], { ...policy, deadlineMs: 5_000 }, 10_000)).to.include({ next: "final", why: "deadline" });
    expect(judge([round(10e6, 10_000), round(8e6, 8_000)], { ...policy, deadlineMs: 5_000 }, 18_000)).to.include({
      next: "final",
      why: "deadline",
    });
  });

  it("takes a slow link for slow, though the search waits for it", () => {
    // 8 Mbit/s; the scanner was blocked nearly all the time.
    const slow = [round(10e6, 10_000, 9_990), round(500e3, 500, 490)];
    expect(judge(slow, policy, 10_500)).to.include({ next: "round" });
  });

  it("counts the search for changed pages into the downtime", () => {
    expect(judge([round(10e6, 100, 60), round(1e3, 62, 60)], policy, 200).estimateMs).to.be.greaterThan(60);
  });
});
