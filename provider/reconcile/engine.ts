import { createRequire } from "node:module";
import type * as grpc from "@grpc/grpc-js";
import { EngineClient } from "@pulumi/pulumi/proto/engine_grpc_pb";
import { LogRequest, LogSeverity } from "@pulumi/pulumi/proto/engine_pb";

/** One resource's row in the display of `pulumi up`. */
export interface Row {
  /** Shows for the moment what is going on; too many of them are dropped. */
  progress(text: string): void;
  /** A line that stays, under the resource's diagnostics. */
  say(text: string): void;
  warn(text: string): void;
}

/** Without a terminal every progress text prints a line. */
const pauseMs = 2_000;

/** The row of a resource, by its URN. Nothing of it ever fails an operation. */
export function rowOf(urn: unknown): Row {
  const engine = connect();
  const send = (text: string, severity: LogSeverityName, ephemeral: boolean) => {
    if (!engine || typeof urn !== "string") return;
    const request = new LogRequest();
    request.setSeverity(LogSeverity[severity]);
    request.setMessage(text);
    request.setUrn(urn);
    request.setEphemeral(ephemeral);
    engine.log(request, () => undefined);
  };
  return {
    progress: throttled((text) => send(text, "INFO", true)),
    say: (text) => send(text, "INFO", false),
    warn: (text) => send(text, "WARNING", false),
  };
}

type LogSeverityName = "INFO" | "WARNING";

/** Lets a text through when its first word (the phase) is new, else every two seconds; never the same twice. */
export function throttled(send: (text: string) => void, now: () => number = () => performance.now()): (text: string) => void {
  let lastText = "";
  let lastPhase = "";
  let lastAt = Number.NEGATIVE_INFINITY;
  return (text) => {
    const phase = text.split(/[ :]/, 1)[0] ?? "";
    if (text === lastText || (phase === lastPhase && now() - lastAt < pauseMs)) return;
    [lastText, lastPhase, lastAt] = [text, phase, now()];
    send(text);
  };
}

let client: EngineClient | undefined;
/** The engine's address is the last argument of the dynamic-provider process (pulumi-mechanics.md §3). */
function connect(): EngineClient | undefined {
  const address = process.argv.at(-1) ?? "";
  if (!/^[\w.-]+:\d+$/.test(address)) return undefined;
  // The SDK's own copy: credentials of another copy would not be accepted.
  const { credentials } = createRequire(require.resolve("@pulumi/pulumi"))("@grpc/grpc-js") as typeof grpc;
  client ??= new EngineClient(address, credentials.createInsecure());
  return client;
}
