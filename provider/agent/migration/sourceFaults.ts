import { messageOf } from "../../lib/errors";
import { AgentFault } from "../errors";

interface Target {
  readonly host: string;
  readonly address: string;
  readonly port: number;
}

/** Why an outgoing move failed, each with where the guest runs and the next thing to do. */
export function unreachable({ host, address, port }: Target, cause: unknown): AgentFault {
  return new AgentFault("unreachable", `connect to ${host} at ${address}:${port}`, messageOf(cause), {
    next: "let both hosts reach each other's data addresses on the Host's `ports`; the VM runs on here",
    cause,
  });
}

export function lost({ host, address, port }: Target, error: Error): AgentFault {
  return new AgentFault("unreachable", `move to ${host}`, `the connection to ${address}:${port} was lost: ${messageOf(error)}`, {
    next: "check the network between the hosts; the VM runs on here",
  });
}

export function gaveUp(host: string, reason = "no reason was told"): AgentFault {
  return new AgentFault("failed", `move to ${host}`, `the target gave up: ${reason}`, {
    next: "the VM runs on here; mend the target and run `pulumi up` again",
  });
}

/** `next`: what is the case here now. */
export function gaveUpAfterRelease(host: string, reason: string, next: string): AgentFault {
  return new AgentFault("failed", `move to ${host}`, `the target gave up after the release: ${reason}`, { next });
}
