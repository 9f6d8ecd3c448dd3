import { type Assets, defaultAssets } from "../lib/assets";
import { messageOf } from "../lib/errors";
import type { HostEndpoint } from "../schemas/host";
import { ensureAgent, findAgent, stateDirOf } from "./agent";
import { AgentError, TransportError } from "./errors";
import { LocalMachine } from "./local";
import type { Machine } from "./machine";
import type { AgentConnection } from "./rpc";
import { SshMachine } from "./ssh";

export interface ConnectOptions {
  /** Start an agent where none runs, and replace an older one. `false`: only talk to one that is there. @default true */
  readonly start?: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((text: string) => void) | undefined;
  /** @default those of this package */
  readonly assets?: Assets;
}

/** A conversation with a host's agent, and the machine under it (for files). */
export interface Reached {
  readonly agent: AgentConnection;
  readonly machine: Machine;
}

/** Reaches the agent of a host, locally or through SSH. @throws TransportError, AgentError */
export async function connectAgent(endpoint: HostEndpoint, options: ConnectOptions = {}): Promise<AgentConnection> {
  return (await reach(endpoint, options)).agent;
}

/** Like connectAgent; the machine's connection ends with the agent's. */
export async function reach(endpoint: HostEndpoint, options: ConnectOptions = {}): Promise<Reached> {
  const machine = await openMachine(endpoint, options.signal);
  try {
    const facts = await machine.facts(options.signal);
    const stateDir = stateDirOf(endpoint, facts);
    const agent =
      options.start === false
        ? await findAgent(machine, endpoint, stateDir, "observer", options.signal)
        : await ensureAgent(machine, endpoint, facts, stateDir, { ...options, assets: options.assets ?? defaultAssets() });
    if (!agent)
      throw new TransportError({
        host: endpoint.name,
        kind: "no-agent",
        step: "talk to its agent",
        reason: "none runs there",
        next: "`pulumi refresh` (or an `up` that changes something there) starts it",
      });
    void agent.closed.then(() => machine.close());
    return { agent, machine };
  } catch (error) {
    machine.close();
    throw asFault(endpoint.name, error, options.signal);
  }
}

/** A full disk or a missing file on the way is a fault of this host, with its name. */
function asFault(host: string, error: unknown, signal?: AbortSignal): unknown {
  if (error instanceof TransportError || error instanceof AgentError || signal?.aborted) return error;
  return new TransportError({ host, kind: "agent-start", step: "start the agent", reason: messageOf(error), cause: error });
}

async function openMachine({ name, connection, dataAddress }: HostEndpoint, signal?: AbortSignal): Promise<Machine> {
  if ("local" in connection) return new LocalMachine(name);
  return await SshMachine.open(name, { ...connection.ssh, host: connection.ssh.host ?? dataAddress }, signal);
}
