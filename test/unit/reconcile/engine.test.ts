import { expect } from "chai";
import { throttled } from "../../../provider/reconcile/engine";
import { PartialFailure } from "../../../provider/reconcile/errors";
import { clean, handlerOf, type Reconciler, visible } from "../../../provider/reconcile/handler";

describe("progress on a row", () => {
  it("lets new phases through at once, the same phase every two seconds, equal texts never", () => {
    let now = 0;
    const sent: string[] = [];
    const tell = throttled(
      (text) => sent.push(text),
      () => now,
    );
    for (const [at, text] of [
      [0, "pre-copy round 1: 1 MiB"],
      [500, "pre-copy round 1: 2 MiB"],
      [900, "freeze: 3 MiB"],
      [1000, "pre-copy round 2: 3 MiB"],
      [3100, "pre-copy round 2: 4 MiB"],
      [9000, "pre-copy round 2: 4 MiB"],
    ] as const) {
      now = at;
      tell(text);
    }
    expect(sent).to.deep.equal(["pre-copy round 1: 1 MiB", "freeze: 3 MiB", "pre-copy round 2: 3 MiB", "pre-copy round 2: 4 MiB"]);
  });
});

describe("handler", () => {
  const reconciler = (part: Partial<Reconciler>): Reconciler => {
    const unused = () => {
      throw new Error("not of this test");
    };
    return { check: unused, diff: unused, create: unused, read: unused, update: unused, delete: unused, ...part };
  };

  it("lets no undefined into the state", async () => {
    expect(clean({ a: undefined, b: { c: undefined, d: 1 } })).to.deep.equal({ b: { d: 1 } });
    const handler = handlerOf(reconciler({ create: async () => ({ id: "x", outs: { a: undefined, b: 1 } }) }));
    expect(await handler.create({})).to.deep.equal({ id: "x", outs: { b: 1 } });
  });

  it("gives a blank answer for what is gone", async () => {
    expect(await handlerOf(reconciler({ read: async () => undefined })).read?.("x", {})).to.deep.equal({});
  });

  it("puts __provider into what a partial failure saves", async () => {
    const handler = handlerOf(
      reconciler({
        update: async () => {
          throw new PartialFailure("x", { host: "b", gone: undefined }, new Error("links"));
        },
      }),
    );
    const error = await handler.update?.("x", {}, { __provider: "code" }).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error)
      .to.be.instanceOf(PartialFailure)
      .and.deep.include({ id: "x", reasons: ["links"], properties: { host: "b", __provider: "code" } });
  });

  it("hides what is ours", () => expect(visible({ a: 1, __b: 2 })).to.deep.equal({ a: 1 }));
});
