import type { JobQueue } from '../jobs/jobs.ts';
import type { FoundWork } from '../repository/work-finder.ts';
import type { Duties, FoundWaiting } from '../service/due-work.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { Logger } from '../types/logger.ts';
import { Lane } from './lane.ts';
import { SyncWork } from './sync-work.ts';

export interface WorkerOptions {
  /**
   * How many of each run at once in this process: backups 2, verifications 1, replications (and what else is done over
   * storage) 2; streams of offline operations 2, of critical ones 2 more.
   */
  readonly concurrency?: {
    readonly backups?: number;
    readonly verifications?: number;
    readonly replications?: number;
    readonly sync?: number;
    readonly syncCritical?: number;
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

type Found = keyof FoundWaiting;
const FOUND: readonly Found[] = ['backups', 'verifications', 'replications'];

const DEFAULT_POLL_MS = 15_000;
/** An offline operation waits less long where the queue is lost. */
const SYNC_POLL_MS = 5_000;
/** Audit logs are looked at once in as many looks: every ten minutes. */
const LOOKS_PER_AUDIT = 40;
const DEFAULT_GRACE_MS = 30_000;
/** The longest that a timer of Node.js waits; a longer one would not wait at all. */
const LONGEST_TIMER_MS = 2_147_483_647;

/**
 * Does what stands in the database: queues scheduled backups when they are due, runs queued ones, and the jobs over
 * storage. The queue brings work at once; whatever it loses or brings twice, a look at the database every `pollMs` and
 * locks there decide what is run. Throws `QUEUE_UNAVAILABLE` never: it works without, only later.
 */
export async function startWorker(
  { duties, queue, logger }: WorkerParts,
  options: WorkerOptions,
): Promise<Worker> {
  const {
    backups = 2,
    verifications = 1,
    replications = 2,
    sync = 2,
    syncCritical = 2,
  } = options.concurrency ?? {};
  const pollMs = options.pollMs ?? DEFAULT_POLL_MS;
  requireCounts({ backups, verifications, replications, sync, syncCritical, pollMs });
  /** Nothing new is begun. */
  const closing = new AbortController();
  /** What runs is to end. */
  const stop = new AbortController();
  const note = (error: unknown): void => noteFailure(logger, undefined, error);

  const lane = (limit: number, task: Duties['runSnapshot']) =>
    new Lane(
      limit,
      async (work, signal) => {
        if (closing.signal.aborted || signal.aborted) return;
        await task(work, signal).catch((error: unknown) => noteFailure(logger, work, error));
      },
      stop.signal,
    );
  const lanes: Readonly<Record<Found, Lane>> = {
    backups: lane(backups, duties.runSnapshot),
    verifications: lane(verifications, duties.runStorageJob),
    replications: lane(replications, duties.runStorageJob),
  };

  const find = oneAtATime(async () => {
    const found = await duties.find();
    for (const name of FOUND) lanes[name].offer(found[name]);
  }, note);
  const queueDue = oneAtATime(async () => {
    if ((await duties.queueDue(closing.signal)) > 0 && !closing.signal.aborted) find.start();
  }, note);
  const look = (): void => {
    queueDue.start();
    find.start();
  };
  const timer = setInterval(look, Math.min(pollMs, LONGEST_TIMER_MS));
  look();
  const checkpointAudit = oneAtATime(async () => {
    await duties.checkpointAuditLogs(closing.signal);
  }, note);
  const auditTimer = setInterval(checkpointAudit.start, Math.min(pollMs * LOOKS_PER_AUDIT, LONGEST_TIMER_MS));
  checkpointAudit.start();
  const syncWork =
    duties.sync === undefined
      ? undefined
      : new SyncWork(duties.sync, { closing: closing.signal, stop: stop.signal }, note);
  const syncTimer = setInterval(() => syncWork?.look(), Math.min(pollMs, SYNC_POLL_MS));
  syncWork?.look();

  await queue
    ?.work({
      BACKUP: {
        concurrency: backups,
        handle: ({ organizationId, snapshotId }, signal) =>
          lanes.backups.run({ organizationId, id: snapshotId }, signal),
      },
      VERIFICATION: {
        concurrency: verifications,
        handle: ({ organizationId, storageJobId }, signal) =>
          lanes.verifications.run({ organizationId, id: storageJobId }, signal),
      },
      REPLICATION: {
        concurrency: replications,
        handle: ({ organizationId, storageJobId }, signal) =>
          lanes.replications.run({ organizationId, id: storageJobId }, signal),
      },
      ...syncWork?.handlers({ NORMAL: sync, CRITICAL: syncCritical }),
    })
    .catch(note);

  const end = async (graceMs: number): Promise<void> => {
    clearInterval(timer);
    clearInterval(auditTimer);
    clearInterval(syncTimer);
    closing.abort();
    const graceOver = Promise.withResolvers<void>();
    const late = setTimeout(() => {
      stop.abort(new BackupError('The worker is stopping', 'BACKUP_INTERRUPTED'));
      graceOver.resolve();
    }, graceMs);
    try {
      await Promise.all([
        queue?.stop({ graceMs }).catch(note),
        ...FOUND.map((name) => lanes[name].empty()),
        syncWork?.empty(),
        // A look that the database does not answer must not hold up the stop.
        Promise.race([
          Promise.all([find.ended(), queueDue.ended(), checkpointAudit.ended()]),
          graceOver.promise,
        ]),
      ]);
    } finally {
      clearTimeout(late);
    }
  };
  let stopping: Promise<void> | undefined;
  const worker: Worker = {
    stop({ graceMs = DEFAULT_GRACE_MS } = {}) {
      stopping ??= Promise.resolve().then(() => end(Math.min(graceMs, LONGEST_TIMER_MS)));
      return stopping;
    },
    [Symbol.asyncDispose]: () => worker.stop(),
  };
  return worker;
}

/** Work that is begun again only once it has ended. */
function oneAtATime(work: () => Promise<void>, note: (error: unknown) => void) {
  let going: Promise<void> | undefined;
  return {
    start(): void {
      going ??= work()
        .catch(note)
        .finally(() => {
          going = undefined;
        });
    },
    async ended(): Promise<void> {
      await going;
    },
  };
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
