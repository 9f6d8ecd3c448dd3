/**
 * The talk's experiment: a client copies the contents through a protocol handler, and the handler can follow the client.
 *
 *   pulumi up
 *   pulumi config set handlerHost florida && pulumi up     # moves the running handler
 */
import { Topology } from "@mobitopolo/components";
import { Config } from "@pulumi/pulumi";

/** Where the handler runs: `tokyo`, beside the contents, or `florida`, beside the client. Changing it moves the running VM. */
const handlerHost = new Config().get("handlerHost") ?? "tokyo";

const followMe = new Topology("follow-me", {
  // Two hosts on this machine: each has an agent, a folder of state and a loopback address of its own. A remote one reads
  //   florida: { connection: { ssh: { user: "me" } }, address: "192.0.2.7" }
  hosts: {
    tokyo: { connection: { local: {} } },
    florida: { connection: { local: {} } },
  },
  vms: {
    contents: {
      host: "tokyo",
      nics: [{ name: "handler", addresses: ["10.1.0.1/24"] }],
      runcmd: ["blockcopy make --mib 16 --seed 2009 /srv/contents && exec blockcopy serve --listen 10.1.0.1:7000 --file /srv/contents"],
    },
    handler: {
      host: handlerHost,
      nics: [
        { name: "contents", addresses: ["10.1.0.2/24"] },
        { name: "client", addresses: ["10.2.0.1/24"] },
      ],
      runcmd: ["blockcopy echo --listen 10.2.0.1:7002 &", "exec blockcopy handle --listen 10.2.0.1:7001 --from 10.1.0.1:7000"],
    },
    client: {
      host: "florida",
      nics: [{ name: "handler", addresses: ["10.2.0.2/24"] }],
    },
  },
  links: [{ ends: ["contents:handler", "handler:contents"] }, { ends: ["handler:client", "client:handler"] }],
});

/** Where each VM runs now. */
export const placement = Object.fromEntries(Object.entries(followMe.vms).map(([name, vm]) => [name, vm.host]));
