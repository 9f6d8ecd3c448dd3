/** Small topologies as data, each host with a state folder and a name of its own, so that tests do not meet each other's agents. */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Sshd } from "./sshd";

/** Names and state folders of hosts for one test. */
export interface TestHosts extends Disposable {
  readonly folder: string;
  /** A host of this machine. */
  local(name: string): [string, object];
  /** A host behind a server that the test started. */
  ssh(name: string, sshd: Sshd): [string, object];
  stateDir(name: string): string;
}

/** Makes host names unique to this test run. */
export function testHosts(): TestHosts {
  // Short: sockets live below it.
  const folder = mkdtempSync("/tmp/mobi-hosts-");
  const addresses = new Map<string, string>();
  const stateDir = (name: string): string => join(folder, name);
  return {
    folder,
    stateDir,
    local: (name) => {
      const address = addresses.get(name) ?? loopback();
      addresses.set(name, address);
      return [name, { connection: { local: { stateDir: stateDir(name) } }, address }];
    },
    ssh: (name, sshd) => [
      name,
      {
        address: sshd.address,
        connection: {
          ssh: { user: sshd.user, port: sshd.port, hostKey: sshd.hostKey, keyFile: sshd.keyFile, stateDir: join(sshd.home, "m") },
        },
      },
    ],
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** A loopback address that is hardly another's: all of 127/8 is ours to use. */
export function loopback(): string {
  const [a = 0, b = 0, c = 0] = randomBytes(3);
  return `127.${1 + (a % 254)}.${b}.${1 + (c % 254)}`;
}

/** Two VMs joined by one link, the second of them on the host named. */
export function pair(hosts: Record<string, object>, hostOfA: string, hostOfB: string, more: { a?: object; b?: object } = {}) {
  return {
    hosts,
    vms: {
      a: { host: hostOfA, nics: [{ name: "peer", addresses: ["10.9.0.1/24"] }], ...more.a },
      b: { host: hostOfB, nics: [{ name: "peer", addresses: ["10.9.0.2/24"] }], ...more.b },
    },
    links: [{ ends: ["a:peer", "b:peer"] }],
  };
}
