import type { Clock } from '../types/clock.ts';
import { DataProtectionError } from '../types/errors.ts';
import { systemClock } from '../utils/clock.ts';
import { resilientCalls, type Work } from './resilient-calls.ts';
import type { StorageHealth } from './resilient-health.ts';
import { resilientList } from './resilient-list.ts';
import { lookForBody, writeOnce } from './resilient-outcome.ts';
import { rateLimiter } from './resilient-rates.ts';
import { resilientUploads } from './resilient-uploads.ts';
import type { ArchiveTiers, ObjectRetention, ObjectStorage } from './storage.ts';
import { systemTiming, type Timing } from './timing.ts';

export type { StorageHealth } from './resilient-health.ts';

export interface ResilientOptions {
  /** Milliseconds of one attempt: 30,000 for stat, a step of a list, delete and the like; put 300,000; get 120,000. */
  readonly requestTimeoutMs?: number;
  readonly putTimeoutMs?: number;
  readonly getTimeoutMs?: number;
  /** Attempts of a call, the first among them: 5. */
  readonly attempts?: number;
  /** Before attempt n + 1: a random time up to the smaller of 30,000 ms and 500 ms · 2^(n - 1). */
  readonly baseDelayMs?: number;
  readonly maxDelayMs?: number;
  /** What a provider may ask to wait, at most: 60,000 ms. */
  readonly maxRetryAfterMs?: number;
  /** How long an attempt may take to end after its abort before it is left to itself: 10,000 ms. */
  readonly settleMs?: number;
  /** The breaker opens after this many failures in a row: 5; and tries again after 60,000 ms. */
  readonly breakerFailures?: number;
  readonly breakerOpenMs?: number;
  /** Attempts at a time: 16; and how many more wait before `STORAGE_BUSY`: 1,000. */
  readonly concurrency?: number;
  readonly queue?: number;
  /** Calls per second; a listing costs one more for every 1,000 objects. Left out, as many as come. */
  readonly requestsPerSecond?: number;
  /** Bytes per second that are put and got, together. Left out, as many as come. */
  readonly bytesPerSecond?: number;
  /** Keys of a listing that are remembered so that it can go on after a failure: 200,000 (some 20 MB at most). */
  readonly rememberedKeys?: number;
  /** Told when the state or the number of failures in a row changes. Must not throw. */
  readonly onHealthChange?: (health: StorageHealth) => void;
  readonly clock?: Clock;
  readonly timing?: Timing;
}

export interface ResilientStorage extends ObjectStorage {
  health(): StorageHealth;
}

const DEFAULTS = {
  requestTimeoutMs: 30_000,
  putTimeoutMs: 300_000,
  getTimeoutMs: 120_000,
  attempts: 5,
  baseDelayMs: 500,
  maxDelayMs: 30_000,
  maxRetryAfterMs: 60_000,
  settleMs: 10_000,
  breakerFailures: 5,
  breakerOpenMs: 60_000,
  concurrency: 16,
  queue: 1_000,
  rememberedKeys: 200_000,
} as const satisfies ResilientOptions;

/**
 * A storage that outlasts what passes: each attempt has a time limit, failures that are `retryable` are repeated with
 * pauses, a provider that fails in a row is left alone (`STORAGE_CIRCUIT_OPEN`), and only so many calls run or wait
 * at once (`STORAGE_BUSY`). The contract of the storage is kept:
 *
 * - A put or `uploads.complete` of which an attempt failed ambiguously is decided by looking at what is stored: its own
 *   bytes mean success, others `STORAGE_ALREADY_EXISTS`. What cannot be found out rejects with the ambiguous error.
 * - A listing gives each object once, also when it had to begin again, and never ends early as if it were whole.
 * - An abort of the caller ends waits at once, and a running attempt as soon as the storage below ends it; the
 *   provider is not blamed.
 *
 * Bounds: a call makes at most `attempts` attempts. It lasts at most attempts · (time limit + `settleMs`) + (attempts - 1)
 * · the longest pause, and the time in the queue and for the rates: by default 14 minutes for a get, 29 for a put, 7.5 for the others
 * (one step of a listing may take 40 s). A look after an ambiguous put adds at most a stat and a get of every 8 MiB.
 *
 * Rates hold for attempts, in the order in which they come, and no time limit counts the wait for them. A second’s worth
 * may come at once; what a larger call uses more than that is paid for by those after it. Bytes of a put are waited for
 * before it, those of a get, whose size nobody knows before, after it.
 *
 * A call below that ignores its abort for `settleMs` is left to itself and counts as failed. While it still runs it may
 * read the body that it was given, also after the put has settled: create-only keeps it from replacing anything.
 *
 * Wrong options are `CONFIGURATION_INVALID`.
 */
