import type { UUID } from '../types/ids.ts';

/**
 * The jobs contract. A queue only wakes workers: what is to be done stands in the database, and a sweeper finds it
 * there. So a job holds ids only, has one try, may be lost, may come twice, and its handler reads the state first.
 * The suite in `test/contract/jobs.ts` holds both backends to it.
 */
export interface JobQueue extends AsyncDisposable {
  /** What it is, for logs: `redis` or `postgres` and a place, never a credential. */
  readonly description: string;

  /**
   * Asks for a job. Jobs of one kind and `key` that wait are one job; one that is added while its like is active runs
   * once more after it; one that waits for a later time runs now when it is asked for without a delay. Gives up after `ENQUEUE_WAIT_MS` with `QUEUE_UNAVAILABLE`: then, at worst, the sweeper is later.
   * `VALIDATION_FAILED` for a key or delay out of range.
   */
  add<Kind extends JobKind>(job: Job<Kind>): Promise<void>;

  /**
   * Starts taking jobs, for the kinds that have a handler. Once per queue. What a handler throws is logged. Where the
   * backend is not there, it resolves all the same after a few seconds and takes jobs as soon as it is.
   */
  work(handlers: JobHandlers): Promise<void>;

  /**
   * Stops taking jobs at once and waits for those that run; after `graceMs` their signals are aborted with
   * `BACKUP_INTERRUPTED`, and it waits for them to end. What waits in the queue stays there.
   */
  stop(options: { readonly graceMs: number }): Promise<void>;

  /** Closes connections; with jobs running, after a stop without grace. Harmless to repeat. */
  close(): Promise<void>;
}

export const ENQUEUE_WAIT_MS = 100;

/** Which ids a job of each kind holds. Later kinds are added here. */
export interface JobData {
  readonly BACKUP: { readonly organizationId: UUID; readonly snapshotId: UUID };
  readonly VERIFICATION: { readonly organizationId: UUID; readonly storageJobId: UUID };
  readonly REPLICATION: { readonly organizationId: UUID; readonly storageJobId: UUID };
  /** Operations of a stream, but critical ones. */
  readonly SYNC: { readonly organizationId: UUID; readonly streamId: UUID };
  /** Critical ones: a kind of their own, so that they have workers of their own. */
  readonly SYNC_CRITICAL: { readonly organizationId: UUID; readonly streamId: UUID };
}

export const JOB_KINDS = [
  'BACKUP',
  'VERIFICATION',
  'REPLICATION',
  'SYNC',
  'SYNC_CRITICAL',
] as const satisfies readonly (keyof JobData)[];
export type JobKind = (typeof JOB_KINDS)[number];

export interface Job<Kind extends JobKind> {
  readonly kind: Kind;
  /** `[A-Za-z0-9-]{1,100}`. */
  readonly key: string;
  readonly data: JobData[Kind];
  /** Milliseconds; 0 when left out. */
  readonly delayMs?: number;
}

export type JobHandlers = {
  readonly [Kind in JobKind]?: {
    /** How many of the kind run at once in this process. */
    readonly concurrency: number;
    /** The signal aborts when the worker stops and its grace is over. */
    readonly handle: (data: JobData[Kind], signal: AbortSignal) => Promise<void>;
  };
};
