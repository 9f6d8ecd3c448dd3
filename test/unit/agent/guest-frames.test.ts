import { expect } from "chai";
import { encodeFrame, encodeJson, GuestFrameError, GuestFrameParser, guestFrame, withOffset } from "../../../provider/agent/guest/frames";

const hello = encodeJson(guestFrame.hello, 0, { version: 1, bootId: "b", sessions: [] });
const output = encodeFrame(guestFrame.stdout, 7, withOffset(3, Buffer.from("abc")));

describe("frames of the guest channel", () => {
  it("skips an old stream's rest until HELLO, however it is cut", () => {
    const rest = Buffer.concat([
      Buffer.from("left over"),
      output.subarray(5),
      Buffer.alloc(40),
      Buffer.from([0, 0, 0, 30, 0, 0, 0, 0, 1, 0, 0, 0, 0x41]),
    ]);
    const bytes = Buffer.concat([rest, hello, output]);
    for (const size of [1, 2, 13, bytes.length]) {
      const parser = new GuestFrameParser();
      const frames = [];
      for (let at = 0; at < bytes.length; at += size) frames.push(...parser.push(bytes.subarray(at, at + size)));
      expect(frames.map((frame) => [frame.type, frame.session])).to.deep.equal([
        [1, 0],
        [12, 7],
      ]);
    }
  });

  it("in step, refuses what no guest agent sends", () => {
    const parser = new GuestFrameParser();
    parser.push(hello);
    expect(() => parser.push(encodeFrame(guestFrame.open, 7))).to.throw(GuestFrameError);
    const long = encodeFrame(guestFrame.stdout, 7);
    long.writeUInt32BE(65537, 0);
    const other = new GuestFrameParser();
    other.push(hello);
    expect(() => other.push(long)).to.throw(GuestFrameError);
  });
});
