/**
 * The wire contract of an agent and those that call it (provider, CLI): JSON-RPC over a Unix socket, locally or through SSH.
 * One exported constant per method, used by both ends; parameters are checked by the agent with the schema named beside it.
 */
import { NotificationType, RequestType } from "vscode-jsonrpc";
import { z } from "zod";
import { name, sha256 } from "../schemas/common";
import { type NicStats, wiring } from "../schemas/link";
import { type LastMigration, lastMigration, migrationPolicy, type VmSpec, type VmState, vmSpec } from "../schemas/vm";

/** Raised when a change would not be understood by an older side. */
export const PROTOCOL_VERSION = 1;

/** `data` of every JSON-RPC error of an agent. */
export interface RpcFault {
  /** Stable, for programs. */
  readonly code:
    | "bad-request"
    | "not-found"
    | "not-ours"
    | "stale-gen"
    | "busy"
    | "bad-state"
    | "no-space"
    | "no-port"
    | "cpu-features"
    | "missing-blob"
    | "in-doubt"
    | "unreachable"
    | "too-old"
    | "failed";
  readonly host: string;
  /** What the agent was doing, as "boot the VM". */
  readonly step: string;
  /** The next thing a person does. */
  readonly next?: string;
}

const method = <P extends z.ZodType, R>(methodName: string, params: P) => ({
  type: new RequestType<z.input<P>, R, RpcFault>(methodName),
  params,
});

export interface AgentHello {
  readonly agentId: string;
  readonly protocol: number;
  readonly version: string;
  readonly hostName: string;
  readonly uid: number;
  readonly bootId: string;
  /** What it runs with: its data address and ports. */
  readonly address: string;
  readonly ports: { readonly from: number; readonly to: number };
}
export const hello = method<z.ZodObject<{ protocol: z.ZodNumber; client: z.ZodString }>, AgentHello>(
  "hello",
  z.object({ protocol: z.number(), client: z.string() }),
);

export interface HostFacts {
  readonly cpuModel: string;
  readonly cpus: number;
  /** CPU features that programs there can use (CPUID), by /proc/cpuinfo's names; none where no kernel of ours is there yet to ask. */
  readonly cpuFlags: readonly string[];
  readonly xstateBytes: number;
  readonly memoryMiB: number;
  readonly memoryFreeMiB: number;
  readonly diskFreeMiB: number;
  readonly kernelRelease: string;
  readonly runDir: string;
  readonly stateDir: string;
  readonly warnings: readonly string[];
  readonly vms: number;
}
export const hostFacts = method<z.ZodObject, HostFacts>("host.facts", z.object({}));
/** Ends the agent (VMs go on). */
export const shutdown = method<z.ZodObject, object>("host.shutdown", z.object({}));
/** Removes what the agent keeps of this host, if no VM is left: true if it did. */
export const retireHost = method<z.ZodObject, { removed: boolean; vms: string[] }>("host.retire", z.object({}));

/** Content store: kernels and images by the SHA-256 of their bytes. */
export const storeMissing = method<z.ZodObject<{ ids: z.ZodArray<z.ZodString> }>, { missing: string[] }>(
  "store.missing",
  z.object({ ids: z.array(sha256) }),
);
/** Takes a file that lies on the agent's own host (a hard link or a copy), checks its hash; `zstd`: the file is compressed, `id` is of the content. */
export const storeImport = method<
  z.ZodObject<{ id: z.ZodString; path: z.ZodString; zstd: z.ZodOptional<z.ZodBoolean>; remove: z.ZodOptional<z.ZodBoolean> }>,
  object
>("store.import", z.object({ id: sha256, path: z.string(), zstd: z.boolean().optional(), remove: z.boolean().optional() }));
/** Path of a blob on the agent's host, for one who can read files there. */
export const storePath = method<z.ZodObject<{ id: z.ZodString }>, { path: string; bytes: number }>("store.path", z.object({ id: sha256 }));
export const storeGc = method<z.ZodObject, { removed: number; bytes: number }>("store.gc", z.object({}));

