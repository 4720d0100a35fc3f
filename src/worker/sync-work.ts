import type { JobHandlers } from '../jobs/jobs.ts';
import type { SyncDuties } from '../service/sync-duties.ts';
import { SYNC_LANES, type SyncLane } from '../types/offline-sync.ts';

/** How many streams are worked on at once in this process, by lane. */
export type SyncConcurrency = Readonly<Record<SyncLane, number>>;

const KINDS = { CRITICAL: 'SYNC_CRITICAL', NORMAL: 'SYNC' } as const satisfies Record<SyncLane, string>;

/**
 * Offline operations in a worker: streams that the queue tells of, a slice at a time, so that all have their turn; and
 * streams that a look at the database finds, so that the queue may be lost. Two that meet in one stream take different
 * operations.
 */
export class SyncWork {
  readonly #duties: SyncDuties;
  readonly #note: (error: unknown) => void;
  /** Nothing new is begun. */
  readonly #closing: AbortSignal;
  /** What runs is to end after the operations that it has. */
  readonly #stop: AbortSignal;
  readonly #running = new Set<Promise<unknown>>();
  readonly #looking = new Map<SyncLane | 'SWEEP', Promise<void>>();

  constructor(
    duties: SyncDuties,
    signals: { readonly closing: AbortSignal; readonly stop: AbortSignal },
    note: (error: unknown) => void,
  ) {
    this.#duties = duties;
    this.#closing = signals.closing;
    this.#stop = signals.stop;
    this.#note = note;
  }

  handlers(concurrency: SyncConcurrency): JobHandlers {
    return Object.fromEntries(
      SYNC_LANES.map((lane) => [
        KINDS[lane],
        {
          concurrency: concurrency[lane],
          handle: (data: { organizationId: string; streamId: string }, signal: AbortSignal) =>
            this.#track(this.#told({ ...data, lane }, AbortSignal.any([signal, this.#closing]))),
        },
      ]),
    );
  }

  /** Looks for what waits, and for what has to be put right; one look at a time. */
  look(): void {
    for (const lane of SYNC_LANES) this.#once(lane, () => this.#drainFound(lane));
    this.#once('SWEEP', () => this.#duties.sweep(this.#closing));
  }

  /** Resolves when nothing runs. */
  async empty(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled([...this.#running]);
  }

  async #told(
    work: { readonly organizationId: string; readonly streamId: string; readonly lane: SyncLane },
    signal: AbortSignal,
  ): Promise<void> {
    try {
      const { more } = await this.#duties.run(work, signal);
      if (more && !signal.aborted) await this.#duties.again(work);
    } catch (error) {
      this.#note(error);
    }
  }

  /** Every stream a slice, until none has more. */
  async #drainFound(lane: SyncLane): Promise<void> {
    let going = true;
    while (going) {
      going = false;
      for (const work of await this.#duties.find(lane)) {
        if (this.#closing.aborted) return;
        const { worked } = await this.#duties.run(work, AbortSignal.any([this.#closing, this.#stop]));
        going ||= worked;
      }
    }
  }

  #once(name: SyncLane | 'SWEEP', work: () => Promise<void>): void {
    if (this.#looking.has(name) || this.#closing.aborted) return;
    const looking = this.#track(
      work()
        .catch(this.#note)
        .finally(() => this.#looking.delete(name)),
    );
    this.#looking.set(name, looking);
  }

  #track<T>(work: Promise<T>): Promise<T> {
    this.#running.add(work);
    const done = (): void => void this.#running.delete(work);
    work.then(done, done);
    return work;
  }
}
