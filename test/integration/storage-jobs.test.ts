import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import type { DataProtection, DataProtectionOptions } from '../../src/compose.ts';
import type { BackupSnapshot, StorageJob, StorageJobStatus } from '../../src/types/backup.ts';
import { jobSettled, replicated, several, TestStores, until } from '../harness/multi-stores.ts';
import { actorOf, auditActions, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

// Many restores in one test: a bound against hangs, on a machine that does other work.
vi.setConfig({ testTimeout: 120_000 });

const stores = new TestStores();
const b = stores.get('b');
let bench: ServiceBench;
const opened: DataProtection[] = [];

beforeAll(async () => {
  bench = await createBench(tinyData, stores.options);
  await bench.protection.migrate();
});
afterAll(() => bench[Symbol.asyncDispose]());
beforeEach(() => stores.reset());
afterEach(async () => {
  stores.reset();
  for (const one of opened.splice(0)) await one.close();
  // What a test left must not be run by the workers of the next.
  await sql("DELETE FROM care_backup.storage_jobs WHERE status IN ('QUEUED', 'IN_PROGRESS')", []);
});

const sql = (text: string, values: readonly unknown[]) => bench.database.pool.query(text, [...values]);

/** Another process, as it were; one whose clock is ahead finds what waits for its next try. */
async function open(aheadMs = 0, over: Partial<DataProtectionOptions> = {}): Promise<DataProtection> {
  const clock = { now: () => new Date(Date.now() + aheadMs) };
  const protection = await bench.open({ ...over, clock });
  opened.push(protection);
  return protection;
}
const HOURS = 3 * 60 * 60 * 1000;

async function take(): Promise<BackupSnapshot> {
  const { id } = await bench.configure({ storageDestination: several(1, 'a', 'b') });
  const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  expect((await replicated(bench, snapshot.id)).status).toBe('COMPLETED');
  return snapshot;
}

/** Keeps jobs from getting on in store b, until it is let go. */
function hold(): { readonly reached: Promise<void>; release(): void } {
  const reached = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  b.onCall = async () => {
    reached.resolve();
    await released.promise;
  };
  return { reached: reached.promise, release: released.resolve };
}

const becomes = (id: string, status: StorageJobStatus): Promise<StorageJob> =>
  until(`job ${status}`, async () => {
    const job = await bench.backups.getJobStatus(id);
    return job.status === status && job;
  });

test('a job is told of from its request to its end, with who asked', async () => {
  const snapshot = await take();
  const ended: StorageJob[] = [];
  const off = bench.protection.on('storage-job.ended', ({ job }) => ended.push(job));
  const job = await jobSettled(bench.backups, await bench.backups.startVerification(snapshot.id));
  expect(job).toMatchObject({
    status: 'COMPLETED',
    attempts: 1,
    result: { passed: true },
    progress: { percentage: 100 },
  });
  expect(await auditActions(bench.database.pool, job.id)).toEqual([
    'storage_job.requested',
    'storage_job.completed',
  ]);
  const { rows } = await sql(
    'SELECT DISTINCT user_id::text AS u FROM care_backup.audit_log WHERE resource_id = $1',
    [job.id],
  );
  expect(rows).toEqual([{ u: job.requestedBy }]);
  await until('the event', async () => ended.some(({ id }) => id === job.id));
  off();
});

test('a cancellation reaches a job in another process', async () => {
  const snapshot = await take();
  const held = hold();
  const worker = await (await open(0, { execution: 'worker' })).startWorker({ pollMs: 100 });
  const asking = (await open(0, { execution: 'worker' })).backups(actorOf(TINY_ORGANIZATION));
  const job = await asking.startReplication(snapshot.id);
  await held.reached;
  expect((await asking.cancelJob(job.id)).status).toBe('CANCELLED');
  await until('the progress was written once more', async () => {
    const { rows } = await sql(
      "SELECT 1 FROM pg_stat_activity WHERE application_name = 'care-backup lock' AND datname = current_database()",
      [],
    );
    held.release();
    return rows.length === 0;
  });
  expect(await asking.getJobStatus(job.id)).toMatchObject({ status: 'CANCELLED', result: null });
  await expect(asking.cancelJob(job.id)).rejects.toMatchObject({ code: 'INVALID_STATE' });
  expect(await auditActions(bench.database.pool, job.id)).toEqual([
    'storage_job.requested',
    'storage_job.cancelled',
  ]);
  await worker.stop();
});

describe('failures', () => {
  test('that may pass are tried again, later and later, eight times in all', async () => {
    const snapshot = await take();
    b.away = true;
    let { id } = await jobSettled(bench.backups, await bench.backups.startReplication(snapshot.id));
    const waits: number[] = [];
    for (let attempt = 1; attempt < 8; attempt += 1) {
      const job = await bench.backups.getJobStatus(id);
      expect(job).toMatchObject({ status: 'QUEUED', attempts: attempt, completedAt: null });
      waits.push(Math.round((Date.parse(job.notBefore) - Date.parse(job.error?.occurredAt ?? '')) / 60_000));
      id = (await jobSettled(bench.backups, await bench.backups.startReplication(snapshot.id))).id;
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 60]);
    expect(await bench.backups.getJobStatus(id)).toMatchObject({
      status: 'FAILED',
      attempts: 8,
      error: { code: 'STORAGE_UNAVAILABLE' },
    });
    expect(await auditActions(bench.database.pool, id)).toEqual([
      'storage_job.requested',
      'storage_job.failed',
    ]);
  });

  test('are tried again by a worker, when their time has come', async () => {
    const snapshot = await take();
    b.away = true;
    const { id } = await jobSettled(bench.backups, await bench.backups.startReplication(snapshot.id));
    b.away = false;
    const worker = await (await open(HOURS)).startWorker({ pollMs: 100 });
    expect(await becomes(id, 'COMPLETED')).toMatchObject({ attempts: 2 });
    await worker.stop();
  });

  test('that will not pass end the job at once', async () => {
    const snapshot = await take();
    for (const name of ['a', 'b']) {
      const { sound } = stores.get(name);
      await sound.delete(`${snapshot.storageLocation?.path}o-000001`);
    }
    expect(await jobSettled(bench.backups, await bench.backups.startReplication(snapshot.id))).toMatchObject({
      status: 'FAILED',
      attempts: 1,
      error: { code: 'ARCHIVE_CORRUPT', recoverable: false },
    });
  });
});

