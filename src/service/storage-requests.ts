import type { BackupRepository } from '../repository/backup-repository.ts';
import type { Actor } from '../types/actor.ts';
import type { BackupSnapshot, StorageDestination, StorageJob, StorageJobKind } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { parseInput, StorageDestinationSchema } from '../validation/index.ts';
import type { ServiceContext } from './context.ts';
import { identityOf } from './snapshot-archive.ts';
import { requestStorageJob } from './storage-jobs.ts';

/** Who asks, and what he sees. */
export interface Asking {
  readonly context: ServiceContext;
  readonly actor: Actor;
  readonly repository: BackupRepository;
}

/** Asks for a job over one snapshot. Throws `INVALID_STATE` for one that does not count, or has a single store. */
export async function requestForSnapshot(
  { context, actor }: Asking,
  kind: Exclude<StorageJobKind, 'MIGRATION'>,
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
  { context, actor, repository }: Asking,
  configurationId: UUID,
  work: { readonly to: StorageDestination } | { readonly remove: true },
): Promise<StorageJob> {
  const configuration = await repository.findConfigById(configurationId);
  if (configuration === undefined) {
    throw new DataProtectionError(`There is no configuration ${configurationId}`, 'NOT_FOUND');
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
  { context, repository }: Asking,
  job: StorageJob,
): Promise<StorageJob> {
  if (!(await repository.cancelStorageJob(job.id))) {
    throw new DataProtectionError(`The job has ended: ${job.status}`, 'INVALID_STATE');
  }
  await context.work.cancel(job.id, new DataProtectionError('The job was cancelled', 'BACKUP_CANCELLED'));
  return (await repository.findStorageJobById(job.id)) ?? job;
}
