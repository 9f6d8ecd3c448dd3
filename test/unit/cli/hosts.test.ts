import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { resolveScope } from "../../../provider/cli/hosts";

const host = (name: string, connection: object) => ({
  type: "pulumi-nodejs:dynamic/mobitopolo:Host",
  urn: `urn:pulumi:dev::p::t::${name}`,
  outputs: { name, connection, address: "192.0.2.7", dataAddress: "192.0.2.8", ports: { from: 20000, to: 20100 } },
});

/** The rejection's message. */
const refusal = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "no fault",
    (error: Error) => error.message,
  );

describe("cli/hosts: which hosts a command works on", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync("/tmp/mobi-cli-");
    writeFileSync(join(folder, "Pulumi.yaml"), 'name: p\nruntime: nodejs\nbackend: {url: "file://./state"}\n');
    mkdirSync(join(folder, "state/.pulumi/stacks/p"), { recursive: true });
    mkdirSync(join(folder, "deep/er"), { recursive: true });
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  const stack = (name: string, resources: object[]): void =>
    writeFileSync(
      join(folder, `state/.pulumi/stacks/p/${name}.json`),
      JSON.stringify({ version: 3, checkpoint: { latest: { resources } } }),
    );

  it("takes them from the only stack of the project above the current folder", async () => {
    stack("dev", [host("tokyo", { local: {} }), host("far", { ssh: { user: "me", port: 22 } })]);
    const scope = await resolveScope({ cwd: join(folder, "deep/er") });
    expect(scope.source).to.equal("p/dev");
    expect(scope.hosts.map((h) => h.name)).to.deep.equal(["tokyo", "far"]);
    expect(scope.hosts[1]?.connection).to.deep.equal({ ssh: { user: "me", port: 22, host: "192.0.2.7" } });
  });

  it("names the stacks there are when none is selected", async () => {
    stack("dev", []);
    stack("prod", []);
    expect(await refusal(resolveScope({ cwd: folder }))).to.match(/no selected stack; it has dev, prod/);
    expect(await refusal(resolveScope({ cwd: folder, stack: "qa" }))).to.match(/no stack qa/);
    expect(await refusal(resolveScope({ cwd: folder, stack: "dev" }))).to.match(/has no hosts/);
  });

  it("takes --local and --hosts before any project", async () => {
    const file = join(folder, "hosts.yaml");
    writeFileSync(file, "hosts:\n  x: {connection: {local: {stateDir: /tmp/x}}}\n");
    const scope = await resolveScope({ cwd: "/", local: ["tokyo"], hosts: file });
    expect(scope.hosts.map((h) => h.name)).to.deep.equal(["tokyo", "x"]);
    writeFileSync(file, "hosts:\n  x: {connection: {ssh: {}}}\n");
    expect(await refusal(resolveScope({ hosts: file }))).to.contain("hosts.x.connection");
    expect(await refusal(resolveScope({ cwd: "/" }))).to.match(/no Pulumi.yaml/);
  });
});
