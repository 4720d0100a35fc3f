import { manifestChecksum } from '../archive/manifest.ts';
import { checkObject, objectPlans } from '../archive/reader.ts';
import type { StorageCopy } from '../storage/storage.ts';
import type { BackupSnapshot, ReplicationLocation } from '../types/backup.ts';
import { ArchiveError, BackupError, DataProtectionError, StorageError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import { copiesOf, healedKey, isArchived, isDamage, lastHealed, readChecked, readCopy } from './copies.ts';
import { inParallel } from './in-parallel.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';
import type { RunningStorageJob } from './storage-job.ts';
import { type StoredArchive, sizesIn } from './stored-archive.ts';

/** What is done to a copy: objects that are not there are stored; with DAMAGED, whole ones are stored beside damaged ones. */
export type Repair = 'MISSING' | 'MISSING_AND_DAMAGED';

/** Objects of a copy that are read, checked and stored at once. */
const PARALLEL = 4;

/**
 * Brings every copy of a snapshot up to date: each object of each store is read and its digests are checked, what is
 * missing is stored from the nearest store where it is whole and read back; the manifest comes last, so that a copy with
 * a manifest is a whole one. The state of each copy is noted on the snapshot. Rejects with `STORAGE_UNAVAILABLE` while a
 * store does not answer: the job is tried again later. The result names the copies and what was stored.
 */
export async function repairCopies(
  running: RunningStorageJob,
  repair: Repair,
): Promise<{ readonly [key: string]: Json }> {
  const { context, job, count, signal } = running;
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const snapshot = job.snapshotId === null ? undefined : await repository.findSnapshotById(job.snapshotId);
  if (snapshot === undefined) throw new DataProtectionError('The snapshot is gone', 'NOT_FOUND');
  const archive = await openSnapshotArchive(context, snapshot, signal);
  const copies = copiesOf(archive.place.storage);
  const objects = archive.manifest.header.objects;
  const bytes = objects.reduce((sum, { size }) => sum + size, 0);
  count.expect(copies.length * objects.length, copies.length * bytes);
  const locations: ReplicationLocation[] = [];
  let stored = 0;
  for (const copy of copies) {
    const outcome = await bringUpToDate({ ...running, archive, snapshot, copy, repair });
    stored += outcome.stored;
    locations.push(outcome.location);
  }
  const { storageLocation } = (await repository.findSnapshotById(snapshot.id)) ?? snapshot;
  if (storageLocation !== null) {
    await repository.recordLocation(snapshot.id, { ...storageLocation, replicationLocations: locations });
  }
  const silent = locations.filter(({ status }) => status === 'UNAVAILABLE');
  if (silent.length > 0) {
    const names = silent.map(({ description }) => description).join(', ');
    throw new StorageError(`Not every copy could be brought up to date: ${names}`, 'STORAGE_UNAVAILABLE');
  }
  return { stored, copies: locations.map((location) => ({ ...location })) };
}

interface CopyJob extends RunningStorageJob {
  readonly archive: StoredArchive;
  readonly snapshot: BackupSnapshot;
  readonly copy: StorageCopy;
  readonly repair: Repair;
}

async function bringUpToDate(
  work: CopyJob,
): Promise<{ readonly location: ReplicationLocation; readonly stored: number }> {
  const { context, snapshot, copy, signal } = work;
  const before = snapshot.storageLocation?.replicationLocations.find(({ index }) => index === copy.index);
  const state = { objects: 0, bytes: 0, stored: 0, damaged: 0 };
  const location = (status: ReplicationLocation['status'], error: ReplicationLocation['error']) => {
    const now = context.clock.now();
    const since = Date.parse(snapshot.completedAt ?? now.toISOString());
    return {
      description: copy.storage.description,
      status,
      index: copy.index,
      objects: state.objects,
      bytes: state.bytes,
      checkedAt: now.toISOString(),
      lagMs: status === 'COMPLETE' ? (before?.lagMs ?? Math.max(0, now.getTime() - since)) : null,
      error,
    };
  };
  try {
    await copyObjects(work, state);
    if (state.damaged === 0) await copyManifest(work, state);
    const status = state.damaged === 0 ? 'COMPLETE' : 'DAMAGED';
    return {
      location: location(status, status === 'DAMAGED' ? 'ARCHIVE_CORRUPT' : null),
      stored: state.stored,
    };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof DataProtectionError)) throw error;
    // No store has it whole: nothing can be copied from anywhere.
    if (isDamage(error))
      throw new BackupError(error.message, error.code, snapshot.id, false, { cause: error });
    return { location: location('UNAVAILABLE', error.code), stored: state.stored };
  }
}

interface CopyState {
  objects: number;
  bytes: number;
  stored: number;
  damaged: number;
}

async function copyObjects(work: CopyJob, state: CopyState): Promise<void> {
  const { archive, copy, count, signal } = work;
  const { manifest, place } = archive;
  const there = await sizesIn(copy.storage, place.prefix, signal);
  await inParallel([...objectPlans(manifest.header)], PARALLEL, signal, async (plan) => {
    const key = `${place.prefix}${plan.name}`;
    const check = (stored: Uint8Array): Uint8Array => {
      checkObject(manifest.header, plan, stored);
      return stored;
    };
    const outcome = await bringObject(work, key, there.has(plan.name), check);
    count.done(plan.size);
    if (outcome === 'DAMAGED') state.damaged += 1;
    else {
      state.objects += 1;
      state.bytes += plan.size;
      if (outcome === 'STORED') state.stored += 1;
    }
  });
}

async function copyManifest(work: CopyJob, state: CopyState): Promise<void> {
  const { archive, copy, signal } = work;
  const { place, manifest } = archive;
  const same = (stored: Uint8Array): Uint8Array => {
    if (manifestChecksum(manifest.header, stored) === manifest.checksum) return stored;
    throw new ArchiveError('Another manifest lies in the copy', 'ARCHIVE_CORRUPT');
  };
  const present = (await copy.storage.stat(place.manifestKey, { signal })) !== undefined;
  const outcome = await bringObject(work, place.manifestKey, present, same);
  if (outcome === 'DAMAGED') state.damaged += 1;
  if (outcome === 'STORED') state.stored += 1;
}

/** Sees to one object of one copy. STORED: it was not there, or not whole, and is now. */
async function bringObject(
  { archive, copy, repair, signal }: CopyJob,
  key: string,
  present: boolean,
  check: (stored: Uint8Array) => Uint8Array,
): Promise<'THERE' | 'STORED' | 'DAMAGED'> {
  if (present) {
    try {
      await readCopy(copy.storage, key, { signal }, check);
      return 'THERE';
    } catch (error) {
      // What lies in an archive tier was checked by the provider when it was stored, and cannot be read now.
      if (isArchived(error)) return 'THERE';
      if (!isDamage(error)) throw error;
      if (repair === 'MISSING') return 'DAMAGED';
    }
  }
  const whole = await readChecked(archive.place.storage, key, { signal }, check);
  const name = present ? healedKey(key, (await lastHealed(copy.storage, key, signal)) + 1) : key;
  const tier = key === archive.place.manifestKey ? ({ tier: 'HOT' } as const) : {};
  try {
    await copy.storage.put(name, [whole], { signal, ...tier });
  } catch (error) {
    // Another job, or the run itself, was faster.
    if (!(error instanceof StorageError) || error.code !== 'STORAGE_ALREADY_EXISTS') throw error;
  }
  try {
    await readCopy(copy.storage, key, { signal }, check);
  } catch (error) {
    if (!isArchived(error)) throw error;
  }
  return 'STORED';
}
