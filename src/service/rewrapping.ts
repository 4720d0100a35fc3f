import { encodeRewrappedKey, KEY_SIDECAR } from '../archive/key-sidecar.ts';
import { encodeSidecar, parseSidecarName, sidecarName } from '../archive/sidecar.ts';
import type { KeyProvider } from '../keys/keys.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { BackupSnapshot } from '../types/backup.ts';
import { ArchiveError, BackupError, DataProtectionError, KeyError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { copiesOf, isTaken } from './copies.ts';
import { type FoundDataKey, findDataKey, sidecarMac } from './data-keys.ts';
import { keyFailure } from './failure.ts';
import { requireUsableKey } from './key-use.ts';
import { type SidecarPlace, sidecarNames, sidecarPlace } from './sidecars.ts';
import { counts, openSnapshotArchive } from './snapshot-archive.ts';
import { holdingCopies, type RunningStorageJob } from './storage-job.ts';
import type { StoredArchive } from './stored-archive.ts';

/** Snapshots that an error names. */
const NAMED = 5;

/**
 * REWRAPPING: has the data key of every snapshot of a configuration that counts wrapped by the current key, in a sidecar
 * beside it; no segment is touched, and what is there stays. `input` may hold `toKeyId`, which must be the current key.
 *
 * A snapshot is entered in the catalog as wrapped by the new key once every store has its sidecar: until then the old
 * key is needed, and cannot be retired. So a killed job is begun anew without harm, and skips what is entered. What
 * cannot be opened or written keeps nothing else from being done; then the job rejects with the first such failure. The
 * result is `{ snapshots, keyId }`: how many this try has entered, and the key.
 */
export async function rewrapSnapshots(running: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  const { context, job, count, signal } = running;
  const { keys } = context;
  if (keys === undefined) throw new KeyError('No key provider is configured', 'KEY_UNAVAILABLE');
  const keyId = await requireCurrent(keys, job.input.toKeyId);
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const left = (await repository.findSnapshotsByConfig(job.configurationId)).filter((snapshot) =>
    isWrappedOtherwise(snapshot, keyId),
  );
  count.expect(left.length, 0);
  const failed: { readonly number: string; readonly error: DataProtectionError }[] = [];
  let snapshots = 0;
  for (const { id, snapshotNumber } of left) {
    signal.throwIfAborted();
    try {
      const done = await holdingCopies(running, id, (held) =>
        rewrapHeld({ running: { ...running, signal: held }, keys, repository, keyId }, id),
      );
      if (done === 'ENTERED') snapshots += 1;
      count.done(0);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof DataProtectionError)) throw error;
      failed.push({ number: snapshotNumber, error });
    }
  }
  const first = failed.find(({ error }) => error.retryable) ?? failed[0];
  if (first === undefined) return { snapshots, keyId };
  const more = failed.length > NAMED ? ` and ${failed.length - NAMED} more` : '';
  const names = failed.slice(0, NAMED).map(({ number }) => number);
  throw new BackupError(
    `Not re-wrapped: ${names.join(', ')}${more} (${first.error.message})`,
    first.error.code,
    undefined,
    first.error.retryable,
    { cause: first.error },
  );
}

async function requireCurrent(keys: KeyProvider, asked: Json | undefined): Promise<string> {
  const current = await keys.currentKeyId().catch((error: unknown) => {
    throw keyFailure(error);
  });
  if (asked === undefined || asked === current) return current;
  throw new DataProtectionError(
    `The current key is ${current} and no longer the one asked for`,
    'INVALID_STATE',
  );
}

const isWrappedOtherwise = (snapshot: BackupSnapshot, keyId: string): boolean =>
  counts(snapshot) && snapshot.encrypted && snapshot.encryptionKeyId !== keyId;

interface Rewrapping {
  readonly running: RunningStorageJob;
  readonly keys: KeyProvider;
  readonly repository: BackupRepository;
  readonly keyId: string;
}

async function rewrapHeld(work: Rewrapping, id: UUID): Promise<'ENTERED' | 'NOTHING'> {
  const { running, keys, repository, keyId } = work;
  const { context, signal } = running;
  const snapshot = await repository.findSnapshotById(id);
  if (snapshot === undefined || !isWrappedOtherwise(snapshot, keyId)) return 'NOTHING';
  const archive = await openSnapshotArchive(context, snapshot, signal);
  const { header } = archive.manifest;
  // It was to be encrypted, or the archive had not been opened.
  if (header.encryption === null) return 'NOTHING';
  const place = sidecarPlace(archive.place, header.identity);
  const found = await findDataKey(keys, { ...header.encryption, identity: header.identity }, place, signal);
  try {
    if (!(await isEverywhere(place, found, keyId, signal))) await write(work, archive, place, found);
  } finally {
    found.dataKey.fill(0);
  }
  return (await enter(work, snapshot)) ? 'ENTERED' : 'NOTHING';
}

