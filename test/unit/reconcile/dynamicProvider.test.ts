import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type * as grpc from "@grpc/grpc-js";
import engineServices from "@pulumi/pulumi/proto/engine_grpc_pb";
import type { LogRequest } from "@pulumi/pulumi/proto/engine_pb";
import providerServices from "@pulumi/pulumi/proto/provider_grpc_pb";
import messages from "@pulumi/pulumi/proto/provider_pb";
import { expect } from "chai";
import empty from "google-protobuf/google/protobuf/empty_pb";
import struct from "google-protobuf/google/protobuf/struct_pb";
import type { Assets } from "../../../provider/lib/assets";
import { providerOf } from "../../../provider/resources/inputs";
import { FakeWorld } from "./support/fakeAgent";
import { assetsOf, urnOf } from "./support/props";

const root = join(__dirname, "../../..");
const { Server, ServerCredentials, credentials } = createRequire(createRequire(join(root, "package.json")).resolve("@pulumi/pulumi"))(
  "@grpc/grpc-js",
) as typeof grpc;
type Props = Record<string, unknown>;
const toStruct = (props: Props) => struct.Struct.fromJavaScript(props as Record<string, struct.JavaScriptValue>);

/** The SDK's own dynamic-provider process with our installed package, driven as the engine drives it. */
class Process implements AsyncDisposable {
  readonly logs: LogRequest.AsObject[] = [];
  #child!: ChildProcess;
  #client!: InstanceType<typeof providerServices.ResourceProviderClient>;
  readonly #engine = new Server();
  readonly #folder = mkdtempSync(join(tmpdir(), "mobi-assets-"));

  static async start(): Promise<Process> {
    const process = new Process();
    await process.#start();
    return process;
  }

  /** What this process brings to hosts: files that exist, of no use. */
  get assets(): Assets {
    const { kernel, image, node, agent } = assetsOf("a");
    const version = (JSON.parse(readFileSync(join(root, "provider/package.json"), "utf8")) as { version: string }).version;
    const placed = <A extends { id: string }>(asset: A, name: string) => ({ ...asset, path: join(this.#folder, name) });
    return {
      version,
      kernel: placed(kernel, "kernel"),
      image: placed(image, "image"),
      node: placed(node, "node"),
      agent: placed(agent, "agent"),
    };
  }

  async #start(): Promise<void> {
    for (const name of ["kernel", "image", "node", "agent"]) writeFileSync(join(this.#folder, name), name);
    writeFileSync(join(this.#folder, "assets.json"), JSON.stringify(this.assets));
    this.#engine.addService(engineServices.EngineService as grpc.ServiceDefinition, {
      log: (call: { request: LogRequest }, done: (error: null, answer: unknown) => void) => {
        this.logs.push(call.request.toObject());
        done(null, new empty.Empty());
      },
    });
    const port = await new Promise<number>((resolve, reject) =>
      this.#engine.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))),
    );
    const program = createRequire(join(root, "package.json")).resolve("@pulumi/pulumi/cmd/dynamic-provider");
    const env = { ...process.env, NODE_OPTIONS: "", PULUMI_NODEJS_PROJECT: "project", MOBITOPOLO_ASSETS: this.#folder };
    this.#child = spawn(process.execPath, [program, `127.0.0.1:${port}`], { cwd: root, env, stdio: ["ignore", "pipe", "ignore"] });
    const [line] = (await once(createInterface({ input: this.#child.stdout! }), "line")) as [string];
    this.#client = new providerServices.ResourceProviderClient(`127.0.0.1:${line.trim()}`, credentials.createInsecure());
    const configure = new messages.ConfigureRequest();
    configure.setArgs(toStruct({}));
    await this.#call<unknown>((done) => this.#client.configure(configure, done));
  }

  async check(olds: Props, news: Props): Promise<{ inputs: Props; failures: { property: string; reason: string }[] }> {
    const request = new messages.CheckRequest();
    request.setOlds(toStruct(olds));
    request.setNews(toStruct(news));
    const response = await this.#call<InstanceType<typeof messages.CheckResponse>>((done) => this.#client.check(request, done));
    return { inputs: response.getInputs()?.toJavaScript() ?? {}, failures: response.getFailuresList().map((one) => one.toObject()) };
  }

  async create(props: Props): Promise<{ id: string; outs: Props }> {
    const request = new messages.CreateRequest();
    request.setProperties(toStruct(props));
    const response = await this.#call<InstanceType<typeof messages.CreateResponse>>((done) => this.#client.create(request, done));
    return { id: response.getId(), outs: response.getProperties()?.toJavaScript() ?? {} };
  }

  async update(id: string, olds: Props, news: Props): Promise<Props> {
    const request = new messages.UpdateRequest();
    request.setId(id);
    request.setOlds(toStruct(olds));
    request.setNews(toStruct(news));
    return (
      (await this.#call<InstanceType<typeof messages.UpdateResponse>>((done) => this.#client.update(request, done)))
        .getProperties()
        ?.toJavaScript() ?? {}
    );
  }

  async #call<R>(send: (done: (error: grpc.ServiceError | null, response: R) => void) => unknown): Promise<R> {
    return await new Promise((resolve, reject) => send((error, response) => (error ? reject(error) : resolve(response))));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
    this.#engine.forceShutdown();
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGINT");
    await ended;
    rmSync(this.#folder, { recursive: true });
  }
}

describe("the dynamic-provider process", () => {
  it("runs the installed package: check, create, a move with progress on the VM's row, and doubt that is saved", async () => {
    await using provider = await Process.start();
    await using world = new FakeWorld(provider.assets);
    for (const name of ["tokyo", "florida"]) await world.add(name);
    const urn = urnOf("Vm", "handler");
    const news = {
      name: "handler",
      host: "tokyo",
      nics: [{ name: "lan" }],
      __urn: urn,
      __hosts: world.known,
      __provider: providerOf("vm"),
    };

    const wrong = await provider.check({}, { ...news, memoryMib: 3, host: "osaka" });
    expect(wrong.failures.map(({ property }) => property)).to.deep.equal(["memoryMib", "host"]);

    const { inputs } = await provider.check({}, news);
    const { id, outs } = await provider.create(inputs);
    expect(outs).to.include({ host: "tokyo", uuid: id, __provider: news.__provider });

    const moved = await provider.update(id, outs, (await provider.check(inputs, { ...news, host: "florida" })).inputs);
    expect(moved).to.include({ host: "florida", __provider: news.__provider });
    const ofRow = provider.logs.filter((log) => log.urn === urn);
    expect(ofRow.findLast(({ ephemeral }) => !ephemeral)?.message).to.equal(
      "moved tokyo → florida: 14.2 MiB in 1.8 s, down 23 ms, 3 rounds",
    );
    expect(ofRow.filter(({ ephemeral }) => ephemeral).map(({ message }) => message)).to.include(
      "pre-copy round 3: 14.2 MiB sent, 12 pages left",
    );

    world.outcome = "in-doubt";
    const failure = await provider.update(id, moved, inputs).then(
      () => undefined,
      (error: grpc.ServiceError) => error,
    );
    expect(failure?.message).to.include("the target fell silent");
    expect(failure?.metadata.get("grpc-status-details-bin"), "what is saved").to.have.length(1);
  });
});