export interface VmReport {
  readonly uuid: string;
  readonly spec: VmSpec;
  readonly owner: string;
  readonly state: VmState;
  /** The custodian bit of migration-protocol.md. */
  readonly home: "no" | "yes" | "destroyed";
  readonly pid?: number;
  readonly cpu?: number;
  readonly epoch?: number;
  readonly uptimeMs?: number;
  /** Bytes of memory file and overlay that are really used. */
  readonly memoryUsedBytes?: number;
  readonly diskUsedBytes?: number;
  readonly nics: readonly NicStats[];
  readonly lastMigration?: LastMigration;
  /** CPU features that the guest has been shown: a target must have them all. */
  readonly cpuFlags?: readonly string[];
  /** The VM went from here to there (tombstone). */
  readonly movedTo?: string;
  /** The highest epoch that this journal knows of. Two that both have the VM and lie far apart: a person recovered the one above. */
  readonly floor?: number;
  /** For a person: why it is stopped, frozen or in doubt, and what to do. */
  readonly note?: string;
}
const vmRef = z.object({ vm: z.uuid() });
/** A provider run's claim on a VM, fsynced; later calls with an older gen are refused. */
export const vmClaim = method<typeof vmRef, { gen: number }>("vm.claim", vmRef);
export const vmList = method<z.ZodObject, { vms: VmReport[] }>("vm.list", z.object({}));
export const vmGet = method<typeof vmRef, { vm: VmReport | null }>("vm.get", vmRef);
const ensure = z.object({ spec: vmSpec, owner: z.string(), adopt: z.boolean().optional(), running: z.boolean(), gen: z.int() });
/** Makes it so: created if missing, NICs, labels and policies as in spec, running or stopped as asked. Idempotent. */
export const vmEnsure = method<typeof ensure, { vm: VmReport; created: boolean; booted: boolean }>("vm.ensure", ensure);
const owned = z.object({ vm: z.uuid(), owner: z.string(), gen: z.int() });
/** Stops the VM and removes all of it; missing is fine. Refused while in doubt. */
export const vmDestroy = method<typeof owned, { existed: boolean }>("vm.destroy", owned);

/** The agent's end of links: idempotent; replaces what it held of that NIC. Returns the local socket. */
const ensureWiring = z.object({ wiring, gen: z.int().optional() });
export const linkEnsure = method<typeof ensureWiring, { address: string; port: number }>("link.ensure", ensureWiring);
/** Sets where the peer is (after both ends moved at once), nothing else. */
const linkPeerParams = z.object({ vm: z.uuid(), nic: name, peer: z.object({ address: z.string(), port: z.int() }) });
export const linkPeer = method<typeof linkPeerParams, object>("link.peer", linkPeerParams);
const linkRef = z.object({ link: z.uuid(), vm: z.uuid() });
/** Null where this agent holds no such end. The key is given only to an owner who re-wires a replaced VM. */
export const linkGet = method<typeof linkRef, { wiring: z.infer<typeof wiring> | null; address?: string; port?: number }>(
  "link.get",
  linkRef,
);
export const linkRemove = method<typeof linkRef, { existed: boolean }>("link.remove", linkRef);

/** What a target must have before anything changes. */
export interface MoveNeeds {
  readonly attempt: string;
  readonly spec: VmSpec;
  readonly owner: string;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly cpuFlags: readonly string[];
  readonly xstateBytes: number;
  /** eT of migration-protocol.md. */
  readonly epochTarget: number;
  readonly from: { readonly host: string; readonly agentId: string };
}
const moveNeeds: z.ZodType<MoveNeeds> = z.object({
  attempt: z.string().regex(/^[0-9a-f-]{8,63}$/),
  spec: vmSpec,
  owner: z.string(),
  memoryBytes: z.int().positive(),
  diskBytes: z.int().min(0),
  cpuFlags: z.array(z.string()),
  xstateBytes: z.int().min(0),
  epochTarget: z.int().positive(),
  from: z.object({ host: name, agentId: z.string() }),
});
const begin = z.object({ vm: z.uuid(), gen: z.int(), to: z.object({ host: name, agentId: z.string() }) });
/** Source: attaches to a running attempt with the same target, or burns two epochs and journals INIT. */
export const moveBegin = method<typeof begin, { needs: MoveNeeds; attached: boolean }>("move.begin", begin);

