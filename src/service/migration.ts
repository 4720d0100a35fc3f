import { isDeepStrictEqual } from 'node:util';
import type { SessionLock } from '../repository/advisory-lock.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { BackupSnapshot, ReplicationLocation, StorageDestination } from '../types/backup.ts';
import { ArchiveError, DataProtectionError, StorageError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import { parseInput, StorageDestinationSchema } from '../validation/index.ts';
import { placeOf } from './attempt-storage.ts';
import { copiesOf } from './copies.ts';
import { seeToCopies } from './copy-repair.ts';
import { pause } from './failure.ts';
import { removeFormer } from './former-places.ts';
import { completionOf } from './replication.ts';
import { counts, identityOf, openSnapshotArchive } from './snapshot-archive.ts';
import { holdingCopies, type RunningStorageJob, whileHeld } from './storage-job.ts';
import { openStoredArchive } from './stored-archive.ts';

/** How long a migration waits at its end for a backup that runs, before it is put back. */
const WAIT_MS = 5 * 60_000;
const LOOK_MS = 1_000;

/**
 * MIGRATION: moves a configuration's snapshots to another destination, or removes what was moved away from. `input`
 * holds `to`, or `remove: true`.
 *
 * Moving copies every object of every snapshot that counts, reads it back and checks its digests, manifest last, opens it
 * there, and then enters the new place; the old one stays as it is. Each snapshot can be restored at any time. At the end, under the
 * configuration's lock, what was taken meanwhile is moved too and the configuration is switched. Of a MULTI destination
 * `minimumConfirmations` stores must have all of a snapshot. The result is `{ snapshots, objects, bytes, damaged }`: what
 * was moved, and the numbers of those that are whole nowhere and stay where they are.
 */
export async function migrateStorage(running: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  return running.job.input.remove === true ? removeFormer(running) : moveAll(running);
}

interface Moved {
  snapshots: number;
  objects: number;
  bytes: number;
  readonly damaged: Set<string>;
}

async function moveAll(running: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  const { context, job, signal } = running;
  const to = parseInput(StorageDestinationSchema, 'The destination', job.input.to);
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const moved: Moved = { snapshots: 0, objects: 0, bytes: 0, damaged: new Set() };
  await moveThose(running, repository, to, moved);
  const lock = await lockConfiguration(running);
  try {
    await whileHeld(lock, signal, async (held) => {
      await moveThose({ ...running, signal: held }, repository, to, moved);
      held.throwIfAborted();
      await switchConfiguration(running, to, moved);
    });
  } finally {
    await lock.release();
  }
  return { ...moved, damaged: [...moved.damaged] };
}

async function lockConfiguration({ context, job, signal }: RunningStorageJob): Promise<SessionLock> {
  for (let waited = 0; ; waited += LOOK_MS) {
    const lock = await context.locks.tryConfiguration(job.configurationId);
    if (lock !== undefined) return lock;
    if (waited >= WAIT_MS) {
      throw new DataProtectionError('A backup of the configuration is running', 'BACKUP_ALREADY_RUNNING', {
        retryable: true,
      });
    }
    await pause(LOOK_MS, signal);
  }
}

async function switchConfiguration(
  { context, job }: RunningStorageJob,
  to: StorageDestination,
  moved: Moved,
): Promise<void> {
  const { organizationId } = job;
  await context.db.withTransaction(async (transaction) => {
    const inside = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
    const configuration = await inside.findConfigById(job.configurationId);
    if (configuration === undefined || isDeepStrictEqual(configuration.storageDestination, to)) return;
    const expectedUpdatedAt = configuration.updatedAt;
    if (!(await inside.updateConfig(configuration.id, { storageDestination: to }, { expectedUpdatedAt }))) {
      throw new DataProtectionError('The configuration was changed meanwhile', 'INVALID_STATE', {
        retryable: true,
      });
    }
    await context.audit.append(transaction, {
      organizationId,
      action: 'configuration.storage_migrated',
      userId: job.requestedBy,
      resourceType: 'backup_configuration',
      resourceId: configuration.id,
      details: { storageJobId: job.id, snapshots: moved.snapshots, damaged: [...moved.damaged] },
    });
  });
}

async function moveThose(
  running: RunningStorageJob,
  repository: BackupRepository,
  to: StorageDestination,
  moved: Moved,
): Promise<void> {
  const { job, signal } = running;
  for (const { id } of (await repository.findSnapshotsByConfig(job.configurationId)).toReversed()) {
    signal.throwIfAborted();
    const snapshot = await repository.findSnapshotById(id);
    if (snapshot === undefined || !isElsewhere(snapshot, to)) continue;
    await holdingCopies(running, id, async (held) => {
      const current = await repository.findSnapshotById(id);
      if (current !== undefined && isElsewhere(current, to))
        await moveOne({ ...running, signal: held }, current, to, moved);
    });
  }
}

const isElsewhere = (snapshot: BackupSnapshot, to: StorageDestination): boolean =>
  counts(snapshot) &&
  snapshot.storageLocation !== null &&
  !isDeepStrictEqual(snapshot.storageLocation.destination, to);

async function moveOne(
  { context, job, count, signal }: RunningStorageJob,
  snapshot: BackupSnapshot,
  to: StorageDestination,
  moved: Moved,
): Promise<void> {
  const { storageLocation: location, snapshotNumber } = snapshot;
  if (location === null) return;
  const opened = context.openStorage(to);
  const target = placeOf(opened.storage, opened.prefix, identityOf(snapshot));
  let locations: readonly ReplicationLocation[];
  let size: { readonly objects: number; readonly bytes: number };
  try {
    const archive = await openSnapshotArchive(context, snapshot, signal);
    const { objects } = archive.manifest.header;
    size = { objects: objects.length, bytes: objects.reduce((sum, object) => sum + object.size, 0) };
    const outcome = await seeToCopies({
      archive,
      target,
      repair: 'MISSING_AND_DAMAGED',
      completedAt: completionOf(snapshot, context.clock.now()),
      before: [],
      count,
      clock: context.clock,
      signal,
    });
    locations = outcome.locations;
    if (outcome.lost.length > 0) throw new ArchiveError(`${outcome.lost[0]} is damaged`, 'ARCHIVE_CORRUPT');
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof ArchiveError)) throw error;
    moved.damaged.add(snapshotNumber);
    context.logger.error(
      { snapshotId: snapshot.id, error: error.code },
      'A backup is whole nowhere and was not moved',
    );
    return;
  }
  const complete = locations.filter(({ status }) => status === 'COMPLETE').length;
  if (complete < (to.minimumConfirmations ?? 1)) {
    const why = locations.flatMap(({ error }) => error ?? []).join(', ');
    throw new StorageError(
      `${snapshotNumber} could not be stored at its new place: ${why}`,
      'STORAGE_UNAVAILABLE',
    );
  }
  // With its sidecars: the key that its manifest names may be gone.
  await openStoredArchive(
    target,
    { identity: identityOf(snapshot), encrypted: snapshot.encrypted, checksum: snapshot.checksum },
    context.keys,
    signal,
  );
  const { destination, path, manifestKey } = location;
  const { organizationId } = job;
  await context.db.withTransaction(async (transaction) => {
    const inside = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
    const entered = await inside.recordLocation(snapshot.id, {
      type: to.type,
      description: opened.storage.description,
      path: target.prefix,
      manifestKey: target.manifestKey,
      destination: to,
      replicationLocations: copiesOf(opened.storage).length > 1 ? locations : [],
      formerLocations: [...(location.formerLocations ?? []), { destination, path, manifestKey }],
    });
    // It has ended to count meanwhile.
    if (!entered) return;
    await context.audit.append(transaction, {
      organizationId,
      action: 'snapshot.moved',
      userId: job.requestedBy,
      resourceType: 'backup_snapshot',
      resourceId: snapshot.id,
      details: { snapshotNumber, storageJobId: job.id, to: opened.storage.description },
    });
  });
  moved.snapshots += 1;
  moved.objects += size.objects;
  moved.bytes += size.bytes;
}
