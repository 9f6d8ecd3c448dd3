import { expect } from "chai";
import { checkHost, diffHost } from "../../../provider/reconcile/host";
import { checkLink, diffLink } from "../../../provider/reconcile/linkCheck";
import { checkVm } from "../../../provider/reconcile/vmCheck";
import { diffVm } from "../../../provider/reconcile/vmDiff";
import { UNKNOWN } from "../../../provider/schemas/unknown";
import { assetsOf, hostNamed, urnOf } from "./support/props";

const hosts = [hostNamed("tokyo"), hostNamed("florida")];
const vmInputs = (news: object = {}, olds: object = {}) =>
  checkVm(
    { ...olds },
    { name: "handler", host: "tokyo", __urn: urnOf("Vm", "handler"), __hosts: hosts, nics: [{ name: "lan" }], ...news },
    () => assetsOf("a"),
  ).inputs as Record<string, unknown>;
const vmOutputs = (more: object = {}): Record<string, unknown> => ({ ...vmInputs(), state: "running", __owner: "o", ...more });

describe("Vm diff", () => {
  const none = { changes: false, replaces: [], deleteBeforeReplace: false };
  const inPlace = { changes: true, replaces: [], deleteBeforeReplace: false };

  it("sees nothing where nothing changed, whatever the order of keys", () => {
    expect(diffVm("id", vmOutputs(), vmInputs())).to.deep.equal(none);
    const nics = [{ mac: "02:00:00:00:00:01", name: "lan", addresses: [] }];
    expect(diffVm("id", vmOutputs({ nics: [{ addresses: [], name: "lan", mac: "02:00:00:00:00:01" }] }), vmInputs({ nics }))).to.deep.equal(
      none,
    );
  });

  it("moves in place", () => expect(diffVm("id", vmOutputs(), vmInputs({ host: "florida" }))).to.deep.equal(inPlace));

  it("ignores what is hidden", () =>
    expect(diffVm("id", vmOutputs(), vmInputs({ __urn: urnOf("Vm", "handler"), __provider: "other" }))).to.deep.equal(none));

  for (const [key, value] of [
    ["memoryMiB", 256],
    ["diskMiB", 1024],
    ["image", `sha256:${"1".repeat(64)}`],
    ["kernel", `sha256:${"2".repeat(64)}`],
  ] as const) {
    it(`replaces for ${key}, the old one first`, () =>
      expect(diffVm("id", vmOutputs(), vmInputs({ [key]: value }))).to.deep.equal({
        changes: true,
        replaces: [key],
        deleteBeforeReplace: true,
      }));
    it(`never replaces for a ${key} that is not known`, () =>
      expect(diffVm("id", vmOutputs(), vmInputs({ [key]: UNKNOWN }))).to.deep.equal(inPlace));
  }

  it("takes an unknown host for a change", () => expect(diffVm("id", vmOutputs(), vmInputs({ host: UNKNOWN }))).to.deep.equal(inPlace));

  it("sees drift: elsewhere, stopped, in doubt, out of reach", () => {
    expect(diffVm("id", vmOutputs({ host: "florida" }), vmInputs()).changes).to.equal(true);
    for (const state of ["stopped", "in-doubt", "frozen", "unreachable", "settling"])
      expect(diffVm("id", vmOutputs({ state }), vmInputs()).changes, state).to.equal(true);
    expect(diffVm("id", vmOutputs({ state: "stopped", running: false }), vmInputs({ running: false })).changes).to.equal(false);
  });

  it("records a new way to reach the host where it is", () => {
    const elsewhere = [{ ...hostNamed("tokyo"), ports: { from: 30_000, to: 30_100 } }, hostNamed("florida")];
    expect(diffVm("id", vmOutputs(), vmInputs({ __hosts: elsewhere })).changes).to.equal(true);
    expect(diffVm("id", vmOutputs(), vmInputs({ __hosts: [...hosts, hostNamed("osaka")] })).changes).to.equal(false);
  });

  it("refuses a target that is known to lack a CPU feature of the guest, and no other", () => {
    const olds = vmOutputs({ __cpuFlags: ["sse2", "avx", "avx512f"] });
    expect(() => diffVm("id", olds, vmInputs({ host: "florida" }))).to.throw(
      /move it to florida: florida lacks a CPU feature that its guest uses: avx512f[\s\S]*runs on tokyo/,
    );
    const better = [hostNamed("tokyo"), { ...hostNamed("florida"), cpuFlags: ["avx", "sse2", "avx512f"] }];
    expect(diffVm("id", olds, vmInputs({ host: "florida", __hosts: better })).changes).to.equal(true);
    expect(
      diffVm(
        "id",
        olds,
        vmInputs({ host: "florida", __hosts: [hostNamed("tokyo"), { ...hostNamed("florida"), cpuFlags: UNKNOWN, xstateBytes: UNKNOWN }] }),
      ).changes,
    ).to.equal(true);
    // Nothing of a CPU is known before a kernel of ours was on the host.
    const unseen = [hostNamed("tokyo"), { ...hostNamed("florida"), cpuFlags: [] }];
    expect(diffVm("id", olds, vmInputs({ host: "florida", __hosts: unseen })).changes).to.equal(true);
    // A preview calls unknown what a host's state lacks.
    const partly = [hostNamed("tokyo"), { ...hostNamed("florida"), limits: UNKNOWN }];
    expect(() => diffVm("id", olds, vmInputs({ host: "florida", __hosts: partly }))).to.throw(/avx512f/);
    expect(diffVm("id", vmOutputs({ __cpuFlags: ["sse2", "cpu1.27"] }), vmInputs({ host: "florida" })).changes).to.equal(true);
    expect(diffVm("id", { ...olds, state: "stopped" }, vmInputs({ host: "florida" })).changes).to.equal(true);
  });
});

