import { uuidv7 } from 'uuidv7';
import { snapshotFolder } from '../archive/format.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { BackupSnapshot, FormerLocation } from '../types/backup.ts';
import { ArchiveError, StorageError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { sidecarsOf } from './attempt-storage.ts';
import { copiesOf } from './copies.ts';
import { seeToCopies } from './copy-repair.ts';
import { completionOf } from './replication.ts';
import { counts, openSnapshotArchive } from './snapshot-archive.ts';
import { holdingCopies, type RunningStorageJob } from './storage-job.ts';
import type { StoredArchive } from './stored-archive.ts';

/**
 * Removes what moved snapshots left at their former places, each once every object of every copy at the new place has
 * been read and found whole. A store that is at once former and new keeps what it has. What cannot be removed stays and
 * keeps nothing else from being removed; then the first failure is thrown, at the end. The result is
 * `{ snapshots, objects }`.
 */
export async function removeFormer(running: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  const { context, job, signal } = running;
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const removed = { snapshots: 0, objects: 0 };
  let failure: { readonly error: unknown } | undefined;
  for (const snapshot of await repository.findSnapshotsByConfig(job.configurationId)) {
    if (!hasFormer(snapshot)) continue;
    try {
      await holdingCopies(running, snapshot.id, async (held) => {
        removed.objects += await removeHeld({ ...running, signal: held }, repository, snapshot.id);
      });
      removed.snapshots += 1;
    } catch (error) {
      signal.throwIfAborted();
      failure ??= { error };
    }
  }
  if (failure !== undefined) throw failure.error;
  return removed;
}

const hasFormer = (snapshot: BackupSnapshot): boolean =>
  counts(snapshot) && (snapshot.storageLocation?.formerLocations ?? []).length > 0;

async function removeHeld(
  running: RunningStorageJob,
  repository: BackupRepository,
  id: UUID,
): Promise<number> {
  const { context, job, signal } = running;
  const snapshot = await repository.findSnapshotById(id);
  if (snapshot === undefined || !hasFormer(snapshot) || snapshot.storageLocation === null) return 0;
  const { formerLocations = [], ...location } = snapshot.storageLocation;
  const archive = await openSnapshotArchive(context, snapshot, signal);
  await requireWhole(running, snapshot, archive);
  let objects = 0;
  for (const former of formerLocations) objects += await removeFrom(running, former, archive);
  const { organizationId } = job;
  await context.db.withTransaction(async (transaction) => {
    await context
      .repository({ organizationId, branchIds: 'ALL' }, transaction)
      .recordLocation(snapshot.id, location);
    await context.audit.append(transaction, {
      organizationId,
      action: 'snapshot.former_places_removed',
      userId: job.requestedBy,
      resourceType: 'backup_snapshot',
      resourceId: snapshot.id,
      details: { snapshotNumber: snapshot.snapshotNumber, storageJobId: job.id, objects },
    });
  });
  return objects;
}

async function requireWhole(
  { context, count, signal }: RunningStorageJob,
  snapshot: BackupSnapshot,
  archive: StoredArchive,
): Promise<void> {
  const { locations } = await seeToCopies({
    archive,
    target: archive.place,
    repair: 'NOTHING',
    completedAt: completionOf(snapshot, context.clock.now()),
    before: [],
    count,
    clock: context.clock,
    signal,
  });
  const { snapshotNumber } = snapshot;
  for (const { status, description, error } of locations) {
    if (status === 'COMPLETE') continue;
    if (status === 'UNAVAILABLE') {
      const text = `${description} does not say whether it has ${snapshotNumber} (${error}); nothing of it was removed`;
      throw new StorageError(text, 'STORAGE_UNAVAILABLE');
    }
    const text = `${snapshotNumber} is not whole in ${description}; nothing of it was removed. Replicate or heal it first`;
    throw new ArchiveError(text, status === 'DAMAGED' ? 'ARCHIVE_CORRUPT' : 'ARCHIVE_INCOMPLETE');
  }
}

/** Removes an attempt's objects at a former place. Gives their number. */
async function removeFrom(
  { context, count, signal }: RunningStorageJob,
  former: FormerLocation,
  archive: StoredArchive,
): Promise<number> {
  let removed = 0;
  for (const { storage } of copiesOf(context.openStorage(former.destination).storage)) {
    if (await isPlaceOf(archive, storage, former, signal)) continue;
    // The manifest first: what is left of an interrupted removal is no backup.
    await storage.delete(former.manifestKey, { signal });
    removed += 1;
    const keys: string[] = [];
    const sidecars = sidecarsOf(snapshotFolder(former.path));
    for (const prefix of [former.path, sidecars])
      for await (const { key } of storage.list(prefix, { signal })) keys.push(key);
    count.expect(keys.length, 0);
    for (const key of keys) {
      await storage.delete(key, { signal });
      count.done(0);
      removed += 1;
    }
  }
  return removed;
}

/**
 * Whether what is stored at the new place is seen at the former one: a folder by another path, a bucket by another
 * prefix or endpoint, or a store that belongs to both. Seen, not concluded from names: removing it would remove the backup.
 */
async function isPlaceOf(
  { place }: StoredArchive,
  former: StoredArchive['place']['storage'],
  { path }: FormerLocation,
  signal: AbortSignal,
): Promise<boolean> {
  const mark = `moved-${uuidv7()}`;
  for (const { storage } of copiesOf(place.storage)) {
    await storage.put(`${place.prefix}${mark}`, [], { signal });
    try {
      if ((await former.stat(`${path}${mark}`, { signal })) !== undefined) return true;
    } finally {
      // Where it is protected from deletion it stays: readers do not look at it.
      await storage.delete(`${place.prefix}${mark}`, {}).catch(() => undefined);
    }
  }
  return false;
}
