/**
 * A stand-in for `linux` with docs/formats/vm-process.md's outside and no guest inside: so that each fault of a move can be made at will, in
 * milliseconds. Its "guest" counts in page 10 of its memory and writes a disk block now and then; a copy that misses a page or a block shows.
 * FAULTS (words in a file `faults` of the run folder's parent): die-at-freeze, die-at-release, no-go, settle-blocked, busy (writes noise without end), hold-at-freeze
 * (makes a file `held` there and waits for one called `go-on`), throttle-kill-agent …
 */

import { randomFillSync } from "node:crypto";
import {
  appendFileSync,
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";

const states = ["part", "run", "runPartial", "frozen", "released", "refused", "haltedByGuest"];
const page = 4096;
const block = 65536;
const build = "f".repeat(64);
const argv = process.argv.slice(2);
const values = Object.fromEntries(
  argv.filter((w) => w.includes("=")).map((w) => [w.slice(0, w.indexOf("=")), w.slice(w.indexOf("=") + 1)]),
);

const bytesAt = (fd, at, size) => {
  const b = Buffer.alloc(size);
  readSync(fd, b, 0, size, at);
  return b;
};
const bytesOf = (value, size) => {
  const b = Buffer.alloc(size);
  b.writeUIntLE(value, 0, Math.min(size, 6));
  return b;
};
const u64 = (fd, at) => Number(bytesAt(fd, at, 8).readBigUInt64LE());
const put64 = (fd, at, v) => writeSync(fd, bytesOf(v, 8), 0, 8, at);
const stateOf = (fd) => bytesAt(fd, 8, 4).readUInt32LE();
const putState = (fd, s) => writeSync(fd, bytesOf(s, 4), 0, 4, 8);
const text = (fd, at) => bytesAt(fd, at, 64).toString("latin1").replace(/\0.*$/s, "");
const putText = (fd, at, t) => {
  const b = Buffer.alloc(64);
  b.write(t, "latin1");
  writeSync(fd, b, 0, 64, at);
};

if (argv[0] === "--build-id") console.log(build);
else if (argv[0] === "tool") tool(argv[1], argv[2], argv.slice(3));
else run();

function header(fd, bytes) {
  writeSync(fd, Buffer.from("MOBIMEM1"), 0, 8, 0);
  put64(fd, 16, bytes);
  putText(fd, 96, build);
}

function tool(command, file, rest) {
  const word = (name) => rest.find((w) => w.startsWith(`${name}=`))?.slice(name.length + 1);
  if (command === "create") {
    writeFileSync(file, "", { mode: 0o600 });
    truncateSync(file, Number(rest[0]));
    return;
  }
  if (command === "probe")
    return console.log(JSON.stringify({ execTmpfs: true, xstateBytes: 2696, cpuFlags: ["sse2", "avx"], nproc: 2, maxMapCount: 65530 }));
  if (command === "track") return track(file);
  const fd = openSync(file, "r+");
  if (command === "header")
    console.log(
      JSON.stringify({
        state: stateOf(fd),
        userspace: 1,
        memoryBytes: fstatSync(fd).size,
        epoch: u64(fd, 24),
        attempt: text(fd, 32),
        buildId: build,
        vm: text(fd, 160),
        xstateBytes: 2696,
        locked: false,
        cpuFlagNames: ["sse2"],
      }),
    );
  if (command === "cas") {
    if (stateOf(fd) !== Number(rest[0])) {
      console.error(`state is ${states[stateOf(fd)]}`);
      process.exit(76);
    }
    if (word("attempt") !== undefined) putText(fd, 32, word("attempt"));
    if (word("epoch") !== undefined) put64(fd, 24, Number(word("epoch")));
    putState(fd, Number(rest[1]));
  }
  if (command === "prepare") {
    header(fd, fstatSync(fd).size);
    putState(fd, 0);
    putText(fd, 32, word("attempt"));
    put64(fd, 24, Number(word("epoch")));
  }
}

function track(file) {
  const fd = openSync(file, "r");
  const size = fstatSync(fd).size;
  // Two buffers for the whole memory: page by page a busy machine takes seconds.
  const shadow = Buffer.alloc(size);
  const now = Buffer.alloc(size);
  let rest = "";
  process.stdin.on("data", (chunk) => {
    rest += chunk;
    for (let at; (at = rest.indexOf("\n")) >= 0; rest = rest.slice(at + 1)) whenDue(rest.slice(0, at));
  });
  // The last pages may be asked for before the guest stands.
  const whenDue = (how) => (how === "scan frozen" && states[stateOf(fd)] === "run" ? setTimeout(whenDue, 1, how) : scan(how));
  const record = (kind, pages, first) => {
    const b = Buffer.alloc(16);
    b.writeUInt32LE(kind, 0);
    b.writeUInt32LE(pages, 4);
    b.writeBigUInt64LE(BigInt(first), 8);
    return b;
  };
  const zero = Buffer.alloc(page);
  const at = (buffer, i) => buffer.subarray(i * page, (i + 1) * page);
  const scan = (how) => {
    const out = [];
    readSync(fd, now, 0, size, 0);
    for (let i = 0; i < size / page; i++) {
      if (i === 0 && how !== "scan frozen") continue;
      const isZero = at(now, i).equals(zero);
      const wasZero = i !== 0 && at(shadow, i).equals(zero);
      if (isZero && !wasZero) out.push(record(2, 1, i));
      if (isZero || (i !== 0 && how !== "full" && at(now, i).equals(at(shadow, i)))) continue;
      out.push(record(1, 1, i), Buffer.from(at(now, i)));
    }
    now.copy(shadow);
    process.stdout.write(Buffer.concat([...out, record(0, out.length, 1000)]));
  };
}

function run() {
  const incoming = argv[0] === "incoming";
  const folder = values["mobi.run"];
  process.chdir(folder);
  const fault = (name) => {
    try {
      return readFileSync(join(dirname(folder), "faults"), "utf8").includes(name);
    } catch {
      return false;
    }
  };
  const fd = openSync(values["mobi.memory"], "r+");
  const disk = openSync(values["mobi.disk"], "r+");
  const virtual = u64(disk, 16);
  const blocks = Math.ceil(virtual / block);
  const bitmapBytes = Math.ceil(Math.ceil(blocks / 8) / page) * page;
  const dataAt = page + bitmapBytes;
  let map,
    cpu = values["mobi.cpu"],
    guest = null,
    thawTimer,
    askedBy;
  if (!incoming) {
    header(fd, fstatSync(fd).size);
    putText(fd, 160, values["mobi.vm"] ?? "");
    put64(fd, 24, Number(values["mobi.epoch"]));
    writeSync(fd, Buffer.alloc(600 * page, 3), 0, 600 * page, 64 * page);
    start(1);
  }

  function openMap() {
    const bitmap = bytesAt(disk, page, bitmapBytes);
    const bytes = Buffer.alloc(24 + 4 * blocks);
    bytes.write("MOBIMAP1");
    bytes.writeBigUInt64LE(1n, 8);
    bytes.writeBigUInt64LE(BigInt(blocks), 16);
    for (let i = 0; i < blocks; i++) if (bitmap[i >> 3] & (1 << (i & 7))) bytes.writeUInt32LE(1, 24 + 4 * i);
    writeFileSync("disk.map", bytes, { mode: 0o600 });
    map = openSync("disk.map", "r+");
  }
  function start(state) {
    putState(fd, state);
    openMap();
    guest = setInterval(tick, 2);
  }
  function tick() {
    const n = u64(fd, 10 * page) + 1;
    put64(fd, 10 * page, n);
    put64(fd, (700 + (n % 50)) * page, n);
    if (fault("busy")) writeSync(fd, randomFillSync(Buffer.alloc(20 * page)), 0, 20 * page, (1000 + ((n * 20) % 400)) * page);
    if (n % 97 === 0) writeSync(fd, Buffer.alloc(page), 0, page, (700 + (n % 50)) * page);
    if (n % 10 === 0) {
      const i = (n / 10) % Math.min(blocks, 16);
      const data = Buffer.alloc(block, n & 255);
      data.writeBigUInt64LE(BigInt(n));
      writeSync(disk, data, 0, block, dataAt + i * block);
      writeSync(map, bytesOf(u64(map, 8), 4), 0, 4, 24 + 4 * i);
    }
  }
  function stop() {
    clearInterval(guest);
    guest = null;
  }
  function bits() {
    const stamps = bytesAt(map, 24, 4 * blocks);
    const bitmap = Buffer.alloc(bitmapBytes);
    for (let i = 0; i < blocks; i++) if (stamps.readUInt32LE(4 * i)) bitmap[i >> 3] |= 1 << (i & 7);
    writeSync(disk, bitmap, 0, bitmapBytes, page);
  }
  function die(code) {
    process.exit(code);
  }
  function thaw() {
    clearTimeout(thawTimer);
    putState(fd, 1);
    guest = setInterval(tick, 2);
  }

  /** Payloads of MEMORY (docs/formats/migration-stream.md), one after the other; `track` tells of no words. */
  function putLast(list) {
    for (let at = 0; at < list.length; ) {
      let head = at + 4;
      at = head + 16 * list.readUInt32BE(at);
      for (const end = at; head < end; head += 16) {
        const [first, bytes, kind] = [Number(list.readBigUInt64BE(head)), page * list.readUInt32BE(head + 8), list.readUInt32BE(head + 12)];
        if (kind > 2) throw ["bad-value", `a run of kind ${kind}`];
        writeSync(fd, kind === 1 ? list.subarray(at, at + bytes) : Buffer.alloc(bytes), 0, bytes, first * page);
        if (kind === 1) at += bytes;
      }
    }
  }

  /** Does what the guest says it wrote stand on its disk? */
  function checked() {
    const n = u64(fd, 10 * page);
    for (let k = Math.max(1, Math.floor(n / 10) - 15); k <= Math.floor(n / 10); k++) {
      const i = k % Math.min(blocks, 16);
      if (u64(disk, dataAt + i * block) !== k * 10) return `block ${i} holds ${u64(disk, dataAt + i * block)}, not ${k * 10}`;
    }
    for (let k = Math.max(1, n - 40); k <= n; k++) {
      const want = k % 97 === 0 ? 0 : k;
      if (u64(fd, (700 + (k % 50)) * page) !== want) return `page ${700 + (k % 50)} holds ${u64(fd, (700 + (k % 50)) * page)}, not ${want}`;
    }
    return "ok";
  }

  const verbs = {
    status: () =>
      `state=${states[stateOf(fd)]} attempt=${text(fd, 32)} epoch=${u64(fd, 24)} pid=${process.pid} cpu=${cpu} uptimeNs=${u64(fd, 10 * page) * 2e6} check=${guest ? encodeURIComponent(checked()) : "stopped"}`,
    freeze: (a, socket) => {
      if (fault("die-at-freeze")) die(1);
      if (stateOf(fd) !== 1) throw ["bad-state", "not running"];
      stop();
      bits();
      putText(fd, 32, a.attempt);
      putState(fd, 3);
      askedBy = socket;
      thawTimer = setTimeout(() => stateOf(fd) === 3 && thaw(), Number(a.deadmanMs));
      if (a.attempt === "throttle") {
        appendFileSync(join(dirname(folder), "throttled"), `${a.deadmanMs}\n`);
        if (fault("throttle-kill-agent")) process.kill(agentPid(), "SIGKILL");
        return "frozenNs=1000";
      }
      if (fault("hold-at-freeze")) hold();
      if (fault("freeze-kill-agent")) process.kill(agentPid(), "SIGKILL");
      return "frozenNs=1000";
    },
    thaw: (a) => {
      if (fault("thaw-refused")) throw ["failed", "told so"];
      if (stateOf(fd) !== 3 || text(fd, 32) !== a.attempt) throw ["bad-state", states[stateOf(fd)]];
      thaw();
      return "";
    },
    release: (a) => {
      if (fault("release-refused")) throw ["failed", "told so"];
      if (stateOf(fd) !== 3 || text(fd, 32) !== a.attempt) throw ["bad-state", states[stateOf(fd)]];
      clearTimeout(thawTimer);
      putState(fd, 4);
      if (fault("release-kill-agent")) process.kill(agentPid(), "SIGKILL");
      if (fault("die-at-release")) die(1);
      return "";
    },
    return: (a) => {
      if (stateOf(fd) !== 4) throw ["bad-state", states[stateOf(fd)]];
      put64(fd, 24, Number(a.epoch));
      thaw();
      return "";
    },
    go: (a) => {
      if (fault("no-go")) throw ["failed", "told so"];
      if (stateOf(fd) !== 0 || text(fd, 32) !== a.attempt) throw ["bad-state", "not that copy"];
      if (a.last) putLast(readFileSync(a.last));
      const bad = checked();
      if (bad !== "ok") console.error(`BAD COPY: ${bad}`);
      appendFileSync("checks", `${bad}\n`);
      if (bad !== "ok") throw ["failed", bad];
      start(1);
      if (fault("settle-blocked")) {
        rmSync(join(dirname(values["mobi.disk"]), "vm.json"));
        mkdirSync(join(dirname(values["mobi.disk"]), "vm.json", "in-the-way"), { recursive: true });
      }
      if (fault("go-kill-agent")) process.kill(agentPid(), "SIGKILL");
      return "resumeNs=1000";
    },
    refuse: () => {
      if (fault("goes-first")) start(1);
      if (stateOf(fd) !== 0) throw ["bad-state", ""];
      putState(fd, 5);
      setImmediate(() => die(0));
      return "";
    },
    pin: (a) => {
      cpu = a.cpu;
      return "";
    },
    halt: () => {
      putState(fd, 6);
      if (map) bits();
      setImmediate(() => die(0));
      return "";
    },
    poweroff: () => {
      putState(fd, 6);
      setImmediate(() => die(0));
      return "";
    },
    quit: () => {
      setImmediate(() => die(0));
      return "";
    },
  };
  function hold() {
    writeFileSync(join(dirname(folder), "held"), "");
    while (!existsSync(join(dirname(folder), "go-on"))) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
  }
  function agentPid() {
    return Number(readFileSync(join(dirname(folder), "agent.pid"), "utf8"));
  }
  function answer(line, socket) {
    const [tag, verb, ...words] = line.split(" ");
    const args = Object.fromEntries(words.map((w) => [w.slice(0, w.indexOf("=")), w.slice(w.indexOf("=") + 1)]));
    if (verb.startsWith("nic.")) return `${tag} ok`;
    if (!verbs[verb]) return `${tag} error unknown-verb ${verb}`;
    try {
      return `${tag} ok ${verbs[verb](args, socket)}`.trim();
    } catch (e) {
      if (Array.isArray(e)) return `${tag} error ${e[0]} ${e[1]}`;
      throw e;
    }
  }
  listen("control.sock", (socket) => {
    let rest = "";
    socket.write(`mobi-control 1 build=${build} vm=${values["mobi.vm"] ?? text(fd, 160)}\n`);
    socket.on("data", (chunk) => {
      rest += chunk;
      for (let at; (at = rest.indexOf("\n")) >= 0; rest = rest.slice(at + 1)) socket.write(`${answer(rest.slice(0, at), socket)}\n`);
    });
    // The dead man: who asked for the freeze has gone.
    socket.on("close", () => {
      if (socket === askedBy && stateOf(fd) === 3) thaw();
    });
  });
  listen("console.sock", (socket) => socket.write("fake console\n"));
  listen("guest.sock", (socket) => {
    socket.on("data", (chunk) => {
      const frame = (type, session, value) => {
        const p = Buffer.from(JSON.stringify(value));
        const h = Buffer.alloc(12);
        h.writeUInt32BE(p.length);
        h.writeUInt32BE(session, 4);
        h.writeUInt8(type, 8);
        socket.write(Buffer.concat([h, p]));
      };
      if (chunk[8] === 1) frame(1, 0, { version: 1, bootId: "fake", sessions: [] });
      if (chunk[8] === 2) frame(3, 0, { ok: true });
    });
  });
  function listen(path, take) {
    rmSync(path, { force: true });
    createServer((socket) => {
      socket.on("error", () => undefined);
      take(socket);
    }).listen(path);
  }
  process.on("uncaughtException", (e) => {
    console.error(e.stack);
    die(1);
  });
  void existsSync;
  void closeSync;
}
