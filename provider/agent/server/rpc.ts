import type { Socket } from "node:net";
import { type RequestType, ResponseError } from "vscode-jsonrpc";
import type { MessageConnection } from "vscode-jsonrpc/node";
import { z } from "zod";
import { connectionOver } from "../../lib/rpc";
import type { RpcFault } from "../../protocol/methods";
import type { AgentContext } from "../context";
import { AgentFault } from "../errors";

/** A method of provider/protocol/methods.ts. */
interface Method<P extends z.ZodType, R> {
  readonly type: RequestType<z.input<P>, R, RpcFault>;
  readonly params: P;
}

/** One client: a provider or a CLI. */
export interface Client {
  readonly connection: MessageConnection;
  /** Runs when the connection ends. */
  onEnd(action: () => void): void;
}

/** A method with what answers it. */
export interface Handler {
  register(client: Client, context: AgentContext): void;
}

/** Binds a method to its work; parameters are checked before it runs, faults are told as RpcFault. */
export function handle<P extends z.ZodType, R>(method: Method<P, R>, work: (params: z.output<P>, client: Client) => Promise<R>): Handler {
  return {
    register(client, context) {
      client.connection.onRequest(method.type.method, async (raw: unknown) => {
        const parsed = method.params.safeParse(raw ?? {});
        if (!parsed.success)
          throw responseOf(
            context,
            new AgentFault("bad-request", `serve ${method.type.method}`, z.prettifyError(parsed.error), {
              next: "provider and agent may be of different versions",
            }),
          );
        try {
          return await work(parsed.data, client);
        } catch (error) {
          throw responseOf(context, error, `serve ${method.type.method}`);
        }
      });
    },
  };
}

/** Serves one connection until it ends. */
export function serve(socket: Socket, handlers: readonly Handler[], context: AgentContext): void {
  const connection = connectionOver(socket);
  const ends: (() => void)[] = [];
  const client: Client = { connection, onEnd: (action) => ends.push(action) };
  for (const handler of handlers) handler.register(client, context);
  socket.on("error", () => undefined);
  connection.onError(([error]) => context.log.debug({ err: error }, "a client's connection failed"));
  connection.onClose(() => {
    for (const end of ends.splice(0)) end();
    connection.dispose();
  });
  connection.listen();
}

function responseOf(context: AgentContext, error: unknown, step = "answer"): ResponseError<RpcFault> {
  const fault =
    error instanceof AgentFault
      ? error
      : new AgentFault("failed", step, error instanceof Error ? error.message : String(error), { cause: error });
  if (fault.code === "failed") context.log.error({ err: error, step: fault.step }, "a request failed");
  else context.log.info({ code: fault.code, step: fault.step, reason: fault.reason }, "a request was refused");
  const data: RpcFault = {
    code: fault.code,
    host: context.hostName,
    step: fault.step,
    ...(fault.next !== undefined && { next: fault.next }),
  };
  // Host, step and next travel as facts: who shows the fault puts them around the reason.
  return new ResponseError(-32000, fault.reason, data);
}