export function resilientStorage(inner: ObjectStorage, options: ResilientOptions = {}): ResilientStorage {
  const limits = limitsOf(options);
  const timing = options.timing ?? systemTiming;
  const calls = resilientCalls({
    description: inner.description,
    limits,
    rates: rateLimiter(options, timing),
    timing,
    clock: options.clock ?? systemClock,
    onHealthChange: options.onHealthChange ?? (() => undefined),
  });
  const { requestTimeoutMs, putTimeoutMs, getTimeoutMs } = limits;
  const request: Request = (what, signal, work) => {
    calls.called();
    return calls.retried({ what, timeoutMs: requestTimeoutMs, signal }, work);
  };

  return {
    description: inner.description,
    health: calls.health,

    put(key, body, put = {}) {
      calls.called();
      const { signal } = put;
      const look = { storage: inner, key, statMs: requestTimeoutMs, getMs: getTimeoutMs, signal };
      return writeOnce(
        calls,
        { what: `put ${key}`, timeoutMs: putTimeoutMs, signal, bytes: sizeOf(body) },
        key,
        (attempt) => inner.put(key, body, { ...put, signal: attempt }),
        () => lookForBody(calls, look, body),
      );
    },

    get(key, get = {}) {
      calls.called();
      return calls.retried({ what: `get ${key}`, timeoutMs: getTimeoutMs, signal: get.signal }, (signal) =>
        inner.get(key, { ...get, signal }),
      );
    },

    stat: (key, { signal } = {}) =>
      request(`stat ${key}`, signal, (attempt) => inner.stat(key, { signal: attempt })),

    list(prefix, { signal } = {}) {
      calls.called();
      const call = { what: `list ${prefix}`, timeoutMs: requestTimeoutMs, signal };
      return resilientList(inner, prefix, call, calls, limits);
    },

    delete: (key, { signal } = {}) =>
      request(`delete ${key}`, signal, (attempt) => inner.delete(key, { signal: attempt })),

    ...(inner.uploads && { uploads: resilientUploads(inner, inner.uploads, calls, limits) }),
    ...(inner.tiers && { tiers: resilientTiers(inner.tiers, request) }),
    ...(inner.retention && { retention: resilientRetention(inner.retention, request) }),
    ...(inner.copies && { copies: inner.copies }),
    ...(inner.close && { close: () => inner.close?.() ?? Promise.resolve() }),
  };
}

function sizeOf(body: readonly Uint8Array[]): number {
  return body.reduce((sum, piece) => sum + piece.byteLength, 0);
}

type Request = <T>(what: string, signal: AbortSignal | undefined, work: Work<T>) => Promise<T>;

function resilientTiers(inner: ArchiveTiers, request: Request): ArchiveTiers {
  return {
    state: (key, { signal } = {}) =>
      request(`tier of ${key}`, signal, (attempt) => inner.state(key, { signal: attempt })),
    thaw: (key, { signal, days }) =>
      request(`thaw ${key}`, signal, (attempt) => inner.thaw(key, { days, signal: attempt })),
  };
}

function resilientRetention(inner: ObjectRetention, request: Request): ObjectRetention {
  return {
    retain: (key, until, { signal } = {}) =>
      request(`retain ${key}`, signal, (attempt) => inner.retain(key, until, { signal: attempt })),
    hold: (key, state, { signal } = {}) =>
      request(`hold ${key}`, signal, (attempt) => inner.hold(key, state, { signal: attempt })),
    state: (key, { signal } = {}) =>
      request(`retention of ${key}`, signal, (attempt) => inner.state(key, { signal: attempt })),
  };
}

type Limits = { readonly [Name in keyof typeof DEFAULTS]: number };

function limitsOf(options: ResilientOptions): Limits {
  const limit = (name: keyof Limits, least: number): number => {
    const value = options[name] ?? DEFAULTS[name];
    if (Number.isFinite(value) && value >= least && (least === 0 || Number.isSafeInteger(value)))
      return value;
    throw new DataProtectionError(
      `resilientStorage: \`${name}\` is a number of ${least} or more.`,
      'CONFIGURATION_INVALID',
    );
  };
  return {
    requestTimeoutMs: limit('requestTimeoutMs', 1),
    putTimeoutMs: limit('putTimeoutMs', 1),
    getTimeoutMs: limit('getTimeoutMs', 1),
    attempts: limit('attempts', 1),
    baseDelayMs: limit('baseDelayMs', 0),
    maxDelayMs: limit('maxDelayMs', 0),
    maxRetryAfterMs: limit('maxRetryAfterMs', 0),
    settleMs: limit('settleMs', 0),
    breakerFailures: limit('breakerFailures', 1),
    breakerOpenMs: limit('breakerOpenMs', 0),
    concurrency: limit('concurrency', 1),
    queue: limit('queue', 0),
    rememberedKeys: limit('rememberedKeys', 0),
  };
}
