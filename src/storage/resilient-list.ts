import type { Call, Calls } from './resilient-calls.ts';
import { AbandonedCall } from './resilient-deadline.ts';
import { mayRetry } from './resilient-errors.ts';
import type { ObjectInfo, ObjectStorage } from './storage.ts';

export interface ListLimits {
  /** Listings that are begun at most. */
  readonly attempts: number;
  /** Keys that are remembered so that a repeated listing gives each once: some 100 bytes each. */
  readonly rememberedKeys: number;
}

/** About what providers put on a page. */
const LISTED_PER_REQUEST = 1_000;

/**
 * A listing that begins again where it fails. No order is promised, so nothing but the keys themselves tells what was
 * given already: they are remembered up to a limit. One that fails past that limit rejects; none ever ends early as
 * if it were whole. Every step has its own time and passes the breaker like a call.
 */
export async function* resilientList(
  storage: ObjectStorage,
  prefix: string,
  call: Call,
  calls: Calls,
  limits: ListLimits,
): AsyncIterable<ObjectInfo> {
  const given = new Set<string>();
  let givenCount = 0;

  for (let n = 1; ; n += 1) {
    const walk = new AbortController();
    let listed = 0;
    const objects = storage.list(prefix, { signal: walk.signal })[Symbol.asyncIterator]();
    let failure: { readonly error: unknown } | undefined;
    try {
      for (;;) {
        let step: IteratorResult<ObjectInfo>;
        try {
          const requests = listed % LISTED_PER_REQUEST === 0 ? 1 : 0;
          step = await calls.attempt({ ...call, requests }, (signal) =>
            linked(signal, walk, () => objects.next()),
          );
          listed += 1;
        } catch (error) {
          failure = { error };
          break;
        }
        if (step.done) return;
        if (given.has(step.value.key)) continue;
        givenCount += 1;
        if (givenCount <= limits.rememberedKeys) given.add(step.value.key);
        yield step.value;
      }
    } finally {
      // An abandoned walk would never answer.
      if (!(failure?.error instanceof AbandonedCall)) await objects.return?.();
    }
    const { error } = failure;
    const forgotten = givenCount > limits.rememberedKeys;
    if (call.signal?.aborted || forgotten || n >= limits.attempts || !mayRetry(error)) throw error;
    await calls.pause(call, n, error);
  }
}

/** The walk has one signal for all its steps: the step’s abort becomes the walk’s. */
async function linked<T>(signal: AbortSignal, walk: AbortController, step: () => Promise<T>): Promise<T> {
  const abort = () => walk.abort(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await step();
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
