import { expect } from "chai";
import { parseConfig } from "../../../uml-kernel/lib/config.mjs";
import { hashParts } from "../../../uml-kernel/lib/hash.mjs";

describe("kernel configuration", () => {
  it("reads options that are set, off and left out", () => {
    const config = parseConfig('# a comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x=y"\n');
    expect([...config]).to.deep.equal([
      ["CONFIG_A", "y"],
      ["CONFIG_B", "n"],
      ["CONFIG_C", '"x=y"'],
    ]);
  });

  it("gives another build id when text moves from one part to the next", () => {
    expect(hashParts(["ab", "c"])).to.not.equal(hashParts(["a", "bc"]));
  });
});
