import { encodeClaim, isClaim } from '../archive/claim.ts';
import { type ArchiveIdentity, attemptPrefix, MANIFEST_NAME } from '../archive/format.ts';
import type { ObjectStorage } from '../storage/storage.ts';
import { BackupError, StorageError } from '../types/errors.ts';
import { orAborted } from './failure.ts';

/** Where the objects of one attempt lie. */
export interface AttemptPlace {
  readonly storage: ObjectStorage;
  readonly prefix: string;
  readonly manifestKey: string;
}

/** What ends an attempt must itself come to an end: a storage that hangs is one that does not answer. */
const CALL_MS = 30_000;

export function placeOf(storage: ObjectStorage, prefix: string, identity: ArchiveIdentity): AttemptPlace {
  const own = attemptPrefix(prefix, identity);
  return { storage, prefix: own, manifestKey: `${own}${MANIFEST_NAME}` };
}

/**
 * Stores the manifest, which makes the backup exist. Where the answer is lost or not waited for, the stored bytes
 * decide. Throws `BACKUP_ATTEMPT_LOST` when somebody has claimed the attempt: then there is no manifest and there will
 * be none.
 */
export async function storeManifest(
  place: AttemptPlace,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  try {
    await place.storage.put(place.manifestKey, [bytes], { signal });
  } catch (error) {
    const stored = await readIfThere(place).catch(() => undefined);
    if (stored === undefined) throw error;
    if (isClaim(stored))
      throw new BackupError('Another worker has declared this attempt dead', 'BACKUP_ATTEMPT_LOST');
    if (!Buffer.from(stored).equals(bytes)) {
      throw new BackupError('Another manifest lies where this attempt’s belongs', 'BACKUP_ATTEMPT_LOST');
    }
  }
}

/**
 * Takes the manifest's name of a dead attempt, so that the attempt can never finish, and gives undefined; or gives the
 * manifest where the attempt had finished before it died. Throws `STORAGE_*`.
 */
export async function claimAttempt(
  place: AttemptPlace,
  identity: ArchiveIdentity,
  claim: { readonly at: Date; readonly by: string },
): Promise<Uint8Array | undefined> {
  const bytes = encodeClaim({
    snapshotId: identity.snapshotId,
    attemptId: identity.attemptId,
    claimedAt: claim.at.toISOString(),
    claimedBy: claim.by,
  });
  try {
    await inTime((signal) => place.storage.put(place.manifestKey, [bytes], { signal }));
    return undefined;
  } catch (error) {
    const stored = await readIfThere(place);
    if (stored === undefined) throw error;
    return isClaim(stored) ? undefined : stored;
  }
}

/** Removes what a claimed attempt stored; the claim stays. Gives the number of objects removed. */
export async function sweepAttempt(place: AttemptPlace): Promise<number> {
  const keys = await inTime(async (signal) => {
    const found: string[] = [];
    for await (const { key } of place.storage.list(place.prefix, { signal }))
      if (key !== place.manifestKey) found.push(key);
    return found;
  });
  for (const key of keys) await inTime((signal) => place.storage.delete(key, { signal }));
  return keys.length;
}

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
