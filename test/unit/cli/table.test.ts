import { expect } from "chai";
import { durationText, renderTable, sizeText } from "../../../provider/cli/table";

describe("cli/table", () => {
  it("aligns columns and leaves no blanks at line ends", () => {
    const text = renderTable(
      [{ title: "NAME" }, { title: "N", right: true }, { title: "X" }],
      [
        ["a", "10", ""],
        ["longer", "9", "y"],
      ],
    );
    expect(text.split("\n")).to.deep.equal(["NAME     N  X", "a       10", "longer   9  y"]);
  });

  it("says sizes and durations in the unit that fits", () => {
    expect([0, 1023, 1536, 150 * 1024 * 1024, undefined].map(sizeText)).to.deep.equal(["0 B", "1023 B", "1.5 KiB", "150 MiB", "–"]);
    expect([900, 61_000, 3_660_000, 90_000_000].map(durationText)).to.deep.equal(["0s", "1m 1s", "1h 1m", "1d 1h"]);
  });
});
