import { mkdtempSync, rmSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { Journals } from "../../../provider/agent/migration/journal";
import { UnreadableStateError } from "../../../provider/lib/files";
import { SlotFile } from "../../../provider/lib/slot";

const vm = "8a1e7b7e-4a3f-4f9e-9b1e-0a6f3c1d2e3f";

describe("durable records", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "mobi-slot-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("a slot gives the last record, and the one before where a write was torn at any byte", async () => {
    const path = join(folder, "slot");
    const slot = await SlotFile.open(path, { n: 0 }, 512);
    await slot.write({ n: 1 });
    const before = await readFile(path);
    await slot.write({ n: 2 });
    const after = await readFile(path);
    await slot.close();
    for (let torn = 0; torn <= after.length; torn += 7) {
      await writeFile(path, Buffer.concat([after.subarray(0, torn), before.subarray(torn)]));
      const opened = await SlotFile.open(path, {}, 512);
      expect([{ n: 1 }, { n: 2 }]).to.deep.include(opened.value as { n: number });
      await opened.close();
    }
  });

  it("a slot never grows, and refuses what does not fit", async () => {
    const path = join(folder, "slot");
    const slot = await SlotFile.open(path, {}, 512);
    const size = (await readFile(path)).length;
    await slot.write({ text: "x".repeat(300) });
    let refused: unknown;
    await slot.write({ text: "x".repeat(600) }).catch((error: unknown) => {
      refused = error;
    });
    expect(refused).to.be.instanceOf(RangeError);
    expect((await readFile(path)).length).to.equal(size);
    await slot.close();
  });

  it("an unreadable slot is an error, never empty", async () => {
    const path = join(folder, "slot");
    await (await SlotFile.open(path, {}, 512)).close();
    await writeFile(path, Buffer.alloc(1024));
    let thrown: unknown;
    await SlotFile.open(path, {}, 512).catch((error: unknown) => {
      thrown = error;
    });
    expect(thrown).to.be.instanceOf(UnreadableStateError);
  });

  it("writers of a journal at the same time do not undo each other", async () => {
    const journal = await (await Journals.open(folder)).make(vm, { incarnation: "abcd" });
    const epochs = await Promise.all([
      journal.burnEpoch(),
      journal.write({ home: "yes" }),
      journal.burnEpoch(),
      journal.write({ gen: 7 }),
      journal.burnEpoch(),
    ]);
    expect(epochs.filter((one) => typeof one === "number")).to.deep.equal([1, 2, 3]);
    expect(journal.value).to.include({ floor: 3, home: "yes", gen: 7 });
    await journal.close();
    const again = (await Journals.open(folder)).get(vm);
    expect(again?.value).to.include({ floor: 3, home: "yes", gen: 7 });
    await again?.close();
  });

  it("a VM's journal is found again as it was", async () => {
    const journals = await Journals.open(folder);
    const journal = await journals.make(vm, { incarnation: "abcd" });
    expect(await journal.burnEpoch()).to.equal(1);
    await journal.write({
      home: "yes",
      out: { m: "m1", to: { host: "t", agentId: "aa" }, epochTarget: 2, epochReturn: 3, gen: 1, state: "INIT" },
    });
    await journal.writeOut({ state: "CLOSED" }, { home: "no", tombstone: { host: "t", agentId: "aa" } });
    await journal.close();
    const again = (await Journals.open(folder)).get(vm);
    expect(again?.value).to.deep.include({ incarnation: "abcd", floor: 1, home: "no", tombstone: { host: "t", agentId: "aa" } });
    expect(again?.value.out?.state).to.equal("CLOSED");
    await again?.close();
  });
});