/** What a move would come to. Estimated from the VM as it is now; nothing of it is a promise. */
export interface MovePrediction {
  /** Pages of the memory file that are not holes, and blocks that the disk's overlay holds. */
  readonly memoryBytes: number;
  readonly diskBytes: number;
  /** What a sample of the memory came to when compressed, as a part of it: 0 to 1. */
  readonly compression: number;
  /** Memory that changed in a short sample, uncompressed. Absent: it could not be measured in time. */
  readonly dirtyBytesPerS?: number;
  readonly linkMbps: number;
  /** Where that figure comes from. */
  readonly linkFrom: "bandwidthMbps" | "an earlier move" | "an assumption";
  /** On the wire. */
  readonly bytes: number;
  readonly seconds: number;
  readonly downtimeMs: number;
  readonly rounds: number;
  /** What it takes where the guest outruns the link; absent where it does not. */
  readonly how?: "throttled" | "a longer downtime" | "post-copy" | "it would be given up";
}
const plan = z.object({ vm: z.uuid(), to: z.object({ host: name, agentId: z.string() }), policy: migrationPolicy });
/** Source: what a move there would need and come to. Changes nothing. */
export const movePlan = method<typeof plan, { needs: MoveNeeds; prediction: MovePrediction }>("move.plan", plan);
export interface MoveHindrance extends Pick<RpcFault, "code" | "next"> {
  readonly reason: string;
}
/** Target: what of a move's needs it lacks. `missing` blobs are brought by a move. Changes nothing. */
const check = z.object({ needs: moveNeeds });
export const moveCheck = method<typeof check, { missing: string[]; hindrances: MoveHindrance[] }>("move.check", check);

const offer = z.object({ needs: moveNeeds, key: z.string().regex(/^[0-9a-f]{64}$/) });
/** Target: preflight and RESERVED; a fault names what is missing. Idempotent per attempt. */
export const moveOffer = method<typeof offer, { port: number; journalId: string; missing: string[] }>("move.offer", offer);
const start = z.object({
  vm: z.uuid(),
  attempt: z.string(),
  key: z.string().regex(/^[0-9a-f]{64}$/),
  policy: migrationPolicy,
  target: z.object({ host: name, address: z.string(), port: z.int(), journalId: z.string() }),
  /** So many outgoing moves of this host copy at the same time; the others wait. @default as told last, 2 at first */
  atOnce: z.int().positive().optional(),
});
/** Source: starts the job and returns at once; watch it with move.watch. */
export const moveStart = method<typeof start, object>("move.start", start);

export interface MoveProgress {
  readonly vm: string;
  readonly attempt: string;
  /** `queued`: the host's limit of simultaneous moves is reached. */
  readonly phase:
    | "preflight"
    | "reserve"
    | "queued"
    | "precopy"
    | "arm"
    | "freeze"
    | "release"
    | "resume"
    | "settle"
    | "retire"
    | "done"
    | "failed";
  readonly round: number;
  readonly bytesSent: number;
  readonly pagesLeft?: number;
  /** With phase queued: moves that come first. */
  readonly ahead?: number;
  /** The part of its own time that the guest gets; absent: all of it. */
  readonly guestShare?: number;
  readonly downtimeMs?: number;
  /** With phase done or failed. */
  readonly result?: LastMigration;
  /** With phase failed: where the guest runs now. */
  readonly fault?: { readonly message: string; readonly running: "source" | "target" | "in-doubt" };
}
const attemptRef = z.object({ vm: z.uuid(), attempt: z.string() });
/** Answers when the job has ended; moveProgress notifications come meanwhile. */
export const moveWatch = method<typeof attemptRef, MoveProgress>("move.watch", attemptRef);
export const moveProgress = new NotificationType<MoveProgress>("move.progress");
/** Before release: undo; after it: refused with what is going on. */
export const moveCancel = method<typeof attemptRef, object>("move.cancel", attemptRef);
/** The facts of an attempt that this agent holds, for a courier (migration-protocol.md). */
export interface MoveFacts {
  readonly attempt: string;
  readonly out?: "INIT" | "OPEN" | "ABORTED" | "CLOSED";
  readonly in?: "RESERVED" | "SETTLED" | "GONE";
  readonly header?: string;
  readonly journalId: string;
  readonly movedTo?: string;
  readonly peer?: { readonly host: string; readonly agentId: string };
  /** With CLOSED: how it went. */
  readonly result?: LastMigration;
}
export const moveFacts = method<typeof vmRef, { facts: MoveFacts[] }>("move.facts", vmRef);
/** Brings a fact of the other side: QUERY and ABORTED and CLOSED to a target, SETTLED and GONE to a source. */
const tell = z.object({
  vm: z.uuid(),
  attempt: z.string(),
  fact: z.enum(["QUERY", "LOST", "ABORTED", "CLOSED", "SETTLED", "GONE"]),
  journalId: z.string(),
  /** With CLOSED. */
  result: lastMigration.optional(),
});
export const moveTell = method<typeof tell, { facts: MoveFacts[] }>("move.tell", tell);

