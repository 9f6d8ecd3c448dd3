import type { Duplex } from "node:stream";
import {
  CancellationTokenSource,
  type MessageConnection,
  type NotificationHandler,
  type NotificationType,
  type RequestType,
  ResponseError,
} from "vscode-jsonrpc/node";
import type { z } from "zod";
import { connectionOver } from "../lib/rpc";
import { type AgentHello, hello as helloMethod, type RpcFault } from "../protocol/methods";
import type { HostEndpoint } from "../schemas/host";
import { AgentError, TransportError } from "./errors";

/** A method of protocol/methods.ts. */
export interface Method<P extends z.ZodType, R> {
  readonly type: RequestType<z.input<P>, R, RpcFault>;
  readonly params: P;
}

/** @default timeoutMs 30,000 */
export interface CallOptions {
  /** 0: no limit (for calls that wait for the end of a job; the connection's keepalive ends those). */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Agents refuse a greeting from the future, so the greeting is of the first protocol: an old one must still be told to make room. */
const greetingProtocol = 1;

/** An open conversation with one host's agent. */
export class AgentConnection {
  /** Resolves when the conversation has ended, for whatever reason. */
  readonly closed: Promise<void>;
  #ended = false;

  private constructor(
    readonly endpoint: HostEndpoint,
    readonly rpc: MessageConnection,
    readonly hello: AgentHello,
    readonly stateDir: string,
  ) {
    this.closed = new Promise((resolve) => {
      rpc.onClose(() => resolve());
      rpc.onDispose(() => resolve());
    });
    void this.closed.then(() => {
      this.#ended = true;
    });
  }

  /** Says hello over `stream`. @throws TransportError where nothing that speaks our protocol answers */
  static async open(
    endpoint: HostEndpoint,
    stream: Duplex,
    stateDir: string,
    client: string,
    signal?: AbortSignal,
  ): Promise<AgentConnection> {
    const rpc = connectionOver(stream);
    rpc.onError(() => rpc.dispose());
    stream.on("error", () => rpc.dispose());
    // A stream through SSH stays half open when the agent has gone.
    stream.on("end", () => rpc.dispose());
    rpc.listen();
    try {
      const hello = await request(endpoint.name, rpc, helloMethod, { protocol: greetingProtocol, client }, { timeoutMs: 10_000, signal });
      return new AgentConnection(endpoint, rpc, hello, stateDir);
    } catch (error) {
      rpc.dispose();
      throw error;
    }
  }

  get host(): string {
    return this.endpoint.name;
  }

  get isClosed(): boolean {
    return this.#ended;
  }

  /** @throws AgentError what the agent refused; TransportError where no answer came */
  async call<P extends z.ZodType, R>(method: Method<P, R>, params: z.input<P>, options: CallOptions = {}): Promise<R> {
    return await request(this.host, this.rpc, method, params, options);
  }

  /** Hears a kind of notification until the result is disposed. */
  on<T>(type: NotificationType<T>, handler: NotificationHandler<T>): Disposable {
    const subscription = this.rpc.onNotification(type, handler);
    return { [Symbol.dispose]: () => subscription.dispose() };
  }

  close(): void {
    this.rpc.end();
    this.rpc.dispose();
  }
}

async function request<P extends z.ZodType, R>(
  host: string,
  rpc: MessageConnection,
  method: Method<P, R>,
  params: z.input<P>,
  { timeoutMs = 30_000, signal }: CallOptions,
): Promise<R> {
  signal?.throwIfAborted();
  const step = `ask its agent for ${method.type.method}`;
  const lost = (reason: string) =>
    new TransportError({ host, kind: "lost", step, reason, next: "run the same command again; the agent goes on with what it has begun" });
  const { promise, resolve, reject } = Promise.withResolvers<R>();
  const cancel = new CancellationTokenSource();
  const abort = () => {
    cancel.cancel();
    reject(signal?.reason ?? new Error("aborted"));
  };
  const timer =
    timeoutMs > 0
      ? setTimeout(() => {
          cancel.cancel();
          reject(
            new TransportError({
              host,
              kind: "timeout",
              step,
              reason: `no answer within ${timeoutMs / 1000} s`,
              next: "look at agent.log in the host's state folder",
            }),
          );
        }, timeoutMs)
      : undefined;
  const closing = rpc.onClose(() => reject(lost("the connection ended before the answer")));
  const disposing = rpc.onDispose(() => reject(lost("the connection was closed")));
  signal?.addEventListener("abort", abort, { once: true });
  rpc
    .sendRequest<R>(method.type.method, params, cancel.token)
    .then(resolve, (error: unknown) =>
      reject(error instanceof ResponseError ? refusal(host, method.type.method, step, error) : lost(String(error))),
    );
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    closing.dispose();
    disposing.dispose();
    signal?.removeEventListener("abort", abort);
    cancel.dispose();
  }
}

function refusal(host: string, method: string, step: string, error: ResponseError<RpcFault>): Error {
  return new AgentError(method, error.message, error.data ?? { code: "failed", host, step });
}
