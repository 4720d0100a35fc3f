import { createWorkFinder, type FoundWork } from '../repository/work-finder.ts';
import type { ServiceContext } from './context.ts';
import { codeOf } from './failure.ts';
import { runQueuedSnapshot } from './queued-snapshots.ts';
import { queueDueRun } from './schedules.ts';
import { runStorageJob } from './storage-jobs.ts';

/** What a worker does with what it is told of, and where it looks by itself. */
export interface Duties {
  /** Queues the scheduled backups that are due. Gives how many. Throws `DATABASE_*`. */
  queueDue(): Promise<number>;
  /** What waits, and what dead workers left. Throws `DATABASE_*`. */
  find(): Promise<{ readonly snapshots: readonly FoundWork[]; readonly storageJobs: readonly FoundWork[] }>;
  runSnapshot(work: FoundWork, signal: AbortSignal): Promise<void>;
  runStorageJob(work: FoundWork, signal: AbortSignal): Promise<void>;
}

/** How long a run may be silent before others look whether its lock is free. Its heart beats more than once a second. */
const SILENT_MS = 15_000;

export function createDuties(context: ServiceContext): Duties {
  const finder = createWorkFinder(context.db);
  return {
    async queueDue() {
      let queued = 0;
      for (const due of await finder.dueConfigurations(context.clock.now().toISOString())) {
        try {
          if ((await queueDueRun(context, due)) !== undefined) queued += 1;
        } catch (error) {
          // One configuration that cannot be read must not keep the others from their backups.
          context.logger.error(
            { configurationId: due.id, error: codeOf(error) },
            'A scheduled backup could not be queued',
          );
        }
      }
      return queued;
    },

    async find() {
      const now = context.clock.now();
      const times = [now.toISOString(), new Date(now.getTime() - SILENT_MS).toISOString()] as const;
      return {
        snapshots: await finder.runnableSnapshots(...times),
        storageJobs: await finder.runnableStorageJobs(...times),
      };
    },

    runSnapshot: (work, signal) => runQueuedSnapshot(context, work, signal),
    runStorageJob: (work, signal) => runStorageJob(context, work, signal),
  };
}
