import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DataProtection } from '../../src/compose.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { type FaultyStorage, faultyStorage } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { runChild } from '../harness/kill-process.ts';
import { actorOf, auditActions, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { expectSettled, keysOf } from '../harness/service-settled.ts';
import { TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

let bench: ServiceBench;
/** As another process would have it: the same database and storage, nothing else in common. */
let elsewhere: BackupService;
let other: DataProtection;
let used: ObjectStorage;

beforeAll(async () => {
  bench = await createBench(tinyData, { openStorage: () => used });
  other = await bench.open();
  elsewhere = other.backups(actorOf(TINY_ORGANIZATION));
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});
beforeEach(() => {
  used = memoryStorage();
});

/** A run that has come to the n-th call of its storage and waits there until it is let go or cancelled. */
async function runUpTo(
  call: number,
): Promise<{ id: string; snapshotId: string; storage: FaultyStorage; sound: ObjectStorage }> {
  const { id } = await bench.configure();
  const sound = used;
  const storage = faultyStorage(sound, [{ call, effect: 'hang', when: 'before' }]);
  used = storage;
  const { id: snapshotId } = await bench.backups.createSnapshot({ configurationId: id });
  while (storage.injected.length === 0) await sleep(10);
  used = sound;
  return { id, snapshotId, storage, sound };
}

/** A run that waits at its first object until it is let go. */
async function heldRun() {
  const { id } = await bench.configure();
  const sound = used;
  const reached = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  used = {
    ...sound,
    async put(key, body, options) {
      reached.resolve();
      await gate.promise;
      return sound.put(key, body, options);
    },
  };
  const running = bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  await reached.promise;
  used = sound;
  const letGo = () => {
    gate.resolve();
    return running;
  };
  return { id, letGo, sound };
}

const codes = (outcomes: readonly PromiseSettledResult<unknown>[]): string[] =>
  outcomes.map((outcome) =>
    outcome.status === 'fulfilled' ? 'done' : String((outcome.reason as { code?: string }).code),
  );

describe('one run per configuration', () => {
  test('of twenty at once one runs and the others are told', async () => {
    const { id } = await bench.configure();
    const services = Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? bench.backups : elsewhere));
    const sound = used;
    used = faultyStorage(sound, [
      { call: 'every', operation: 'put', effect: 'delay', when: 'before', milliseconds: 500 },
    ]);
    const outcomes = await Promise.allSettled(
      services.map((service) => service.createSnapshot({ configurationId: id }, { wait: true })),
    );
    used = sound;
    expect(codes(outcomes).sort()).toEqual([
      ...Array.from({ length: 19 }, () => 'BACKUP_ALREADY_RUNNING'),
      'done',
    ]);
    expect((await bench.backups.listSnapshots({ configurationId: id })).items).toHaveLength(1);
    await expectSettled(elsewhere, id, sound);
  });

  test('also of two processes', async () => {
    const { id } = await bench.configure({
      storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: bench.folder } },
    });
    const order = { url: bench.database.url, folder: bench.folder, configurationId: id };
    const children = [runChild(order), runChild(order), runChild(order), runChild(order)];
    const ends = await Promise.all(children);
    const { rows } = await bench.database.pool.query<{ status: string }>(
      'SELECT status FROM care_backup.backup_snapshots WHERE configuration_id = $1',
      [id],
    );
    expect(rows.every(({ status }) => status === 'COMPLETED')).toBe(true);
    const done = ends.filter(({ output }) => output.includes('DONE')).length;
    const refused = ends.filter(({ output }) => output.includes('ERROR BACKUP_ALREADY_RUNNING')).length;
    expect([done, refused]).toEqual([rows.length, 4 - rows.length]);
  });

  test('configurations do not wait for each other', async () => {
    const first = await runUpTo(1);
    const { id } = await bench.configure();
    const second = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    expect(second.status).toBe('COMPLETED');
    await bench.backups.cancelSnapshot(first.snapshotId);
  });
});

