import { DataProtectionError } from '../types/errors.ts';
import { JOB_KINDS, type Job, type JobKind } from './jobs.ts';
import type { Producer, QueueBackend, QueueLink, QueueTiming, Report } from './queue-backend.ts';
import { within } from './waiting.ts';

/** Adds given up but not settled; past these, an add is refused at once instead of being kept in memory. */
const MAX_PENDING = 1_000;

interface OpenProducers {
  readonly link: QueueLink;
  readonly byKind: ReadonlyMap<JobKind, Producer>;
}

/** Adds jobs, over connections that are opened by the first add. */
export class Producers {
  readonly #backend: QueueBackend;
  readonly #timing: QueueTiming;
  readonly #report: Report;
  readonly #pending = new Set<Promise<void>>();
  readonly #links = new Set<QueueLink>();
  #open: Promise<OpenProducers> | undefined;
  #state: 'open' | 'closed' = 'open';

  constructor(backend: QueueBackend, timing: QueueTiming, report: Report) {
    this.#backend = backend;
    this.#timing = timing;
    this.#report = report;
  }

  async add<Kind extends JobKind>(job: Job<Kind>): Promise<void> {
    await this.#backend.load();
    if (this.#state === 'closed') throw unavailable('is closed');
    if (this.#pending.size >= MAX_PENDING) throw unavailable('does not answer');
    const adding = this.#send(job);
    this.#pending.add(adding);
    const settled = (): void => void this.#pending.delete(adding);
    adding.then(settled, settled);
    const outcome = await within(adding, this.#timing.enqueueWaitMs).catch((cause: unknown) => {
      this.#report(cause);
      throw unavailable('refused the job', cause);
    });
    if (outcome === 'late') throw unavailable(`did not answer within ${this.#timing.enqueueWaitMs} ms`);
  }

  async close(): Promise<void> {
    this.#state = 'closed';
    const open = this.#open;
    await within(Promise.allSettled(this.#pending), this.#timing.closeWaitMs);
    if (open !== undefined) {
      const closing = open.then(({ byKind }) => Promise.all([...byKind.values()].map((one) => one.close())));
      await within(Promise.allSettled([closing]), this.#timing.closeWaitMs);
    }
    await Promise.all([...this.#links].map((link) => link.end()));
  }

  async #send<Kind extends JobKind>(job: Job<Kind>): Promise<void> {
    this.#open ??= this.#connect();
    const { byKind } = await this.#open;
    await byKind.get(job.kind)?.add(job.kind, job.data, {
      attempts: 1,
      removeOnComplete: true,
      removeOnFail: true,
      delay: job.delayMs ?? 0,
      deduplication: {
        id: job.key,
        // Without it, an add while its like is active is dropped: what happened since would wait for the sweeper.
        keepLastIfActive: true,
        // What is wanted now does not wait for a like that was asked for later.
        reschedule: (job.delayMs ?? 0) === 0,
      },
    });
  }

  /** A failure is forgotten, so that the next add connects anew: BullMQ would remember it for ever. */
  async #connect(): Promise<OpenProducers> {
    try {
      const link = await this.#backend.connect('add');
      this.#links.add(link);
      const byKind = new Map(JOB_KINDS.map((kind) => [kind, link.producer(kind)]));
      try {
        await Promise.all([...byKind.values()].map((producer) => producer.waitUntilReady()));
      } catch (error) {
        this.#links.delete(link);
        await link.end();
        throw error;
      }
      if (this.#state === 'closed') {
        await link.end();
        throw unavailable('is closed');
      }
      return { link, byKind };
    } catch (error) {
      this.#open = undefined;
      throw error;
    }
  }
}

function unavailable(how: string, cause?: unknown): DataProtectionError {
  const options = cause === undefined ? {} : { cause };
  return new DataProtectionError(`The job queue ${how}.`, 'QUEUE_UNAVAILABLE', options);
}
