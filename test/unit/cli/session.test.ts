import { expect } from "chai";
import type { Fleet, Located } from "../../../provider/cli/fleet";
import { GuestSession } from "../../../provider/cli/session";
import type { AgentConnection } from "../../../provider/transport/rpc";

const VM = "0b7b4ad5-8c9e-5a37-9a53-94fdc0c5b1a1";

/** An agent as far as a session sees it: calls are recorded, notifications sent by the test. */
class FakeAgent {
  readonly calls: { method: string; params: Record<string, unknown> }[] = [];
  readonly #handlers = new Map<string, (event: object) => void>();
  readonly closed = new Promise<void>(() => {});
  /** exec.input is answered only when the guest took it. */
  holdInput = false;
  failAttach = 0;

  async call({ type }: { type: { method: string } }, params: Record<string, unknown>, options?: { signal?: AbortSignal }): Promise<object> {
    this.calls.push({ method: type.method, params });
    if (type.method === "exec.attach" && this.failAttach > 0) {
      this.failAttach -= 1;
      throw new Error("not-found");
    }
    if (type.method === "exec.input" && this.holdInput)
      return new Promise((_, reject) => options?.signal?.addEventListener("abort", () => reject(new Error("aborted"))));
    return { session: 7 };
  }

  on({ method }: { method: string }, handler: (event: object) => void): Disposable {
    this.#handlers.set(method, handler);
    return { [Symbol.dispose]: () => void this.#handlers.delete(method) };
  }

  say(method: string, event: object): void {
    this.#handlers.get(method)?.({ vm: VM, session: 7, ...event });
  }

  inputs(): string {
    return this.calls
      .filter((c) => c.method === "exec.input")
      .map((c) => `${c.params.offset}:${Buffer.from(String(c.params.data), "base64")}`)
      .join(" ");
  }
}

async function session(agents: Record<string, FakeAgent>) {
  let at = "tokyo";
  const seen: string[] = [];
  // The edge of the program: a fleet is what the session talks to the network through.
  const fleet = {
    agent: async (name: string) => agents[name] as unknown as AgentConnection,
    locate: async () => ({ host: { name: at } }) as Located,
  } as unknown as Fleet;
  const started = await GuestSession.start(
    fleet,
    { host: { name: "tokyo" }, vm: { uuid: VM } } as Located,
    { argv: ["cat"] },
    {
      output: (stream, bytes) => void seen.push(`${stream}:${bytes}`),
      moved: (host) => void seen.push(`moved:${host}`),
    },
  );
  return {
    started,
    seen,
    goTo: (host: string) => {
      at = host;
    },
  };
}

const output = (text: string, offset: number, stream = "stdout") => ({ stream, offset, data: Buffer.from(text).toString("base64") });

describe("cli/session: a program in a guest", () => {
  it("gives output once, in order, and the exit code", async () => {
    const tokyo = new FakeAgent();
    const { started, seen } = await session({ tokyo });
    tokyo.say("exec.output", output("one", 0));
    tokyo.say("exec.output", output("netwo", 1));
    tokyo.say("exec.output", output("err", 6, "stderr"));
    tokyo.say("exec.exit", { code: 3 });
    expect(await started.exit).to.deep.equal({ code: 3 });
    expect(seen).to.deep.equal(["stdout:one", "stdout:two", "stderr:err"]);
  });

  it("goes on at the new host with what it has, and hands in the input again that nobody confirmed", async () => {
    const [tokyo, florida] = [new FakeAgent(), new FakeAgent()];
    florida.failAttach = 2;
    const { started, seen, goTo } = await session({ tokyo, florida });
    await started.write(Buffer.from("taken"));
    tokyo.holdInput = true;
    const pending = started.write(Buffer.from("lost?"));
    tokyo.say("exec.output", output("before", 0));
    goTo("florida");
    tokyo.say("exec.lost", { movedTo: "florida", reason: "moved" });
    await pending;
    expect(florida.inputs()).to.equal("5:lost?");
    expect(florida.calls.filter((c) => c.method === "exec.attach").at(-1)?.params).to.include({ session: 7, outputOffset: 6 });
    florida.say("exec.output", output("before+after", 0));
    florida.say("exec.exit", { signal: 15 });
    expect(await started.exit).to.deep.equal({ signal: 15 });
    expect(seen).to.deep.equal(["stdout:before", "moved:florida", "stdout:+after"]);
  });

  it("says why a program could not be started", async () => {
    const tokyo = new FakeAgent();
    const { started } = await session({ tokyo });
    tokyo.say("exec.exit", { error: "no such file: foo" });
    expect(
      await started.exit.then(
        () => "ended",
        (error: Error) => error.message,
      ),
    ).to.contain("no such file: foo");
  });
});
