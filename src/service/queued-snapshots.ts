import { setTimeout as sleep } from 'node:timers/promises';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { FoundWork } from '../repository/work-finder.ts';
import type { BackupConfiguration, BackupSnapshot } from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import { runAttempt } from './attempt-run.ts';
import { endBadly } from './catalog-end.ts';
import type { ServiceContext } from './context.ts';
import { endDeadAttempts } from './dead-attempts.ts';
import { codeOf } from './failure.ts';
import { requireQuota } from './quota.ts';
import { enterAttempt } from './snapshot-request.ts';
import { requireSupportedConfiguration } from './supported.ts';

/** How long a run that could not begin is left alone. */
const HINDERED_PAUSE_MS = 60_000;

/**
 * Runs a snapshot of the queue, if it is still to be run: what a job, and the look-out of every worker, come to.
 * Whoever holds the lock of the configuration runs; everybody else returns at once. What a dead worker left is ended
 * first, which queues its snapshot again where tries are left. How the run ended is in the catalog; throws where it could
 * not begin for a reason that may pass (`DATABASE_*`, `STORAGE_*`): then it is found again after a
 * minute, without a try used up, however long that goes on.
 */
export async function runQueuedSnapshot(
  context: ServiceContext,
  { organizationId, id }: FoundWork,
  signal: AbortSignal,
): Promise<void> {
  const repository = context.repository({ organizationId, branchIds: 'ALL' });
  const configuration = await repository.findConfigOfSnapshot(id);
  if (configuration === undefined) return;
  const lock = await context.locks.tryConfiguration(configuration.id);
  if (lock === undefined) return;
  let running: Promise<unknown> | undefined;
  try {
    await endDeadAttempts(context, repository, configuration);
    const snapshot = await repository.findSnapshotById(id);
    const limits = await repository.findRunLimits(id);
    if (snapshot?.status !== 'QUEUED' || limits === undefined || signal.aborted) return;
    if (Date.parse(limits.notBefore) > context.clock.now().getTime()) return;
    const current = await repository.findConfigById(configuration.id);
    if (current === undefined || current.status === 'ARCHIVED') {
      const gone = new BackupError('The configuration is gone', 'BACKUP_CANCELLED', id, false);
      await endBadly(context, snapshot, null, gone);
      return;
    }
    if (current.status !== 'ACTIVE') return;
    if (limits.mustEndBy !== null && Date.parse(limits.mustEndBy) <= context.clock.now().getTime()) {
      const late = 'The window of the backup ended before it could be run';
      await endBadly(context, snapshot, null, new BackupError(late, 'BACKUP_TIME_LIMIT', id, false));
      return;
    }
    const opened = await prepare(context, repository, current, snapshot);
    if (opened === undefined) return;
    const attemptId = await enterAttempt(context, repository, snapshot, current, opened);
    const run = { context, repository, configuration: current, snapshot, attemptId, opened, lock, limits };
    const handOver = uncountedTry(context, repository, snapshot, signal);
    running = runAttempt({ ...run, signal: handOver.signal });
    await running.catch(() => undefined);
    handOver.clear();
    if (signal.aborted) await giveToOthers(context, repository, snapshot);
  } catch (error) {
    // What is in its way may be for hours: until then it is not to stand before all that others wait for.
    if (running === undefined && !signal.aborted) {
      const later = new Date(context.clock.now().getTime() + HINDERED_PAUSE_MS).toISOString();
      await repository.setRunNotBefore(id, later).catch(() => undefined);
    }
    throw error;
  } finally {
    if (running === undefined) await lock.release();
  }
}

/** What a worker that stops waits for the database. */
const NOTE_MS = 2_000;

/**
 * A signal that aborts after the worker's, once the try that it ends does not count: restarts of workers, however many,
 * do not use up the tries of a long backup.
 */
function uncountedTry(
  context: ServiceContext,
  repository: BackupRepository,
  { id }: BackupSnapshot,
  worker: AbortSignal,
): { readonly signal: AbortSignal; readonly clear: () => void } {
  const stop = new AbortController();
  const end = (): void => {
    const noted = repository.allowAnotherTry(id).catch((error: unknown) => {
      context.logger.warn({ snapshotId: id, error: codeOf(error) }, 'A try that a worker gives up counts');
    });
    void Promise.race([noted, sleep(NOTE_MS)]).then(() => stop.abort(worker.reason));
  };
  if (worker.aborted) end();
  else worker.addEventListener('abort', end, { once: true });
  return { signal: stop.signal, clear: () => worker.removeEventListener('abort', end) };
}

/** What a worker could not finish is not to wait as what failed does. */
async function giveToOthers(
  context: ServiceContext,
  repository: BackupRepository,
  { id, organizationId }: BackupSnapshot,
): Promise<void> {
  if (!(await repository.setRunNotBefore(id, context.clock.now().toISOString()))) return;
  await context.wake({ kind: 'BACKUP', key: id, data: { organizationId, snapshotId: id } });
}

/** What must hold before an attempt begins. Otherwise the snapshot is ended: undefined. */
async function prepare(
  context: ServiceContext,
  repository: BackupRepository,
  configuration: BackupConfiguration,
  snapshot: BackupSnapshot,
) {
  try {
    await requireSupportedConfiguration(context, configuration.organizationId, {
      ...configuration,
      configType: snapshot.snapshotType,
    });
    const opened = context.openStorage(configuration.storageDestination);
    await requireQuota(context, configuration);
    return opened;
  } catch (error) {
    if (error instanceof DataProtectionError && error.retryable) throw error;
    const attempted = await repository.findSnapshotById(snapshot.id);
    if (attempted?.status === 'QUEUED') await endBadly(context, snapshot, null, error);
    context.logger.error({ snapshotId: snapshot.id, error: codeOf(error) }, 'A queued backup cannot be run');
    return undefined;
  }
}

const WAIT_MS = 250;

/**
 * Waits for the end of a snapshot that a worker runs. Rejects with what ended it where that was not well.
 */
export async function waitForSnapshot(
  repository: BackupRepository,
  { id }: BackupSnapshot,
): Promise<BackupSnapshot> {
  for (;;) {
    const snapshot = await repository.findSnapshotById(id);
    switch (snapshot?.status) {
      case undefined:
        throw new DataProtectionError(`There is no snapshot ${id}`, 'NOT_FOUND');
      case 'COMPLETED':
      case 'COMPLETED_WITH_WARNINGS':
        return snapshot;
      case 'CANCELLED':
        throw new BackupError('The backup was cancelled', 'BACKUP_CANCELLED', id, false);
      case 'FAILED': {
        const last = snapshot.errors.at(-1);
        const text = last?.message ?? 'The backup failed';
        throw new BackupError(text, last?.code ?? 'INTERNAL', id, last?.recoverable ?? false);
      }
      default:
        await sleep(WAIT_MS);
    }
  }
}
