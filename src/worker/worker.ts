import type { JobQueue } from '../jobs/jobs.ts';
import type { FoundWork } from '../repository/work-finder.ts';
import type { Duties } from '../service/due-work.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { Logger } from '../types/logger.ts';
import { Slots } from './slots.ts';

export interface WorkerOptions {
  /** How many of each run at once in this process: backups 2, verifications 1, replications (and what else is done over storage) 2. */
  readonly concurrency?: {
    readonly backups?: number;
    readonly verifications?: number;
    readonly replications?: number;
  };
  /** How often the worker looks by itself for what is due, waits, or was left by dead workers, in milliseconds; 15 s. */
  readonly pollMs?: number;
}

export interface WorkerParts {
  readonly duties: Duties;
  /** undefined: no queue; the worker lives by looking. */
  readonly queue: JobQueue | undefined;
  readonly logger: Logger;
}

/** A process that does the work. */
export interface Worker extends AsyncDisposable {
  /**
   * Takes nothing new and waits for what runs. What still runs after `graceMs` (30 s) is stopped, leaves nothing behind,
   * and is done by another worker. Harmless to repeat.
   */
  stop(options?: { readonly graceMs?: number }): Promise<void>;
}

const DEFAULT_POLL_MS = 15_000;
const DEFAULT_GRACE_MS = 30_000;

/**
 * Does what stands in the database: queues scheduled backups when they are due, runs queued ones, and the jobs over
 * storage. The queue brings work at once; whatever it loses or brings twice, a look at the database every `pollMs` and
 * locks there decide what is run. Throws `QUEUE_UNAVAILABLE` never: it works without, only later.
 */
export async function startWorker(
  { duties, queue, logger }: WorkerParts,
  options: WorkerOptions,
): Promise<Worker> {
  const { backups = 2, verifications = 1, replications = 2 } = options.concurrency ?? {};
  const pollMs = options.pollMs ?? DEFAULT_POLL_MS;
  requireCounts({ backups, verifications, replications, pollMs });
  const stop = new AbortController();
  const backupSlots = new Slots(backups);
  const jobSlots = new Slots(verifications + replications);
  let stopping: Promise<void> | undefined;

  const run = (slots: Slots, work: FoundWork, task: Duties['runSnapshot'], signal: AbortSignal) =>
    slots.run(work.id, async () => {
      const stopped = AbortSignal.any([signal, stop.signal]);
      if (stopped.aborted || stopping !== undefined) return;
      await task(work, stopped).catch((error: unknown) => noteFailure(logger, work, error));
    });
  const snapshot = (work: FoundWork, signal: AbortSignal) =>
    run(backupSlots, work, duties.runSnapshot, signal);
  const storageJob = (work: FoundWork, signal: AbortSignal) =>
    run(jobSlots, work, duties.runStorageJob, signal);

  let looking: Promise<void> | undefined;
  const look = async (): Promise<void> => {
    try {
      await duties.queueDue();
      const { snapshots, storageJobs } = await duties.find();
      for (const work of snapshots) if (backupSlots.free) void snapshot(work, stop.signal);
      for (const work of storageJobs) if (jobSlots.free) void storageJob(work, stop.signal);
    } catch (error) {
      noteFailure(logger, undefined, error);
    }
  };
  const lookOnce = (): void => {
    if (looking !== undefined || stopping !== undefined) return;
    looking = look().finally(() => {
      looking = undefined;
    });
  };
  const timer = setInterval(lookOnce, pollMs);
  lookOnce();

  await queue
    ?.work({
      BACKUP: {
        concurrency: backups,
        handle: ({ organizationId, snapshotId }, signal) =>
          snapshot({ organizationId, id: snapshotId }, signal),
      },
      VERIFICATION: {
        concurrency: verifications,
        handle: ({ organizationId, storageJobId }, signal) =>
          storageJob({ organizationId, id: storageJobId }, signal),
      },
      REPLICATION: {
        concurrency: replications,
        handle: ({ organizationId, storageJobId }, signal) =>
          storageJob({ organizationId, id: storageJobId }, signal),
      },
    })
    .catch((error: unknown) => noteFailure(logger, undefined, error));

  const end = async (graceMs: number): Promise<void> => {
    clearInterval(timer);
    await looking;
    const interrupted = new BackupError('The worker is stopping', 'BACKUP_INTERRUPTED');
    const late = setTimeout(() => stop.abort(interrupted), graceMs);
    try {
      await Promise.all([
        queue?.stop({ graceMs }).catch((error: unknown) => noteFailure(logger, undefined, error)),
        backupSlots.empty(),
        jobSlots.empty(),
      ]);
    } finally {
      clearTimeout(late);
    }
  };
  const worker: Worker = {
    stop({ graceMs = DEFAULT_GRACE_MS } = {}) {
      stopping ??= Promise.resolve().then(() => end(graceMs));
      return stopping;
    },
    [Symbol.asyncDispose]: () => worker.stop(),
  };
  return worker;
}

function noteFailure(logger: Logger, work: FoundWork | undefined, error: unknown): void {
  const code =
    error instanceof DataProtectionError ? error.code : error instanceof Error ? error.name : 'unknown';
  logger.warn({ id: work?.id, error: code }, 'A worker could not do its work; it will look again');
}

function requireCounts(counts: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(counts)) {
    if (Number.isSafeInteger(count) && count >= 1) continue;
    throw new DataProtectionError(
      `\`${name}\` of a worker must be a whole number from 1`,
      'CONFIGURATION_INVALID',
    );
  }
}
