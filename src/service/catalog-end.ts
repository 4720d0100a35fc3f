import { setTimeout as sleep } from 'node:timers/promises';
import type { SnapshotResult } from '../repository/snapshot-end.ts';
import type { BackupSnapshot } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { auditEntry } from './audit-entry.ts';
import type { ServiceContext } from './context.ts';
import { failureOf, isCancellation } from './failure.ts';
import { tellQuotas, withQuotaWarnings } from './quota.ts';

const RETRY_AFTER_MS = [200, 800];

/**
 * Repeats what enters an outcome in the catalog while the database cannot be reached: hours of work may hang on one
 * statement. `enter` must be harmless to repeat, since a lost answer to a COMMIT does not say whether it took place.
 */
export async function enterOutcome<T>(enter: () => Promise<T>): Promise<T> {
  for (const pause of RETRY_AFTER_MS) {
    try {
      return await enter();
    } catch (error) {
      if (!(error instanceof DataProtectionError) || !error.retryable) throw error;
      if (!error.code.startsWith('DATABASE_')) throw error;
      await sleep(pause);
    }
  }
  return enter();
}

/**
 * Makes a snapshot count, with its audit entry and with warnings of quotas that are nearly used. False: the attempt may
 * not, or no longer.
 */
export async function endWell(
  context: ServiceContext,
  snapshot: BackupSnapshot,
  attemptId: UUID,
  action: 'snapshot.completed' | 'snapshot.adopted',
  result: SnapshotResult,
): Promise<boolean> {
  const reached = await context.db.withTransaction(async (transaction) => {
    const inside = context.repository(everything(snapshot), transaction);
    const quota = await withQuotaWarnings(context, inside, snapshot, result);
    if (!(await inside.finalizeSnapshot({ snapshotId: snapshot.id, attemptId }, quota.result)))
      return undefined;
    await context.audit.append(
      transaction,
      auditEntry(context, snapshot, action, {
        status: quota.result.status,
        records: result.dataMetrics.totalRecords,
      }),
    );
    return quota.reached;
  });
  tellQuotas(context, snapshot.organizationId, reached ?? []);
  return reached !== undefined;
}

/**
 * Ends a snapshot as FAILED or CANCELLED, or queues it again where a worker may try once more; with its audit entries
 * and events. False: it had ended already.
 */
export async function endBadly(
  context: ServiceContext,
  snapshot: BackupSnapshot,
  attemptId: UUID | null,
  reason: unknown,
): Promise<boolean> {
  const completedAt = context.clock.now().toISOString();
  const failure = failureOf(reason, context.clock);
  const cancelled = isCancellation(reason);
  const ended = { snapshotId: snapshot.id, attemptId };
  const became = await context.db.withTransaction(async (transaction) => {
    const inside = context.repository(everything(snapshot), transaction);
    const failed = cancelled
      ? (await inside.cancelSnapshot(ended, { statusReason: 'Cancelled', completedAt })) && 'CANCELLED'
      : await inside.failSnapshot(ended, { ...failure, completedAt });
    if (failed === undefined || failed === false) return undefined;
    const { code } = failure.error;
    await context.audit.append(transaction, auditEntry(context, snapshot, ACTIONS[failed], { code }));
    if (failed === 'SUSPENDED') {
      await context.audit.append(transaction, {
        ...auditEntry(context, snapshot, 'configuration.suspended', { code }),
        resourceType: 'backup_configuration',
        resourceId: snapshot.configurationId,
      });
    }
    return failed;
  });
  const { organizationId, configurationId } = snapshot;
  const { code, message } = failure.error;
  const about = { snapshotId: snapshot.id, organizationId };
  if (became === 'CANCELLED') context.events.emit('snapshot.cancelled', about);
  else if (became === 'QUEUED') context.events.emit('snapshot.retrying', { ...about, code, message });
  else if (became !== undefined) context.events.emit('snapshot.failed', { ...about, code, message });
  if (became === 'SUSPENDED') {
    context.logger.error({ configurationId, code }, 'A configuration was suspended');
    context.events.emit('configuration.suspended', { configurationId, organizationId });
  }
  return became !== undefined;
}

const ACTIONS = {
  CANCELLED: 'snapshot.cancelled',
  QUEUED: 'snapshot.retrying',
  ENDED: 'snapshot.failed',
  SUSPENDED: 'snapshot.failed',
} as const;

const everything = ({ organizationId }: BackupSnapshot) => ({ organizationId, branchIds: 'ALL' as const });
