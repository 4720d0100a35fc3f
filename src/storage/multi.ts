import { DataProtectionError, StorageError } from '../types/errors.ts';
import { assertObjectKey, assertObjectKeyPrefix } from './object-key.ts';
import type { ObjectInfo, ObjectStorage, StorageCall, StorageCopy } from './storage.ts';

export interface MultiStorageOptions {
  /** The primary first. Each behind its own resilience, so that one that is down fails fast. */
  readonly copies: readonly ObjectStorage[];
  /** Stores that must have an object before `put` resolves, from 1 to all. */
  readonly minimumConfirmations: number;
}

/**
 * MULTI: the same objects in several stores.
 *
 * `put` goes to the first store in the list that takes the object: that one decides who was first. Then to the next
 * ones, until `minimumConfirmations` have it; a store that fails is passed over, and its copy is caught up later by a
 * replication. Where fewer take it, `put` rejects although those have it: nothing is taken back. `STORAGE_ALREADY_EXISTS`
 * is the answer of the first store that answers. Where stores come and go between two writers, each may win in another
 * store: what must be decided once (a manifest against a claim) is asked of every copy by the caller, and decided by the
 * catalog.
 *
 * `get` and `stat` ask the nearest store first and the others where it fails or has not got the object. Callers who can
 * check what they read go through `copies`, to fall over on damage too. `list` gives what any reachable store has; it
 * fails where none answers. `delete` deletes from every store, and rejects where one failed.
 */
export function multiStorage({ copies: stores, minimumConfirmations }: MultiStorageOptions): ObjectStorage {
  if (stores.length < 2 || minimumConfirmations < 1 || minimumConfirmations > stores.length) {
    throw new DataProtectionError(
      '`MULTI` needs two stores or more, and `minimumConfirmations` from 1 to their number',
      'CONFIGURATION_INVALID',
    );
  }
  const copies = stores.map((store, index) => measured(store, index));

  async function first<T>(
    ask: (storage: ObjectStorage) => Promise<T>,
    missing: (answer: T) => boolean,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    let failure: unknown;
    let absent: { readonly answer: T } | { readonly error: unknown } | undefined;
    for (const { storage } of byDistance(copies)) {
      try {
        const answer = await ask(storage);
        if (!missing(answer)) return answer;
        absent = { answer };
      } catch (error) {
        signal?.throwIfAborted();
        if (isNotFound(error)) absent = { error };
        else failure ??= error;
      }
    }
    // A store that did not answer may have it.
    if (failure !== undefined || absent === undefined) throw failure;
    if ('error' in absent) throw absent.error;
    return absent.answer;
  }

  return {
    description: `MULTI (${stores.map(({ description }) => description).join(', ')})`,
    copies,

    async put(key, body, options = {}) {
      assertObjectKey(key);
      options.signal?.throwIfAborted();
      let confirmed = 0;
      const failures: { readonly storage: ObjectStorage; readonly error: unknown }[] = [];
      for (const { storage } of copies) {
        if (confirmed === minimumConfirmations) return;
        try {
          await storage.put(key, body, options);
          confirmed += 1;
        } catch (error) {
          options.signal?.throwIfAborted();
          // The name is at fault, not the store.
          if ((isTaken(error) && confirmed === 0) || isInvalidKey(error)) throw error;
          failures.push({ storage, error });
        }
      }
      // The answer of a store may have been lost; or another writer was first there, with something else.
      for (const { storage } of failures) {
        if (confirmed < minimumConfirmations && (await holds(storage, key, body, options))) confirmed += 1;
      }
      if (confirmed === minimumConfirmations) return;
      const [first] = failures;
      if (confirmed === 0) throw first?.error;
      throw new StorageError(
        `${confirmed} of ${copies.length} stores took the object ${key}; ${minimumConfirmations} must.`,
        'STORAGE_UNAVAILABLE',
        { key, cause: first?.error },
      );
    },

    get: (key, options = {}) =>
      first(
        (storage) => storage.get(key, options),
        () => false,
        options.signal,
      ),

    stat: (key, options = {}) =>
      first(
        (storage) => storage.stat(key, options),
        (answer) => answer === undefined,
        options.signal,
      ),

    async *list(prefix, options = {}) {
      assertObjectKeyPrefix(prefix);
      options.signal?.throwIfAborted();
      const seen = new Set<string>();
      let answered = 0;
      let failure: unknown;
      for (const { storage } of copies) {
        try {
          const found: ObjectInfo[] = [];
          for await (const info of storage.list(prefix, options)) if (!seen.has(info.key)) found.push(info);
          answered += 1;
          for (const info of found) {
            options.signal?.throwIfAborted();
            seen.add(info.key);
            yield info;
          }
        } catch (error) {
          options.signal?.throwIfAborted();
          failure ??= error;
        }
      }
      if (answered === 0) throw failure;
    },

    async delete(key, options) {
      const outcomes = await Promise.allSettled(copies.map(({ storage }) => storage.delete(key, options)));
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    },

    async close() {
      await Promise.all(stores.map((store) => store.close?.()));
    },
  };
}

