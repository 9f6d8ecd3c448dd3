import { expect } from "chai";
import { reportOf } from "../../../provider/agent/vm/report";
import type { Vm } from "../../../provider/agent/vm/vm";

describe("what an agent tells of a VM", () => {
  it("is of one moment: a move that ends while the header is read leaves no VM that is at home and stopped", async () => {
    const out = { m: "1", to: { host: "target" }, state: "OPEN" };
    const before = { home: "yes", floor: 7, in: [], out };
    const after = { home: "no", floor: 7, in: [], out: { ...out, state: "CLOSED" }, tombstone: { host: "target" } };
    const journal = { value: before as object };
    let reads = 0;
    const vm = {
      uuid: "vm",
      journal,
      wirings: [],
      paths: { memory: "/nowhere", disk: "/nowhere" },
      file: { spec: { nics: [] }, owner: "test" },
      live: undefined,
      header: async () => {
        reads += 1;
        // As it retires: journal, process and copy, one after the other.
        if (reads === 1) journal.value = after;
        return reads === 1 ? { state: "released" } : undefined;
      },
    };
    const report = await reportOf(vm as unknown as Vm);
    expect(report).to.include({ home: "no", state: "stopped", movedTo: "target" });
    expect(reads).to.equal(2);
  });
});
