import type { ObjectStorage } from '../storage/storage.ts';
import { DataProtectionError } from '../types/errors.ts';
import { copiesOf, isNotFound } from './copies.ts';
import { pause } from './failure.ts';
import { inParallel } from './in-parallel.ts';
import type { StoredArchive } from './stored-archive.ts';

export interface ThawOptions {
  readonly signal: AbortSignal;
  /** How long what was thawed stays readable. */
  readonly days: number;
  /** Between two looks at what is not readable yet. */
  readonly pollMs: number;
  readonly onProgress: (progress: { readonly readable: number; readonly total: number }) => void;
}

/** How long what is thawed to be read once stays readable. */
export const THAW_DAYS = 3;
/** Objects that are asked about at once. */
const PARALLEL = 8;
/** Looks in a row that may fail while hours are waited: an hour with the pause that compose.ts sets. */
const FAILED_LOOKS = 12;

/**
 * Resolves when every object of a snapshot can be read in one of its stores: asks for the thaw of those that lie in
 * archive tiers everywhere, in the first store that has them, and waits, hours where the provider takes hours, also while
 * the storage is away for a time. Nothing where no store has such tiers. Rejects with the signal's reason, and with `STORAGE_*` where no store says how it is with
 * an object.
 */
export async function thawArchive(archive: StoredArchive, options: ThawOptions): Promise<void> {
  const { place, manifest } = archive;
  const stores = copiesOf(place.storage).map(({ storage }) => storage);
  if (stores.every(({ tiers }) => tiers === undefined)) return;
  let waiting = manifest.header.objects.map(({ name }) => `${place.prefix}${name}`);
  const total = waiting.length;
  const asked = new Set<string>();
  for (let failed = 0; ; ) {
    try {
      waiting = await stillFrozen(stores, waiting, asked, options);
      failed = 0;
      options.onProgress({ readable: total - waiting.length, total });
    } catch (error) {
      options.signal.throwIfAborted();
      failed += 1;
      if (asked.size === 0 || failed === FAILED_LOOKS || !isRetryable(error)) throw error;
    }
    if (waiting.length === 0) return;
    await pause(options.pollMs, options.signal);
  }
}

const isRetryable = (error: unknown): boolean => error instanceof DataProtectionError && error.retryable;

async function stillFrozen(
  stores: readonly ObjectStorage[],
  keys: readonly string[],
  asked: Set<string>,
  { signal, days }: ThawOptions,
): Promise<string[]> {
  const frozen: string[] = [];
  await inParallel(keys, PARALLEL, signal, async (key) => {
    const found = await whereFrozen(stores, key, signal);
    if (found === undefined) return;
    frozen.push(key);
    if (found.state === 'THAWING' || asked.has(key)) return;
    await found.storage.tiers?.thaw(key, { signal, days });
    asked.add(key);
  });
  return frozen;
}

interface Frozen {
  readonly storage: ObjectStorage;
  readonly state: 'ARCHIVED' | 'THAWING';
}

/** Undefined: the object can be read, or is nowhere, which its reader will tell. */
async function whereFrozen(
  stores: readonly ObjectStorage[],
  key: string,
  signal: AbortSignal,
): Promise<Frozen | undefined> {
  const frozen: Frozen[] = [];
  let failure: { readonly error: unknown } | undefined;
  for (const storage of stores) {
    try {
      const state = await stateIn(storage, key, signal);
      if (state === 'READABLE') return undefined;
      if (state !== 'ABSENT') frozen.push({ storage, state });
    } catch (error) {
      signal.throwIfAborted();
      failure ??= { error };
    }
  }
  const found = frozen.find(({ state }) => state === 'THAWING') ?? frozen[0];
  if (found === undefined && failure !== undefined) throw failure.error;
  return found;
}

async function stateIn(storage: ObjectStorage, key: string, signal: AbortSignal) {
  try {
    if (storage.tiers !== undefined) return await storage.tiers.state(key, { signal });
    return (await storage.stat(key, { signal })) === undefined ? 'ABSENT' : 'READABLE';
  } catch (error) {
    if (isNotFound(error)) return 'ABSENT';
    throw error;
  }
}
