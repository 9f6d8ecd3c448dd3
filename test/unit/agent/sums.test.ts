import { expect } from "chai";
import { StreamError } from "../../../provider/agent/migration/stream";
import { decodeHeld, decodeSums, encodeSums, maxUnits, sumBytes, sumOf } from "../../../provider/agent/migration/sums";

describe("sums of what a target may have still", () => {
  const sums = [1, 2, 3].map((byte) => sumOf(Buffer.alloc(4096, byte)));
  const ranges = [
    { first: 7, count: 2 },
    { first: 90, count: 1 },
  ];

  it("come back as they went", () => {
    expect(decodeSums(encodeSums(ranges, sums), 100, 1).map(({ unit, sum }) => [unit, sum.toString("hex")])).to.deep.equal(
      [7, 8, 90].map((unit, i) => [unit, sums[i]?.toString("hex")]),
    );
    expect(sums[0]).to.have.length(sumBytes);
  });

  for (const [what, payload, units, lowest] of [
    ["cut short", encodeSums(ranges, sums).subarray(0, 3), 100, 1],
    ["with a sum missing", encodeSums(ranges, sums.slice(1)), 100, 1],
    ["with a sum too many", encodeSums(ranges, [...sums, sumOf(Buffer.alloc(1))]), 100, 1],
    ["outside of the copy", encodeSums(ranges, sums), 90, 1],
    ["of page 0", encodeSums([{ first: 0, count: 3 }], sums), 100, 1],
    ["of nothing", encodeSums([{ first: 5, count: 0 }], []), 100, 1],
    ["with more ranges than there are bytes", Buffer.from([0, 0, 3, 0]), 100, 1],
    ["with a great many ranges", Buffer.from([255, 255, 255, 255, 0]), 100, 1],
    ["of a great many units", encodeSums([{ first: 1, count: maxUnits + 1 }], []), 1 << 20, 1],
    [
      "with a number beyond all",
      Buffer.concat([Buffer.from([0, 0, 0, 1]), Buffer.alloc(8, 255), Buffer.from([0, 0, 0, 1]), sums[0] as Buffer]),
      100,
      0,
    ],
  ] as const)
    it(`are refused ${what}`, () => {
      expect(() => decodeSums(payload, units, lowest)).to.throw(StreamError);
    });

  it("are answered by a bit each, in as many bytes as the question has", () => {
    const bits = Buffer.alloc(8);
    bits[0] = 0b101;
    const held = decodeHeld(bits, 3);
    expect([0, 1, 2].map((i) => held.has(i))).to.deep.equal([true, false, true]);
    expect(() => decodeHeld(Buffer.alloc(16), 3)).to.throw(StreamError);
    expect(() => decodeHeld(Buffer.alloc(0), 3)).to.throw(StreamError);
  });
});
