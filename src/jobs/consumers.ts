import type { Job as BullJob } from 'bullmq';
import { DataProtectionError } from '../types/errors.ts';
import type { Logger } from '../types/logger.ts';
import { isUuid } from '../utils/uuid.ts';
import { JOB_KINDS, type JobData, type JobHandlers, type JobKind } from './jobs.ts';
import {
  type Consumer,
  codeOf,
  type Processor,
  type QueueBackend,
  type QueueLink,
  type QueueTiming,
  type Report,
} from './queue-backend.ts';
import { aborted, pause, within } from './waiting.ts';

/** A job whose workers die each time is dropped after as many; what it stands for is in the database. */
const MAX_STALLED = 5;

/** Attempts to start lie one `retryMs` further apart each time, up to as many. */
const MOST_RETRIES_APART = 30;

interface RunningJob {
  readonly controller: AbortController;
  readonly done: Promise<void>;
}

/** Takes jobs until it is stopped, and comes back by itself when the backend was away. */
export class Consumers {
  readonly #backend: QueueBackend;
  readonly #handlers: JobHandlers;
  readonly #timing: QueueTiming;
  readonly #logger: Logger;
  readonly #report: Report;
  readonly #halt = new AbortController();
  readonly #running = new Set<RunningJob>();
  readonly #loops: Promise<void>[] = [];
  #workers: readonly Consumer[] = [];
  #link: QueueLink | undefined;
  #establishing: Promise<void> = Promise.resolve();
  #stopped: Promise<void> | undefined;

  constructor(
    backend: QueueBackend,
    handlers: JobHandlers,
    options: { readonly timing: QueueTiming; readonly logger: Logger; readonly report: Report },
  ) {
    this.#backend = backend;
    this.#handlers = handlers;
    this.#timing = options.timing;
    this.#logger = options.logger;
    this.#report = options.report;
  }

