import { setTimeout as sleep } from 'node:timers/promises';
import { StorageError } from '../types/errors.ts';
import type { ObjectStorage, ResumableUploads } from './storage.ts';

/** Those of `uploads` are `begin`, `putPart`, `parts`, `complete` and `abort`. */
export type StorageOperation =
  | 'put'
  | 'get'
  | 'stat'
  | 'list'
  | 'delete'
  | 'begin'
  | 'putPart'
  | 'parts'
  | 'complete'
  | 'abort';

/**
 * Whether a fault comes instead of the call's effect, or after it. A put that fails `after` is a lost answer: the
 * object is stored. For `list`, `after` is after the last object.
 */
export type FaultMoment = 'before' | 'after';

export type StorageFault = {
  /** Counts and affects the calls of this operation only; left out, all calls. */
  readonly operation?: StorageOperation;
  /** The n-th of these calls, from 1, or every one. */
  readonly call: number | 'every';
} & (
  | {
      readonly effect: 'fail';
      readonly when: FaultMoment;
      /** What the call rejects with; left out, `STORAGE_UNAVAILABLE`. */
      readonly error?: Error;
    }
  | { readonly effect: 'delay'; readonly when: FaultMoment; readonly milliseconds: number }
  /** Never answers. An abort ends it with the signal's reason, also `after` the effect. */
  | { readonly effect: 'hang'; readonly when: FaultMoment }
  /** `get` gives only the first `length` bytes of its answer. */
  | { readonly effect: 'cut'; readonly length: number }
  /** `get` gives its answer with one bit of the byte at `offset` turned over. */
  | { readonly effect: 'alter'; readonly offset: number }
);

export interface StorageCallRecord {
  /** Its place among all calls, from 1. The same program makes the same calls in the same places. */
  readonly index: number;
  readonly operation: StorageOperation;
  /** Its place among the calls of its operation, from 1. */
  readonly indexOfOperation: number;
  /** The key, the prefix of a `list`, or the handle of an upload. */
  readonly key: string;
}

export interface FaultyStorage extends ObjectStorage {
  /** Every call so far, in order. A `list` counts when it is called, not when it is walked. */
  readonly calls: readonly StorageCallRecord[];
  /** The faults that took place, in order: a test whose fault never came has tested nothing. */
  readonly injected: readonly { readonly call: StorageCallRecord; readonly fault: StorageFault }[];
}

/**
 * A storage that misbehaves by plan, for tests. Without a fault for a call it does what `inner` does. Several faults
 * for one call come in the order of the plan. It breaks the contract exactly where the plan says so. Tiers, retention
 * and copies pass through untouched.
 *
 * @example Every call in turn
 * ```ts
 * const sound = faultyStorage(memoryStorage(), []);
 * await backup(sound);
 * for (const { index } of sound.calls) {
 *   await backup(faultyStorage(memoryStorage(), [{ call: index, effect: 'fail', when: 'after' }]));
 * }
 * ```
 */
