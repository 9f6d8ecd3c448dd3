import type { MigrationPolicy } from "../../schemas/vm";
import { AgentFault } from "../errors";
import { judge, measurableBytes, plainCourse, type Round, type RoundPolicy, roundPolicyOf, throttleNow, type Verdict } from "./rounds";
import { Throttle, type Throttled } from "./throttle";

/** The rounds of one move, and what is done where they do not get smaller. */
export class Convergence {
  readonly rounds: Round[] = [];
  #policy: RoundPolicy;
  readonly #throttle: Throttle;
  readonly #limitMbps: number;
  #course;
  #begunMs = performance.now();
  /** What the link has shown; undefined where too little went over it, or the user's limit is all that was seen. */
  linkMbps: number | undefined;

  constructor(
    private readonly target: string,
    policy: MigrationPolicy,
    control: Throttled,
    warn: (reason: string) => void,
  ) {
    this.#policy = roundPolicyOf(policy);
    this.#limitMbps = policy.bandwidthMbps ?? Infinity;
    this.#course = plainCourse(this.#policy);
    this.#throttle = new Throttle(control, this.#policy.maxDowntimeMs, warn);
  }

  /** Whether post-copy is possible; where it is not, longer downtimes are what is left. */
  set mayBeLate(may: boolean) {
    if (!may && this.#policy.onNoConvergence === "postcopy") this.#policy = { ...this.#policy, onNoConvergence: "extend" };
  }

  /** The deadline counts from here: not while others go first. */
  begin(): void {
    this.#begunMs = performance.now();
  }

  /** A round has ended: what comes next. @throws AgentFault where the policy says that the move is to fail */
  after(round: Round): Verdict {
    this.rounds.push(round);
    const verdict = judge(this.rounds, this.#policy, performance.now() - this.#begunMs, this.#course);
    const seenMbps = (verdict.linkRate * 8) / 1000;
    if (round.bytes >= measurableBytes && seenMbps < 0.8 * this.#limitMbps) this.linkMbps = seenMbps;
    if (verdict.next === "give up") throw this.#failure(verdict);
    if (verdict.course.share !== this.#course.share) this.#throttle.set(verdict.course.share);
    this.#course = verdict.course;
    return verdict;
  }

  /** Within a round, with the rate at which the guest was seen to change its memory, in bytes per millisecond. @returns the share that it gets from now on, where that has changed */
  during(dirtyRate: number): number | undefined {
    const course = throttleNow(dirtyRate, this.rounds, this.#policy, this.#course);
    if (!course) return undefined;
    this.#course = course;
    this.#throttle.set(course.share);
    return course.share;
  }

  /** The guest gets all of its time again. In every outcome, before anything else is asked of its process. */
  async lift(): Promise<void> {
    await this.#throttle.lift();
  }

  #failure({ why, dirtyRate, linkRate, estimateMs }: Verdict): AgentFault {
    const mbps = (bytesPerMs: number): string => `${((bytesPerMs * 8) / 1000).toFixed(1)} Mbit/s`;
    const estimate = Number.isFinite(estimateMs) ? `; the last copy would take ${Math.ceil(estimateMs)} ms` : "";
    return new AgentFault(
      "failed",
      `move to ${this.target}`,
      `it does not converge (${why === "deadline" ? `deadlineS is ${this.#policy.deadlineMs / 1000}` : "rounds do not get smaller"}): the guest changes ${mbps(dirtyRate)} of its memory and disk, the link carries ${mbps(linkRate)}${estimate}, maxDowntimeMs is ${this.#policy.maxDowntimeMs}`,
      {
        next: 'the VM runs on here; set `migration.onNoConvergence` to "throttle", "extend" or "postcopy", raise `maxDowntimeMs` or `bandwidthMbps`, or move it when it is quieter',
      },
    );
  }
}
