import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { applyPatches, lintPatches, readPatches } from "../../../uml-kernel/lib/patches.mjs";

const good = `From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Subject: [PATCH 1/1] um: say more

What is said now is too little to find a fault by.
---
 a.c | 2 +-

diff --git a/a.c b/a.c
--- a/a.c
+++ b/a.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
`;

describe("kernel patches", () => {
  const lint = (name: string, text: string) => lintPatches([{ name, file: name, text }]);

  it("of the right form pass", () => {
    expect(lint("0001-um-say-more.patch", good)).to.deep.equal([]);
  });

  it("of a wrong form are told one by one", () => {
    const faults = lint(
      "0002-net-x.patch",
      good.replace("um: say more", "say more").replace("What is said now is too little to find a fault by.", ""),
    ).join("\n");
    expect(faults)
      .to.match(/not named/)
      .and.match(/number 1/)
      .and.match(/no subject/)
      .and.match(/does not say why/);
  });

  it("name a new file without its SPDX line", () => {
    const text = `${good}diff --git a/b.c b/b.c\nnew file mode 100644\n--- /dev/null\n+++ b/b.c\n@@ -0,0 +1 @@\n+int x;\n`;
    expect(lint("0001-um-x.patch", text)).to.deep.equal(["0001-um-x.patch: b.c does not begin with its SPDX line"]);
  });

  it("are those of this repository", async () => {
    const patches = await readPatches(join(__dirname, "../../../uml-kernel/patches"));
    expect(patches.length).to.be.greaterThan(0);
  });

  describe("in a tree that stays", () => {
    let home: string;
    let tree: { dir: string; pristine: string };
    const step = { say: () => {} };
    const patch = (text: string) => [{ name: "0001-um-x.patch", file: join(home, "0001-um-x.patch"), text }];
    const apply = async (text: string) => {
      const patches = patch(text);
      for (const p of patches) await writeFile(p.file, p.text);
      await applyPatches(tree, patches, step);
    };

    beforeEach(async () => {
      home = await mkdtemp(join(tmpdir(), "mobitopolo-tree-"));
      tree = { dir: join(home, "linux"), pristine: join(home, "pristine") };
      await mkdir(tree.dir);
      await mkdir(tree.pristine);
      await writeFile(join(tree.dir, "a.c"), "one\ntwo\nthree\n");
      execFileSync("touch", ["-d", "2020-01-01", join(tree.dir, "a.c")]);
    });
    afterEach(() => rm(home, { recursive: true }));

    it("replace those of the last build, and leave alone what does not change", async () => {
      await apply(good);
      expect(await readFile(join(tree.dir, "a.c"), "utf8")).to.equal("one\nTWO\nthree\n");
      const before = (await stat(join(tree.dir, "a.c"))).mtimeMs;
      await apply(good);
      expect((await stat(join(tree.dir, "a.c"))).mtimeMs).to.equal(before);
      await apply(good.replace("+TWO", "+2"));
      expect(await readFile(join(tree.dir, "a.c"), "utf8")).to.equal("one\n2\nthree\n");
    });

    it("take a file away again that a dropped patch had brought", async () => {
      await apply(
        `${good}diff --git a/b.c b/b.c\nnew file mode 100644\n--- /dev/null\n+++ b/b.c\n@@ -0,0 +1 @@\n+/* SPDX-License-Identifier: GPL-2.0 */\n`,
      );
      expect(await stat(join(tree.dir, "b.c"))).to.have.property("size");
      await apply(good);
      expect(
        await stat(join(tree.dir, "b.c")).then(
          () => "there",
          () => "gone",
        ),
      ).to.equal("gone");
    });

    it("fail where a line around the change is another: no fuzz", async () => {
      await writeFile(join(tree.dir, "a.c"), "one\ntwo\nfour\n");
      const thrown = await apply(good).then(
        () => undefined,
        (e: Error) => e,
      );
      expect(thrown?.message).to.match(/applying 0001-um-x.patch failed/);
      expect(await readFile(join(tree.dir, "a.c"), "utf8")).to.equal("one\ntwo\nfour\n");
    });
  });
});
