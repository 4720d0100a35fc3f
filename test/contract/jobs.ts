import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Job, JobHandlers, JobQueue } from '../../src/jobs/jobs.ts';
import type { QueueTiming } from '../../src/jobs/queue-backend.ts';
import type { LogFields, Logger } from '../../src/types/logger.ts';
import { type JobsOrder, openQueue, type QueuePlace } from '../harness/jobs-child.ts';

/** A private backend that the suite stops, hangs and empties. */
export interface JobsServer extends AsyncDisposable {
  /** A namespace that no test used before. */
  place(): QueuePlace;
  /** Connections stay open and nothing answers. */
  hang(): void;
  resume(): void;
  down(): Promise<void>;
  up(): Promise<void>;
  /** All jobs are gone: FLUSHALL, TRUNCATE. */
  wipe(place: QueuePlace): Promise<void>;
}

/** Short, so that nothing waits long; `add` waits long, since it is no matter of time here but in two tests. */
export const TEST_TIMING: Partial<QueueTiming> = {
  enqueueWaitMs: 15_000,
  lockMs: 2_000,
  stalledCheckMs: 250,
  retryMs: 100,
  silenceMs: 10_000,
  startWaitMs: 20_000,
  closeWaitMs: 500,
};

export interface LogLine {
  readonly fields: LogFields;
  readonly message: string;
}

export function loggerInto(lines: LogLine[]): Logger {
  const log = (fields: LogFields, message: string): void => void lines.push({ fields, message });
  return { debug: log, info: log, warn: log, error: log };
}

export function backupJob(key: string = randomUUID(), delayMs = 0): Job<'BACKUP'> {
  return {
    kind: 'BACKUP',
    key,
    data: { organizationId: randomUUID(), snapshotId: randomUUID() },
    delayMs,
  };
}

export async function until(what: string, holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 25_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`waited 25 s in vain for: ${what}`);
    await sleep(10);
  }
}

