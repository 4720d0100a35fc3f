import { DataProtectionError, ValidationError, type ValidationIssue } from '../types/errors.ts';
import type { Logger } from '../types/logger.ts';
import { Consumers } from './consumers.ts';
import { JOB_KINDS, type Job, type JobHandlers, type JobKind, type JobQueue } from './jobs.ts';
import { Producers } from './producers.ts';
import { QUEUE_TIMING, type QueueBackend, type QueueTiming, type Report } from './queue-backend.ts';

const KEY = /^[A-Za-z0-9-]{1,100}$/;
/** BullMQ keeps a delay below 2^53 / 4096 ms in Redis; a year is far below. */
const MAX_DELAY_MS = 366 * 24 * 3_600_000;

/** The job queue on BullMQ: one BullMQ queue per kind. Nothing is loaded or connected before the first use. */
export class BullmqQueue implements JobQueue {
  readonly description: string;
  readonly #backend: QueueBackend;
  readonly #timing: QueueTiming;
  readonly #logger: Logger;
  readonly #report: Report;
  readonly #producers: Producers;
  #consumers: Consumers | undefined;
  #closed: Promise<void> | undefined;

  constructor(
    backend: QueueBackend,
    options: {
      readonly logger: Logger;
      readonly report: Report;
      readonly timing?: Partial<QueueTiming> | undefined;
    },
  ) {
    this.description = backend.description;
    this.#backend = backend;
    this.#timing = { ...QUEUE_TIMING, ...options.timing };
    this.#logger = options.logger;
    this.#report = options.report;
    this.#producers = new Producers(backend, this.#timing, this.#report);
  }

  async add<Kind extends JobKind>(job: Job<Kind>): Promise<void> {
    check(job);
    await this.#producers.add(job);
  }

  async work(handlers: JobHandlers): Promise<void> {
    if (this.#closed !== undefined) {
      throw new DataProtectionError('The job queue is closed.', 'QUEUE_UNAVAILABLE');
    }
    if (this.#consumers !== undefined) {
      throw new DataProtectionError('A job queue works once.', 'CONFIGURATION_INVALID');
    }
    const options = { timing: this.#timing, logger: this.#logger, report: this.#report };
    this.#consumers = new Consumers(this.#backend, handlers, options);
    await this.#consumers.start();
  }

  async stop(options: { readonly graceMs: number }): Promise<void> {
    await this.#consumers?.stop(options);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    await Promise.all([this.stop({ graceMs: 0 }), this.#producers.close()]);
  }
}

function check(job: Job<JobKind>): void {
  const issues: ValidationIssue[] = [];
  const { kind, key, delayMs = 0 } = job;
  if (!JOB_KINDS.includes(kind)) {
    issues.push({ path: 'kind', message: 'unknown.', remedy: `One of ${JOB_KINDS.join(', ')}.` });
  }
  if (!KEY.test(key)) {
    issues.push({ path: 'key', message: 'has another form.', remedy: '1 to 100 of A-Z, a-z, 0-9 and -.' });
  }
  if (!Number.isSafeInteger(delayMs) || delayMs < 0 || delayMs > MAX_DELAY_MS) {
    issues.push({ path: 'delayMs', message: 'out of range.', remedy: 'Whole milliseconds, up to a year.' });
  }
  if (issues.length > 0) throw new ValidationError('The job', issues);
}
