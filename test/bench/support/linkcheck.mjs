/** What a link does, measured between two namespaces: `serve ADDRESS` at one end, `measure ADDRESS` at the other prints {tcpMbps, rttMs}. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

const PORT = 7100;
const SECONDS = 3;
/** TCP finds the rate in the first second. */
const FROM_S = 1;
const PINGS = 20;

const [command, address] = process.argv.slice(2);
if (command === "serve") serve();
else if (command === "measure") console.log(JSON.stringify({ tcpMbps: await throughput(), rttMs: await roundTrip() }));
else throw new Error("linkcheck serve ADDRESS | measure ADDRESS");

/** Counts what it gets and says, at the end, how much came after the first second; answers datagrams. */
function serve() {
  const udp = createSocket("udp4").bind(PORT, address);
  udp.on("message", (bytes, from) => udp.send(bytes, from.port, from.address));
  createServer({ allowHalfOpen: true }, (socket) => {
    const beganMs = performance.now();
    let [bytes, fromMs, lastMs] = [0, 0, 0];
    socket.on("data", (chunk) => {
      const now = performance.now();
      if (now - beganMs < FROM_S * 1000) return;
      if (fromMs === 0) fromMs = now;
      else bytes += chunk.length;
      lastMs = now;
    });
    socket.on("end", () => socket.end(JSON.stringify((bytes * 8) / 1000 / (lastMs - fromMs))));
    socket.on("error", () => {});
  }).listen(PORT, address, () => console.log("ready"));
  process.stdin.resume().on("end", () => process.exit(0));
}

async function throughput() {
  const socket = connect(PORT, address);
  await once(socket, "connect");
  const chunk = Buffer.alloc(64 << 10);
  const untilMs = performance.now() + SECONDS * 1000;
  while (performance.now() < untilMs) if (!socket.write(chunk)) await once(socket, "drain");
  let text = "";
  socket.setEncoding("utf8").on("data", (s) => {
    text += s;
  });
  socket.end();
  await once(socket, "end");
  return Math.round(Number(text) * 100) / 100;
}

async function roundTrip() {
  const udp = createSocket("udp4");
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < PINGS; i += 1) {
    const before = performance.now();
    udp.send(Buffer.from([i]), PORT, address);
    const answered = await Promise.race([once(udp, "message").then(() => true), delay(1000, false)]);
    if (answered) best = Math.min(best, performance.now() - before);
  }
  udp.close();
  return Math.round(best * 100) / 100;
}
