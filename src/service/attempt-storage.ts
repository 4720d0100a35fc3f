import { encodeClaim, isClaim } from '../archive/claim.ts';
import { type ArchiveIdentity, attemptPrefix, MANIFEST_NAME } from '../archive/format.ts';
import type { ObjectStorage } from '../storage/storage.ts';
import { BackupError, StorageError } from '../types/errors.ts';
import { copiesOf } from './copies.ts';
import { orAborted } from './failure.ts';

/** Where the objects of one attempt lie. */
export interface AttemptPlace {
  readonly storage: ObjectStorage;
  readonly prefix: string;
  readonly manifestKey: string;
}

/** What the keys of the sidecars in a snapshot's folder begin with. */
export const sidecarsOf = (folder: string): string => `${folder}sidecar-`;

/** What ends an attempt must itself come to an end: a storage that hangs is one that does not answer. */
const CALL_MS = 30_000;

export function placeOf(storage: ObjectStorage, prefix: string, identity: ArchiveIdentity): AttemptPlace {
  const own = attemptPrefix(prefix, identity);
  return { storage, prefix: own, manifestKey: `${own}${MANIFEST_NAME}` };
}

/**
 * Stores the manifest, which makes the backup exist. Where the answer is lost or not waited for, the stored bytes
 * decide. Throws `BACKUP_ATTEMPT_LOST` when somebody has claimed the attempt: then a single store holds no manifest and
 * never will; of several one may, and the catalog decides. Rejects with `STORAGE_UNAVAILABLE` where fewer stores took it
 * than must; one of them may have it.
 */
export async function storeManifest(
  place: AttemptPlace,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  try {
    await place.storage.put(place.manifestKey, [bytes], { signal, tier: 'HOT' });
  } catch (error) {
    const stored = await Promise.all(
      storesOf(place).map((store) => readIfThere(store).catch(() => undefined)),
    );
    const others = stored.filter((found) => found !== undefined && !Buffer.from(found).equals(bytes));
    if (others.some((found) => found !== undefined && isClaim(found)))
      throw new BackupError('Another worker has declared this attempt dead', 'BACKUP_ATTEMPT_LOST');
    if (others.length > 0) {
      throw new BackupError('Another manifest lies where this attempt’s belongs', 'BACKUP_ATTEMPT_LOST');
    }
    // All that there are have it. With fewer, the storage has said that they are not enough.
    if (stored.includes(undefined)) throw error;
  }
}

/** What a claim has come to. */
export interface ClaimOutcome {
  /** The manifest of an attempt that had finished before it died, as each store has it; none of one that had not. */
  readonly manifests: readonly Uint8Array[];
  /** Its place in each store that is claimed. */
  readonly claimed: readonly AttemptPlace[];
  /** Why others could not be claimed: there the attempt may have a manifest still, or store one. */
  readonly unclaimed: readonly unknown[];
}

/**
 * Takes the manifest's name of a dead attempt, so that the attempt can never finish; or gives the manifest where it
 * had finished before it died. Of several stores, every one that answers is asked first, since the manifest may
 * lie in one alone, and then claimed. Throws `STORAGE_*` where none answers.
 *
 * While a store is `unclaimed`, only the catalog forbids the attempt to count: nothing may be swept before it is CLAIMED
 * there.
 */
export async function claimAttempt(
  place: AttemptPlace,
  identity: ArchiveIdentity,
  claim: { readonly at: Date; readonly by: string },
): Promise<ClaimOutcome> {
  const bytes = encodeClaim({
    snapshotId: identity.snapshotId,
    attemptId: identity.attemptId,
    claimedAt: claim.at.toISOString(),
    claimedBy: claim.by,
  });
  const stores = storesOf(place);
  if (stores.length > 1) {
    const found = await Promise.all(stores.map((store) => readIfThere(store).catch(() => undefined)));
    const manifests = found.filter((stored) => stored !== undefined).filter((stored) => !isClaim(stored));
    if (manifests.length > 0) return { manifests, claimed: [], unclaimed: [] };
  }
  const outcomes = await Promise.allSettled(stores.map((store) => claimIn(store, bytes)));
  const unclaimed = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
  if (unclaimed.length === stores.length) throw unclaimed[0];
  const answers = outcomes.map((outcome) => (outcome.status === 'fulfilled' ? outcome.value : 'SILENT'));
  return {
    manifests: answers.filter((answer) => answer instanceof Uint8Array),
    claimed: stores.filter((_, index) => answers[index] === undefined),
    unclaimed,
  };
}

/** Claims in one store; gives the manifest where one lies there. */
async function claimIn(place: AttemptPlace, bytes: Uint8Array): Promise<Uint8Array | undefined> {
  try {
    await inTime((signal) => place.storage.put(place.manifestKey, [bytes], { signal, tier: 'HOT' }));
    return undefined;
  } catch (error) {
    const stored = await readIfThere(place);
    if (stored === undefined) throw error;
    return isClaim(stored) ? undefined : stored;
  }
}

/**
 * Removes what a claimed attempt stored, in each of these stores; the claims stay. Gives the number of objects removed.
 * Throws `STORAGE_*` where something may be left, once everything else is removed.
 */
export async function sweepAttempt(claimed: readonly AttemptPlace[]): Promise<number> {
  const swept = await Promise.allSettled(claimed.map(sweepIn));
  for (const outcome of swept) if (outcome.status === 'rejected') throw outcome.reason;
  return swept.reduce((sum, outcome) => sum + (outcome.status === 'fulfilled' ? outcome.value : 0), 0);
}

async function sweepIn(place: AttemptPlace): Promise<number> {
  const keys = await inTime(async (signal) => {
    const found: string[] = [];
    for await (const { key } of place.storage.list(place.prefix, { signal }))
      if (key !== place.manifestKey) found.push(key);
    return found;
  });
  for (const key of keys) await inTime((signal) => place.storage.delete(key, { signal }));
  return keys.length;
}

/** The place in each of its stores. */
const storesOf = (place: AttemptPlace): readonly AttemptPlace[] =>
  copiesOf(place.storage).map(({ storage }) => ({ ...place, storage }));

async function readIfThere(place: AttemptPlace): Promise<Uint8Array | undefined> {
  try {
    return await inTime((signal) => place.storage.get(place.manifestKey, { signal }));
  } catch (error) {
    if (error instanceof StorageError && error.code === 'STORAGE_NOT_FOUND') return undefined;
    throw error;
  }
}

/** Throws `STORAGE_UNAVAILABLE` where the storage does not answer in time. */
export async function inTime<T>(call: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const late = new AbortController();
  const timer = setTimeout(
    () =>
      late.abort(
        new StorageError(`The storage did not answer within ${CALL_MS / 1000} s`, 'STORAGE_UNAVAILABLE'),
      ),
    CALL_MS,
  );
  try {
    return await orAborted(call(late.signal), late.signal);
  } finally {
    clearTimeout(timer);
  }
}