/** What every `JobQueue` promises. */
export function jobsContract(name: string, start: () => Promise<JobsServer>): void {
  describe(`${name}: the jobs contract`, () => {
    let server: JobsServer;
    let place: QueuePlace;
    const queues: JobQueue[] = [];
    const children: JobsChild[] = [];
    const logs: LogLine[] = [];
    const rejections: unknown[] = [];
    const onRejection = (reason: unknown): void => void rejections.push(reason);

    beforeAll(async () => {
      process.on('unhandledRejection', onRejection);
      server = await start();
      // It may have to be installed first.
    }, 300_000);
    afterAll(async () => {
      await server?.[Symbol.asyncDispose]();
      process.off('unhandledRejection', onRejection);
    });
    beforeEach(() => {
      place = server.place();
    });
    afterEach(async () => {
      server.resume();
      for (const child of children.splice(0)) await child.kill();
      await Promise.all(queues.splice(0).map((queue) => queue.close()));
      logs.length = 0;
      expect(rejections).toEqual([]);
    });

    const open = (timing: Partial<QueueTiming> = {}): JobQueue => {
      const queue = openQueue(place, { ...TEST_TIMING, ...timing }, loggerInto(logs));
      queues.push(queue);
      return queue;
    };
    const child = (mode: JobsOrder['mode']): JobsChild => {
      const started = new JobsChild({ place, timing: TEST_TIMING, mode });
      children.push(started);
      return started;
    };

    it('delivers every job once, with its ids', async () => {
      const queue = open();
      const got: unknown[] = [];
      await queue.work(taking((data) => void got.push(data), 3));
      const jobs = Array.from({ length: 40 }, () => backupJob());
      for (const job of jobs) await queue.add(job);
      await until('40 jobs', () => got.length >= jobs.length);
      await queue.stop({ graceMs: 5_000 });
      expect(sorted(got)).toEqual(sorted(jobs.map(({ data }) => data)));
    });

    it('makes one job of those that wait under one key, per kind', async () => {
      const queue = open();
      const got: string[] = [];
      for (let count = 0; count < 5; count += 1) await queue.add(backupJob('same'));
      const storage = { organizationId: randomUUID(), storageJobId: randomUUID() };
      await queue.add({ kind: 'REPLICATION', key: 'same', data: storage });
      await queue.add(backupJob('last'));
      await queue.work({
        ...taking(() => void got.push('BACKUP')),
        REPLICATION: { concurrency: 1, handle: async () => void got.push('REPLICATION') },
      });
      await until('three jobs', () => got.length >= 3);
      await queue.stop({ graceMs: 5_000 });
      expect(got.toSorted()).toEqual(['BACKUP', 'BACKUP', 'REPLICATION']);
    });

    it('runs a job once more that is added while its like runs', async () => {
      const queue = open();
      const gate = Promise.withResolvers<void>();
      let begun = 0;
      let together = 0;
      await queue.work(
        taking(async () => {
          begun += 1;
          together += 1;
          expect(together).toBe(1);
          if (begun === 1) await gate.promise;
          together -= 1;
        }, 3),
      );
      await queue.add(backupJob('same'));
      await until('the first run', () => begun === 1);
      for (let count = 0; count < 3; count += 1) await queue.add(backupJob('same'));
      gate.resolve();
      await until('the second run', () => begun === 2);
      await queue.add(backupJob('same'));
      await until('a third run, of its own', () => begun === 3);
      await queue.stop({ graceMs: 5_000 });
      expect(begun).toBe(3);
    });

    it('holds a delayed job back until its time, and no longer than a like that is wanted now', async () => {
      const queue = open();
      const got: string[] = [];
      const later = backupJob('later', 1_500);
      const hours = backupJob('hours', 3_600_000);
      const now = backupJob('now');
      await queue.add(later);
      await queue.add(hours);
      await queue.work(taking(({ snapshotId }) => void got.push(snapshotId)));
      await queue.add(now);
      await until('the job without a delay', () => got.length >= 1);
      await queue.add(backupJob('hours'));
      await until('all three', () => got.length >= 3);
      expect(got).toEqual([now, hours, later].map(({ data }) => data.snapshotId));
    });

    it('runs as many of a kind as it may, and no kind waits for another', async () => {
      const queue = open();
      const gate = Promise.withResolvers<void>();
      let running = 0;
      let most = 0;
      let done = 0;
      let verified = 0;
      await queue.work({
        ...taking(async () => {
          running += 1;
          most = Math.max(most, running);
          await gate.promise;
          running -= 1;
          done += 1;
        }, 2),
        VERIFICATION: {
          concurrency: 1,
          handle: async () => {
            verified += 1;
          },
        },
      });
      for (let count = 0; count < 5; count += 1) await queue.add(backupJob());
      await until('two running', () => running === 2);
      const data = { organizationId: randomUUID(), storageJobId: randomUUID() };
      await queue.add({ kind: 'VERIFICATION', key: 'other', data });
      await until('the other kind', () => verified === 1);
      expect(running).toBe(2);
      gate.resolve();
      await until('all five', () => done === 5);
      expect(most).toBe(2);
    });

    it('shares the jobs of one queue between processes', async () => {
      const [one, other] = [child('take'), child('take')];
      await Promise.all([one.said('ready'), other.said('ready')]);
      const queue = open();
      const jobs = Array.from({ length: 40 }, () => backupJob());
      for (const job of jobs) await queue.add(job);
      await until('40 jobs', () => one.got().length + other.got().length >= jobs.length);
      expect(one.got().length).toBeGreaterThan(0);
      expect(other.got().length).toBeGreaterThan(0);
      const wanted = jobs.map(({ data }) => data.snapshotId);
      expect([...one.got(), ...other.got()].toSorted()).toEqual(wanted.toSorted());
    });

    it('goes on after a handler that throws, logs its code and no more, and does not repeat the job', async () => {
      const queue = open();
      let calls = 0;
      await queue.work(
        taking(() => {
          calls += 1;
          if (calls === 1) throw Object.assign(new Error('metformin'), { code: 'STORAGE_FULL' });
        }),
      );
      await queue.add(backupJob('same'));
      await until('the failure in the log', () => logs.some(({ message }) => message === 'a job failed'));
      await queue.add(backupJob('same'));
      await until('the next job', () => calls === 2);
      await queue.stop({ graceMs: 5_000 });
      expect(calls).toBe(2);
      const failed = logs.filter(({ message }) => message === 'a job failed');
      expect(failed.map(({ fields }) => fields.code)).toEqual(['STORAGE_FULL']);
      expect(JSON.stringify(logs)).not.toContain('metformin');
    });

    it('stops: what runs ends, what waits stays for others', async () => {
      const queue = open();
      const gate = Promise.withResolvers<void>();
      const ended: string[] = [];
      const jobs = [backupJob(), backupJob(), backupJob()];
      let begun = 0;
      await queue.work(
        taking(async ({ snapshotId }, signal) => {
          begun += 1;
          await gate.promise;
          ended.push(signal.aborted ? 'aborted' : snapshotId);
        }),
      );
      for (const job of jobs) await queue.add(job);
      await until('the first', () => begun === 1);
      const stopping = queue.stop({ graceMs: 20_000 });
      gate.resolve();
      await stopping;
      expect(ended).toEqual([jobs[0]?.data.snapshotId]);
      const late = backupJob();
      await queue.add(late);
      const other = open();
      await other.work(taking(({ snapshotId }) => void ended.push(snapshotId)));
      await until('the rest', () => ended.length >= 4);
      expect(ended.toSorted()).toEqual([...jobs, late].map(({ data }) => data.snapshotId).toSorted());
      expect(begun).toBe(1);
    });

    it('strands no job by a stop in mid-run, and none comes twice for it', async () => {
      const unrenewed = { lockMs: 600_000, stalledCheckMs: 600_000 };
      const got: string[] = [];
      const take = taking(async ({ snapshotId }) => {
        got.push(snapshotId);
        await sleep(1);
      }, 4);
      const wanted: string[] = [];
      const adder = open();
      for (let round = 0; round < 6; round += 1) {
        const queue = open(unrenewed);
        await queue.work(take);
        const target = got.length + 5;
        for (let count = 0; count < 20; count += 1) {
          const job = backupJob();
          wanted.push(job.data.snapshotId);
          const adding = adder.add(job);
          if (count === 10) await until('some', () => got.length >= target);
          if (count === 10 + round) void queue.stop({ graceMs: 10_000 });
          await adding;
        }
        await queue.stop({ graceMs: 10_000 });
        await queue.close();
      }
      const last = open(unrenewed);
      await last.work(take);
      await until('all', () => got.length >= wanted.length);
      await last.stop({ graceMs: 10_000 });
      expect(got.toSorted()).toEqual(wanted.toSorted());
    });

    it('aborts after the grace what still runs, and waits for its end', async () => {
      const queue = open();
      const reasons: unknown[] = [];
      let begun = 0;
      await queue.work(
        taking(async (_data, signal) => {
          begun += 1;
          await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
          await sleep(50);
          reasons.push(signal.reason);
          throw signal.reason;
        }, 2),
      );
      await queue.add(backupJob());
      await queue.add(backupJob());
      await until('both', () => begun === 2);
      await Promise.all([queue.stop({ graceMs: 50 }), queue.stop({ graceMs: 50 })]);
      expect(reasons).toHaveLength(2);
      expect(reasons[0]).toMatchObject({ code: 'BACKUP_INTERRUPTED' });
    });

    it('closes more than once, before use too, and refuses what comes after', async () => {
      const unused = open();
      await Promise.all([unused.close(), unused.close()]);
      const queue = open();
      await queue.add(backupJob());
      await queue.work(taking(() => {}));
      await queue.close();
      await queue.close();
      await queue[Symbol.asyncDispose]();
      for (const closed of [unused, queue]) {
        await expect(closed.add(backupJob())).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
        await expect(closed.work({})).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
      }
    });

    it('works once per queue', async () => {
      const queue = open();
      await queue.work(taking(() => {}));
      await expect(queue.work({})).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
    });

    it('keeps no process alive after its close', async () => {
      const process = child('once');
      await process.said('closed');
      expect(await process.end).toEqual({ code: 0, signal: null });
    });

    it('keeps no process alive that closes with a running job while the backend hangs', async () => {
      const process = child('hold');
      await process.said('ready');
      await open().add(backupJob());
      await until('the job', () => process.got().length === 1);
      server.hang();
      process.terminate();
      await process.said('closed');
      expect(await process.end).toEqual({ code: 0, signal: null });
    });

    it('loads no client before its first use', async () => {
      const process = child('idle');
      await process.said('loaded: none');
      expect(await process.end).toEqual({ code: 0, signal: null });
    });

    it('refuses a job that is none', async () => {
      const queue = open();
      for (const key of ['', 'a b', 'a:b', 'x'.repeat(101)]) {
        await expect(queue.add(backupJob(key))).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
      }
      for (const delay of [-1, 0.5, Number.NaN, Number.MAX_SAFE_INTEGER]) {
        await expect(queue.add(backupJob('a', delay))).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
      }
    });

    it('gives the job of a killed process to another', async () => {
      const dying = child('hold');
      await dying.said('ready');
      const queue = open();
      const job = backupJob();
      await queue.add(job);
      await until('the job at the child', () => dying.got().length === 1);
      await dying.kill();
      const got: string[] = [];
      await queue.work(taking(({ snapshotId }) => void got.push(snapshotId)));
      await until('the job again', () => got.length === 1);
      expect(got).toEqual([job.data.snapshotId]);
    });

    it('keeps a job that lasts longer than its lock', async () => {
      const queue = open({ lockMs: 1_500, stalledCheckMs: 200 });
      const other = open({ lockMs: 1_500, stalledCheckMs: 200 });
      let calls = 0;
      let ended = 0;
      const long = taking(async () => {
        calls += 1;
        await sleep(3_500);
        ended += 1;
      });
      await Promise.all([queue.work(long), other.work(long)]);
      await queue.add(backupJob());
      await until('the end', () => ended === 1);
      await Promise.all([queue.stop({ graceMs: 5_000 }), other.stop({ graceMs: 5_000 })]);
      expect(calls).toBe(1);
    });

    it('gives up an add in time while the backend hangs, and stops and closes all the same', async () => {
      const queue = open();
      const got: string[] = [];
      await queue.work(taking(({ snapshotId }) => void got.push(snapshotId)));
      const hasty = open({ enqueueWaitMs: 100 });
      await patiently(() => hasty.add(backupJob()));
      await until('the first job', () => got.length > 0);
      server.hang();
      const hanging = await Promise.all(
        Array.from({ length: 20 }, () => hasty.add(backupJob()).then(() => 'added', codeOf)),
      );
      expect(hanging).toEqual(Array.from({ length: 20 }, () => 'QUEUE_UNAVAILABLE'));
      const fresh = open({ enqueueWaitMs: 100 });
      await expect(fresh.add(backupJob())).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
      await Promise.all([fresh.close(), hasty.close(), queue.stop({ graceMs: 100 })]);
      await queue.close();
    });

    it('goes on after a backend that hung', async () => {
      const queue = open();
      const got: string[] = [];
      await queue.work(taking(({ snapshotId }) => void got.push(snapshotId)));
      server.hang();
      await sleep(1_500);
      server.resume();
      const job = backupJob();
      await patiently(() => queue.add(job));
      await until('the job', () => got.includes(job.data.snapshotId));
    });

    it('survives a restart of the backend: adds fail meanwhile, work goes on after', async () => {
      const queue = open();
      const hasty = open({ enqueueWaitMs: 100 });
      const got: string[] = [];
      const gate = Promise.withResolvers<void>();
      await queue.work(
        taking(async ({ snapshotId }) => {
          got.push(snapshotId);
          if (got.length === 1) await gate.promise;
        }),
      );
      await patiently(() => hasty.add(backupJob()));
      await until('the job that runs', () => got.length === 1);
      await server.down();
      for (let count = 0; count < 10; count += 1) {
        await expect(hasty.add(backupJob())).rejects.toMatchObject({ code: 'QUEUE_UNAVAILABLE' });
        await sleep(50);
      }
      gate.resolve();
      await sleep(1_000);
      await server.up();
      const job = backupJob();
      await patiently(() => hasty.add(job));
      await until('the job after it', () => got.includes(job.data.snapshotId));
    });

    it('starts while the backend is down, and takes jobs when it is there', async () => {
      await server.down();
      const queue = open({ startWaitMs: 200 });
      const got: string[] = [];
      await queue.work(taking(({ snapshotId }) => void got.push(snapshotId)));
      const unlucky = open({ startWaitMs: 200 });
      await unlucky.work(taking(() => {}));
      await unlucky.stop({ graceMs: 100 });
      await unlucky.close();
      await server.up();
      const job = backupJob();
      await patiently(() => queue.add(job));
      await until('the job', () => got.includes(job.data.snapshotId));
    });

    it('takes new jobs after all were wiped, also under a key that was active then', async () => {
      const queue = open();
      const gate = Promise.withResolvers<void>();
      const got: string[] = [];
      await queue.work(
        taking(async ({ snapshotId }) => {
          got.push(snapshotId);
          if (got.length === 1) await gate.promise;
        }),
      );
      await queue.add(backupJob('same'));
      await until('the first', () => got.length === 1);
      await queue.add(backupJob('waiting'));
      await server.wipe(place);
      gate.resolve();
      const jobs = [backupJob('same'), backupJob('waiting')];
      for (const job of jobs) await queue.add(job);
      await until('both', () => jobs.every(({ data }) => got.includes(data.snapshotId)));
    });
  });
}