export function faultyStorage(inner: ObjectStorage, plan: readonly StorageFault[]): FaultyStorage {
  const calls: StorageCallRecord[] = [];
  const injected: { call: StorageCallRecord; fault: StorageFault }[] = [];

  function record(operation: StorageOperation, key: string): StorageCallRecord {
    const indexOfOperation = calls.filter((call) => call.operation === operation).length + 1;
    const call = { index: calls.length + 1, operation, indexOfOperation, key };
    calls.push(call);
    return call;
  }

  function faultsOf(call: StorageCallRecord): StorageFault[] {
    return plan.filter((fault) => {
      if (fault.operation !== undefined && fault.operation !== call.operation) return false;
      return fault.call === 'every' || fault.call === (fault.operation ? call.indexOfOperation : call.index);
    });
  }

  async function disturb(call: StorageCallRecord, moment: FaultMoment, signal?: AbortSignal): Promise<void> {
    for (const fault of faultsOf(call)) {
      if (fault.effect === 'cut' || fault.effect === 'alter' || fault.when !== moment) continue;
      injected.push({ call, fault });
      if (fault.effect === 'delay') await pause(fault.milliseconds, signal);
      if (fault.effect === 'hang') await untilAborted(signal);
      if (fault.effect === 'fail') throw fault.error ?? failure(call, moment);
    }
  }

  function damage(call: StorageCallRecord, bytes: Uint8Array): Uint8Array {
    let answer = bytes;
    for (const fault of faultsOf(call)) {
      if (fault.effect === 'cut' && fault.length < answer.byteLength) {
        answer = answer.slice(0, fault.length);
      } else if (fault.effect === 'alter' && fault.offset < answer.byteLength) {
        answer = answer.slice();
        answer[fault.offset] = (answer[fault.offset] ?? 0) ^ 1;
      } else {
        continue;
      }
      injected.push({ call, fault });
    }
    return answer;
  }

  async function disturbed<T>(
    call: StorageCallRecord,
    signal: AbortSignal | undefined,
    effect: () => Promise<T>,
  ) {
    await disturb(call, 'before', signal);
    const answer = await effect();
    await disturb(call, 'after', signal);
    return answer;
  }

  async function* listed(
    call: StorageCallRecord,
    prefix: string,
    options?: { signal?: AbortSignal | undefined },
  ) {
    await disturb(call, 'before', options?.signal);
    yield* inner.list(prefix, options);
    await disturb(call, 'after', options?.signal);
  }

  return {
    description: `faulty(${inner.description})`,
    calls,
    injected,
    put: (key, body, options) =>
      disturbed(record('put', key), options?.signal, () => inner.put(key, body, options)),
    get: (key, options) => {
      const call = record('get', key);
      return disturbed(call, options?.signal, async () => damage(call, await inner.get(key, options)));
    },
    stat: (key, options) => disturbed(record('stat', key), options?.signal, () => inner.stat(key, options)),
    list: (prefix, options) => listed(record('list', prefix), prefix, options),
    delete: (key, options) =>
      disturbed(record('delete', key), options?.signal, () => inner.delete(key, options)),
    ...(inner.uploads && { uploads: disturbedUploads(inner.uploads) }),
    ...(inner.tiers && { tiers: inner.tiers }),
    ...(inner.retention && { retention: inner.retention }),
    ...(inner.copies && { copies: inner.copies }),
    ...(inner.close && { close: () => inner.close?.() ?? Promise.resolve() }),
  };

  function disturbedUploads(uploads: ResumableUploads): ResumableUploads {
    return {
      limits: uploads.limits,
      begin: (key, options) =>
        disturbed(record('begin', key), options?.signal, () => uploads.begin(key, options)),
      putPart: (handle, part, body, options) =>
        disturbed(record('putPart', handle), options?.signal, () =>
          uploads.putPart(handle, part, body, options),
        ),
      parts: (handle, options) =>
        disturbed(record('parts', handle), options?.signal, () => uploads.parts(handle, options)),
      complete: (handle, parts, options) =>
        disturbed(record('complete', handle), options?.signal, () =>
          uploads.complete(handle, parts, options),
        ),
      abort: (handle, options) =>
        disturbed(record('abort', handle), options?.signal, () => uploads.abort(handle, options)),
    };
  }
}

function failure(call: StorageCallRecord, moment: FaultMoment): StorageError {
  return new StorageError(
    `Injected: ${call.operation} number ${call.indexOfOperation} failed ${moment} its effect.`,
    'STORAGE_UNAVAILABLE',
    { key: call.key },
  );
}

async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(milliseconds, undefined, signal && { signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}

function untilAborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    const end = () => reject(signal?.reason);
    if (signal?.aborted) end();
    else signal?.addEventListener('abort', end, { once: true });
  });
}
