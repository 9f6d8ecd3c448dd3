import { expect } from "chai";
import { faultsOf, show } from "../../../provider/schemas/faults";
import { hostInputs } from "../../../provider/schemas/host";
import { UNKNOWN } from "../../../provider/schemas/unknown";
import { vmInputs } from "../../../provider/schemas/vm";

describe("faultsOf", () => {
  it("tells all faults of a VM at once, each with its path, the bad value and what would be right", () => {
    const faults = faultsOf(vmInputs, {
      host: "Tokyo!",
      memoryMiB: 3,
      nics: [{ name: "lan", mac: "01:00:00:00:00:01", addresses: ["10.0.0.1"] }],
      userspace: "kvm",
    });
    expect(faults.map(({ path }) => path)).to.have.members(["host", "memoryMiB", "nics[0].mac", "nics[0].addresses[0]", "userspace"]);
    expect(faults.find(({ path }) => path === "memoryMiB")?.reason).to.equal("is 3; wanted: at least 32");
    expect(faults.find(({ path }) => path === "userspace")?.reason).to.equal('is "kvm"; wanted: "seccomp" or "ptrace"');
    expect(faults.find(({ path }) => path === "nics[0].addresses[0]")?.reason)
      .to.include('is "10.0.0.1"')
      .and.include("10.0.0.1/24");
  });

  it("takes an unknown property for an error, with what was meant", () => {
    expect(faultsOf(vmInputs, { host: "a", memoryMib: 64 })).to.deep.equal([
      { path: "memoryMib", reason: "is not a property that exists; did you mean `memoryMiB`?" },
    ]);
    expect(faultsOf(vmInputs, { host: "a", nics: [{ name: "x", adresses: [] }] })).to.deep.equal([
      { path: "nics[0].adresses", reason: "is not a property that exists; did you mean `addresses`?" },
    ]);
  });

  it("names what is missing", () => {
    expect(faultsOf(vmInputs, {})).to.deep.equal([{ path: "host", reason: "is missing; wanted: a string" }]);
  });

  it("looks into the alternative of a union that the user meant", () => {
    const faults = faultsOf(hostInputs, { name: "a", connection: { ssh: { user: "me", port: 70_000, keyfile: "k" } } });
    expect(faults).to.deep.equal([
      { path: "connection.ssh.port", reason: "is 70000; wanted: at most 65535" },
      { path: "connection.ssh.keyfile", reason: "is not a property that exists; did you mean `keyFile`?" },
    ]);
  });

  it("lets everything pass that is not known yet", () => {
    expect(faultsOf(vmInputs, { host: UNKNOWN, memoryMiB: UNKNOWN, nics: [{ name: UNKNOWN, addresses: UNKNOWN }] })).to.deep.equal([]);
    expect(faultsOf(vmInputs, { host: "a", nics: UNKNOWN })).to.deep.equal([]);
    expect(faultsOf(hostInputs, { name: "a", connection: UNKNOWN, ports: { from: UNKNOWN, to: 5 } })).to.deep.equal([]);
    expect(faultsOf(hostInputs, { name: "a", connection: { ssh: { user: UNKNOWN, host: UNKNOWN } } })).to.deep.equal([]);
    expect(faultsOf(vmInputs, { host: UNKNOWN, memoryMiB: 1 }).map(({ path }) => path)).to.deep.equal(["memoryMiB"]);
  });

  it("shows long values short", () => {
    expect(show("x".repeat(500))).to.have.length(78);
  });
});
