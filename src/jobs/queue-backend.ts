import type { Job as BullJob, JobsOptions, WorkerOptions } from 'bullmq';
import type { Logger } from '../types/logger.ts';
import { ENQUEUE_WAIT_MS, type JobKind } from './jobs.ts';

/** What carries BullMQ: Redis or PostgreSQL. */
export interface QueueBackend {
  /** For logs: `redis` or `postgres` and a place, never a credential. */
  readonly description: string;
  /** Loads the packages, which is not part of the time that adding a job may take. */
  load(): Promise<unknown>;
  /** Opens connections of their own for adding or for working. Rejects where the backend refuses or is not there. */
  connect(purpose: 'add' | 'work'): Promise<QueueLink>;
}

/** Connections to the queues of all kinds. */
export interface QueueLink {
  producer(kind: JobKind): Producer;
  /** A worker that does nothing before `run()`. */
  consumer(kind: JobKind, process: Processor, options: ConsumerOptions): Consumer;
  /** Cuts the connections for good: whatever waits for an answer, or asks from now on, fails. */
  cut(): void;
  /** Closes the connections; cuts those that do not close in time. */
  end(): Promise<void>;
}

/** What is used of BullMQ's `Queue`, whichever backend carries it. */
export interface Producer {
  add(name: string, data: unknown, options: JobsOptions): Promise<unknown>;
  waitUntilReady(): Promise<unknown>;
  close(): Promise<void>;
}

/** What is used of BullMQ's `Worker`. */
export interface Consumer {
  run(): Promise<void>;
  waitUntilReady(): Promise<unknown>;
  close(): Promise<void>;
}

export type Processor = (job: BullJob, token: string | undefined) => Promise<void>;
export type ConsumerOptions = Omit<WorkerOptions, 'connection' | 'prefix'>;

/** Milliseconds. The defaults fit production; tests shorten what they would wait for. */
export interface QueueTiming {
  /** What `add` waits at most. */
  readonly enqueueWaitMs: number;
  /** How long a job stays with a worker that no longer renews it; renewed at half of it. */
  readonly lockMs: number;
  /** How often a worker looks for jobs whose worker is gone. */
  readonly stalledCheckMs: number;
  /** Pause after a failed command or connection. */
  readonly retryMs: number;
  /** How long a connection may stay silent while an answer is due, before it is cut. */
  readonly silenceMs: number;
  /** What `work` waits for the queue to answer; then it goes on trying by itself. */
  readonly startWaitMs: number;
  /** What an orderly end of a connection may take before it is cut. */
  readonly closeWaitMs: number;
}

/** A killed worker's job comes to another after `lockMs` and up to two `stalledCheckMs`. */
export const QUEUE_TIMING: QueueTiming = {
  enqueueWaitMs: ENQUEUE_WAIT_MS,
  lockMs: 60_000,
  stalledCheckMs: 30_000,
  retryMs: 1_000,
  silenceMs: 30_000,
  startWaitMs: 5_000,
  closeWaitMs: 3_000,
};

/** Takes what goes wrong behind the caller's back: connections lost, locks not renewed. */
export type Report = (error: unknown) => void;

const SAME_AGAIN_MS = 60_000;

/** Logs the code of an error, and the same code at most once a minute: a backend that is down fails all the time. */
export function reportTo(logger: Logger, queue: string): Report {
  const loggedAt = new Map<string, number>();
  return (error) => {
    const code = codeOf(error);
    const before = loggedAt.get(code);
    if (before !== undefined && Date.now() - before < SAME_AGAIN_MS) return;
    loggedAt.set(code, Date.now());
    logger.warn({ queue, code }, 'the job queue has a problem and goes on trying');
  };
}

/** A stable word for an error: its code (SQLSTATE, errno, ours), else its class. */
export function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name;
}

/**
 * BullMQ's worker repeats a fetch that failed for another reason than a refused connection at once, for as long as
 * it fails (a server that starts up, is read-only, or is out of memory): the pause keeps that from being a hot loop.
 */
export function patient<Backend extends { moveToActive(token: string, name?: string): Promise<unknown[]> }>(
  backend: Backend,
  wait: () => Promise<void>,
): Backend {
  const moveToActive = backend.moveToActive.bind(backend);
  backend.moveToActive = async (token, name) => {
    try {
      return await moveToActive(token, name);
    } catch (error) {
      await wait();
      throw error;
    }
  };
  return backend;
}
