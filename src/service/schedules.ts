import type { BackupRepository } from '../repository/backup-repository.ts';
import type { FoundWork } from '../repository/work-finder.ts';
import type { BackupConfiguration, BackupSnapshot } from '../types/backup.ts';
import type { Timestamp, UUID } from '../types/ids.ts';
import { nextOccurrence, type ScheduledStart } from '../utils/schedule.ts';
import { dueOccurrence } from '../utils/schedule-due.ts';
import { systemActor } from '../utils/system-actor.ts';
import type { ServiceContext } from './context.ts';
import { enterSnapshot, MAX_ATTEMPTS } from './snapshot-request.ts';

const MINUTE_MS = 60_000;

type Scheduled = Pick<BackupConfiguration, 'schedule' | 'timezone'> & { readonly id: UUID };

/** When the next scheduled backup of a configuration starts; null: only by hand. `size`: of its last backup, raw bytes. */
export function nextBackupAt(
  configuration: Scheduled,
  from: Date,
  size: number | undefined,
): Timestamp | null {
  return nextStart(configuration, from, size)?.at.toISOString() ?? null;
}

function nextStart(
  { schedule, timezone, id }: Scheduled,
  from: Date,
  size: number | undefined,
): ScheduledStart | null {
  return nextOccurrence(schedule, timezone, from, optionsOf(id, size));
}

const optionsOf = (configurationId: UUID, databaseSizeBytes: number | undefined) => ({
  configurationId,
  ...(databaseSizeBytes === undefined ? {} : { databaseSizeBytes }),
});

/** Raw bytes of the last good backup of a configuration; undefined before the first. */
export async function lastSize(
  repository: BackupRepository,
  configurationId: UUID,
): Promise<number | undefined> {
  return (await repository.getLastSuccessfulBackup(configurationId))?.dataMetrics?.totalSizeBytes;
}

/**
 * Queues the run of a configuration that is due, and notes the next one, in one transaction: exactly one run per
 * occurrence, however many workers ask. What was missed is caught up by one run. Nothing while a run of the
 * configuration is queued or goes on: what became due meanwhile is caught up after it. Undefined: nothing was due.
 */
export async function queueDueRun(
  context: ServiceContext,
  { organizationId, id }: FoundWork,
): Promise<BackupSnapshot | undefined> {
  const snapshot = await context.db.withTransaction(async (transaction) => {
    const repository = context.repository({ organizationId, branchIds: 'ALL' }, transaction);
    const configuration = await repository.lockConfig(id);
    if (configuration?.status !== 'ACTIVE' || (await repository.hasQueuedRun(id))) return undefined;
    const now = context.clock.now();
    const size = await lastSize(repository, id);
    const due = dueOccurrence(configuration.schedule, configuration.timezone, {
      storedNext: configuration.nextScheduledBackupAt,
      now,
      ...optionsOf(id, size),
    });
    if (due === null || due.start === 'LATER') return undefined;
    const scheduledAt = due.scheduledAt.toISOString();
    if (await repository.hasScheduledRun(id, scheduledAt)) {
      // Whoever stored the next start after that run had a clock behind the one that started it.
      await repository.setNextScheduledBackup(id, nextBackupAt(configuration, now, size));
      return undefined;
    }
    const entered = await enterSnapshot(context, transaction, repository, {
      configuration,
      trigger: 'SCHEDULED',
      scheduledAt,
      requestedBy: systemActor(organizationId).userId,
      input: {},
    });
    const minutes = due.schedule.maxDurationMinutes;
    await repository.enqueueRun(entered.id, {
      maxAttempts: MAX_ATTEMPTS,
      notBefore: now.toISOString(),
      mustEndBy: due.mustEndBy?.toISOString() ?? null,
      maxDurationMs: minutes === undefined ? null : minutes * MINUTE_MS,
    });
    await repository.setNextScheduledBackup(id, nextBackupAt(configuration, now, size));
    return entered;
  });
  if (snapshot !== undefined) {
    await context.wake({
      kind: 'BACKUP',
      key: snapshot.id,
      data: { organizationId, snapshotId: snapshot.id },
    });
  }
  return snapshot;
}
