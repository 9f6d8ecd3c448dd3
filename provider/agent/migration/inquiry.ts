import type { Run } from "./runs";
import type { Sender } from "./sender";
import { frameType } from "./stream";
import { decodeHeld, encodeSums, maxUnits, sumOf } from "./sums";

/** Bytes that are not sent before a target has answered whether it has them: enough to keep a link busy with questions. */
const waitingBytes = 8 << 20;
/** What one question is about. */
const questionBytes = 1 << 20;

interface Question {
  readonly runs: readonly Run[];
  readonly bytes: number;
  /** Undefined: lost with its connection. */
  readonly answer: Promise<Buffer | undefined>;
}

/**
 * Asks a target which had the VM before what it has of it still, by sums, and gives back what it has not: that is to be sent. Questions follow one another
 * without waiting for answers.
 */
export class Inquiry {
  #runs: Run[] = [];
  #bytes = 0;
  readonly #questions: Question[] = [];
  #waiting = 0;

  constructor(
    private readonly sender: Sender,
    private readonly type: typeof frameType.memorySums | typeof frameType.diskSums,
    private readonly unitBytes: number,
  ) {}

  /** Of a memory, or of a disk; undefined where the target has nothing of it. */
  static of(sender: Sender, what: "memory" | "disk", unitBytes: number): Inquiry | undefined {
    return sender.basis[what] ? new Inquiry(sender, what === "memory" ? frameType.memorySums : frameType.diskSums, unitBytes) : undefined;
  }

  /** @returns of the runs so far, those that are to be sent now; one without bytes at once */
  async take(run: Run): Promise<Run[]> {
    if (!run.data || run.isWords) return [run];
    if (this.#bytes + run.data.length > Math.min(questionBytes, maxUnits * this.unitBytes)) await this.#ask();
    this.#runs.push(run);
    this.#bytes += run.data.length;
    return this.#waiting > waitingBytes ? await this.#lacking() : [];
  }

  /** All that is left. */
  async *rest(): AsyncGenerator<Run> {
    await this.#ask();
    while (this.#questions.length > 0) yield* await this.#lacking();
  }

  async #ask(): Promise<void> {
    if (this.#runs.length === 0) return;
    const [runs, bytes] = [this.#runs, this.#bytes];
    [this.#runs, this.#bytes] = [[], 0];
    const sums = runs.flatMap(({ data }) => (data ? this.#sumsOf(data) : []));
    const { answer } = await this.sender.ask(this.type, encodeSums(runs, sums));
    this.#questions.push({ runs, bytes, answer });
    this.#waiting += bytes;
  }

  /** What the answer to the oldest question leaves. */
  async #lacking(): Promise<Run[]> {
    const question = this.#questions.shift();
    if (!question) return [];
    const answer = await question.answer;
    this.#waiting -= question.bytes;
    if (!answer) return [...question.runs];
    const held = decodeHeld(answer, question.bytes / this.unitBytes);
    const lacking: Run[] = [];
    let unit = 0;
    for (const { first, count, data } of question.runs) {
      for (let from = 0; from < count; ) {
        let to = from + 1;
        while (to < count && held.has(unit + to) === held.has(unit + from)) to += 1;
        if (!held.has(unit + from) && data)
          lacking.push({ first: first + from, count: to - from, data: data.subarray(from * this.unitBytes, to * this.unitBytes) });
        from = to;
      }
      unit += count;
    }
    return lacking;
  }

  #sumsOf(data: Buffer): Buffer[] {
    const sums: Buffer[] = [];
    for (let at = 0; at < data.length; at += this.unitBytes) sums.push(sumOf(data.subarray(at, at + this.unitBytes)));
    return sums;
  }
}
