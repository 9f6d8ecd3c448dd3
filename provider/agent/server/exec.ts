import * as protocol from "../../protocol/methods";
import { AgentFault } from "../errors";
import type { SessionListener } from "../guest/sessions";
import { lastLines, tailOf } from "../vm/console";
import type { Vms } from "../vm/vms";
import { type Client, type Handler, handle } from "./rpc";

/** How long a program's start waits for the guest agent: a guest that boots just now. */
const helloLimitMs = 20_000;

/** Programs in guests, and consoles. */
export function execHandlers(vms: Vms): Handler[] {
  return [
    handle(protocol.execStart, async ({ vm, argv, env, cwd, pty }, client) => {
      const { live } = vms.needLive(vm, "start a program in the guest");
      await guestAnswers(live.guest?.hello(helloLimitMs));
      const listener = listenerOf(vm, client);
      client.onEnd(() => live.sessions.drop(listener));
      const session = live.sessions.start({ argv, ...(env && { env }), ...(cwd !== undefined && { cwd }), ...(pty && { pty }) }, listener);
      return { session };
    }),
    handle(protocol.execResume, async ({ vm, session, outputOffset }, client) => {
      const { live } = vms.needLive(vm, "find a program in the guest again");
      await guestAnswers(live.guest?.hello(helloLimitMs));
      const listener = listenerOf(vm, client);
      client.onEnd(() => live.sessions.drop(listener));
      const inputReceived = live.sessions.attach(session, outputOffset, listener);
      return inputReceived === undefined ? {} : { inputReceived };
    }),
    handle(protocol.execInput, async ({ vm, session, offset, data, end }) => {
      await vms
        .needLive(vm, "write to a program in the guest")
        .live.sessions.input(session, offset, Buffer.from(data, "base64"), end ?? false);
      return {};
    }),
    handle(protocol.execControl, async ({ vm, session, resize, signal, close }) => {
      vms.needLive(vm, "steer a program in the guest").live.sessions.control(session, {
        ...(resize && { resize }),
        ...(signal !== undefined && { signal }),
        ...(close !== undefined && { close }),
      });
      return {};
    }),
    handle(protocol.vmLogs, async ({ vm: uuid, follow, lines }, client) => {
      const vm = vms.need(uuid, "read the console");
      const text = lastLines(await tailOf(vm.paths.console), lines);
      if (follow && vm.live?.console) {
        const stop = vm.live.console.follow(
          (data) => void client.connection.sendNotification(protocol.logsOutput, { vm: uuid, data }).catch(() => undefined),
        );
        client.onEnd(stop);
      }
      return { text };
    }),
    handle(protocol.consoleInput, async ({ vm, data }) => {
      vms.needLive(vm, "type into the console").live.console?.type(Buffer.from(data, "base64"));
      return {};
    }),
  ];
}

async function guestAnswers(hello: Promise<unknown> | undefined): Promise<void> {
  try {
    await hello;
  } catch (error) {
    throw new AgentFault("bad-state", "reach the guest agent", error instanceof Error ? error.message : String(error), {
      next: "see `mobitopolo logs`: the guest may still boot, or its image has no guest agent",
      cause: error,
    });
  }
}

function listenerOf(vm: string, { connection }: Client): SessionListener {
  return {
    output: async (event) => await connection.sendNotification(protocol.execOutput, { vm, ...event }),
    exit: (event) => void connection.sendNotification(protocol.execExit, { vm, ...event }).catch(() => undefined),
    lost: (event) => void connection.sendNotification(protocol.execLost, { vm, ...event }).catch(() => undefined),
  };
}
