import { createHash } from "node:crypto";
import { z } from "zod";
import { wiring } from "../../schemas/link";
import { lastMigration, vmSpec } from "../../schemas/vm";
import { StreamError } from "./stream";

/** First word of the source on each connection. */
export const helloMessage = z.strictObject({
  protocol: z.literal(6),
  m: z.string(),
  vm: z.uuid(),
  /** Changes when the source begins anew (its agent was restarted): the target then forgets what it counted. */
  stream: z.string().max(64),
});

/** The target's answer: everything up to `received` is applied. */
export const readyMessage = z.strictObject({
  journalId: z.string(),
  received: z.int().min(0),
  /** Where the VM's NICs will be heard, by their names: frames that still come to the source are passed on there. */
  ports: z.record(z.string(), z.int().min(1).max(65535)).optional(),
  /** The guest runs there, and lacks pages still: nothing else is taken any more. */
  isFilling: z.boolean().optional(),
  /** It had the VM before, and has something of that still: what, it answers by sums. */
  basis: z.strictObject({ memory: z.boolean(), disk: z.boolean() }).optional(),
});

export type Ready = z.infer<typeof readyMessage>;

/** migration-protocol.md, "Facts". STARTED and FAULT inform; they decide nothing. LOST is QUERY by a source that has no copy any more. */
export const factMessage = z.strictObject({
  fact: z.enum(["STARTED", "SETTLED", "GONE", "FAULT", "ABORTED", "QUERY", "LOST", "CLOSED"]),
  m: z.string(),
  journalId: z.string(),
  /** With STARTED: what the resume took on the target, how long the guest has run since, and how many pages it still lacks there. */
  resumeMs: z.number().optional(),
  agoMs: z.number().min(0).optional(),
  missing: z.int().optional(),
  /** With GONE and FAULT: why. */
  reason: z.string().optional(),
  /** With CLOSED: how the move went, for the VM's new host to keep. */
  result: lastMigration.optional(),
});
export type Fact = z.infer<typeof factMessage>;

/** Before the last page: all that the target must have had. */
export const finalMessage = z.strictObject({
  m: z.string(),
  /** SHA-256 over all numbered frames before this one. */
  digest: z.string().regex(/^[0-9a-f]{64}$/),
  epoch: z.int(),
  /** Blocks that the overlay holds. */
  diskBlocks: z.int(),
  /** Pages that come when the guest runs. */
  latePages: z.int(),
});
export type FinalMessage = z.infer<typeof finalMessage>;

/** @param here what the target has, and what it is there for @throws StreamError */
export function checkFinal({ m, epoch, digest, diskBlocks, latePages }: FinalMessage, here: FinalMessage): void {
  if (m !== here.m || epoch !== here.epoch) throw new StreamError("the last frame is of another attempt");
  if (digest !== here.digest) throw new StreamError("the digest over all frames is wrong");
  if (diskBlocks !== here.diskBlocks) throw new StreamError(`${diskBlocks} disk blocks should be here, ${here.diskBlocks} are`);
  if (latePages !== here.latePages) throw new StreamError(`${latePages} pages are to come late, ${here.latePages} were named`);
}

export const wiringsMessage = z.array(wiring);
/** The VM as its source knows it now. */
export const specMessage = vmSpec;

const maxReasonChars = 400;

/** @throws StreamError where the payload is not such a message */
export function parseMessage<T>(schema: z.ZodType<T>, payload: Buffer): T {
  let value: unknown;
  try {
    value = JSON.parse(payload.toString("utf8"));
  } catch {
    throw new StreamError("a message is not JSON");
  }
  const parsed = schema.safeParse(value);
  // What is wrong with it is told in a line or two, however much of it is.
  if (!parsed.success) throw new StreamError(`a message has the wrong shape: ${z.prettifyError(parsed.error).slice(0, maxReasonChars)}`);
  return parsed.data;
}

const pageBytes = 4096;
const sumBytes = 32;
const zeros = Buffer.alloc(64);

/**
 * FINAL's payload: `u32` length of the JSON, the JSON, page 0 without the zeros at its end, SHA-256 over all of these. The digest in the JSON covers the
 * frames before it; nothing but this sum covers the frame that lets the guest run.
 */
export function encodeFinal(message: FinalMessage, page0: Buffer): Buffer {
  const json = Buffer.from(JSON.stringify(message));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(json.length);
  let end = page0.length;
  // By pieces: for each byte a call would be more than all the rest of it.
  while (end >= zeros.length && page0.subarray(end - zeros.length, end).equals(zeros)) end -= zeros.length;
  const page = page0.subarray(0, end);
  const sum = createHash("sha256").update(length).update(json).update(page).digest();
  return Buffer.concat([length, json, page, sum]);
}

/** @throws StreamError */
export function decodeFinal(payload: Buffer): { message: FinalMessage; page0: Buffer } {
  const summed = payload.subarray(0, -sumBytes);
  if (summed.length < 4) throw new StreamError("the last frame is cut short");
  const page = summed.subarray(4 + summed.readUInt32BE(0));
  if (page.length > pageBytes) throw new StreamError("the last frame holds more than a page");
  if (!createHash("sha256").update(summed).digest().equals(payload.subarray(-sumBytes)))
    throw new StreamError("the last frame's sum is wrong");
  const page0 = Buffer.alloc(pageBytes);
  page.copy(page0);
  return { message: parseMessage(finalMessage, summed.subarray(4, summed.length - page.length)), page0 };
}
