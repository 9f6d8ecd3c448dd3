import { expect } from "chai";
import { isStarved, standBack } from "../../../provider/agent/vm/weight";

describe("an agent's weight", () => {
  const at = (atMs: number, ranMs: number, waitedMs: number) => ({ atMs, ranMs, waitedMs });

  it("is too little where it mostly waits for a CPU, and not where it has little to do or gets on", () => {
    expect(isStarved(at(0, 0, 0), at(250, 5, 240)), "guests compute on all CPUs").to.equal(true);
    expect(isStarved(at(1000, 500, 900), at(1250, 505, 1140)), "what was before does not count").to.equal(true);
    expect(isStarved(at(0, 0, 0), at(250, 2, 100)), "it did little").to.equal(false);
    expect(isStarved(at(0, 0, 0), at(250, 200, 400)), "many threads, which get on").to.equal(false);
    expect(isStarved(at(0, 0, 0), at(250, 240, 5))).to.equal(false);
  });

  it("is nobody's business where the session is not the agent's own", () => {
    const first = standBack();
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    using _ = standBack();
  });
});
