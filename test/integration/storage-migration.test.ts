import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import type { BackupService } from '../../src/service/backup-service.ts';
import type { BackupSnapshot, StorageDestination } from '../../src/types/backup.ts';
import {
  expectRestores,
  jobSettled,
  replicated,
  several,
  single,
  TestStores,
  until,
} from '../harness/multi-stores.ts';
import { createBench, type ServiceBench } from '../harness/service-bench.ts';
import { keysOf } from '../harness/service-settled.ts';
import { tinyData } from '../harness/service-tiny.ts';

// Many restores in one test: a bound against hangs, on a machine that does other work.
vi.setConfig({ testTimeout: 120_000 });

const stores = new TestStores();
const [a, b, c] = [stores.get('a'), stores.get('b'), stores.get('c')];
let bench: ServiceBench;
let backups: BackupService;

beforeAll(async () => {
  bench = await createBench(tinyData, stores.options);
  await bench.protection.migrate();
  backups = bench.backups;
});
afterAll(() => bench[Symbol.asyncDispose]());
beforeEach(() => stores.reset());

const configure = async (to: StorageDestination) => (await bench.configure({ storageDestination: to })).id;
const take = (configurationId: string) => backups.createSnapshot({ configurationId }, { wait: true });
const migrate = async (id: string, to: StorageDestination) =>
  jobSettled(backups, await backups.migrateStorage(id, to));
const remove = async (id: string) => jobSettled(backups, await backups.removeMigrated(id));
const all = async (configurationId: string): Promise<readonly BackupSnapshot[]> =>
  (await backups.listSnapshots({ configurationId, limit: 100 })).items;
const objectsOf = async (snapshot: BackupSnapshot, store: typeof a) =>
  keysOf(store.sound, `/${snapshot.snapshotNumber}/`);

async function flip(store: typeof a, snapshot: BackupSnapshot): Promise<void> {
  const key = (await objectsOf(snapshot, store)).find((name) => name.endsWith('o-000001')) ?? '';
  const bytes = await store.sound.get(key);
  bytes[9] = (bytes[9] ?? 0) ^ 1;
  await store.sound.delete(key);
  await store.sound.put(key, [bytes]);
}

test('moves every snapshot and the configuration; each can be restored at every moment', async () => {
  const id = await configure(single('a', 'from'));
  const snapshots = [await take(id), await take(id)];
  let restored = 0;
  const ways: readonly (readonly [StorageDestination, number])[] = [
    [single('b', 'to/there'), 4],
    [several(2, 'a', 'c'), 8],
  ];
  for (const [to, puts] of ways) {
    let seen = 0;
    for (const store of [a, b, c]) {
      store.onCall = async (operation) => {
        if (operation !== 'put') return;
        seen += 1;
        // One of them, while it, or the other, is on its way.
        const snapshot = snapshots[seen % 2];
        if (snapshot !== undefined && seen <= 2) await expectRestores(bench, snapshot);
        restored += 1;
      };
    }
    expect(await migrate(id, to)).toMatchObject({
      status: 'COMPLETED',
      result: { snapshots: 2, objects: 2, damaged: [] },
      progress: { percentage: 100 },
    });
    expect(seen).toBe(puts);
    stores.get('a').onCall = undefined;
    for (const store of [a, b, c]) store.onCall = undefined;
    expect((await backups.getConfiguration(id)).storageDestination).toMatchObject(to);
    for (const snapshot of await all(id)) {
      expect(snapshot.storageLocation?.destination).toMatchObject(to);
      await expectRestores(bench, snapshot);
    }
  }
  expect(restored).toBeGreaterThan(0);
  expect(await all(id)).toMatchObject(
    [1, 2].map(() => ({
      storageLocation: { replicationLocations: [{ status: 'COMPLETE' }, { status: 'COMPLETE' }] },
    })),
  );
  expect(await remove(id)).toMatchObject({ status: 'COMPLETED', result: { snapshots: 2, objects: 8 } });
  expect(await keysOf(b.sound)).toEqual([]);
  expect((await keysOf(a.sound)).filter((key) => key.startsWith('from/'))).toEqual([]);
  for (const snapshot of await all(id)) {
    expect(snapshot.storageLocation?.formerLocations ?? []).toEqual([]);
    await expectRestores(bench, snapshot);
  }
  expect(await remove(id)).toMatchObject({ status: 'COMPLETED', result: { snapshots: 0, objects: 0 } });
  const next = await take(id);
  expect(next.storageLocation?.type).toBe('MULTI');
  await replicated(bench, next.id);
});

test('interrupted anywhere, it is run again and comes to its end', async () => {
  const id = await configure(single('a'));
  const snapshot = await take(id);
  for (const [operation, count] of [
    ['list', 1],
    ['put', 1],
    ['put', 2],
    ['get', 1],
    ['get', 2],
  ] as const) {
    let seen = 0;
    b.onCall = (called) => {
      if (called !== operation) return;
      seen += 1;
      if (seen === count) b.away = true;
    };
    b.sound = stores.get(`fresh ${operation} ${count}`).sound;
    const cut = await migrate(id, single('b', 'x'));
    expect(cut).toMatchObject({
      status: 'QUEUED',
      error: { code: 'STORAGE_UNAVAILABLE', recoverable: true },
    });
    expect((await backups.getSnapshot(snapshot.id)).storageLocation?.destination).toMatchObject(single('a'));
    await expectRestores(bench, snapshot);
    await backups.cancelJob(cut.id);
    stores.get('b').away = false;
    b.onCall = undefined;
  }
  expect(await migrate(id, single('b', 'x'))).toMatchObject({
    status: 'COMPLETED',
    result: { snapshots: 1 },
  });
  expect(await migrate(id, single('b', 'x'))).toMatchObject({
    status: 'COMPLETED',
    result: { snapshots: 0 },
  });
  await expectRestores(bench, snapshot);
});

