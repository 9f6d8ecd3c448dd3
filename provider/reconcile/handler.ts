import type { CheckResult, CreateResult, DiffResult, ReadResult, ResourceProvider, UpdateResult } from "@pulumi/pulumi/dynamic";
import { PartialFailure } from "./errors";

/** Properties as the engine hands them over and keeps them. Names with `__` in front are ours: hidden, and ignored by diff. */
export type Props = Readonly<Record<string, unknown>>;

/** What a resource does. check and diff are pure and local; the others talk to agents. */
export interface Reconciler {
  check(olds: Props, news: Props): CheckResult;
  diff(id: string, olds: Props, news: Props): DiffResult;
  create(news: Props): Promise<{ id: string; outs: Props }>;
  /** Undefined: it is gone, for certain. */
  read(id: string, props: Props): Promise<{ props: Props; inputs: Props } | undefined>;
  update(id: string, olds: Props, news: Props): Promise<Props>;
  delete(id: string, props: Props): Promise<void>;
}

/** A Reconciler as the dynamic-provider process calls it. */
export function handlerOf(reconciler: Reconciler): ResourceProvider {
  return {
    check: async (olds: Props, news: Props): Promise<CheckResult> => quietly(async () => clean(reconciler.check(clean(olds), clean(news)))),
    diff: async (id: string, olds: Props, news: Props): Promise<DiffResult> => quietly(async () => reconciler.diff(id, olds, news)),
    create: async (news: Props): Promise<CreateResult> =>
      partially(news, async () => {
        const { id, outs } = await reconciler.create(news);
        return { id, outs: clean(outs) };
      }),
    read: async (id: string, props: Props): Promise<ReadResult> =>
      quietly(async () => {
        const found = await reconciler.read(id, props);
        return found ? { id, props: clean(found.props), inputs: clean(found.inputs) } : {};
      }),
    update: async (id: string, olds: Props, news: Props): Promise<UpdateResult> =>
      partially(news, async () => ({ outs: clean(await reconciler.update(id, olds, news)) })),
    delete: async (id: string, props: Props): Promise<void> => quietly(async () => reconciler.delete(id, props)),
  };
}

/** Only what JSON can say: an `undefined` anywhere makes the process fail after the work is done, and the resource would be lost. */
export function clean<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}

/** What a resource keeps and shows without our hidden properties. */
export function visible(props: Props): Record<string, unknown> {
  return Object.fromEntries(Object.entries(props).filter(([key]) => !key.startsWith("__")));
}

/** The process prints the stack of what these throw; a fault of the world needs none. */
async function quietly<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Error && !(error instanceof TypeError) && !(error instanceof RangeError)) error.stack = "";
    throw error;
  }
}

async function partially<T>(news: Props, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof PartialFailure)) throw error;
    throw Object.assign(error, { properties: clean({ ...error.properties, __provider: news.__provider }) });
  }
}
