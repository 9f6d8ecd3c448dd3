import { createHash, randomBytes } from "node:crypto";
import { expect } from "chai";
import { GuestProgram, mobitopolo, mobitopoloWith } from "./support/command";
import { Project } from "./support/project";
import { pair, type TestHosts, testHosts } from "./support/topologies";

describe("mobitopolo exec, logs and status", function () {
  this.timeout(300_000);
  let hosts: TestHosts;
  let both: Record<string, object>;
  let project: Project;

  before(async () => {
    hosts = testHosts();
    both = Object.fromEntries([hosts.local("here"), hosts.local("there")]);
    project = await Project.make(pair(both, "here", "here"));
    await project.up();
  });
  after(async () => {
    await project[Symbol.asyncDispose]();
    hosts[Symbol.dispose]();
  });

  it("gives exit code, stdout and stderr apart", async () => {
    const run = await mobitopolo(project, "exec", "-T", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7");
    expect(run).to.include({ code: 7, stdout: "out\n", stderr: "err\n" });
  });

  it("takes a megabyte of stdin and gives it back unchanged", async () => {
    const bytes = randomBytes(1 << 20);
    const run = await mobitopoloWith(project, bytes, "exec", "-T", "a", "--", "sha256sum");
    expect(run.stdout.slice(0, 64)).to.equal(createHash("sha256").update(bytes).digest("hex"));
    const text = bytes.toString("base64");
    expect((await mobitopoloWith(project, text, "exec", "-T", "a", "--", "cat")).stdout === text).to.equal(true);
  });

  it("sets environment and folder, and has a terminal if asked", async () => {
    const run = await mobitopolo(
      project,
      "exec",
      "-T",
      "-e",
      "WORD=hello",
      "-w",
      "/usr",
      "a",
      "--",
      "sh",
      "-c",
      "echo $WORD $PWD; test -t 0 || echo none",
    );
    expect(run.stdout).to.equal("hello /usr\nnone\n");
    const tty = await mobitopolo(project, "exec", "-t", "a", "--", "sh", "-c", "test -t 0 && test -t 1 && stty size");
    expect(tty.stdout.trim()).to.equal("24 80");
  });

  it("hands signals on", async () => {
    const sleeper = new GuestProgram<number>(project, "a", ["sh", "-c", "echo 1; exec sleep 1000"]);
    await sleeper.next();
    expect(await sleeper.stop()).to.equal(128 + 15);
  });

  it("says which program and which VM there is not", async () => {
    const noProgram = await mobitopolo(project, "exec", "-T", "a", "--", "no-such-program");
    expect(noProgram.code).to.be.oneOf([125, 127]);
    expect(noProgram.stderr).to.contain("no-such-program");
    const noVm = await mobitopolo(project, "exec", "-T", "c", "--", "true");
    expect(noVm.code).to.equal(125);
    expect(noVm.stderr).to.match(/no VM c .*there are a, b/s);
  });

  it("goes on with every byte in its place while the VM moves", async () => {
    const counter = new GuestProgram<number>(project, "a", [
      "sh",
      "-c",
      "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo $n; usleep 2000; done",
    ]);
    await counter.next();
    project.write(pair(both, "there", "here"));
    await project.up();
    expect(counter.lines.length, "it ran during the move").to.be.greaterThan(10);
    expect(await counter.ended()).to.equal(0);
    expect(counter.lines).to.deep.equal(Array.from({ length: 3000 }, (_, i) => i + 1));
  });

  it("shows the console and the state of all", async () => {
    await mobitopolo(project, "exec", "-T", "a", "--", "sh", "-c", "echo written to the console > /dev/console");
    expect((await mobitopolo(project, "logs", "a")).stdout).to.contain("written to the console");
    const table = await mobitopolo(project, "status");
    expect(table.code).to.equal(0);
    for (const word of ["here", "there", "running", "a:peer", "b:peer", "moved: here → there"]) expect(table.stdout).to.contain(word);
  });
});