describe('a process that ends', () => {
  test('killed, leaves a job that a worker takes up; after eight deaths nobody does', async () => {
    const snapshot = await take();
    const held = hold();
    const { id } = await bench.backups.startReplication(snapshot.id);
    await held.reached;
    // The lock dies with the process; what it had entered stays.
    await sql(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'care-backup lock' AND datname = current_database()`,
      [],
    );
    held.release();
    b.onCall = undefined;
    const worker = await (await open(HOURS)).startWorker({ pollMs: 100 });
    expect((await becomes(id, 'COMPLETED')).attempts).toBeGreaterThanOrEqual(1);
    await sql(
      `UPDATE care_backup.storage_jobs SET status = 'IN_PROGRESS', attempts = 7, result = NULL, completed_at = NULL, updated_at = now() WHERE id = $1`,
      [id],
    );
    expect(await becomes(id, 'COMPLETED')).toMatchObject({ attempts: 8 });
    await worker.stop();
    await sql(
      `UPDATE care_backup.storage_jobs SET status = 'IN_PROGRESS', attempts = 8, result = NULL, completed_at = NULL, updated_at = now() WHERE id = $1`,
      [id],
    );
    const another = await (await open(HOURS)).startWorker({ pollMs: 100 });
    expect(await becomes(id, 'FAILED')).toMatchObject({ error: { code: 'BACKUP_INTERRUPTED' } });
    await another.stop();
  });

  test('a worker that stops puts its job back, which costs it no try', async () => {
    const snapshot = await take();
    const held = hold();
    const worker = await (await open(0, { execution: 'worker' })).startWorker({ pollMs: 100 });
    const asking = (await open(0, { execution: 'worker' })).backups(actorOf(TINY_ORGANIZATION));
    const { id } = await asking.startReplication(snapshot.id);
    await held.reached;
    const stopped = worker.stop({ graceMs: 10 });
    setTimeout(held.release, 200);
    await stopped;
    expect(await asking.getJobStatus(id)).toMatchObject({
      status: 'QUEUED',
      error: { code: 'BACKUP_INTERRUPTED', recoverable: true },
    });
    b.onCall = undefined;
    const next = await (await open()).startWorker({ pollMs: 100 });
    expect((await becomes(id, 'COMPLETED')).result).toMatchObject({ stored: 0 });
    await next.stop();
  });

  test('inline, `close` does not wait for a job but puts it back', async () => {
    const snapshot = await take();
    const held = hold();
    const protection = await bench.open();
    const { id } = await protection.backups(actorOf(TINY_ORGANIZATION)).startReplication(snapshot.id);
    await held.reached;
    const closed = protection.close();
    // A storage that hangs is left alone by its own time limit; this one has none.
    setTimeout(held.release, 200);
    await closed;
    expect(await bench.backups.getJobStatus(id)).toMatchObject({
      status: 'QUEUED',
      error: { code: 'BACKUP_INTERRUPTED' },
    });
    b.onCall = undefined;
    expect(await jobSettled(bench.backups, await bench.backups.startReplication(snapshot.id))).toMatchObject({
      id,
      status: 'COMPLETED',
    });
  });
});

test('two who ask for the same at once get one job, and both of a pair end well', async () => {
  const snapshot = await take();
  const asked = await Promise.allSettled([
    bench.backups.startReplication(snapshot.id),
    bench.backups.startReplication(snapshot.id),
    bench.backups.healSnapshot(snapshot.id),
  ]);
  const jobs = asked.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  expect(jobs).toHaveLength(2);
  for (const outcome of asked)
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'INVALID_STATE' });
  for (const job of jobs) expect((await jobSettled(bench.backups, job)).status).toBe('COMPLETED');
});
