import { uuidv7 } from 'uuidv7';
import type { SessionLock } from '../repository/advisory-lock.ts';
import type {
  BackupSnapshot,
  CreateRestoreOperationInput,
  RestoreDestination,
  RestoreOperation,
  RestoreType,
} from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { type Asking, notFound } from './asking.ts';
import type { ServiceContext } from './context.ts';
import { asBackupError } from './failure.ts';
import { endDeadRestores, restoreEntry, runRestore } from './restore-run.ts';
import type { RunOptions } from './snapshot-start.ts';
import { requireSupportedRestore } from './supported.ts';

/** Starts a restore in this process: see `BackupService.createRestoreOperation`. */
export async function startRestore(
  asking: Asking,
  snapshot: BackupSnapshot,
  input: CreateRestoreOperationInput,
  options: RunOptions,
): Promise<RestoreOperation> {
  const { context, system } = asking;
  const { restoreType, destination, targetSchema } = requireSupportedRestore(snapshot, input);
  await endDeadRestores(context, system);
  const id = uuidv7();
  const lock = await context.locks.tryRestore(id);
  if (lock === undefined) throw new DataProtectionError('The lock of a new restore is held', 'INTERNAL');
  try {
    const restore = await queueRestore(asking, id, snapshot, input, { restoreType, destination });
    const ended = context.work.start(id, async (signal) => {
      try {
        context.events.emit('restore.started', { restore });
        const run = { context, repository: system, restore, snapshot, targetSchema };
        await runRestore({ ...run, signal: unlessLost(lock, snapshot, signal) }).finally(() =>
          lock.release(),
        );
      } catch (error) {
        throw announceFailure(context, restore, error);
      }
      const done = await system.findRestoreById(id);
      if (done === undefined) throw notFound('restore operation', id);
      context.events.emit('restore.completed', { restore: done });
      return done;
    });
    if (options.wait === true) return await ended;
    ended.catch(() => undefined);
    return restore;
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/** Stops a restore of this process: see `BackupService.cancelRestoreOperation`. */
export async function stopRestore(
  { context, repository, system }: Asking,
  restore: RestoreOperation,
): Promise<RestoreOperation> {
  const { id, snapshotId } = restore;
  const current = async (): Promise<RestoreOperation> => {
    const found = await repository.findRestoreById(id);
    if (found === undefined) throw notFound('restore operation', id);
    return found;
  };
  const reason = new BackupError('The restore was cancelled', 'RESTORE_CANCELLED', snapshotId, false);
  if (await context.work.cancel(id, reason)) return current();
  await endDeadRestores(context, system);
  const found = await current();
  if (found.status !== restore.status) return found;
  throw new BackupError(
    `Restore ${found.restoreNumber} is ${found.status} and does not run in this process`,
    'INVALID_STATE',
    found.snapshotId,
    false,
  );
}

async function queueRestore(
  { context, actor }: Asking,
  id: UUID,
  snapshot: BackupSnapshot,
  input: CreateRestoreOperationInput,
  what: { readonly restoreType: RestoreType; readonly destination: RestoreDestination },
): Promise<RestoreOperation> {
  return context.db.withTransaction(async (transaction) => {
    const restore = await context.repository(actor, transaction).insertRestore({
      id,
      snapshotId: snapshot.id,
      restoreType: what.restoreType,
      requestedBy: actor.userId,
      scope: input.scope ?? {},
      restoreDestination: what.destination,
      validationEnabled: input.validationEnabled ?? true,
      conflictResolutionStrategy: input.conflictResolutionStrategy ?? 'BACKUP_WINS',
      requiresApproval: false,
      rollbackEnabled: false,
      notes: input.notes ?? null,
      customFields: {},
      status: 'QUEUED',
    });
    if (restore === undefined) throw notFound('snapshot', snapshot.id);
    await context.audit.append(transaction, restoreEntry(restore, 'restore.requested', 'QUEUED'));
    return restore;
  });
}

function announceFailure(context: ServiceContext, restore: RestoreOperation, reason: unknown): BackupError {
  const failure = asBackupError(reason, restore.snapshotId);
  const { code, message } = failure;
  const about = { restoreId: restore.id, organizationId: restore.organizationId };
  context.logger.error({ ...about, code, message }, 'A restore ended without success');
  context.events.emit('restore.failed', { ...about, code, message });
  return failure;
}

/** Aborts also when the lock that says that the restore is alive is lost. */
function unlessLost(lock: SessionLock, snapshot: BackupSnapshot, signal: AbortSignal): AbortSignal {
  const stop = new AbortController();
  const lose = (): void =>
    stop.abort(
      new BackupError(
        'The lock of the restore was lost with its connection',
        'DATABASE_UNAVAILABLE',
        snapshot.id,
      ),
    );
  lock.lost.addEventListener('abort', lose, { once: true });
  if (lock.lost.aborted) lose();
  return AbortSignal.any([signal, stop.signal]);
}
