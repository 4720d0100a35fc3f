import type { SessionLock } from '../repository/advisory-lock.ts';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { RunLimits } from '../repository/run-queue.ts';
import type { BackupConfiguration, BackupSnapshot } from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { OpenedStorage, ServiceContext } from './context.ts';
import { asBackupError, isCancellation } from './failure.ts';
import { remindOfRotation } from './key-use.ts';
import { runSnapshot } from './snapshot-run.ts';
import { replicateSoon } from './storage-jobs.ts';

export interface AttemptRun {
  readonly context: ServiceContext;
  /** Sees the whole organization. */
  readonly repository: BackupRepository;
  readonly configuration: BackupConfiguration;
  /** With the attempt entered in the catalog. */
  readonly snapshot: BackupSnapshot;
  readonly attemptId: UUID;
  readonly opened: OpenedStorage;
  /** Released at the end. */
  readonly lock: SessionLock;
  /** undefined: neither a window nor a maximum duration. */
  readonly limits: RunLimits | undefined;
  readonly signal?: AbortSignal;
}

/**
 * Runs one attempt in this process, within its limits, and tells how it began and ended. Resolves with the snapshot
 * once it counts; rejects with what ended the attempt, as a `BackupError`.
 */
export function runAttempt(run: AttemptRun): Promise<BackupSnapshot> {
  const { context, repository, snapshot, lock } = run;
  return context.work.start(snapshot.id, async (stopped) => {
    const late = timeLimit(run);
    const signals = [stopped, late.signal, ...(run.signal === undefined ? [] : [run.signal])];
    try {
      context.events.emit('snapshot.started', { snapshot });
      await runSnapshot({ ...run, signal: AbortSignal.any(signals) });
    } catch (error) {
      throw await announceFailure(run, error);
    } finally {
      late.clear();
      await lock.release();
    }
    const done = await repository.findSnapshotById(snapshot.id);
    if (done === undefined) throw new DataProtectionError(`There is no snapshot ${snapshot.id}`, 'NOT_FOUND');
    context.events.emit('snapshot.completed', { snapshot: done, warnings: done.warnings });
    await replicateSoon(context, done);
    await remindOfRotation(context, done);
    return done;
  });
}

/** Logs how an attempt ended; tells it where the catalog could not be told, which else does. */
async function announceFailure(run: AttemptRun, reason: unknown): Promise<BackupError> {
  const { events, logger } = run.context;
  const { id, organizationId } = run.snapshot;
  const failure = asBackupError(reason, id);
  const { code, message } = failure;
  const about = { snapshotId: id, organizationId };
  const now = await run.repository.findSnapshotById(id).catch(() => undefined);
  if (run.limits !== undefined && now?.status === 'QUEUED') {
    logger.warn({ ...about, code, message }, 'A backup failed and will be tried again');
    return failure;
  }
  logger.error({ ...about, code, message }, 'A backup ended without success');
  if (now?.status === 'FAILED' || now?.status === 'CANCELLED') return failure;
  if (isCancellation(reason)) events.emit('snapshot.cancelled', about);
  else events.emit('snapshot.failed', { ...about, code, message });
  return failure;
}

/** The longest that a timer of Node.js waits. */
const LONGEST_TIMER_MS = 2_147_483_647;

function timeLimit({ context, snapshot, limits }: AttemptRun): { signal: AbortSignal; clear: () => void } {
  const stop = new AbortController();
  const now = context.clock.now().getTime();
  const left = Math.min(
    limits?.maxDurationMs ?? Number.POSITIVE_INFINITY,
    limits?.mustEndBy == null ? Number.POSITIVE_INFINITY : Date.parse(limits.mustEndBy) - now,
  );
  if (left === Number.POSITIVE_INFINITY) return { signal: stop.signal, clear: () => undefined };
  const timer = setTimeout(
    () =>
      stop.abort(
        new BackupError(
          'The backup passed its maximum duration or the end of its window',
          'BACKUP_TIME_LIMIT',
          snapshot.id,
          false,
        ),
      ),
    Math.min(Math.max(0, left), LONGEST_TIMER_MS),
  );
  return { signal: stop.signal, clear: () => clearTimeout(timer) };
}
