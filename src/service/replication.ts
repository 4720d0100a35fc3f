import type { BackupRepository } from '../repository/backup-repository.ts';
import type { BackupSnapshot, ReplicationLocation } from '../types/backup.ts';
import { BackupError, DataProtectionError, StorageError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { type Repair, seeToCopies } from './copy-repair.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';
import { holdingCopies, type RunningStorageJob } from './storage-job.ts';

/** Objects that an error names. */
const NAMED = 5;

/**
 * REPLICATION and HEALING: brings every copy of a snapshot up to date, as far as `repair` goes: see `seeToCopies`. The
 * state of each copy is noted on the snapshot as soon as it is known. The result is `{ stored, damaged, copies }`: objects
 * that were stored, copies that are damaged and were left so, and the state of each. Rejects with `STORAGE_UNAVAILABLE`
 * while a store does not answer, so that the job is tried again; and with `ARCHIVE_CORRUPT` where an object is whole in no
 * store, once everything else has been done.
 */
export async function repairCopies(
  running: RunningStorageJob,
  repair: Repair,
): Promise<{ readonly [key: string]: Json }> {
  const { context, job } = running;
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const { snapshotId } = job;
  if (snapshotId === null) throw new DataProtectionError('The job names no snapshot', 'INTERNAL');
  return holdingCopies(running, snapshotId, (signal) =>
    repairHeld({ ...running, signal }, repository, snapshotId, repair),
  );
}

async function repairHeld(
  { context, count, signal }: RunningStorageJob,
  repository: BackupRepository,
  snapshotId: UUID,
  repair: Repair,
): Promise<{ readonly [key: string]: Json }> {
  const snapshot = await repository.findSnapshotById(snapshotId);
  if (snapshot === undefined) throw new DataProtectionError('The snapshot is gone', 'NOT_FOUND');
  const archive = await openSnapshotArchive(context, snapshot, signal);
  const before = snapshot.storageLocation?.replicationLocations ?? [];
  const now = new Map(before.map((location) => [location.index, location]));
  const { stored, locations, lost } = await seeToCopies({
    archive,
    target: archive.place,
    repair,
    completedAt: completionOf(snapshot, context.clock.now()),
    before,
    count,
    clock: context.clock,
    signal,
    onCopy: async (location) => {
      now.set(location.index, location);
      await noteCopies(repository, snapshot, [...now.values()]);
    },
  });
  const unfinished = locations.filter(({ status }) => status === 'UNAVAILABLE' || status === 'PENDING');
  if (unfinished.length > 0 && lost.length === 0) {
    const names = unfinished.map(({ description, error }) => `${description} (${error})`).join(', ');
    throw new StorageError(`Not every copy could be brought up to date: ${names}`, 'STORAGE_UNAVAILABLE');
  }
  if (lost.length > 0) {
    const more = lost.length > NAMED ? ` and ${lost.length - NAMED} more` : '';
    const text = `No store has these whole: ${lost.slice(0, NAMED).join(', ')}${more}`;
    throw new BackupError(text, 'ARCHIVE_CORRUPT', snapshot.id, false);
  }
  const damaged = locations.filter(({ status }) => status === 'DAMAGED');
  if (damaged.length > 0) {
    const copies = damaged.map(({ description }) => description);
    context.logger.error({ snapshotId, copies: copies.join(', ') }, 'Copies of a backup are damaged');
  }
  return { stored, damaged: damaged.length, copies: locations.map((location) => ({ ...location })) };
}

async function noteCopies(
  repository: BackupRepository,
  { id, storageLocation }: BackupSnapshot,
  replicationLocations: readonly ReplicationLocation[],
): Promise<void> {
  // A single store has no copies to tell of.
  if (storageLocation === null || storageLocation.replicationLocations.length === 0) return;
  const sorted = [...replicationLocations].sort((one, other) => one.index - other.index);
  await repository.recordLocation(id, { ...storageLocation, replicationLocations: sorted });
}

export const completionOf = ({ completedAt }: BackupSnapshot, now: Date): Date =>
  completedAt === null ? now : new Date(completedAt);
