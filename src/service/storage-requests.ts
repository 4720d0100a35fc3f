import type { BackupSnapshot, StorageDestination, StorageJob, StorageJobKind } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { parseInput, StorageDestinationSchema } from '../validation/index.ts';
import type { Asking } from './asking.ts';
import { identityOf } from './snapshot-archive.ts';
import { requestStorageJob } from './storage-jobs.ts';

/** Asks for a job over one snapshot. Throws `INVALID_STATE` for one that does not count, or has a single store. */
export async function requestForSnapshot(
  { context, actor }: Asking,
  kind: Exclude<StorageJobKind, 'MIGRATION' | 'REWRAPPING'>,
  snapshot: BackupSnapshot,
): Promise<StorageJob> {
  identityOf(snapshot);
  if (kind !== 'VERIFICATION' && (snapshot.storageLocation?.replicationLocations.length ?? 0) < 2) {
    throw new DataProtectionError(
      `Snapshot ${snapshot.snapshotNumber} lies in one store; copies need a MULTI destination`,
      'INVALID_STATE',
    );
  }
  return requestStorageJob(context, {
    kind,
    configuration: { id: snapshot.configurationId, organizationId: snapshot.organizationId },
    snapshotId: snapshot.id,
    input: {},
    requestedBy: actor.userId,
  });
}

/** Asks for the move of a configuration's snapshots. Throws `NOT_FOUND`, `VALIDATION_FAILED`, `INVALID_STATE`. */
export async function requestMigration(
  { context, actor, repository, system }: Asking,
  configurationId: UUID,
  work: { readonly to: StorageDestination } | { readonly remove: true },
): Promise<StorageJob> {
  const configuration = await repository.findConfigById(configurationId);
  if (configuration === undefined) {
    throw new DataProtectionError(`There is no configuration ${configurationId}`, 'NOT_FOUND');
  }
  const [seen, all] = [repository, system].map((one) => one.findSnapshotsByConfig(configurationId));
  if ((await seen)?.length !== (await all)?.length) {
    throw new DataProtectionError(
      'The configuration holds snapshots of branches that are not the actor’s; who moves them must see them',
      'FORBIDDEN',
    );
  }
  if ('to' in work) context.openStorage(parseInput(StorageDestinationSchema, '`to`', work.to));
  return requestStorageJob(context, {
    kind: 'MIGRATION',
    configuration,
    snapshotId: null,
    // A destination holds nothing but JSON.
    input: work as unknown as { readonly [key: string]: Json },
    requestedBy: actor.userId,
  });
}

/** Stops a job, in whatever process, within a few seconds. Throws `INVALID_STATE` where it has ended. */
export async function cancelStorageJob(
  { context, actor, repository }: Asking,
  job: StorageJob,
): Promise<StorageJob> {
  const { id, kind, organizationId, configurationId, snapshotId } = job;
  await context.db.withTransaction(async (transaction) => {
    const inside = context.repository(actor, transaction);
    if (!(await inside.cancelStorageJob(id))) {
      const now = await inside.findStorageJobById(id);
      throw new DataProtectionError(`The job has ended: ${now?.status ?? job.status}`, 'INVALID_STATE');
    }
    await context.audit.append(transaction, {
      organizationId,
      action: 'storage_job.cancelled',
      userId: actor.userId,
      resourceType: 'storage_job',
      resourceId: id,
      details: { kind, configurationId, snapshotId },
    });
  });
  await context.work.cancel(id, new DataProtectionError('The job was cancelled', 'BACKUP_CANCELLED'));
  return (await repository.findStorageJobById(id)) ?? job;
}
