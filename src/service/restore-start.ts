import { uuidv7 } from 'uuidv7';
import type { SessionLock } from '../repository/advisory-lock.ts';
import type { Actor } from '../types/actor.ts';
import type {
  BackupSnapshot,
  CreateRestoreOperationInput,
  RestoreDestination,
  RestoreOperation,
  RestorePreview,
  RestoreScope,
  RestoreType,
} from '../types/backup.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { type Asking, notFound } from './asking.ts';
import { allowedBranches } from './authorize.ts';
import type { ServiceContext } from './context.ts';
import { asBackupError } from './failure.ts';
import { type LiveOrder, liveScope, previewRestore, restoreRecords } from './live-restore.ts';
import { endDeadRestores, restoreEntry, runRestore } from './restore-run.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';
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
  const what = await orderRestore(asking, snapshot, input);
  await endDeadRestores(context, system);
  const id = uuidv7();
  if (what.requiresApproval) return queueRestore(asking, id, snapshot, input, what);
  return withRestoreLock(asking, id, snapshot, options, () =>
    queueRestore(asking, id, snapshot, input, what),
  );
}

/** Approves a restore, and runs it in this process: see `BackupService.approveRestoreOperation`. */
export async function approveRestore(
  asking: Asking,
  restore: RestoreOperation,
  snapshot: BackupSnapshot,
  notes: string | null,
  options: RunOptions,
): Promise<RestoreOperation> {
  return withRestoreLock(asking, restore.id, snapshot, options, () =>
    decideRestore(asking, restore, 'APPROVED', notes),
  );
}

/** Enters the decision of a second person. `FORBIDDEN` for who requested it, `INVALID_STATE` where nothing is to be decided. */
export async function decideRestore(
  { context, actor }: Asking,
  restore: RestoreOperation,
  status: 'APPROVED' | 'REJECTED',
  approvalNotes: string | null,
): Promise<RestoreOperation> {
  if (restore.requestedBy === actor.userId.toLowerCase()) {
    throw new DataProtectionError('Whoever requests a restore cannot decide on it', 'FORBIDDEN');
  }
  return context.db.withTransaction(async (transaction) => {
    const repository = context.repository(actor, transaction);
    const decided = await repository.decideRestore(restore.id, {
      status,
      approvedBy: actor.userId,
      approvalNotes,
    });
    const now = await repository.findRestoreById(restore.id);
    if (now === undefined) throw notFound('restore operation', restore.id);
    if (!decided) {
      throw new BackupError(
        `Restore ${now.restoreNumber} is ${now.status}; only one that is PENDING_APPROVAL can be decided on`,
        'INVALID_STATE',
        now.snapshotId,
        false,
      );
    }
    const entry = restoreEntry(now, `restore.${status.toLowerCase()}`, status);
    await context.audit.append(transaction, { ...entry, userId: actor.userId });
    return now;
  });
}

