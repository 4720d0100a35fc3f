import type { BackupConfiguration, BackupSnapshot, CreateSnapshotInput } from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { type Asking, alreadyRunning, notFound, requireStatus } from './asking.ts';
import { runAttempt } from './attempt-run.ts';
import { endBadly } from './catalog-end.ts';
import { endDeadAttempts } from './dead-attempts.ts';
import { waitForSnapshot } from './queued-snapshots.ts';
import { requireQuota } from './quota.ts';
import { enterAttempt, enterSnapshot, MAX_ATTEMPTS, type SnapshotRequest } from './snapshot-request.ts';
import { requireSupportedConfiguration } from './supported.ts';

export interface RunOptions {
  /**
   * true: resolves when the run has ended, and rejects with what ended it if it did not succeed. What waits for a worker
   * is waited for as long as there is none, and as long as its configuration is paused.
   */
  readonly wait?: boolean;
}

const RUNNING = ['QUEUED', 'PREPARING', 'IN_PROGRESS', 'FINALIZING', 'VERIFYING'];

/** Starts a backup in this process, or queues it for the workers: see `BackupService.createSnapshot`. */
export async function startSnapshot(
  asking: Asking,
  input: CreateSnapshotInput,
  options: RunOptions,
): Promise<BackupSnapshot> {
  const asked = await configurationOf(asking, input.configurationId);
  requireStatus(asked, ['ACTIVE'], 'be backed up');
  if (input.parentSnapshotId !== undefined) {
    throw new DataProtectionError(
      'Snapshots that build on a parent come with a later version. Leave `parentSnapshotId` out',
      'NOT_SUPPORTED',
    );
  }
  await requireSupported(asking, asked, input);
  return asking.context.execution === 'worker'
    ? queueForWorkers(asking, asked, input, options)
    : startHere(asking, asked, input, options);
}

async function queueForWorkers(
  { context, actor, system }: Asking,
  configuration: BackupConfiguration,
  input: CreateSnapshotInput,
  options: RunOptions,
): Promise<BackupSnapshot> {
  await requireQuota(context, configuration);
  const snapshot = await context.db.withTransaction(async (transaction) => {
    const repository = context.repository(actor, transaction);
    const request = requestOf(actor.userId, configuration, input);
    const queued = await enterSnapshot(context, transaction, repository, request);
    await repository.enqueueRun(queued.id, {
      maxAttempts: MAX_ATTEMPTS,
      notBefore: context.clock.now().toISOString(),
      mustEndBy: null,
      maxDurationMs: null,
    });
    return queued;
  });
  const { id, organizationId } = snapshot;
  await context.wake({ kind: 'BACKUP', key: id, data: { organizationId, snapshotId: id } });
  return options.wait === true ? waitForSnapshot(system, snapshot) : snapshot;
}

async function startHere(
  asking: Asking,
  asked: BackupConfiguration,
  input: CreateSnapshotInput,
  options: RunOptions,
): Promise<BackupSnapshot> {
  const { context, actor, system } = asking;
  const lock = await context.locks.tryConfiguration(asked.id);
  if (lock === undefined) throw alreadyRunning(asked);
  try {
    await endDeadAttempts(context, system, asked);
    // It may have been paused or changed while what was left of dead runs was removed.
    const configuration = await configurationOf(asking, asked.id);
    requireStatus(configuration, ['ACTIVE'], 'be backed up');
    if (configuration.updatedAt !== asked.updatedAt) await requireSupported(asking, configuration, input);
    const opened = context.openStorage(configuration.storageDestination);
    await requireQuota(context, configuration);
    // Snapshot and attempt together, so that no run exists that nobody can find dead.
    const { snapshot, attemptId } = await context.db.withTransaction(async (transaction) => {
      const repository = context.repository(actor, transaction);
      const request = requestOf(actor.userId, configuration, input);
      const entered = await enterSnapshot(context, transaction, repository, request);
      return {
        snapshot: entered,
        attemptId: await enterAttempt(context, repository, entered, configuration, opened),
      };
    });
    const run = { context, repository: system, configuration, snapshot, attemptId, opened, lock };
    const ended = runAttempt({ ...run, limits: undefined });
    if (options.wait === true) return await ended;
    ended.catch(() => undefined);
    return snapshot;
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/** Stops a backup in whatever process: see `BackupService.cancelSnapshot`. */
export async function stopSnapshot(asking: Asking, snapshot: BackupSnapshot): Promise<BackupSnapshot> {
  const { context, actor, repository, system } = asking;
  const { id } = snapshot;
  if (!RUNNING.includes(snapshot.status)) throw notCancellable(snapshot, `is ${snapshot.status}`);
  const reason = new BackupError('The backup was cancelled', 'BACKUP_CANCELLED', id, false);
  await context.db.withTransaction((transaction) =>
    context.audit.append(transaction, {
      organizationId: actor.organizationId,
      action: 'snapshot.cancel_requested',
      userId: actor.userId,
      resourceType: 'backup_snapshot',
      resourceId: id,
      details: { snapshotNumber: snapshot.snapshotNumber },
    }),
  );
  const current = async (): Promise<BackupSnapshot> => {
    const found = await repository.findSnapshotById(id);
    if (found === undefined) throw notFound('snapshot', id);
    return found;
  };
  // One that waits for a worker ends here; one that runs is told. It may have begun to wait again in between.
  const ended =
    (await endBadly(context, snapshot, null, reason)) ||
    (!(await repository.requestCancel(id)) && (await endBadly(context, snapshot, null, reason)));
  if (ended) return current();
  if (!RUNNING.includes((await current()).status)) throw notCancellable(snapshot, 'has ended meanwhile');
  if (!(await context.work.cancel(id, reason))) {
    const configuration = await repository.findConfigOfSnapshot(id);
    const lock = configuration && (await context.locks.tryConfiguration(configuration.id));
    if (configuration !== undefined && lock !== undefined) {
      try {
        await endDeadAttempts(context, system, configuration, reason);
      } finally {
        await lock.release();
      }
    }
  }
  return current();
}

async function configurationOf({ repository }: Asking, id: UUID): Promise<BackupConfiguration> {
  const found = await repository.findConfigById(id);
  if (found === undefined) throw notFound('configuration', id);
  return found;
}

const requireSupported = (
  { context, actor }: Asking,
  configuration: BackupConfiguration,
  input: CreateSnapshotInput,
): Promise<void> =>
  requireSupportedConfiguration(context, actor.organizationId, {
    ...configuration,
    configType: input.snapshotType ?? configuration.configType,
  });

const requestOf = (
  requestedBy: UUID,
  configuration: BackupConfiguration,
  input: CreateSnapshotInput,
): SnapshotRequest => ({
  configuration,
  trigger: input.trigger ?? 'MANUAL',
  scheduledAt: null,
  requestedBy,
  input,
});

const notCancellable = (snapshot: BackupSnapshot, why: string): BackupError =>
  new BackupError(
    `Snapshot ${snapshot.snapshotNumber} ${why} and cannot be cancelled`,
    'INVALID_STATE',
    snapshot.id,
    false,
  );
