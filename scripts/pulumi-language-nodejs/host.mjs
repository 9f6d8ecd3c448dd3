/**
 * A small language host for Node programs: what the engine asks before and while it runs a program, over gRPC.
 * It stands in where only the CLI itself could be built (from its Go modules); who has Pulumi's release has the official host.
 * The protocol is `LanguageRuntime` of Pulumi's proto/pulumi/language.proto; the SDK brings the stubs.
 */
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";

const engineAddress = process.argv.at(-1);
/** The SDK of the program that runs here; a program outside of any project falls back to this project's. */
const sdkFrom = [process.cwd(), process.env.MOBITOPOLO_ROOT].filter(Boolean).map((dir) => createRequire(join(dir, "_")));
const sdk = (name) => {
  for (const require of sdkFrom) {
    try {
      return require(require.resolve(name));
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  throw new Error(`${name} is not installed here (${process.cwd()}): run npm install`);
};
const grpcFrom = createRequire(sdkFrom.map((r) => tryResolve(r, "@pulumi/pulumi")).find(Boolean) ?? join(process.cwd(), "_"));
const grpc = grpcFrom("@grpc/grpc-js");
const { LanguageRuntimeService } = sdk("@pulumi/pulumi/proto/language_grpc_pb.js");
const messages = sdk("@pulumi/pulumi/proto/language_pb.js");
const { PluginInfo } = sdk("@pulumi/pulumi/proto/plugin_pb.js");
const { Empty } = grpcFrom("google-protobuf/google/protobuf/empty_pb.js");

function tryResolve(require, name) {
  try {
    return require.resolve(name);
  } catch {
    return undefined;
  }
}

/** `cmd/run` says so when it has already told the user what was wrong. */
const EXIT_ALREADY_SAID = 32;
const running = new Set();

/** An unary method: `answer` gets the request and gives the response. */
const unary = (answer) => (call, callback) => {
  Promise.resolve()
    .then(() => answer(call.request))
    .then(
      (response) => callback(null, response),
      (error) => callback({ code: grpc.status.UNKNOWN, message: error.message }),
    );
};

function pluginInfo() {
  const info = new PluginInfo();
  info.setVersion(sdk("@pulumi/pulumi/package.json").version);
  return info;
}

function about() {
  const response = new messages.AboutResponse();
  response.setExecutable(process.execPath);
  response.setVersion(process.version);
  return response;
}

/** Starts the program and answers when it has ended. */
function runProgram(request) {
  const response = new messages.RunResponse();
  const info = request.getInfo();
  const options = info.getOptions()?.toJavaScript() ?? {};
  const entry = createRequire(join(info.getProgramDirectory(), "_")).resolve("@pulumi/pulumi/cmd/run");
  const argv = [
    ...String(options.nodeargs ?? "")
      .split(/\s+/)
      .filter(Boolean),
    entry,
    ...[
      "--monitor",
      request.getMonitorAddress(),
      "--engine",
      engineAddress,
      "--project",
      request.getProject(),
      "--stack",
      request.getStack(),
    ],
    ...["--organization", request.getOrganization(), "--pwd", info.getProgramDirectory(), "--root-directory", info.getRootDirectory()],
    ...["--parallel", String(request.getParallel())],
    ...(request.getDryrun() ? ["--dry-run"] : []),
    info.getEntryPoint(),
    ...request.getArgsList(),
  ];
  const env = {
    ...process.env,
    PULUMI_CONFIG: JSON.stringify(Object.fromEntries(request.getConfigMap().toArray())),
    PULUMI_CONFIG_SECRET_KEYS: JSON.stringify(request.getConfigsecretkeysList()),
    PULUMI_NODEJS_TYPESCRIPT: String(options.typescript !== false),
    ...(options.tsconfig ? { PULUMI_NODEJS_TSCONFIG_PATH: options.tsconfig } : {}),
  };
  return new Promise((resolve) => {
    const child = spawn(process.execPath, argv, { cwd: info.getProgramDirectory(), env, stdio: ["ignore", "inherit", "inherit"] });
    running.add(child);
    const end = (error) => {
      running.delete(child);
      if (error) response.setError(error);
      resolve(response);
    };
    child.on("error", (error) => end(`the program can't be started: ${error.message}`));
    child.on("close", (code, signal) => {
      if (code === EXIT_ALREADY_SAID) response.setBail(true);
      end(
        code === 0 || code === EXIT_ALREADY_SAID
          ? undefined
          : `Program exited with ${signal ? `signal ${signal}` : `non-zero exit code: ${code}`}`,
      );
    });
  });
}

const server = new grpc.Server({ "grpc.max_receive_message_length": 400 << 20, "grpc.max_send_message_length": 400 << 20 });
server.addService(LanguageRuntimeService, {
  handshake: unary(() => new messages.LanguageHandshakeResponse()),
  getPluginInfo: unary(pluginInfo),
  getRequiredPlugins: unary(() => new messages.GetRequiredPluginsResponse()),
  getRequiredPackages: unary(() => new messages.GetRequiredPackagesResponse()),
  about: unary(about),
  getProgramDependencies: unary(() => new messages.GetProgramDependenciesResponse()),
  runtimeOptionsPrompts: unary(() => new messages.RuntimeOptionsResponse()),
  run: unary(runProgram),
  cancel: unary(() => {
    for (const child of running) child.kill("SIGTERM");
    return new Empty();
  }),
});
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  process.stdout.write(`${port}\n`);
});
// The engine says SIGINT at every normal end (and kills after 5 s of waiting); a terminal's Ctrl-C does not come here, we are a process group of our own.
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    for (const child of running) child.kill("SIGTERM");
    process.exit(0);
  });
}