  async start(): Promise<void> {
    await this.#backend.load();
    this.#establishing = this.#establish();
    const outcome = await within(this.#establishing, this.#timing.startWaitMs);
    if (outcome === 'late') {
      const queue = this.#backend.description;
      this.#logger.warn({ queue }, 'the job queue does not answer yet; jobs are taken as soon as it does');
    }
  }

  /** Repeated calls wait for the first. */
  stop({ graceMs }: { readonly graceMs: number }): Promise<void> {
    this.#stopped ??= this.#stop(graceMs);
    return this.#stopped;
  }

  async #stop(graceMs: number): Promise<void> {
    this.#halt.abort();
    await this.#establishing;
    const closing = Promise.allSettled(this.#workers.map((worker) => worker.close()));
    await within(this.#idle(), graceMs);
    for (const { controller } of this.#running) controller.abort(interrupted());
    await this.#idle();
    // Where the backend does not answer, BullMQ waits for it, and its timers keep the process alive.
    const outcome = await within(closing, this.#timing.closeWaitMs);
    if (outcome === 'late') this.#link?.cut();
    await within(Promise.all([closing, ...this.#loops]), this.#timing.closeWaitMs);
    await this.#link?.end();
  }

  async #idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all([...this.#running].map(({ done }) => done));
  }

  /** Tries until the workers are connected, or the stop. BullMQ never recovers from a first connection that failed. */
  async #establish(): Promise<void> {
    const { signal } = this.#halt;
    for (let tries = 1; !signal.aborted; tries += 1) {
      const ready = await this.#attempt().catch((error: unknown) => this.#report(error));
      if (ready === 'ready') return;
      await pause(this.#timing.retryMs * Math.min(tries, MOST_RETRIES_APART), signal);
    }
  }

  async #attempt(): Promise<'ready' | 'halted'> {
    const connecting = this.#backend.connect('work');
    const link = await Promise.race([connecting, aborted(this.#halt.signal)]);
    if (link === 'aborted') {
      connecting.then((late) => late.end()).catch(this.#report);
      return 'halted';
    }
    const workers = JOB_KINDS.flatMap((kind) => this.#worker(link, kind));
    const ready = Promise.all(workers.map((worker) => worker.waitUntilReady()));
    try {
      const outcome = await Promise.race([ready, aborted(this.#halt.signal)]);
      if (outcome !== 'aborted') {
        this.#link = link;
        this.#workers = workers;
        this.#loops.push(...workers.map((worker) => this.#keepRunning(worker)));
        return 'ready';
      }
    } catch (error) {
      await this.#discard(link, workers);
      throw error;
    }
    await this.#discard(link, workers);
    return 'halted';
  }

  async #discard(link: QueueLink, workers: readonly Consumer[]): Promise<void> {
    const closing = Promise.allSettled(workers.map((worker) => worker.close()));
    const outcome = await within(closing, this.#timing.closeWaitMs);
    if (outcome === 'late') link.cut();
    await within(closing, this.#timing.closeWaitMs);
    await link.end();
  }

  #worker<Kind extends JobKind>(link: QueueLink, kind: Kind): Consumer[] {
    const handler: JobHandlers[Kind] = this.#handlers[kind];
    if (handler === undefined) return [];
    const process: Processor = async (job, token) => {
      if (this.#halt.signal.aborted) return putBack(job, token);
      const data = decode(kind, job.data);
      if (data === undefined) {
        this.#logger.warn({ queue: this.#backend.description, kind }, 'a job without its ids was dropped');
        return;
      }
      const controller = new AbortController();
      const done = this.#handle(kind, () => handler.handle(data, controller.signal));
      const running = { controller, done };
      this.#running.add(running);
      await done;
      this.#running.delete(running);
    };
    const { lockMs, stalledCheckMs, retryMs } = this.#timing;
    const worker = link.consumer(kind, process, {
      concurrency: handler.concurrency,
      autorun: false,
      lockDuration: lockMs,
      stalledInterval: stalledCheckMs,
      maxStalledCount: MAX_STALLED,
      runRetryDelay: retryMs,
    });
    return [worker];
  }

  async #handle(kind: JobKind, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const queue = this.#backend.description;
      this.#logger.warn({ queue, kind, code: codeOf(error) }, 'a job failed');
    }
  }

  /** BullMQ's loop ends with what it did not expect; then it is begun again. */
  async #keepRunning(worker: Consumer): Promise<void> {
    const { signal } = this.#halt;
    while (!signal.aborted) {
      await worker.run().catch(this.#report);
      await pause(this.#timing.retryMs, signal);
    }
  }
}

/** A job that was on its way when the stop came goes to another worker. */
async function putBack(job: BullJob, token: string | undefined): Promise<never> {
  const { WaitingError } = await import('bullmq');
  await job.moveToWait(token);
  throw new WaitingError();
}

function interrupted(): DataProtectionError {
  return new DataProtectionError('The worker stopped before the job was done.', 'BACKUP_INTERRUPTED');
}

const FIELDS: { readonly [Kind in JobKind]: readonly (keyof JobData[Kind])[] } = {
  BACKUP: ['organizationId', 'snapshotId'],
  VERIFICATION: ['organizationId', 'storageJobId'],
  REPLICATION: ['organizationId', 'storageJobId'],
  SYNC: ['organizationId', 'streamId'],
  SYNC_CRITICAL: ['organizationId', 'streamId'],
};

function decode<Kind extends JobKind>(kind: Kind, data: unknown): JobData[Kind] | undefined {
  if (typeof data !== 'object' || data === null) return undefined;
  const values = new Map<PropertyKey, unknown>(Object.entries(data));
  const ids = FIELDS[kind].map((field) => [field, values.get(field)] as const);
  if (!ids.every(([, id]) => typeof id === 'string' && isUuid(id))) return undefined;
  return Object.fromEntries(ids) as JobData[Kind];
}