/** Runs a restore in the background of this process, once it is entered, under the lock that says that it is alive. */
async function withRestoreLock(
  { context, system }: Asking,
  id: UUID,
  snapshot: BackupSnapshot,
  options: RunOptions,
  enter: () => Promise<RestoreOperation>,
): Promise<RestoreOperation> {
  const lock = await context.locks.tryRestore(id);
  if (lock === undefined) {
    throw new BackupError(
      'The restore is being started by somebody else',
      'INVALID_STATE',
      snapshot.id,
      false,
    );
  }
  try {
    const restore = await enter();
    const ended = context.work.start(id, async (signal) => {
      try {
        context.events.emit('restore.started', { restore });
        const run = { context, repository: system, restore, snapshot };
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
  if (restore.status === 'PENDING_APPROVAL') {
    await cancelPending(context, restore);
    return current();
  }
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

async function cancelPending(context: ServiceContext, restore: RestoreOperation): Promise<void> {
  const completedAt = context.clock.now().toISOString();
  await context.db.withTransaction(async (transaction) => {
    const own = { organizationId: restore.organizationId, branchIds: 'ALL' as const };
    const end = { status: 'CANCELLED' as const, completedAt, statusReason: 'Cancelled' };
    if (!(await context.repository(own, transaction).finishRestore(restore.id, end))) return;
    await context.audit.append(transaction, restoreEntry(restore, 'restore.cancelled', 'CANCELLED'));
  });
}

interface RestoreOrder {
  readonly restoreType: RestoreType;
  readonly destination: RestoreDestination;
  /** Within the branches of who asks. */
  readonly scope: RestoreScope;
  readonly requiresApproval: boolean;
  readonly rollbackEnabled: boolean;
}

/** What an input comes to, checked against the snapshot and the tables before anything is entered. */
async function orderRestore(
  asking: Asking,
  snapshot: BackupSnapshot,
  input: CreateRestoreOperationInput,
): Promise<RestoreOrder> {
  const { restoreType, destination, place } = requireSupportedRestore(snapshot, input);
  const live = place.kind === 'LIVE';
  const order = {
    ...{ restoreType, destination },
    scope: live ? ownScope(asking, input) : {},
    requiresApproval: input.requiresApproval ?? live,
    rollbackEnabled: input.rollbackEnabled ?? live,
  };
  if (live) {
    const archive = await openSnapshotArchive(asking.context, snapshot, new AbortController().signal);
    await liveScope(asking.context, liveOrder(snapshot, order.scope, input, uuidv7()), archive);
  }
  return order;
}

function ownScope({ actor }: Asking, { scope = {} }: CreateRestoreOperationInput): RestoreScope {
  const branchIds = allowedBranches(actor, scope.branchIds ?? null);
  return branchIds === null ? scope : { ...scope, branchIds };
}

const liveOrder = (
  snapshot: BackupSnapshot,
  scope: RestoreScope,
  input: CreateRestoreOperationInput,
  restoreId: UUID,
): LiveOrder => ({
  ...{ restoreId, scope },
  organizationId: snapshot.organizationId,
  strategy: input.conflictResolutionStrategy ?? 'BACKUP_WINS',
  deleteNotInBackup: input.deleteNotInBackup ?? false,
  allowCascades: input.allowCascades ?? false,
  columnMapping: input.columnMapping ?? {},
  rollbackEnabled: input.rollbackEnabled ?? true,
});

/** What a restore would do now: see `BackupService.planRestore`. */
export async function planRestore(
  asking: Asking,
  snapshot: BackupSnapshot,
  input: CreateRestoreOperationInput,
  signal: AbortSignal,
): Promise<RestorePreview> {
  const { place } = requireSupportedRestore(snapshot, input);
  if (place.kind !== 'LIVE') {
    throw new DataProtectionError(
      'A plan is of restores into the live tables: one into a schema of its own changes nothing that is there',
      'NOT_SUPPORTED',
    );
  }
  const archive = await openSnapshotArchive(asking.context, snapshot, signal);
  return previewRestore(
    asking.context,
    liveOrder(snapshot, ownScope(asking, input), input, uuidv7()),
    archive,
    signal,
  );
}

/** Undoes a restore: see `BackupService.rollbackRestore`. */
export async function rollbackRestore(
  { context, actor, repository }: Asking,
  restore: RestoreOperation,
  signal: AbortSignal,
): Promise<RestoreOperation> {
  const types = restore.changes.map(({ entityType }) => entityType);
  const { entities } = await context.source.live({
    organizationId: restore.organizationId,
    branchIds: null,
    scope: { includeEntities: types },
    snapshot: { types, scope: {}, branchIds: null },
    staged: (type) => type,
  });
  await context.restoreTarget.rollbackLive({
    restoreId: restore.id,
    organizationId: restore.organizationId,
    entities,
    records: restoreRecords(context),
    now: context.clock.now().toISOString(),
    signal,
    finish: async (client, { conflicts }) => {
      const transaction = context.within(client);
      const done = await context.repository(actor, transaction).rollBackRestore(restore.id, {
        rolledBackBy: actor.userId,
        rolledBackAt: context.clock.now().toISOString(),
        statusReason:
          conflicts === 0 ? null : `${conflicts} rows were left as they are: see listRestoreConflicts`,
      });
      if (!done) throw notRolledBack(restore);
      const entry = restoreEntry(restore, 'restore.rolled_back', 'ROLLED_BACK');
      await context.audit.append(transaction, { ...entry, userId: actor.userId });
    },
  });
  const done = await repository.findRestoreById(restore.id);
  if (done === undefined) throw notFound('restore operation', restore.id);
  return done;
}

const notRolledBack = (restore: RestoreOperation): BackupError =>
  new BackupError(
    `Restore ${restore.restoreNumber} is ${restore.status} or was made without \`rollbackEnabled\`: it cannot be rolled back`,
    'INVALID_STATE',
    restore.snapshotId,
    false,
  );

/** Throws `INVALID_STATE` unless the restore can be rolled back, and `FORBIDDEN` for who sees a part of it only. */
export function requireRollback({ actor }: Asking, restore: RestoreOperation): void {
  const completed = restore.status === 'COMPLETED' || restore.status === 'COMPLETED_WITH_WARNINGS';
  if (!completed || !restore.rollbackEnabled || restore.changes.length === 0) throw notRolledBack(restore);
  requireWholeRestore(actor, restore);
}

/** Throws `FORBIDDEN` for who sees a part of the restore's rows only. */
export function requireWholeRestore(actor: Actor, restore: RestoreOperation): void {
  const within =
    actor.branchIds === 'ALL' ||
    restore.scope.branchIds?.every((id) => actor.branchIds.includes(id.toLowerCase())) === true;
  if (within) return;
  throw new DataProtectionError('The restore reaches beyond the branches of the actor', 'FORBIDDEN');
}

async function queueRestore(
  { context, actor }: Asking,
  id: UUID,
  snapshot: BackupSnapshot,
  input: CreateRestoreOperationInput,
  what: RestoreOrder,
): Promise<RestoreOperation> {
  return context.db.withTransaction(async (transaction) => {
    const restore = await context.repository(actor, transaction).insertRestore({
      id,
      snapshotId: snapshot.id,
      restoreType: what.restoreType,
      requestedBy: actor.userId,
      scope: what.scope,
      restoreDestination: what.destination,
      validationEnabled: input.validationEnabled ?? true,
      conflictResolutionStrategy: input.conflictResolutionStrategy ?? 'BACKUP_WINS',
      requiresApproval: what.requiresApproval,
      rollbackEnabled: what.rollbackEnabled,
      deleteNotInBackup: input.deleteNotInBackup ?? false,
      allowCascades: input.allowCascades ?? false,
      columnMapping: input.columnMapping ?? {},
      notes: input.notes ?? null,
      customFields: {},
      status: what.requiresApproval ? 'PENDING_APPROVAL' : 'QUEUED',
    });
    if (restore === undefined) throw notFound('snapshot', snapshot.id);
    await context.audit.append(transaction, restoreEntry(restore, 'restore.requested', restore.status));
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
