import { createHmac } from "node:crypto";
import { expect } from "chai";
import { fingerprintOf, fitsHostKey, keyType, knownKeys } from "../../../provider/transport/knownHosts";

const key = Buffer.from("AAAAC3NzaC1lZDI1NTE5AAAAIJN7FMqCVZN9mkK6TGPuRQ0iMvKZ2kkSyqjJ3dHLFBtI", "base64");
const other = Buffer.from("AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "base64");
const line = (names: string, of = key) => `${names} ssh-ed25519 ${of.toString("base64")} comment`;
const found = (text: string, host: string, port = 22) => knownKeys(text, host, port).accepted.map(fingerprintOf);

describe("known hosts", () => {
  it("finds plain, listed, globbed and port-marked names", () => {
    for (const [names, host, port] of [
      ["tokyo", "tokyo", 22],
      ["a,tokyo,b", "tokyo", 22],
      ["*.example.org", "x.example.org", 22],
      ["[127.0.0.1]:2222", "127.0.0.1", 2222],
      ["host?", "host1", 22],
    ] as const) {
      expect(found(line(names), host, port), names).to.deep.equal([fingerprintOf(key)]);
    }
  });

  it("does not take one port for another, nor what is excluded", () => {
    expect(found(line("tokyo"), "tokyo", 2222)).to.deep.equal([]);
    expect(found(line("[tokyo]:2222"), "tokyo")).to.deep.equal([]);
    expect(found(line("*.org,!bad.org"), "bad.org")).to.deep.equal([]);
    expect(found(`# ${line("tokyo")}`, "tokyo")).to.deep.equal([]);
  });

  it("finds hashed names", () => {
    const salt = Buffer.from("0123456789abcdef0123");
    const hash = createHmac("sha1", salt).update("tokyo").digest("base64");
    expect(found(line(`|1|${salt.toString("base64")}|${hash}`), "tokyo")).to.deep.equal([fingerprintOf(key)]);
    expect(found(line(`|1|${salt.toString("base64")}|${hash}`), "kyoto")).to.deep.equal([]);
  });

  it("keeps revoked keys apart and does not take a certificate authority for a key", () => {
    const keys = knownKeys([`@revoked ${line("*")}`, `@cert-authority ${line("*", other)}`].join("\n"), "tokyo", 22);
    expect(keys.accepted).to.deep.equal([]);
    expect(keys.revoked.map(fingerprintOf)).to.deep.equal([fingerprintOf(key)]);
  });

  it("compares a hostKey given as fingerprint, as a line, or as the bare key", () => {
    for (const given of [fingerprintOf(key), `ssh-ed25519 ${key.toString("base64")} root@tokyo`, key.toString("base64")]) {
      expect(fitsHostKey(given, key), given).to.equal(true);
      expect(fitsHostKey(given, other), given).to.equal(false);
    }
    expect(keyType(key)).to.equal("ssh-ed25519");
  });
});