/** Whether every store has the data key wrapped by this key, so that nothing is left to write. */
async function isEverywhere(
  { storage, folder }: SidecarPlace,
  { keyId: wrappedBy, sidecar }: FoundDataKey,
  keyId: string,
  signal: AbortSignal,
): Promise<boolean> {
  if (wrappedBy !== keyId) return false;
  // The manifest is everywhere where the snapshot is.
  if (sidecar === null) return true;
  const stored = await Promise.all(
    copiesOf(storage).map(async (copy) => {
      const there = await copy.storage.stat(`${folder}${sidecar}`, { signal });
      return there && copy.storage.get(`${folder}${sidecar}`, { signal });
    }),
  );
  const [first] = stored;
  return first !== undefined && stored.every((bytes) => bytes && Buffer.from(first).equals(bytes));
}

/** Puts the data key, wrapped anew, into every store under the next number, and reads each back. */
async function write(
  { running, keys, keyId }: Rewrapping,
  { manifest: { header } }: StoredArchive,
  place: SidecarPlace,
  { dataKey }: FoundDataKey,
): Promise<void> {
  const { context, signal } = running;
  const { organizationId, configurationId, snapshotId, attemptId } = header.identity;
  const wrappedKey = await keys
    .wrap(dataKey, { organizationId, configurationId, snapshotId })
    .catch(throwKeyFailure);
  if (wrappedKey.keyId !== keyId) {
    throw new DataProtectionError(`The key was rotated to ${wrappedKey.keyId} meanwhile`, 'INVALID_STATE', {
      retryable: true,
    });
  }
  const { names, silent } = await sidecarNames(place, KEY_SIDECAR, signal);
  if (silent.length > 0) throw silent[0];
  const name = { kind: KEY_SIDECAR, number: nextNumber(names) };
  // By the key that it is needed with, so that no other must stay for it.
  const mac = await keys.macKey(sidecarMac(place.context), keyId).catch(throwKeyFailure);
  const bytes = encodeSidecar(
    {
      ...name,
      context: place.context,
      writtenAt: context.clock.now().toISOString(),
      payload: encodeRewrappedKey({ attemptId, wrappedKey }),
    },
    mac,
  );
  const key = `${place.folder}${sidecarName(name)}`;
  for (const { storage } of copiesOf(place.storage)) {
    await storage.put(key, [bytes], { signal, tier: 'HOT' }).catch((error: unknown) => {
      // Perhaps by ourselves, and the answer was lost: what is read back decides.
      if (!isTaken(error)) throw error;
    });
    if (Buffer.from(await storage.get(key, { signal })).equals(bytes)) continue;
    throw new ArchiveError(`Another sidecar lies at ${key} in ${storage.description}`, 'ARCHIVE_CORRUPT', {
      retryable: true,
    });
  }
}

/** One more than the highest; where somebody has put one at the end of the numbers, the lowest that is free. */
function nextNumber(names: readonly string[]): number {
  const taken = new Set(names.map((name) => parseSidecarName(name)?.number));
  const highest = parseSidecarName(names[0] ?? '')?.number ?? 0;
  if (highest < LAST_NUMBER) return highest + 1;
  let free = 1;
  while (taken.has(free)) free += 1;
  return free;
}

/** Numbers above are nobody's but a forger's. */
const LAST_NUMBER = 999_999;

const throwKeyFailure = (error: unknown): never => {
  throw keyFailure(error);
};

async function enter({ running, keyId }: Rewrapping, snapshot: BackupSnapshot): Promise<boolean> {
  const { context, job } = running;
  const { id, organizationId, snapshotNumber, encryptionKeyId: from } = snapshot;
  return context.db.withTransaction(async (transaction) => {
    await requireUsableKey(context, transaction, keyId);
    const inside = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
    if (!(await inside.recordKey(id, keyId))) return false;
    await context.audit.append(transaction, {
      organizationId,
      action: 'snapshot.key_rewrapped',
      userId: job.requestedBy,
      resourceType: 'backup_snapshot',
      resourceId: id,
      details: { snapshotNumber, storageJobId: job.id, from, to: keyId },
    });
    return true;
  });
}
