import { isDeepStrictEqual } from 'node:util';
import { manifestChecksum } from '../archive/manifest.ts';
import { checkObject, objectPlans } from '../archive/reader.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { BackupSnapshot, FormerLocation, StorageDestination } from '../types/backup.ts';
import { ArchiveError, DataProtectionError, StorageError } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import { parseInput, StorageDestinationSchema } from '../validation/index.ts';
import { type AttemptPlace, placeOf } from './attempt-storage.ts';
import { copiesOf, readChecked } from './copies.ts';
import { inParallel } from './in-parallel.ts';
import { identityOf, openSnapshotArchive } from './snapshot-archive.ts';
import type { RunningStorageJob } from './storage-job.ts';
import { initialCopies, requireObjects, type StoredArchive } from './stored-archive.ts';

const PARALLEL = 4;

/**
 * MIGRATION: moves a configuration's snapshots to another destination, or removes what was moved away from. `input`
 * holds `to`, or `remove: true`.
 *
 * Moving copies every object of every snapshot that counts, reads it back and checks its digests, manifest last, and
 * then enters the new place; the old one stays as it is. Each snapshot can be restored at any time. At the end, under the
 * configuration's lock, what was taken meanwhile is moved too and the configuration is switched. The result counts
 * snapshots, objects and bytes.
 */
export async function migrateStorage(running: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  return running.job.input.remove === true ? removeFormer(running) : moveAll(running);
}

async function moveAll(running: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  const { context, job } = running;
  const to = parseInput(StorageDestinationSchema, 'The destination', job.input.to);
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const moved = { snapshots: 0, objects: 0, bytes: 0 };
  await moveThose(running, repository, to, moved);
  const lock = await context.locks.tryConfiguration(job.configurationId);
  if (lock === undefined) {
    throw new DataProtectionError('A backup of the configuration is running', 'BACKUP_ALREADY_RUNNING');
  }
  try {
    await moveThose(running, repository, to, moved);
    await context.db.withTransaction(async (transaction) => {
      const inside = context.repository(
        { organizationId: job.organizationId, branchIds: 'ALL' },
        transaction,
      );
      const configuration = await inside.findConfigById(job.configurationId);
      if (configuration === undefined || isDeepStrictEqual(configuration.storageDestination, to)) return;
      const expectedUpdatedAt = configuration.updatedAt;
      if (!(await inside.updateConfig(configuration.id, { storageDestination: to }, { expectedUpdatedAt }))) {
        throw new DataProtectionError('The configuration was changed meanwhile', 'INVALID_STATE', {
          retryable: true,
        });
      }
      await context.audit.append(transaction, {
        organizationId: job.organizationId,
        action: 'configuration.storage_migrated',
        userId: job.requestedBy,
        resourceType: 'backup_configuration',
        resourceId: configuration.id,
        details: { snapshots: moved.snapshots },
      });
    });
  } finally {
    await lock.release();
  }
  return moved;
}

async function moveThose(
  running: RunningStorageJob,
  repository: BackupRepository,
  to: StorageDestination,
  moved: { snapshots: number; objects: number; bytes: number },
): Promise<void> {
  const { context, job, count, signal } = running;
  for (const snapshot of (await repository.findSnapshotsByConfig(job.configurationId)).toReversed()) {
    const location = snapshot.storageLocation;
    if (!counts(snapshot) || location === null || isDeepStrictEqual(location.destination, to)) continue;
    signal.throwIfAborted();
    const archive = await openSnapshotArchive(context, snapshot, signal);
    const { objects } = archive.manifest.header;
    const bytes = objects.reduce((sum, { size }) => sum + size, 0);
    count.expect(objects.length, bytes);
    const opened = context.openStorage(to);
    const target = placeOf(opened.storage, opened.prefix, identityOf(snapshot));
    await copyArchive(archive, target, running);
    const { destination, path, manifestKey } = location;
    await repository.recordLocation(snapshot.id, {
      type: to.type,
      description: opened.storage.description,
      path: target.prefix,
      manifestKey: target.manifestKey,
      destination: to,
      replicationLocations: initialCopies(opened.storage),
      formerLocations: [...(location.formerLocations ?? []), { destination, path, manifestKey }],
    });
    moved.snapshots += 1;
    moved.objects += objects.length;
    moved.bytes += bytes;
  }
}

async function copyArchive(
  archive: StoredArchive,
  target: AttemptPlace,
  { count, signal }: RunningStorageJob,
): Promise<void> {
  const { place, manifest } = archive;
  await inParallel([...objectPlans(manifest.header)], PARALLEL, signal, async (plan) => {
    const check = (stored: Uint8Array): Uint8Array => {
      checkObject(manifest.header, plan, stored);
      return stored;
    };
    await copyChecked(place, target, plan.name, check, signal);
    count.done(plan.size);
  });
  const same = (stored: Uint8Array): Uint8Array => {
    if (manifestChecksum(manifest.header, stored) === manifest.checksum) return stored;
    throw new ArchiveError('Another manifest lies there', 'ARCHIVE_CORRUPT');
  };
  await copyChecked(place, target, target.manifestKey.slice(target.prefix.length), same, signal);
}

/** Copies an object and reads it back; one that is there already, from an earlier try, is checked only. */
async function copyChecked(
  from: AttemptPlace,
  to: AttemptPlace,
  name: string,
  check: (stored: Uint8Array) => Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const key = `${to.prefix}${name}`;
  const bytes = await readChecked(from.storage, `${from.prefix}${name}`, { signal }, check);
  const tier = key === to.manifestKey ? ({ tier: 'HOT' } as const) : {};
  try {
    await to.storage.put(key, [bytes], { signal, ...tier });
  } catch (error) {
    if (!(error instanceof StorageError) || error.code !== 'STORAGE_ALREADY_EXISTS') throw error;
  }
  await readChecked(to.storage, key, { signal }, check);
}

/** Removes what moved snapshots left at their former places, each once all of it is seen to be at the new one. */
async function removeFormer(running: RunningStorageJob): Promise<{ readonly [key: string]: Json }> {
  const { context, job, count, signal } = running;
  const repository = context.repository({ organizationId: job.organizationId, branchIds: 'ALL' });
  const removed = { snapshots: 0, objects: 0 };
  for (const snapshot of await repository.findSnapshotsByConfig(job.configurationId)) {
    const location = snapshot.storageLocation;
    const former = location?.formerLocations ?? [];
    if (!counts(snapshot) || location === null || former.length === 0) continue;
    signal.throwIfAborted();
    await requireObjects(await openSnapshotArchive(context, snapshot, signal), signal);
    for (const place of former) {
      if (isDeepStrictEqual(place, pick(location))) continue;
      const { storage } = context.openStorage(place.destination);
      for (const copy of copiesOf(storage)) {
        // The manifest first: what is left of an interrupted removal is no backup.
        await copy.storage.delete(place.manifestKey, { signal });
        const keys: string[] = [];
        for await (const { key } of copy.storage.list(place.path, { signal })) keys.push(key);
        count.expect(keys.length, 0);
        for (const key of keys) {
          await copy.storage.delete(key, { signal });
          count.done(0);
        }
        removed.objects += keys.length + 1;
      }
    }
    const { formerLocations: _, ...rest } = location;
    await repository.recordLocation(snapshot.id, rest);
    removed.snapshots += 1;
  }
  return removed;
}

const pick = ({ destination, path, manifestKey }: FormerLocation): FormerLocation => ({
  destination,
  path,
  manifestKey,
});

const counts = ({ status }: BackupSnapshot): boolean =>
  status === 'COMPLETED' || status === 'COMPLETED_WITH_WARNINGS';
