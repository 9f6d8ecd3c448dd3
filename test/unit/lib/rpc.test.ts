import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { expect } from "chai";

/** Listens on a connection until it is closed, and then has nothing more to do. */
const client = (port: number): string => `
const { createConnection } = require("node:net");
const { connectionOver } = require(${JSON.stringify(join(__dirname, "../../../provider/lib/rpc.ts"))});
const connection = connectionOver(createConnection(${port}, "127.0.0.1"));
connection.onClose(() => connection.dispose());
connection.listen();
`;

describe("a JSON-RPC connection", function () {
  this.timeout(20_000);

  it("does not keep a process alive whose peer was killed in the middle of a message", async () => {
    const server = createServer((socket) => socket.end('Content-Length: 99\r\n\r\n{"jsonrpc"')).listen(0, "127.0.0.1");
    await once(server, "listening");
    const child = spawn(process.execPath, ["--import", "tsx", "-e", client((server.address() as AddressInfo).port)], { stdio: "inherit" });
    const limit = setTimeout(() => child.kill("SIGKILL"), 8000);
    const [code] = await once(child, "exit");
    clearTimeout(limit);
    server.close();
    expect(code, "its exit code; null: it had to be killed").to.equal(0);
  });
});
