import { expect } from "chai";
import { RunBatch } from "../../../provider/agent/migration/runs";
import { release } from "../../../provider/lib/release";

describe("memory that is given back", () => {
  it("is gone at once, where it is large and nobody else's", () => {
    const large = Buffer.allocUnsafe(1 << 20);
    release(large.buffer);
    expect(large.length).to.equal(0);
    release(large.buffer);
    // Of Node's pool, which the next small buffer is taken from, too.
    const small = Buffer.from("small");
    release(small.buffer);
    expect(small.toString()).to.equal("small");
    const shared = new SharedArrayBuffer(1 << 20);
    release(shared);
    expect(shared.byteLength).to.equal(1 << 20);
  });

  it("is what a batch was given whole, and not what others have a part of", () => {
    const [whole, other] = [Buffer.alloc(64 << 10, 1), Buffer.alloc(64 << 10, 2)];
    const part = other.subarray(0, 32 << 10);
    const batch = new RunBatch(4096);
    batch.add({ first: 1, count: 16, data: whole });
    batch.add({ first: 30, count: 8, data: part });
    const payload = batch.take();
    expect(payload.subarray(-(96 << 10)).equals(Buffer.concat([Buffer.alloc(64 << 10, 1), Buffer.alloc(32 << 10, 2)]))).to.equal(true);
    expect(whole.length).to.equal(0);
    expect(other.equals(Buffer.alloc(64 << 10, 2))).to.equal(true);
  });
});
