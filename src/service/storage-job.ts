import type { SessionLock } from '../repository/advisory-lock.ts';
import type { StorageJob, StorageJobProgress } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import { BackupError, DataProtectionError } from '../types/errors.ts';
import type { Json, UUID } from '../types/ids.ts';
import type { ServiceContext } from './context.ts';
import { pause } from './failure.ts';

/** What a kind of job does. Harmless to run again: a job whose process died is begun anew. */
export type StorageJobWork = (job: RunningStorageJob) => Promise<{ readonly [key: string]: Json }>;

export interface RunningStorageJob {
  readonly context: ServiceContext;
  readonly job: StorageJob;
  readonly count: JobCount;
  readonly signal: AbortSignal;
}

/** How long a job waits for what else is done to the copies of a snapshot, before it is put back. */
const WAIT_MS = 60_000;
const LOOK_MS = 500;

/**
 * Does `work` while nobody else changes the copies or the place of a snapshot. The signal aborts with the job's, and
 * when the lock is lost. Throws `INVALID_STATE`, retryable, where somebody does for a minute.
 */
export async function holdingCopies<T>(
  { context, signal }: Pick<RunningStorageJob, 'context' | 'signal'>,
  snapshotId: UUID,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  for (let waited = 0; ; waited += LOOK_MS) {
    signal.throwIfAborted();
    // Of the kind of a job's; ids are unique.
    const lock = await context.locks.tryStorageJob(snapshotId);
    if (lock !== undefined) {
      try {
        return await whileHeld(lock, signal, work);
      } finally {
        await lock.release();
      }
    }
    if (waited >= WAIT_MS) {
      throw new DataProtectionError('Another job works on the copies of the snapshot', 'INVALID_STATE', {
        retryable: true,
      });
    }
    await pause(LOOK_MS, signal);
  }
}

/** Gives `work` a signal that aborts with the given one, and with `BACKUP_INTERRUPTED` when the lock is lost. */
export async function whileHeld<T>(
  { lost }: SessionLock,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const lose = (): void => stop.abort(interrupted('A lock was lost with its connection'));
  lost.addEventListener('abort', lose, { once: true });
  if (lost.aborted) lose();
  try {
    return await work(AbortSignal.any([signal, stop.signal]));
  } finally {
    lost.removeEventListener('abort', lose);
  }
}

/** Why a job that is not at fault ends: it is to be begun anew. */
export const interrupted = (why: string): DataProtectionError => new BackupError(why, 'BACKUP_INTERRUPTED');

/** Counts what a job has done. */
export class JobCount {
  readonly #clock: Clock;
  readonly #started: number;
  #objectsTotal = 0;
  #bytesTotal = 0;
  #objects = 0;
  #bytes = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#started = clock.now().getTime();
  }

  /** More to do. */
  expect(objects: number, bytes: number): void {
    this.#objectsTotal += objects;
    this.#bytesTotal += bytes;
  }

  done(bytes: number): void {
    this.#objects += 1;
    this.#bytes += bytes;
  }

  now(): StorageJobProgress {
    const now = this.#clock.now();
    const rate = (this.#bytes * 1000) / Math.max(1, now.getTime() - this.#started);
    const left = Math.max(0, this.#bytesTotal - this.#bytes);
    return {
      percentage:
        this.#bytesTotal === 0
          ? percent(this.#objects, this.#objectsTotal)
          : percent(this.#bytes, this.#bytesTotal),
      objectsTotal: this.#objectsTotal,
      objectsDone: this.#objects,
      bytesTotal: this.#bytesTotal,
      bytesDone: this.#bytes,
      bytesPerSecond: Math.round(rate),
      estimatedTimeRemainingMs: rate > 0 ? Math.round((left * 1000) / rate) : null,
      updatedAt: now.toISOString(),
    };
  }
}

const percent = (done: number, total: number): number =>
  total === 0 ? 0 : Math.min(100, Math.floor((done * 100) / total));
