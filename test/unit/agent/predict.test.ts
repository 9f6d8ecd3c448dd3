import { expect } from "chai";
import { linkRateOf, type Observed, predict } from "../../../provider/agent/migration/predict";

const MiB = 1 << 20;
const guest = (dirtyMiBPerS: number): Observed => ({
  memoryBytes: 64 * MiB,
  diskBytes: 0,
  compression: 0.5,
  dirtyBytesPerS: dirtyMiBPerS * MiB,
  scanMs: 10,
});
const at = (linkMbps: number) => ({ linkMbps, linkFrom: "bandwidthMbps" as const });

describe("what a move would come to", () => {
  it("a quiet guest: its memory once, and a pause of milliseconds", () => {
    const seen = predict(guest(0), {}, at(100));
    expect(seen)
      .to.include({ bytes: 32 * MiB, rounds: 1, linkMbps: 100 })
      .and.not.to.have.property("how");
    expect(seen.seconds).to.be.closeTo((32 * MiB * 8) / 100e6, 0.1);
    expect(seen.downtimeMs).to.equal(15);
  });

  it("a busy guest on a fast link: rounds that shrink", () => {
    const seen = predict(guest(4), {}, at(100));
    expect(seen.rounds).to.be.within(2, 4);
    expect(seen.downtimeMs).to.be.lessThan(50);
    expect(seen).not.to.have.property("how");
    expect(seen.bytes).to.be.greaterThan(32 * MiB);
  });

  it("one that outruns its link: by what its policy says", () => {
    const throttled = predict(guest(4), {}, at(8));
    expect(throttled).to.include({ how: "throttled" });
    expect(throttled.downtimeMs).to.be.at.most(50);
    const longer = predict(guest(4), { onNoConvergence: "extend" }, at(8));
    expect(longer).to.include({ how: "a longer downtime" });
    expect(longer.downtimeMs).to.be.greaterThan(1_000);
    expect(predict(guest(4), { onNoConvergence: "abort" }, at(8))).to.include({ how: "it would be given up" });
  });

  it("a deadline ends the rounds", () => {
    const seen = predict(guest(4), { deadlineS: 1 }, at(8));
    expect(seen).to.include({ how: "a longer downtime", rounds: 1 });
  });

  it("takes the slower of what is allowed and what was seen, and says when it only assumes", () => {
    expect(linkRateOf({ bandwidthMbps: 8 }, 100)).to.deep.equal({ linkMbps: 8, linkFrom: "bandwidthMbps" });
    expect(linkRateOf({ bandwidthMbps: 200 }, 100)).to.deep.equal({ linkMbps: 100, linkFrom: "an earlier move" });
    expect(linkRateOf({}, 100)).to.deep.equal({ linkMbps: 100, linkFrom: "an earlier move" });
    expect(linkRateOf({}, undefined)).to.deep.equal({ linkMbps: 1000, linkFrom: "an assumption" });
  });
});
