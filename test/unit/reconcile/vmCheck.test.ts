import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { checkVm } from "../../../provider/reconcile/vmCheck";
import { UNKNOWN } from "../../../provider/schemas/unknown";
import { assetsOf, hostNamed, urnOf } from "./support/props";

const base = {
  name: "handler",
  host: "tokyo",
  __urn: urnOf("Vm", "handler"),
  __hosts: [hostNamed("tokyo"), hostNamed("florida")],
  __provider: "p",
};
const check = (news: object, olds: object = {}, assets = assetsOf("a")) => checkVm({ ...olds }, { ...base, ...news }, () => assets);
const inputsOf = (news: object = {}, olds: object = {}, assets = assetsOf("a")): Record<string, unknown> => {
  const { inputs, failures } = check(news, olds, assets);
  expect(failures ?? []).to.deep.equal([]);
  return inputs;
};
const failuresOf = (news: object, olds: object = {}) =>
  (check(news, olds).failures ?? []).map(({ property, reason }) => `${property} ${reason}`);

describe("Vm check", () => {
  it("settles every default, so that a preview knows it", () => {
    const inputs = inputsOf({ nics: [{ name: "lan" }] });
    expect(inputs).to.include({
      memoryMiB: 128,
      diskMiB: 512,
      cpu: "auto",
      userspace: "seccomp",
      running: true,
      image: `sha256:${assetsOf("a").image.id}`,
      kernel: `sha256:${assetsOf("a").kernel.id}`,
    });
    expect(inputs.uuid).to.match(/^[0-9a-f-]{36}$/);
    expect(inputs.instance).to.match(/^[0-9a-f]{16}$/);
    expect(inputs.nics).to.have.nested.property("[0].mac").that.matches(/^02:/);
  });

  it("names all that is wrong with how it is to move, and what would be right", () => {
    expect(failuresOf({ migration: { onNoConvergence: "wait", maxDowntimeMs: 0, deadline: 3 } })).to.deep.equal([
      "migration.maxDowntimeMs is 0; wanted: more than 0",
      'migration.onNoConvergence is "wait"; wanted: "throttle" or "extend" or "postcopy" or "abort"',
      "migration.deadline is not a property that exists; did you mean `deadlineS`?",
    ]);
    expect(failuresOf({ migration: { onNoConvergence: "extend", bandwidthMbps: 8, deadlineS: 60, maxDowntimeMs: 20 } })).to.deep.equal([]);
  });

  it("gives the same from the same, as preview and up call it apart", () => {
    expect(inputsOf()).to.deep.equal(inputsOf());
    const once = inputsOf();
    expect(inputsOf({}, once)).to.deep.equal(once);
  });

  it("carries over the kernel and image of an older provider: an upgrade changes nothing", () => {
    const before = inputsOf();
    const after = inputsOf({}, before, assetsOf("newer"));
    expect(after).to.deep.equal(before);
    expect(inputsOf({ kernel: "default", image: "default" }, before, assetsOf("newer"))).to.include({
      kernel: before.kernel,
      image: before.image,
      instance: before.instance,
    });
  });

  it("takes the new default for a new VM, and where the user goes back to it", () => {
    const newer = assetsOf("newer");
    expect(inputsOf({}, {}, newer).kernel).to.equal(`sha256:${newer.kernel.id}`);
    const own = inputsOf({ kernel: `sha256:${"5".repeat(64)}` });
    expect(inputsOf({}, own, newer).kernel).to.equal(`sha256:${newer.kernel.id}`);
  });

  it("hashes an image that is named by path, and sees its change", () => {
    const folder = mkdtempSync(join(tmpdir(), "mobi-"));
    try {
      const path = join(folder, "root.ext4");
      writeFileSync(path, "one");
      const first = inputsOf({ image: path });
      expect(first.image).to.equal("sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
      expect(inputsOf({ image: path }, first)).to.deep.equal(first);
      writeFileSync(path, "another");
      expect(inputsOf({ image: path }, first).image).not.to.equal(first.image);
      expect(failuresOf({ image: join(folder, "none") })[0])
        .to.include("image is ")
        .and.include("ENOENT")
        .and.include("wanted");
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("keeps the uuid when the URN changes (an alias), and derives it from the URN at first", () => {
    const before = inputsOf();
    expect(inputsOf({ __urn: urnOf("Vm", "renamed") }, before).uuid).to.equal(before.uuid);
    expect(inputsOf({ __urn: urnOf("Vm", "renamed") }).uuid).not.to.equal(before.uuid);
  });

  it("tells all faults at once", () => {
    const faults = failuresOf({
      memoryMib: 64,
      host: "osaka",
      nics: [
        { name: "a", mac: "02:00:00:00:00:01", addresses: ["10.0.0.1/24"] },
        { name: "a", mac: "02:00:00:00:00:01", addresses: ["10.0.0.1/16"] },
      ],
      kernel: "sha256:12",
    });
    expect(faults).to.have.length(6);
    expect(faults.join("\n"))
      .to.include("memoryMib")
      .and.include('host is "osaka"')
      .and.include('"tokyo" or "florida"')
      .and.include("nics[1].name")
      .and.include("nics[1].mac")
      .and.include("nics[1].addresses[0]")
      .and.include("64 hex digits");
  });

  it("refuses a host that nobody describes", () => {
    expect(failuresOf({ __hosts: [] })[0]).to.include("nothing says how to reach it");
  });

  it("refuses a move from a loopback host to one elsewhere, naming the way out", () => {
    const hosts = [
      hostNamed("tokyo"),
      { ...hostNamed("far"), connection: { ssh: { user: "me", host: "10.9.9.9", port: 22 } }, dataAddress: "10.9.9.9" },
    ];
    const olds = inputsOf({ __hosts: hosts });
    expect(failuresOf({ __hosts: hosts, host: "far" }, olds)[0])
      .to.include("loopback")
      .and.include("dataAddress");
  });

  it("lets unknown values pass, and derives unknown from them", () => {
    const inputs = inputsOf({
      host: UNKNOWN,
      image: UNKNOWN,
      memoryMiB: UNKNOWN,
      nics: [{ name: UNKNOWN }],
      __hosts: [{ name: UNKNOWN, connection: UNKNOWN }],
    });
    expect(inputs).to.include({ host: UNKNOWN, image: UNKNOWN, memoryMiB: UNKNOWN, instance: UNKNOWN });
    expect(inputsOf({ __urn: UNKNOWN }).uuid).to.equal(UNKNOWN);
    expect(inputsOf({ __hosts: UNKNOWN }).host).to.equal("tokyo");
  });
});