type Take = (
  data: { readonly organizationId: string; readonly snapshotId: string },
  signal: AbortSignal,
) => void | Promise<void>;

export function taking(take: Take, concurrency = 1): JobHandlers {
  return { BACKUP: { concurrency, handle: async (data, signal) => take(data, signal) } };
}

/** For a backend that comes back: a caller would leave it to the sweeper. */
async function patiently(add: () => Promise<void>): Promise<void> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const outcome = await add().then(() => 'added', codeOf);
    if (outcome === 'added') return;
    expect(outcome).toBe('QUEUE_UNAVAILABLE');
    if (Date.now() > deadline) throw new Error('the queue did not come back within 20 s');
    await sleep(50);
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : error;
}

function sorted(list: readonly unknown[]): string[] {
  return list.map((one) => JSON.stringify(one)).toSorted();
}

const SCRIPT = fileURLToPath(new URL('../harness/jobs-child.ts', import.meta.url));

/** A process of its own at the queue. */
export class JobsChild {
  readonly end: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  readonly #process: ChildProcess;
  #output = '';

  constructor(order: JobsOrder) {
    const args = ['--disable-warning=ExperimentalWarning', SCRIPT, JSON.stringify(order)];
    this.#process = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const hear = (chunk: Buffer): void => {
      this.#output += chunk.toString();
    };
    this.#process.stdout?.on('data', hear);
    this.#process.stderr?.on('data', hear);
    this.end = new Promise((resolve) => {
      this.#process.on('close', (code, signal) => resolve({ code, signal }));
    });
  }

  get output(): string {
    return this.#output;
  }

  got(): string[] {
    return [...this.#output.matchAll(/^got (\S+)$/gm)].map(([, id]) => id ?? '');
  }

  async said(text: string): Promise<void> {
    await until(`the child to say ${text}, not ${this.#output}`, () => this.#output.includes(text));
  }

  terminate(): void {
    this.#process.kill('SIGTERM');
  }

  async kill(): Promise<void> {
    this.#process.kill('SIGKILL');
    await this.end;
  }
}