/** The nearest first; at the same distance in the order of the list. */
const byDistance = (copies: readonly StorageCopy[]): readonly StorageCopy[] =>
  copies
    .map((copy) => ({ copy, distance: copy.distance() }))
    // Infinity minus Infinity is no order.
    .sort((one, other) => (one.distance === other.distance ? 0 : one.distance - other.distance))
    .map(({ copy }) => copy);

const isTaken = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code === 'STORAGE_ALREADY_EXISTS';
const isInvalidKey = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code === 'STORAGE_INVALID_KEY';
const isNotFound = (error: unknown): boolean =>
  error instanceof DataProtectionError && error.code === 'STORAGE_NOT_FOUND';

async function holds(
  storage: ObjectStorage,
  key: string,
  body: readonly Uint8Array[],
  { signal }: StorageCall,
): Promise<boolean> {
  try {
    return Buffer.concat(body).equals(await storage.get(key, { signal }));
  } catch {
    signal?.throwIfAborted();
    return false;
  }
}

/** How much the newest answer counts in the average. */
const WEIGHT = 0.2;
/** How long a store whose call failed is asked last. */
const FAR_MS = 30_000;

/** Measures the answers of a store. What is no failure of the store (an object that is not there) counts as an answer. */
function measured(inner: ObjectStorage, index: number): StorageCopy {
  let average: number | undefined;
  let farUntil = 0;
  async function timed<T>(call: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const start = performance.now();
    const answered = (): void => {
      const time = performance.now() - start;
      average = average === undefined ? time : average + WEIGHT * (time - average);
      farUntil = 0;
    };
    try {
      const answer = await call();
      answered();
      return answer;
    } catch (error) {
      if (isNotFound(error) || isTaken(error)) answered();
      else if (!signal?.aborted) farUntil = performance.now() + FAR_MS;
      throw error;
    }
  }
  const { uploads, tiers, retention } = inner;
  const storage: ObjectStorage = {
    description: inner.description,
    list: (prefix, options) => inner.list(prefix, options),
    delete: (key, options) => inner.delete(key, options),
    ...(uploads && { uploads }),
    ...(tiers && { tiers }),
    ...(retention && { retention }),
    get: (key, options) => timed(() => inner.get(key, options), options?.signal),
    stat: (key, options) => timed(() => inner.stat(key, options), options?.signal),
    put: async (key, body, options) => {
      try {
        await inner.put(key, body, options);
        farUntil = 0;
      } catch (error) {
        if (!isTaken(error) && !options?.signal?.aborted) farUntil = performance.now() + FAR_MS;
        throw error;
      }
    },
  };
  return {
    storage,
    index,
    distance: () => (performance.now() < farUntil ? Number.POSITIVE_INFINITY : (average ?? index)),
  };
}
