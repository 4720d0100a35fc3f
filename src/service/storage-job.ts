import type { StorageJob, StorageJobProgress } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import type { Json } from '../types/ids.ts';
import type { ServiceContext } from './context.ts';

/** What a kind of job does. Harmless to run again: a job whose process died is begun anew. */
export type StorageJobWork = (job: RunningStorageJob) => Promise<{ readonly [key: string]: Json }>;

export interface RunningStorageJob {
  readonly context: ServiceContext;
  readonly job: StorageJob;
  readonly count: JobCount;
  readonly signal: AbortSignal;
}

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
        this.#bytesTotal === 0 ? 0 : Math.min(100, Math.floor((this.#bytes * 100) / this.#bytesTotal)),
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