test('a backup that runs meanwhile ends up at the new place', async () => {
  const id = await configure(single('a'));
  const first = await take(id);
  const held = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  a.onCall = async (operation, key) => {
    if (operation !== 'put' || !key.endsWith('o-000001')) return;
    begun.resolve();
    await held.promise;
  };
  const running = backups.createSnapshot({ configurationId: id }, { wait: true });
  await begun.promise;
  const job = await backups.migrateStorage(id, single('b'));
  await until('the first was moved', async () => {
    const { storageLocation } = await backups.getSnapshot(first.id);
    return storageLocation?.destination.localStorage?.path === 'b';
  });
  held.resolve();
  await running;
  expect(await jobSettled(backups, job)).toMatchObject({ status: 'COMPLETED', result: { snapshots: 2 } });
  for (const snapshot of await all(id)) {
    expect(snapshot.storageLocation?.destination).toMatchObject(single('b'));
    await expectRestores(bench, snapshot);
  }
});

describe('removing what was moved away from', () => {
  test('is refused, and removes nothing, where the new place is not whole or does not answer', async () => {
    const id = await configure(single('a'));
    const [kept, gone] = [await take(id), await take(id)];
    await migrate(id, several(1, 'b', 'c'));
    const before = await keysOf(a.sound);
    c.away = true;
    expect(await remove(id)).toMatchObject({ status: 'QUEUED', error: { code: 'STORAGE_UNAVAILABLE' } });
    expect(await keysOf(a.sound)).toEqual(before);
    c.away = false;
    const { rows } = await bench.database.pool.query<{ id: string }>(
      "SELECT id::text AS id FROM care_backup.storage_jobs WHERE configuration_id = $1 AND status = 'QUEUED'",
      [id],
    );
    await backups.cancelJob(rows[0]?.id ?? '');
    await flip(c, kept);
    const damaged = await remove(id);
    expect(damaged).toMatchObject({ status: 'FAILED', error: { code: 'ARCHIVE_CORRUPT' } });
    expect(damaged.error?.message).toContain(kept.snapshotNumber);
    // The other one is whole, and was removed from the old place.
    expect(await objectsOf(kept, a)).toHaveLength(2);
    expect(await objectsOf(gone, a)).toEqual([]);
    await jobSettled(backups, await backups.healSnapshot(kept.id));
    expect(await remove(id)).toMatchObject({ status: 'COMPLETED', result: { snapshots: 1, objects: 2 } });
    expect(await keysOf(a.sound)).toEqual([]);
    for (const snapshot of [kept, gone]) await expectRestores(bench, snapshot);
  });

  test('keeps what a store holds that is former and new at once', async () => {
    const id = await configure(several(2, 'a', 'b'));
    const snapshot = await take(id);
    await replicated(bench, snapshot.id);
    // The same place by another name; one of the two; and back.
    stores.get('alias').sound = a.sound;
    for (const to of [several(1, 'alias', 'c'), single('a'), several(2, 'c', 'alias')]) {
      expect(await migrate(id, to)).toMatchObject({ status: 'COMPLETED', result: { snapshots: 1 } });
      expect((await remove(id)).status).toBe('COMPLETED');
      await expectRestores(bench, snapshot);
    }
    expect(await keysOf(b.sound)).toEqual([]);
    expect(await objectsOf(snapshot, a)).toHaveLength(2);
    expect(await objectsOf(snapshot, c)).toHaveLength(2);
    expect((await backups.verifySnapshot(snapshot.id)).checks.at(-1)?.details).toBe('every copy is whole');
  });
});

test('what is whole nowhere stays where it is, and keeps nothing else back', async () => {
  const id = await configure(single('a'));
  const [damaged, sound] = [await take(id), await take(id)];
  await flip(a, damaged);
  expect(await migrate(id, single('b'))).toMatchObject({
    status: 'COMPLETED',
    result: { snapshots: 1, damaged: [damaged.snapshotNumber] },
  });
  expect((await backups.getSnapshot(damaged.id)).storageLocation?.destination).toMatchObject(single('a'));
  expect(await remove(id)).toMatchObject({ status: 'COMPLETED', result: { snapshots: 1 } });
  expect(await objectsOf(damaged, a)).toHaveLength(2);
  await expectRestores(bench, sound);
});

test('a second migration is refused while one goes on; cancelled, it stops and leaves everything restorable', async () => {
  const id = await configure(single('a'));
  const snapshot = await take(id);
  const held = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  b.onCall = async (operation) => {
    if (operation !== 'put') return;
    begun.resolve();
    await held.promise;
  };
  const job = await backups.migrateStorage(id, single('b'));
  await begun.promise;
  await expect(backups.migrateStorage(id, single('c'))).rejects.toMatchObject({ code: 'INVALID_STATE' });
  await expect(backups.removeMigrated(id)).rejects.toMatchObject({ code: 'INVALID_STATE' });
  const cancelling = backups.cancelJob(job.id);
  held.resolve();
  expect((await cancelling).status).toBe('CANCELLED');
  b.onCall = undefined;
  expect((await backups.getConfiguration(id)).storageDestination).toMatchObject(single('a'));
  await expectRestores(bench, snapshot);
  expect(await migrate(id, single('c'))).toMatchObject({ status: 'COMPLETED' });
  await expectRestores(bench, snapshot);
});
