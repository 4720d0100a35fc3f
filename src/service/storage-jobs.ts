import { uuidv7 } from 'uuidv7';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { FoundWork } from '../repository/work-finder.ts';
import type {
  BackupConfiguration,
  BackupErrorRecord,
  BackupSnapshot,
  StorageJob,
  StorageJobKind,
  StorageJobProgress,
} from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import { enterOutcome } from './catalog-end.ts';
import type { ServiceContext } from './context.ts';
import { codeOf, failureOf } from './failure.ts';
import { migrateStorage } from './migration.ts';
import { repairCopies } from './replication.ts';
import { rewrapSnapshots } from './rewrapping.ts';
import { interrupted, JobCount, type StorageJobWork, whileHeld } from './storage-job.ts';
import { verifyInBackground } from './verification-job.ts';

const WORK: Readonly<Record<StorageJobKind, StorageJobWork>> = {
  VERIFICATION: verifyInBackground,
  REPLICATION: (running) => repairCopies(running, 'MISSING'),
  HEALING: (running) => repairCopies(running, 'MISSING_AND_DAMAGED'),
  MIGRATION: migrateStorage,
  REWRAPPING: rewrapSnapshots,
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

/**
 * Enters a job, with its audit entry, and has it done. One over the same snapshot that waits for its next try is tried
 * now. Throws `INVALID_STATE` while the same goes on; a REWRAPPING that goes on is given instead.
 *
 * Inline, the job begins in the background of this process, and the end of the process puts it back. Nobody retries it
 * there: what is QUEUED again after a failure waits until it is asked for again, or a worker runs somewhere.
 */
export async function requestStorageJob(
  context: ServiceContext,
  request: StorageJobRequest,
): Promise<StorageJob> {
  const { organizationId } = request.configuration;
  const job = await enter(context, request).catch(async (error: unknown) => {
    const waiting = await findWaiting(context, request);
    if (waiting === undefined) throw error;
    return waiting;
  });
  const { id, kind } = job;
  if (context.execution === 'worker') {
    await context.wake({
      kind: kind === 'VERIFICATION' ? 'VERIFICATION' : 'REPLICATION',
      key: id,
      data: { organizationId, storageJobId: id },
    });
    return job;
  }
  context.work
    .start(uuidv7(), (closing) => runStorageJob(context, { organizationId, id }, closing), 'STOP')
    .catch((error: unknown) =>
      context.logger.error({ storageJobId: id, error: codeOf(error) }, 'A storage job could not be run'),
    );
  return job;
}

async function enter(context: ServiceContext, request: StorageJobRequest): Promise<StorageJob> {
  const { organizationId, id: configurationId } = request.configuration;
  const { kind, snapshotId, input, requestedBy } = request;
  return context.db.withTransaction(async (transaction) => {
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
}

/** The same job, where it waits for its next try after a failure, or may be asked for twice. */
async function findWaiting(
  context: ServiceContext,
  { configuration, kind, snapshotId }: StorageJobRequest,
): Promise<StorageJob | undefined> {
  const { organizationId, id } = configuration;
  const repository = context.repository({ organizationId, branchIds: 'ALL' });
  // All of them do the same, whoever asks.
  if (kind === 'REWRAPPING') return repository.findUnendedStorageJob(kind, id);
  if (snapshotId === null) return undefined;
  const last = await repository.findLastStorageJob(kind, snapshotId);
  return last?.status === 'QUEUED' && last.error !== null ? last : undefined;
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
    const left = await repository.findStorageJobById(id);
    const job = signal.aborted ? undefined : await repository.startStorageJob(id);
    if (left === undefined || job === undefined) return;
    await context.work.start(id, (cancelled) =>
      whileHeld(lock, cancelled, async (held) => {
        const stop = new AbortController();
        const close = (): void => stop.abort(interrupted('The process that ran the job is stopping'));
        signal.addEventListener('abort', close, { once: true });
        if (signal.aborted) close();
        try {
          // We have the lock: whoever left it IN_PROGRESS is dead, and perhaps of this job.
          const deaths = left.status === 'IN_PROGRESS' ? left.attempts : 0;
          await runTry({ context, repository, job, deaths, signal: AbortSignal.any([held, stop.signal]) });
        } finally {
          signal.removeEventListener('abort', close);
        }
      }),
    );
  } finally {
    await lock.release();
  }
  const ended = await repository.findStorageJobById(id);
  if (ended !== undefined && ended.status !== 'QUEUED')
    context.events.emit('storage-job.ended', { job: ended });
}

interface JobTry {
  readonly context: ServiceContext;
  readonly repository: BackupRepository;
  readonly job: StorageJob;
  /** Tries whose process died, where the last one did. */
  readonly deaths: number;
  /** Aborts with `BACKUP_CANCELLED`, or with `BACKUP_INTERRUPTED` where the job is to be begun anew elsewhere. */
  readonly signal: AbortSignal;
}

async function runTry({ context, repository, job, deaths, signal }: JobTry): Promise<void> {
  const count = new JobCount(context.clock);
  const cancel = new AbortController();
  let writing: Promise<unknown> = Promise.resolve();
  const timer = setInterval(() => {
    const progress = count.now();
    context.events.emit('storage-job.progress', { job: { ...job, progress } });
    writing = repository.updateStorageJobProgress(job.id, progress).then(
      // Cancelled, in whatever process.
      (running) =>
        running || cancel.abort(new DataProtectionError('The job was cancelled', 'BACKUP_CANCELLED')),
      () => undefined,
    );
  }, PROGRESS_MS);
  const stopped = AbortSignal.any([signal, cancel.signal]);
  let outcome: { readonly result: { readonly [key: string]: Json } } | { readonly error: unknown };
  try {
    if (deaths >= job.maxAttempts) {
      throw new BackupError(
        `The process that ran the job died ${deaths} times`,
        'BACKUP_INTERRUPTED',
        undefined,
        false,
      );
    }
    outcome = { result: await WORK[job.kind]({ context, job, count, signal: stopped }) };
  } catch (error) {
    outcome = { error: stopped.aborted ? stopped.reason : error };
  } finally {
    clearInterval(timer);
    await writing;
  }
  if ('error' in outcome) await enterFailure(context, job, outcome.error);
  else await enterSuccess(context, job, count.now(), outcome.result);
}

async function enterSuccess(
  context: ServiceContext,
  job: StorageJob,
  progress: StorageJobProgress,
  result: { readonly [key: string]: Json },
): Promise<void> {
  await enterOutcome(() =>
    context.db.withTransaction(async (transaction) => {
      const { organizationId } = job;
      const inside = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
      await inside.updateStorageJobProgress(job.id, { ...progress, percentage: 100 });
      if (!(await inside.completeStorageJob(job.id, result))) return;
      await context.audit.append(transaction, ending(job, 'storage_job.completed', {}));
    }),
  );
}

/** FAILED, or QUEUED again where it may succeed later. What a stopping process leaves is not a failure of the job. */
async function enterFailure(context: ServiceContext, job: StorageJob, reason: unknown): Promise<void> {
  const { error } = failureOf(reason, context.clock);
  const now = context.clock.now();
  const retryAt = retryTime(job, error, now);
  await enterOutcome(() =>
    context.db.withTransaction(async (transaction) => {
      const { organizationId } = job;
      const inside = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
      if (!(await inside.failStorageJob(job.id, error, retryAt)) || retryAt !== null) return;
      await context.audit.append(transaction, ending(job, 'storage_job.failed', { code: error.code }));
    }),
  );
  const again = retryAt === null ? 'NO' : 'YES';
  context.logger.warn(
    { storageJobId: job.id, kind: job.kind, error: error.code, again },
    'A storage job did not come to its end',
  );
}

function retryTime(job: StorageJob, { code, recoverable }: BackupErrorRecord, now: Date): string | null {
  if (code === 'BACKUP_INTERRUPTED' && recoverable) return now.toISOString();
  if (!recoverable || job.attempts >= job.maxAttempts) return null;
  const pause = Math.min(FIRST_PAUSE_MS * 2 ** (job.attempts - 1), LONGEST_PAUSE_MS);
  return new Date(now.getTime() + pause).toISOString();
}

const ending = (
  job: StorageJob,
  action: 'storage_job.completed' | 'storage_job.failed',
  details: { readonly [key: string]: Json },
) => ({
  organizationId: job.organizationId,
  action,
  userId: job.requestedBy,
  resourceType: 'storage_job',
  resourceId: job.id,
  details: {
    kind: job.kind,
    configurationId: job.configurationId,
    snapshotId: job.snapshotId,
    attempts: job.attempts,
    ...details,
  },
});
