import { uuidv7 } from 'uuidv7';
import type { FoundWork } from '../repository/work-finder.ts';
import type { BackupConfiguration, BackupSnapshot, StorageJob, StorageJobKind } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import type { ServiceContext } from './context.ts';
import { codeOf, failureOf } from './failure.ts';
import { migrateStorage } from './migration.ts';
import { repairCopies } from './replication.ts';
import { JobCount, type StorageJobWork } from './storage-job.ts';
import { verifyInBackground } from './verification-job.ts';

const WORK: Readonly<Record<StorageJobKind, StorageJobWork>> = {
  VERIFICATION: verifyInBackground,
  REPLICATION: (running) => repairCopies(running, 'MISSING'),
  HEALING: (running) => repairCopies(running, 'MISSING_AND_DAMAGED'),
  MIGRATION: migrateStorage,
};

/** Tries of a job whose failures may pass, and the wait between them: doubled each time. */
const MAX_ATTEMPTS = 8;
const FIRST_PAUSE_MS = 60_000;
const LONGEST_PAUSE_MS = 60 * 60_000;
const PROGRESS_MS = 1_000;

export interface StorageJobRequest {
  readonly kind: StorageJobKind;
  readonly configuration: Pick<BackupConfiguration, 'id' | 'organizationId'>;
  readonly snapshotId: UUID | null;
  readonly input: { readonly [key: string]: Json };
  readonly requestedBy: UUID;
}

/** Enters a job, with its audit entry, and has it done. Throws `INVALID_STATE` while the same is queued or goes on. */
export async function requestStorageJob(
  context: ServiceContext,
  request: StorageJobRequest,
): Promise<StorageJob> {
  const { organizationId, id: configurationId } = request.configuration;
  const { kind, snapshotId, input, requestedBy } = request;
  const job = await context.db.withTransaction(async (transaction) => {
    const repository = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
    const entered = await repository.insertStorageJob({
      id: uuidv7(),
      kind,
      configurationId,
      snapshotId,
      input,
      maxAttempts: MAX_ATTEMPTS,
      requestedBy,
    });
    if (entered === undefined) {
      throw new DataProtectionError(`There is no configuration ${configurationId}`, 'NOT_FOUND');
    }
    await context.audit.append(transaction, {
      organizationId,
      action: 'storage_job.requested',
      userId: requestedBy,
      resourceType: 'storage_job',
      resourceId: entered.id,
      details: { kind, configurationId, snapshotId },
    });
    return entered;
  });
  if (context.execution === 'worker') {
    await context.wake({
      kind: kind === 'VERIFICATION' ? 'VERIFICATION' : 'REPLICATION',
      key: job.id,
      data: { organizationId, storageJobId: job.id },
    });
  } else {
    runStorageJob(context, { organizationId, id: job.id }, new AbortController().signal).catch(
      (error: unknown) =>
        context.logger.error(
          { storageJobId: job.id, error: codeOf(error) },
          'A storage job could not be run',
        ),
    );
  }
  return job;
}

/** Has the other copies of a new snapshot caught up. Nothing where there is one store; a failure is logged. */
export async function replicateSoon(context: ServiceContext, snapshot: BackupSnapshot): Promise<void> {
  if ((snapshot.storageLocation?.replicationLocations.length ?? 0) < 2) return;
  const { organizationId, configurationId, requestedBy } = snapshot;
  await requestStorageJob(context, {
    kind: 'REPLICATION',
    configuration: { id: configurationId, organizationId },
    snapshotId: snapshot.id,
    input: {},
    requestedBy,
  }).catch((error: unknown) =>
    context.logger.error(
      { snapshotId: snapshot.id, error: codeOf(error) },
      'The replication of a backup could not be queued',
    ),
  );
}

/** Runs a job, if it is still to be done and nobody does. How it ended is in the catalog. Throws `DATABASE_*`. */
export async function runStorageJob(
  context: ServiceContext,
  { organizationId, id }: FoundWork,
  signal: AbortSignal,
): Promise<void> {
  const lock = await context.locks.tryStorageJob(id);
  if (lock === undefined) return;
  const repository = context.repository({ organizationId, branchIds: 'ALL' });
  try {
    const job = await repository.startStorageJob(id);
    if (job === undefined) return;
    await context.work
      .start(id, async (stopped) => {
        const lost = AbortSignal.any([signal, stopped, lock.lost]);
        const count = new JobCount(context.clock);
        const stop = new AbortController();
        const timer = setInterval(() => {
          const progress = count.now();
          context.events.emit('storage-job.progress', { job: { ...job, progress } });
          repository.updateStorageJobProgress(id, progress).then(
            // Cancelled, in whatever process.
            (running) =>
              running || stop.abort(new DataProtectionError('The job was cancelled', 'BACKUP_CANCELLED')),
            () => undefined,
          );
        }, PROGRESS_MS);
        try {
          const running = { context, job, count, signal: AbortSignal.any([lost, stop.signal]) };
          const result = await WORK[job.kind](running);
          await repository.updateStorageJobProgress(id, count.now());
          await repository.completeStorageJob(id, result);
        } catch (error) {
          const { error: record } = failureOf(error, context.clock);
          // What a stopping worker leaves is not a failure of the job.
          const again = record.recoverable || signal.aborted;
          const retry = again && (job.attempts < job.maxAttempts || signal.aborted);
          await repository.failStorageJob(id, record, retry ? pauseAfter(context.clock, job.attempts) : null);
          context.logger.warn(
            { storageJobId: id, kind: job.kind, error: record.code },
            'A storage job failed',
          );
        } finally {
          clearInterval(timer);
        }
      })
      .finally(async () => {
        const ended = await repository.findStorageJobById(id).catch(() => undefined);
        if (ended !== undefined && ended.status !== 'QUEUED')
          context.events.emit('storage-job.ended', { job: ended });
      });
  } finally {
    await lock.release();
  }
}

function pauseAfter(clock: Clock, attempts: number): string {
  const pause = Math.min(FIRST_PAUSE_MS * 2 ** (attempts - 1), LONGEST_PAUSE_MS);
  return new Date(clock.now().getTime() + pause).toISOString();
}
