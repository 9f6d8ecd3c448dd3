import { expect } from "chai";
import { z } from "zod";
import { defaultLoopback, defaultMac, endId, instanceOf, uuidOf } from "../../../provider/reconcile/identity";
import { mac } from "../../../provider/schemas/common";

const urn = "urn:pulumi:dev::follow-me::mobitopolo:components:Topology$pulumi-nodejs:dynamic/mobitopolo:Vm::handler";

describe("identity", () => {
  it("makes the same version-5 uuid of a URN always: state in the field depends on it", () => {
    expect(uuidOf(urn)).to.equal("c8f54700-46ef-59f8-8d53-9f7530465e44");
    expect(z.uuid({ version: "v5" }).safeParse(uuidOf("x")).success).to.equal(true);
    expect(uuidOf("a")).not.to.equal(uuidOf("b"));
  });

  it("makes unicast MAC addresses that differ by VM and NIC", () => {
    const macs = ["a", "b"].flatMap((vm) => ["x", "y"].map((nic) => defaultMac(vm, nic)));
    for (const one of macs) expect(mac.safeParse(one).success, one).to.equal(true);
    expect(new Set(macs).size).to.equal(4);
  });

  it("gives hosts loopback addresses of their own", () => {
    const addresses = Array.from({ length: 200 }, (_, index) => defaultLoopback(`host-${index}`));
    expect(new Set(addresses).size).to.equal(200);
    for (const address of addresses)
      expect(address)
        .to.match(/^127\.\d+\.\d+\.\d+$/)
        .and.not.match(/\.(0|255)$/)
        .and.not.match(/^127\.0\./);
  });

  it("tells a link's two ends apart", () => {
    expect(endId("l", "v", "a"))
      .to.match(/^[0-9a-f]{16}$/)
      .and.not.equal(endId("l", "v", "b"));
  });

  it("names an instance by what replaces it", () => {
    expect(instanceOf(["i", "k", 128, 512]))
      .to.equal(instanceOf(["i", "k", 128, 512]))
      .and.not.equal(instanceOf(["i", "k", 128, 513]));
  });
});
