import { createWorkFinder, type FoundWork } from '../repository/work-finder.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { systemActor } from '../utils/system-actor.ts';
import { createAuditCheckpoint } from './audit-checkpoint.ts';
import type { ServiceContext } from './context.ts';
import { codeOf } from './failure.ts';
import { runQueuedSnapshot } from './queued-snapshots.ts';
import { queueDueRun } from './schedules.ts';
import { runStorageJob } from './storage-jobs.ts';
import type { SyncDuties } from './sync-duties.ts';

/** What a worker does with what it is told of, and where it looks by itself. */
export interface Duties {
  /** Queues the scheduled backups that are due, until the signal aborts. Gives how many. Throws `DATABASE_*`. */
  queueDue(signal: AbortSignal): Promise<number>;
  /**
   * Makes the checkpoints of audit logs that are due: of each that has an entry older than a day which none covers. Gives how
   * many. Throws `DATABASE_*`.
   */
  checkpointAuditLogs(signal: AbortSignal): Promise<number>;
  /** What waits, and what dead workers left: a share of it, see `WorkFinder`. Throws `DATABASE_*`. */
  find(): Promise<FoundWaiting>;
  runSnapshot(work: FoundWork, signal: AbortSignal): Promise<void>;
  runStorageJob(work: FoundWork, signal: AbortSignal): Promise<void>;
  /** undefined: the host synchronizes nothing. */
  readonly sync: SyncDuties | undefined;
}

export interface FoundWaiting {
  readonly backups: readonly FoundWork[];
  readonly verifications: readonly FoundWork[];
  /** And all else that is done over storage. */
  readonly replications: readonly FoundWork[];
}

/** How long a run may be silent before others look whether its lock is free. Its heart beats more than once a second. */
const SILENT_MS = 15_000;
/** How long an audit entry may be covered by no checkpoint. */
const UNCOVERED_MS = 24 * 60 * 60 * 1000;

export function createDuties(context: ServiceContext, sync: SyncDuties | undefined): Duties {
  const finder = createWorkFinder(context.db);
  return {
    async queueDue(signal) {
      const now = context.clock.now().toISOString();
      let queued = 0;
      let after: FoundWork | undefined;
      do {
        const page = await finder.dueConfigurations(now, after);
        for (const due of page) {
          if (signal.aborted) return queued;
          if (await isQueued(due)) queued += 1;
        }
        after = page.at(-1);
      } while (after !== undefined);
      return queued;
    },

    async checkpointAuditLogs(signal) {
      const before = new Date(context.clock.now().getTime() - UNCOVERED_MS).toISOString();
      let made = 0;
      let after: UUID | undefined;
      do {
        const page = await finder.uncoveredAuditLogs(before, after);
        for (const organizationId of page) {
          if (signal.aborted) return made;
          if (await isCheckpointed(organizationId, signal)) made += 1;
        }
        after = page.at(-1);
      } while (after !== undefined);
      return made;
    },

    async find() {
      const now = context.clock.now();
      const times = [now.toISOString(), new Date(now.getTime() - SILENT_MS).toISOString()] as const;
      return {
        backups: await finder.runnableSnapshots(...times),
        verifications: await finder.runnableStorageJobs('VERIFICATIONS', ...times),
        replications: await finder.runnableStorageJobs('OTHERS', ...times),
      };
    },

    runSnapshot: (work, signal) => runQueuedSnapshot(context, work, signal),
    runStorageJob: (work, signal) => runStorageJob(context, work, signal),
    sync,
  };

  async function isCheckpointed(organizationId: UUID, signal: AbortSignal): Promise<boolean> {
    const { userId } = systemActor(organizationId);
    try {
      await createAuditCheckpoint({ context, organizationId, userId }, signal);
      return true;
    } catch (error) {
      if (error instanceof DataProtectionError && error.code === 'DATABASE_UNAVAILABLE') throw error;
      if (signal.aborted) return false;
      // One organization whose log is broken must not keep the others from their checkpoints.
      context.logger.error({ organizationId, error: codeOf(error) }, 'An audit log got no checkpoint');
      return false;
    }
  }

  async function isQueued(due: FoundWork): Promise<boolean> {
    try {
      return (await queueDueRun(context, due)) !== undefined;
    } catch (error) {
      if (error instanceof DataProtectionError && error.code === 'DATABASE_UNAVAILABLE') throw error;
      // One configuration that cannot be read must not keep the others from their backups.
      context.logger.error(
        { configurationId: due.id, error: codeOf(error) },
        'A scheduled backup could not be queued',
      );
      return false;
    }
  }
}