describe("Host check and diff", () => {
  const check = (news: object) => checkHost({}, { name: "tokyo", __urn: urnOf("Host", "tokyo"), ...news });

  it("settles addresses, ports and the way in", () => {
    expect(check({ connection: { local: {} } }).inputs)
      .to.deep.include({ ports: { from: 20_000, to: 29_999 } })
      .and.to.have.property("dataAddress")
      .that.matches(/^127\./);
    const ssh = check({ connection: { ssh: { user: "me", host: "10.1.2.3" } }, dataAddress: "192.0.2.1" }).inputs;
    expect(ssh).to.deep.include({
      address: "10.1.2.3",
      dataAddress: "192.0.2.1",
      connection: { ssh: { user: "me", host: "10.1.2.3", port: 22 } },
    });
    expect(check({ connection: { ssh: { user: "me" } }, address: "10.1.2.3" }).inputs).to.deep.include({
      connection: { ssh: { user: "me", host: "10.1.2.3", port: 22 } },
    });
  });

  it("asks for a numeric address where SSH has only a name", () => {
    expect(check({ connection: { ssh: { user: "me", host: "tokyo.example.org" } } }).failures?.[0]).to.have.property("property", "address");
    expect(check({ connection: { ssh: { user: "me", host: UNKNOWN } } }).failures).to.equal(undefined);
  });

  it("changes everything but the name in place", () => {
    const olds = check({ connection: { local: {} } }).inputs as Record<string, unknown>;
    expect(diffHost("tokyo", olds, olds)).to.deep.equal({ changes: false, replaces: [] });
    expect(diffHost("tokyo", olds, { ...olds, labels: { a: "b" } })).to.deep.equal({ changes: true, replaces: [] });
    expect(diffHost("tokyo", olds, { ...olds, name: "osaka" })).to.deep.equal({ changes: true, replaces: ["name"] });
    expect(diffHost("tokyo", olds, { ...olds, name: UNKNOWN })).to.deep.equal({ changes: true, replaces: [] });
    expect(diffHost("tokyo", { ...olds, status: "unreachable" }, olds).changes).to.equal(true);
  });
});

describe("Link check and diff", () => {
  const end = (vm: string, more: object = {}) => ({ vm, instance: "i", host: "tokyo", nic: "lan", ...more });
  const check = (ends: unknown, more: object = {}) => checkLink({}, { ends, __urn: urnOf("Link", "l"), __hosts: hosts, ...more });
  const olds = check([end("a"), end("b")]).inputs as Record<string, unknown>;

  it("settles MTU, seal and uuid", () => {
    expect(olds).to.include({ mtu: 1400, seal: true });
    expect(olds.uuid).to.match(/^[0-9a-f-]{36}$/);
  });

  it("refuses one NIC on both ends, and ends that cannot reach each other", () => {
    expect(check([end("a"), end("a")]).failures?.[0]?.reason).to.include("the same NIC");
    const far = { ...hostNamed("far"), dataAddress: "10.9.9.9" };
    expect(check([end("a"), end("b", { host: "far" })], { __hosts: [...hosts, far] }).failures?.[0]?.reason).to.include("dataAddress");
  });

  it("follows hosts and instances in place, and replaces for another VM or NIC", () => {
    const diff = (ends: unknown, more: object = {}) => diffLink("id", { ...olds, ...more }, { ...olds, ends });
    expect(diff(olds.ends)).to.deep.equal({ changes: false, replaces: [], deleteBeforeReplace: false });
    expect(diff([end("a", { host: "florida" }), end("b")])).to.deep.equal({ changes: true, replaces: [], deleteBeforeReplace: false });
    expect(diff([end("a", { instance: "j" }), end("b")]).replaces).to.deep.equal([]);
    expect(diff([end("c"), end("b")])).to.deep.equal({ changes: true, replaces: ["ends"], deleteBeforeReplace: true });
    expect(diff([end("a", { nic: "wan" }), end("b")]).replaces).to.deep.equal(["ends"]);
    expect(diff([end(UNKNOWN), end("b")])).to.deep.equal({ changes: true, replaces: [], deleteBeforeReplace: false });
    expect(diff(UNKNOWN).replaces).to.deep.equal([]);
    expect(diff(olds.ends, { state: "unwired" }).changes).to.equal(true);
    expect(diff(olds.ends, { state: "unheard" }).changes).to.equal(false);
  });
});
