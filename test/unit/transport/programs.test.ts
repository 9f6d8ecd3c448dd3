import { expect } from "chai";
import { shouldReplace, versionOf } from "../../../provider/transport/programs";

describe("shouldReplace", () => {
  const cases: [running: string, ours: string, replace: boolean][] = [
    ["0.1.0+aaa", "0.2.0+bbb", true],
    ["0.2.0+aaa", "0.1.9+bbb", false],
    ["0.10.0+aaa", "0.9.0+bbb", false],
    ["0.1.0+aaa", "0.1.0+aaa", false],
    ["0.1.0+aaa", "0.1.0+bbb", true],
    ["1.0.0-rc.1+a", "1.0.0+b", true],
    ["1.0.0+a", "1.0.0-rc.1+b", false],
  ];
  for (const [running, ours, replace] of cases)
    it(`${running} by ${ours}: ${replace}`, () => expect(shouldReplace(running, ours)).to.equal(replace));

  it("names a program by version and hash", () => expect(versionOf("0.1.0", "0123456789abcdef".repeat(4))).to.equal("0.1.0+0123456789ab"));
});