const recover = z.object({ vm: z.uuid(), gen: z.int(), attempt: z.string() });
/**
 * A person's decision, where the target of a released move is gone for good: the copy here runs again as it was at the freeze (or, where its memory is
 * gone too, may boot from its disk). The floor of its epochs jumps by 2^16 and its links get new keys, so that a copy that may run elsewhere is deaf and mute.
 */
export const vmRecover = method<typeof recover, { vm: VmReport; frozenAtMs?: number; links: string[] }>("vm.recover", recover);
const overrule = z.object({ vm: z.uuid(), floor: z.int().positive() });
/** A person has recovered the VM elsewhere, above this floor: a copy here that is below it ends and is removed. One above it stays. */
export const vmOverrule = method<typeof overrule, { removed: boolean }>("vm.overrule", overrule);

/** A program in the guest (guest-channel.md). */
const execOpen = z.object({
  vm: z.uuid(),
  argv: z.array(z.string()).min(1),
  env: z.record(z.string(), z.string()).optional(),
  cwd: z.string().optional(),
  pty: z.object({ rows: z.int(), cols: z.int(), term: z.string() }).optional(),
});
export const execStart = method<typeof execOpen, { session: number }>("exec.open", execOpen);
const execAttach = z.object({ vm: z.uuid(), session: z.int(), outputOffset: z.int() });
/** Finds a session again, for instance on the VM's new host. */
export const execResume = method<typeof execAttach, { inputReceived?: number }>("exec.attach", execAttach);
/** base64 in `data`; `end`: end of input. Answers when the guest has taken these bytes; a repeated or overlapping offset is harmless. */
const execInputParams = z.object({ vm: z.uuid(), session: z.int(), offset: z.int(), data: z.string(), end: z.boolean().optional() });
export const execInput = method<typeof execInputParams, object>("exec.input", execInputParams);
const execControlParams = z.object({
  vm: z.uuid(),
  session: z.int(),
  resize: z.object({ rows: z.int(), cols: z.int() }).optional(),
  signal: z.int().optional(),
  close: z.boolean().optional(),
});
export const execControl = method<typeof execControlParams, object>("exec.control", execControlParams);
export const execOutput = new NotificationType<{ vm: string; session: number; stream: "stdout" | "stderr"; offset: number; data: string }>(
  "exec.output",
);
export const execExit = new NotificationType<{ vm: string; session: number; code?: number; signal?: number; error?: string }>("exec.exit");
/** The VM left this agent (or its guest died) while a session was open. */
export const execLost = new NotificationType<{ vm: string; session: number; movedTo?: string; reason: string }>("exec.lost");

const logsParams = z.object({ vm: z.uuid(), follow: z.boolean().optional(), lines: z.int().optional() });
/** The guest's console output so far; with follow, logsOutput notifications come until the connection ends. */
export const vmLogs = method<typeof logsParams, { text: string }>("vm.logs", logsParams);
export const logsOutput = new NotificationType<{ vm: string; data: string }>("vm.logs.output");
const consoleInputParams = z.object({ vm: z.uuid(), data: z.string() });
/** Types bytes (base64) into the guest's console. */
export const consoleInput = method<typeof consoleInputParams, object>("vm.console.input", consoleInputParams);
