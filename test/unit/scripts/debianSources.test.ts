import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { machineSources, parseDeb822, parseOneLine } from "../../../scripts/lib/debian-sources.mjs";

describe("the machine's apt sources", () => {
  it("are read in their one-line form, comments and options included", () => {
    const text =
      "# deb http://a/debian bookworm main\ndeb [arch=amd64 signed-by=/k.gpg] http://a/debian bookworm main contrib # note\ndeb-src http://a/debian bookworm main\n";
    expect(parseOneLine(text)).to.deep.equal([
      { uri: "http://a/debian", suite: "bookworm", components: ["main", "contrib"], signedBy: "/k.gpg" },
    ]);
  });

  it("are read in their deb822 form: several suites, continued lines, disabled stanzas", () => {
    const text =
      "Types: deb deb-src\nURIs: http://a/debian\nSuites: trixie\n trixie-updates\nComponents: main\nSigned-By: /k.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://b/debian\nSuites: trixie\nComponents: main\n";
    expect(parseDeb822(text).map((s) => [s.uri, s.suite, s.signedBy])).to.deep.equal([
      ["http://a/debian", "trixie", "/k.gpg"],
      ["http://a/debian", "trixie-updates", "/k.gpg"],
    ]);
  });

  describe("of a machine", () => {
    let etc: string;
    beforeEach(async () => {
      etc = await mkdtemp(join(tmpdir(), "mobitopolo-etc-"));
      await mkdir(join(etc, "apt/sources.list.d"), { recursive: true });
    });
    afterEach(() => rm(etc, { recursive: true }));

    it("are those of its own suite, in both forms, and no third party's", async () => {
      await writeFile(join(etc, "os-release"), 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n');
      await writeFile(join(etc, "apt/sources.list"), "deb http://a/debian bookworm main\n");
      await writeFile(
        join(etc, "apt/sources.list.d/s.sources"),
        "Types: deb\nURIs: http://a/security\nSuites: bookworm-security\nComponents: main\n",
      );
      await writeFile(join(etc, "apt/sources.list.d/x.list"), "deb http://elsewhere/apt cloud-sdk main\n");
      const { codename, sources } = await machineSources(etc);
      expect(codename).to.equal("bookworm");
      expect(sources.map((s) => s.uri)).to.deep.equal(["http://a/debian", "http://a/security"]);
    });

    it("are refused in one line on another distribution", async () => {
      await writeFile(join(etc, "os-release"), 'ID=fedora\nPRETTY_NAME="Fedora 43"\n');
      const thrown = await machineSources(etc).then(
        () => undefined,
        (e: Error) => e,
      );
      expect(thrown?.message).to.match(/^this machine is Fedora 43; .*install what is missing/);
    });
  });
});