describe('cancellation', () => {
  test.each([1, 2, 3])(
    'at call %i of the storage takes effect within a second, in the process that runs it',
    async (call) => {
      const { id, snapshotId, sound } = await runUpTo(call);
      const since = Date.now();
      expect(await bench.backups.cancelSnapshot(snapshotId)).toMatchObject({
        status: 'CANCELLED',
        errors: [],
      });
      expect(Date.now() - since).toBeLessThan(10_000);
      const keys = await keysOf(sound, id);
      expect(keys.map((key) => key.split('/').at(-1))).toEqual(['manifest']);
      expect(await auditActions(bench.database.pool, snapshotId)).toEqual([
        'snapshot.requested',
        'snapshot.cancel_requested',
        'snapshot.cancelled',
      ]);
      await expectSettled(bench.backups, id, sound);
    },
  );

  test.each([1, 2, 3])(
    'at call %i of the storage takes effect within about a second, from another process',
    async (call) => {
      const { id, snapshotId, sound } = await runUpTo(call);
      const cancelled = Promise.withResolvers<void>();
      bench.protection.on(
        'snapshot.cancelled',
        (event) => event.snapshotId === snapshotId && cancelled.resolve(),
      );
      const since = Date.now();
      await elsewhere.cancelSnapshot(snapshotId);
      await cancelled.promise;
      expect(Date.now() - since).toBeLessThan(10_000);
      expect(await elsewhere.getSnapshot(snapshotId)).toMatchObject({ status: 'CANCELLED' });
      await expectSettled(elsewhere, id, sound);
    },
  );

  test('while it waits for a lock on a table', async () => {
    const { id } = await bench.configure();
    const blocker = await bench.database.pool.connect();
    const off = bench.protection.on('snapshot.started', ({ snapshot }) => {
      if (snapshot.configurationId === id)
        blocking = blocker.query('BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE');
    });
    let blocking: Promise<unknown> = Promise.resolve();
    const { id: snapshotId } = await bench.backups.createSnapshot({ configurationId: id });
    await blocking;
    await sleep(200);
    const since = Date.now();
    const ended = await bench.backups.cancelSnapshot(snapshotId);
    expect(Date.now() - since).toBeLessThan(10_000);
    off();
    await blocker.query('ROLLBACK');
    blocker.release();
    expect(ended.status).toBe('CANCELLED');
    await expectSettled(bench.backups, id, used);
  });

  test('of what has ended is refused, and leaves no entry', async () => {
    const { id } = await bench.configure();
    const { id: snapshotId } = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    await expect(bench.backups.cancelSnapshot(snapshotId)).rejects.toMatchObject({ code: 'INVALID_STATE' });
    expect(await auditActions(bench.database.pool, snapshotId)).toEqual([
      'snapshot.requested',
      'snapshot.completed',
    ]);
  });

  test('twice at once is harmless', async () => {
    const { id, snapshotId, sound } = await runUpTo(1);
    const outcomes = await Promise.allSettled([
      bench.backups.cancelSnapshot(snapshotId),
      elsewhere.cancelSnapshot(snapshotId),
      bench.backups.cancelSnapshot(snapshotId),
    ]);
    expect(codes(outcomes).every((code) => code === 'done' || code === 'INVALID_STATE')).toBe(true);
    while ((await bench.backups.getSnapshot(snapshotId)).status !== 'CANCELLED') await sleep(20);
    await expectSettled(bench.backups, id, sound);
  });
});

describe('while a run goes on, its configuration', () => {
  test('can be paused: the run ends, no other begins', async () => {
    const { id, letGo } = await heldRun();
    await bench.backups.pauseConfiguration(id, 'maintenance');
    await expect(bench.backups.createSnapshot({ configurationId: id })).rejects.toMatchObject({
      code: 'INVALID_STATE',
    });
    expect(await letGo()).toMatchObject({ status: 'COMPLETED' });
    expect(await bench.backups.getConfiguration(id)).toMatchObject({
      status: 'PAUSED',
      totalBackupsCreated: 1,
    });
  });

  test('cannot be deleted, and can be afterwards; its snapshots stay and restore', async () => {
    const { id, letGo } = await heldRun();
    await expect(bench.backups.deleteConfiguration(id)).rejects.toMatchObject({
      code: 'BACKUP_ALREADY_RUNNING',
    });
    const snapshot = await letGo();
    await bench.backups.deleteConfiguration(id);
    await expect(bench.backups.getConfiguration(id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(bench.backups.createSnapshot({ configurationId: id })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
    expect(await bench.backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true });
    const restoreDestination = { type: 'TEST', schemaName: 'outlived' } as const;
    await bench.backups.createRestoreOperation(
      { snapshotId: snapshot.id, restoreDestination },
      { wait: true },
    );
    expect(await tinyDifferences(bench.database.pool, 'outlived')).toBe(0);
  });

  test('can be changed: the run is as it began, the next as it is then', async () => {
    const { id, letGo, sound } = await heldRun();
    await bench.backups.updateConfiguration(id, {
      scope: { includeEntities: ['ITEM'] },
      compressionAlgorithm: 'GZIP',
      checksumAlgorithm: 'SHA512',
      storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/elsewhere', prefix: 'moved' } },
    });
    const snapshot = await letGo();
    expect(snapshot).toMatchObject({
      status: 'COMPLETED',
      compressionAlgorithm: 'ZSTD',
      checksumAlgorithm: 'SHA256',
    });
    expect(snapshot.dataMetrics?.recordsByEntity).toEqual({ ITEM: 40, PART: 80 });
    const [earlier] = await expectSettled(bench.backups, id, sound);
    expect(earlier?.storageLocation?.path.startsWith('moved/')).toBe(false);
    const [next] = (await bench.backups.listSnapshots({ configurationId: id })).items;
    expect(next?.dataMetrics?.recordsByEntity).toEqual({ ITEM: 40 });
    expect(next?.storageLocation?.path.startsWith('moved/')).toBe(true);
  });
});
