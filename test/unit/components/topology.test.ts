import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { expect } from "chai";
import { Topology, type TopologyArgs, TopologyError } from "../../../components";
import { faultsOfTopology } from "../../../components/topology/validate";

const local = { connection: { local: {} } };
const hosts = { tokyo: local, florida: local };
const nic = (name: string, ...addresses: string[]) => ({ name, addresses });
const pair: TopologyArgs = {
  hosts,
  vms: { a: { host: "tokyo", nics: [nic("lan", "10.0.0.1/24")] }, b: { host: "florida", nics: [nic("lan", "10.0.0.2/24"), nic("spare")] } },
  links: [{ ends: ["a:lan", "b:lan"] }],
};
const vms = pair.vms as Record<string, object>;
const found = (args: unknown) => faultsOfTopology(args).map(({ path, reason }) => `${path} ${reason}`);

describe("Topology", () => {
  it("finds nothing wrong with what is right, as list or by name, with Outputs in it", () => {
    expect(found(pair)).to.deep.equal([]);
    expect(found({ ...pair, links: { cable: { ends: ["a:lan", "b:lan"], mtu: 9000, seal: false } } })).to.deep.equal([]);
    expect(
      found({
        ...pair,
        vms: { ...vms, a: { host: "tokyo", memoryMiB: pulumi.output(64), nics: [{ name: "lan", addresses: pulumi.output(["x"]) }] } },
      }),
    ).to.deep.equal([]);
    expect(found({ hosts: {} })).to.deep.equal([]);
  });

  const wrong: [what: string, args: object, ...texts: string[]][] = [
    [
      "an unknown host",
      { vms: { a: { host: "osaka" } }, links: [] },
      'vms.a.host is "osaka", which is none of the hosts; wanted: "tokyo" or "florida"',
    ],
    ["an unknown property", { vms: { a: { host: "tokyo", memory: 3 } }, links: [] }, "vms.a.memory is not a property that exists"],
    [
      "two VMs with one address on a link",
      { vms: { ...vms, b: { host: "tokyo", nics: [nic("lan", "10.0.0.1/16")] } } },
      "vms.b.nics[0].addresses[0]",
      "the same address as vms.a.nics[0].addresses[0]",
      "links[0] joins",
    ],
    [
      "one MAC address twice",
      {
        vms: {
          a: { host: "tokyo", nics: [{ name: "lan", mac: "02:00:00:00:00:01" }] },
          b: { host: "tokyo", nics: [{ name: "lan", mac: "02:00:00:00:00:01" }] },
        },
      },
      "vms.b.nics[0].mac",
      "the same MAC address",
    ],
    ["two NICs of one name", { vms: { ...vms, a: { host: "tokyo", nics: [nic("lan"), nic("lan")] } } }, "vms.a.nics[1].name"],
    [
      "a NIC in two links",
      { links: [{ ends: ["a:lan", "b:lan"] }, { ends: ["b:lan", "b:spare"] }] },
      'links[1].ends[0] is "b:lan"',
      "a NIC has one link",
    ],
    ["a NIC linked to itself", { links: [{ ends: ["a:lan", "a:lan"] }] }, 'links[0].ends[1] is "a:lan"'],
    [
      "an unknown NIC",
      { links: [{ ends: ["a:wan", "b:lan"] }] },
      'links[0].ends[0] is "a:wan", and VM "a" has no NIC "wan"; wanted: one of "lan"',
    ],
    ["an unknown VM", { links: [{ ends: ["c:lan", "b:lan"] }] }, 'there is no VM "c"'],
    ["an end that is no end", { links: [{ ends: ["a/lan", "b:lan"] }] }, 'links[0].ends[0] is "a/lan"', "web:lan"],
    [
      "a loopback host linked to a remote one",
      { hosts: { tokyo: local, florida: { connection: { ssh: { user: "u", host: "192.0.2.7" } } } } },
      "links[0] leads from tokyo to florida",
      "`dataAddress` on host tokyo",
    ],
    [
      "an SSH host without a numeric address",
      { hosts: { ...hosts, far: { connection: { ssh: { user: "u", host: "far.example.org" } } } } },
      "hosts.far.address is missing",
    ],
    ["an upper-case name", { hosts: { ...hosts, Far: local } }, "hosts.Far"],
  ];
  for (const [what, part, ...texts] of wrong) {
    it(`refuses ${what}`, () => {
      const all = found({ ...pair, ...part }).join("\n");
      for (const text of texts) expect(all).to.include(text);
    });
  }

  it("lets a loopback host with a dataAddress speak to a remote one", () => {
    const far = { connection: { ssh: { user: "u", host: "192.0.2.7" } } };
    expect(found({ ...pair, hosts: { tokyo: { ...local, dataAddress: "192.0.2.1" }, florida: far } })).to.deep.equal([]);
  });

  it("tells all faults at once, before anything is registered", () => {
    expect(() => new Topology("t", { hosts, vms: { a: { host: "x" }, b: { host: "y" } }, links: [{ ends: ["a:n", "c:n"] }] }))
      .to.throw(TopologyError, "Topology t has 4 faults")
      .with.property("faults")
      .with.length(4);
  });

  it("registers hosts, VMs and links under itself, also from a YAML file", async () => {
    const made: { type: string; name: string; inputs: Record<string, unknown> }[] = [];
    await pulumi.runtime.setMocks(
      {
        newResource: ({ type, name, inputs }) => {
          made.push({ type, name, inputs });
          return { id: name, state: inputs };
        },
        call: () => ({}),
      },
      "p",
      "s",
    );
    const folder = mkdtempSync(join(tmpdir(), "mobi-"));
    try {
      const file = join(folder, "topology.yaml");
      writeFileSync(
        file,
        "hosts:\n  tokyo: {connection: {local: {}}}\nvms:\n  a: {host: tokyo, nics: [{name: lan}]}\n  b: {host: tokyo, nics: [{name: lan}]}\nlinks:\n  - ends: ['a:lan', 'b:lan']\n",
      );
      const topology = Topology.fromFile("t", file);
      expect(Object.keys(topology.vms)).to.deep.equal(["a", "b"]);
      expect(Object.keys(topology.links)).to.deep.equal(["a-lan--b-lan"]);
      writeFileSync(file, "hosts:\n  tokyo: {}\n  tokyo: {}\n");
      expect(() => Topology.fromFile("t", file)).to.throw(TopologyError, /unique/);
    } finally {
      await pulumi.runtime.disconnect();
      rmSync(folder, { recursive: true });
    }
    expect(made.map(({ type, name }) => `${type.split(":").at(-1)} ${name}`)).to.have.members([
      "Topology t",
      "Host tokyo",
      "Vm a",
      "Vm b",
      "Link a-lan--b-lan",
    ]);
    const vm = made.find(({ name }) => name === "a");
    expect(vm?.inputs).to.have.property("__urn", "urn:pulumi:s::p::mobitopolo:components:Topology$pulumi-nodejs:dynamic/mobitopolo:Vm::a");
  });
});
