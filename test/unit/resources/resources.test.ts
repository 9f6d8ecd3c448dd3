import { createRequire } from "node:module";
import { join } from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { expect } from "chai";
import { Host } from "../../../provider/resources/host";
import { Link } from "../../../provider/resources/link";
import { Vm } from "../../../provider/resources/vm";

interface Made {
  readonly type: string;
  readonly name: string;
  readonly inputs: Record<string, unknown>;
}

/** Registers what `program` makes with an engine that only writes down. */
async function registered(program: () => void): Promise<Made[]> {
  const made: Made[] = [];
  await pulumi.runtime.setMocks(
    {
      newResource: ({ type, name, inputs }) => {
        made.push({ type, name, inputs });
        return { id: `${name}-id`, state: { ...inputs, instance: `${name}-instance`, cpuFlags: ["sse2"] } };
      },
      call: () => ({}),
    },
    "project",
    "stack",
  );
  program();
  await pulumi.runtime.disconnect();
  return made;
}

describe("resources", () => {
  it("register as dynamic resources whose code is a constant that requires the installed package", async () => {
    const made = await registered(() => {
      const tokyo = new Host("tokyo", { connection: { local: {} } });
      const a = new Vm("a", { host: tokyo, nics: [{ name: "lan" }] });
      const b = new Vm("b", { host: "tokyo", hosts: [tokyo], name: "bee" });
      new Link("a-b", {
        ends: [
          { vm: a, nic: "lan" },
          { vm: b, nic: "lan" },
        ],
      });
    });
    // The order of registration is the engine's affair.
    made.sort((one, other) => one.name.localeCompare(other.name));
    expect(made.map(({ type }) => type)).to.deep.equal(
      ["Vm", "Link", "Vm", "Host"].map((name) => `pulumi-nodejs:dynamic/mobitopolo:${name}`),
    );
    expect(made.map(({ inputs }) => inputs.__provider)).to.deep.equal(
      ["vm", "link", "vm", "host"].map((name) => `exports.handler = () => require("@mobitopolo/provider").${name}Handler`),
    );
    const [a, link, b, host] = made.map(({ inputs }) => inputs);
    expect(host).to.include({ name: "tokyo", __urn: "urn:pulumi:stack::project::pulumi-nodejs:dynamic/mobitopolo:Host::tokyo" });
    expect(a).to.include({ name: "a", host: "tokyo" });
    expect(a?.__hosts).to.have.nested.property("[0].name", "tokyo");
    expect(b).to.include({ name: "bee", host: "tokyo" }).and.not.to.have.property("hosts");
    expect(link?.ends).to.deep.equal([
      { vm: "a-id", instance: "a-instance", host: "tokyo", nic: "lan" },
      { vm: "b-id", instance: "b-instance", host: "tokyo", nic: "lan" },
    ]);
    expect(link?.__hosts).to.have.nested.property("[0].name", "tokyo");
  });

  it("are found by that constant from a program's folder", () => {
    const provider = createRequire(join(__dirname, "../../../package.json"))("@mobitopolo/provider") as Record<string, { check?: unknown }>;
    for (const name of ["hostHandler", "vmHandler", "linkHandler"]) expect(provider[name]?.check, name).to.be.a("function");
  });
});
