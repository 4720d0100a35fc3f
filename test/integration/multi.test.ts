import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { encodeClaim, isClaim } from '../../src/archive/claim.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { BackupSnapshot, StorageDestination } from '../../src/types/backup.ts';
import {
  copyOf,
  expectRefused,
  expectRestores,
  jobSettled,
  replicated,
  several,
  single,
  type TestStore,
  TestStores,
} from '../harness/multi-stores.ts';
import { actorOf, createBench, filesBelow, type ServiceBench } from '../harness/service-bench.ts';
import { keysOf } from '../harness/service-settled.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

// Many restores in one test: a bound against hangs, on a machine that does other work.
vi.setConfig({ testTimeout: 120_000 });

const stores = new TestStores();
const a = stores.get('a');
const b = stores.get('b');
let bench: ServiceBench;
let backups: BackupService;
const logged: string[] = [];
const note = (_: unknown, message: string): void => void logged.push(message);
const logger = { debug: () => undefined, info: () => undefined, warn: note, error: note };

beforeAll(async () => {
  bench = await createBench(tinyData, {
    ...stores.options,
    logger,
  });
  await bench.protection.migrate();
  backups = bench.backups;
});
afterAll(() => bench[Symbol.asyncDispose]());
beforeEach(() => {
  stores.reset();
  logged.length = 0;
});

const configure = (storageDestination: StorageDestination) => bench.configure({ storageDestination });
const take = (configurationId: string) => backups.createSnapshot({ configurationId }, { wait: true });

/** A backup that both stores have whole. */
async function takeBoth(): Promise<BackupSnapshot> {
  const { id } = await take((await configure(several(1, 'a', 'b'))).id);
  expect(await replicated(bench, id)).toMatchObject({ status: 'COMPLETED', attempts: 1 });
  return backups.getSnapshot(id);
}

const copiesOf = async ({ id }: BackupSnapshot) =>
  (await backups.getSnapshot(id)).storageLocation?.replicationLocations ?? [];
const statusesOf = async (snapshot: BackupSnapshot) => (await copiesOf(snapshot)).map(({ status }) => status);

/** Each store, with the other one away, or emptied. */
async function expectEachAlone(snapshot: BackupSnapshot): Promise<void> {
  a.away = true;
  await expectRestores(bench, snapshot);
  a.away = false;
  const whole = b.sound;
  b.sound = memoryStorage();
  await expectRestores(bench, snapshot);
  b.sound = whole;
}

test('a backup is caught up in the second store, which then restores alone', async () => {
  const snapshot = await takeBoth();
  expect(await copiesOf(snapshot)).toMatchObject([
    { index: 0, description: 'a', status: 'COMPLETE', objects: 1, error: null, lagMs: expect.any(Number) },
    { index: 1, description: 'b', status: 'COMPLETE', objects: 1, error: null, lagMs: expect.any(Number) },
  ]);
  expect(await keysOf(a.sound)).toEqual(await keysOf(b.sound));
  await expectEachAlone(snapshot);
  const again = await jobSettled(backups, await backups.startReplication(snapshot.id));
  expect(again).toMatchObject({
    status: 'COMPLETED',
    result: { stored: 0, damaged: 0 },
    progress: { percentage: 100, objectsTotal: 2, objectsDone: 2 },
  });
});

test('a store that dies in the middle of a restore, at each of its calls, costs nothing', async () => {
  const snapshot = await takeBoth();
  for (const dying of [a, b]) {
    let calls = 0;
    dying.onCall = () => {
      calls += 1;
    };
    await expectRestores(bench, snapshot);
    const sound = calls;
    for (let at = 1; at <= sound; at += 1) {
      calls = 0;
      dying.onCall = () => {
        calls += 1;
        if (calls >= at) dying.away = true;
      };
      await expectRestores(bench, snapshot);
      dying.away = false;
    }
    dying.onCall = undefined;
  }
});

test('a former destination that is silent for good delays no backup', async () => {
  const { id } = await configure(single('a'));
  // A try that cannot clean up: its remains are looked for by every later run.
  a.onCall = (operation, key) => {
    if (operation === 'put' && key.endsWith('/manifest')) a.away = true;
  };
  await expect(take(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  a.away = false;
  a.onCall = undefined;
  await take(id);
  let asked = 0;
  // It takes every call and never answers.
  a.onCall = () => {
    asked += 1;
    return new Promise(() => undefined);
  };
  await backups.updateConfiguration(id, { storageDestination: single('b') });
  const runs = Promise.all([take(id)]).then(() => take(id));
  // Each of its calls is given up after 30 s: a run that waited for one would be later than this.
  await expect(Promise.race([runs.then(() => 'done'), sleep(25_000, 'late')])).resolves.toBe('done');
  expect(asked).toBeGreaterThan(0);
});

test('two folders: one that is lost is filled again, and then restores alone', async () => {
  const protection = await bench.open({ openStorage: () => undefined });
  const own = protection.backups(actorOf(TINY_ORGANIZATION));
  const ownBench = { ...bench, backups: own };
  const folders = ['one', 'two'].map((name) => join(bench.folder, name));
  for (const folder of folders) await mkdir(folder);
  const storageDestination: StorageDestination = {
    type: 'MULTI',
    destinations: folders.map((path) => ({ type: 'LOCAL_FILESYSTEM', localStorage: { path, prefix: 'p' } })),
  };
  const { id } = await configure(storageDestination);
  const snapshot = await own.createSnapshot({ configurationId: id }, { wait: true });
  expect((await replicated(ownBench, snapshot.id)).status).toBe('COMPLETED');
  const [one, two] = [folders[0] ?? '', folders[1] ?? ''];
  expect(await filesBelow(one)).toEqual(await filesBelow(two));
  for (const [lost, kept] of [
    [one, two],
    [two, one],
  ] as const) {
    await rm(lost, { recursive: true });
    await expectRestores(ownBench, snapshot);
    await mkdir(lost);
    expect(await jobSettled(own, await own.healSnapshot(snapshot.id))).toMatchObject({
      status: 'COMPLETED',
      result: { stored: 2 },
    });
    expect(await filesBelow(lost)).toEqual(await filesBelow(kept));
  }
});

describe('a store that dies during the backup', () => {
  const moments = ['put o-000001', 'get o-000001', 'put manifest'];
  test.each([0, 1].flatMap((dead) => moments.map((moment) => ({ dead, moment }))))(
    'store $dead at $moment',
    async ({ dead, moment }) => {
      const [lost, other] = dead === 0 ? [a, b] : [b, a];
      const dies = (operation: string, key: string): void => {
        if (`${operation} ${key.split('/').at(-1)}` === moment) lost.away = true;
      };
      a.onCall = dies;
      b.onCall = dies;
      const { id } = await configure(several(1, 'a', 'b'));
      const first = await take(id).catch((error: unknown) => error);
      expect(lost.away).toBe(true);
      // What only the dead store had is no backup; the next one works without it.
      if (moment !== 'put o-000001' && dead === 0) {
        const failed = first instanceof Error;
        expect(failed || (await keysOf(b.sound)).some((key) => key.endsWith('/manifest'))).toBe(true);
      }
      const snapshot = first instanceof Error ? await take(id) : (first as BackupSnapshot);
      await replicated(bench, snapshot.id);
      lost.onCall = undefined;
      other.onCall = undefined;
      lost.away = false;
      const job = await jobSettled(backups, await backups.startReplication(snapshot.id));
      expect(job.status).toBe('COMPLETED');
      expect(await statusesOf(snapshot)).toEqual(['COMPLETE', 'COMPLETE']);
      await expectEachAlone(snapshot);
    },
  );

  test.each([0, 1])('two confirmations: no backup without store %i, and the next with it', async (dead) => {
    const lost = dead === 0 ? a : b;
    const { id } = await configure(several(2, 'a', 'b'));
    lost.away = true;
    await expect(take(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
    lost.away = false;
    const snapshot = await take(id);
    expect(snapshot.status).toBe('COMPLETED');
    expect(await keysOf(a.sound)).toEqual(await keysOf(b.sound));
    const { items } = await backups.listSnapshots({ configurationId: id });
    expect(items.map(({ status }) => status)).toEqual(['COMPLETED', 'FAILED']);
    await replicated(bench, snapshot.id);
  });
});

/** What may happen to one store of a backup. */
const damages: Readonly<Record<string, (store: TestStore, snapshot: BackupSnapshot) => Promise<void>>> = {
  nothing: async () => undefined,
  'object flipped': (store, snapshot) =>
    change(store, objectOf(snapshot), (bytes) => {
      bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
      return bytes;
    }),
  // No segment is left whole: one that is could stand in for the other store's.
  'object cut': (store, snapshot) => change(store, objectOf(snapshot), (bytes) => bytes.subarray(0, 1)),
  'object missing': (store, snapshot) => store.sound.delete(objectOf(snapshot)),
  'manifest missing': (store, snapshot) => store.sound.delete(manifestOf(snapshot)),
  'manifest foreign': (store, snapshot) => change(store, manifestOf(snapshot), () => foreign),
  'manifest claimed': (store, snapshot) =>
    change(store, manifestOf(snapshot), () =>
      encodeClaim({
        snapshotId: snapshot.id,
        attemptId: snapshot.id,
        claimedAt: '2026-01-01T00:00:00.000Z',
        claimedBy: 'somebody',
      }),
    ),
  away: async (store) => {
    store.away = true;
  },
};
let foreign: Uint8Array = new Uint8Array();
const objectOf = (snapshot: BackupSnapshot): string => `${snapshot.storageLocation?.path}o-000001`;
const manifestOf = (snapshot: BackupSnapshot): string => snapshot.storageLocation?.manifestKey ?? '';

async function change(
  { sound }: TestStore,
  key: string,
  edit: (bytes: Uint8Array) => Uint8Array,
): Promise<void> {
  const bytes = edit(await sound.get(key));
  await sound.delete(key);
  await sound.put(key, [bytes]);
}

describe('damage afterwards', () => {
  const names = Object.keys(damages);
  test.each(names)('%s in the first store, whatever happened to the second', async (one) => {
    foreign = await a.sound.get(manifestOf(await takeBoth()));
    const snapshot = await takeBoth();
    const sound = { a: a.sound, b: b.sound };
    for (const two of ['nothing', 'object cut', 'manifest missing']) {
      stores.reset();
      a.sound = await copyOf(sound.a);
      b.sound = await copyOf(sound.b);
      await damages[one]?.(a, snapshot);
      await damages[two]?.(b, snapshot);
      const piece = (name: string): string => name.split(' ')[0] ?? '';
      const away = one === 'away' || two === 'away';
      const damaged = [one, two].filter((name) => name !== 'nothing' && name !== 'away');
      // Each piece of it is whole in one of the stores that answer.
      const whole = away
        ? damaged.length === 0 && one !== two
        : damaged.length < 2 || piece(one) !== piece(two);
      if (!whole) {
        await expectRefused(bench, snapshot);
        continue;
      }
      await expectRestores(bench, snapshot);
      a.away = false;
      b.away = false;
      expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({
        passed: true,
        checks: expect.arrayContaining([
          {
            name: 'copies',
            passed: true,
            details: damaged.length === 0 ? 'every copy is whole' : expect.stringMatching(/ in [ab] \(/),
          },
        ]),
      });
      const job = await jobSettled(backups, await backups.healSnapshot(snapshot.id));
      expect(job).toMatchObject({ status: 'COMPLETED', result: { stored: damaged.length, damaged: 0 } });
      expect(await statusesOf(snapshot)).toEqual(['COMPLETE', 'COMPLETE']);
      if (two === 'nothing') await expectEachAlone(snapshot);
    }
  });

  test('a replication leaves damage alone and names it; what is whole nowhere fails, and heals the rest', async () => {
    const snapshot = await takeBoth();
    await damages['object flipped']?.(b, snapshot);
    const left = await jobSettled(backups, await backups.startReplication(snapshot.id));
    expect(left).toMatchObject({ status: 'COMPLETED', result: { stored: 0, damaged: 1 } });
    expect(await copiesOf(snapshot)).toMatchObject([
      { status: 'COMPLETE' },
      { status: 'DAMAGED', error: 'ARCHIVE_CORRUPT', lagMs: null },
    ]);
    await damages['object cut']?.(a, snapshot);
    const lost = await jobSettled(backups, await backups.healSnapshot(snapshot.id));
    expect(lost).toMatchObject({
      status: 'FAILED',
      error: { code: 'ARCHIVE_CORRUPT', recoverable: false, message: expect.stringContaining('o-000001') },
    });
    expect(await statusesOf(snapshot)).toEqual(['DAMAGED', 'DAMAGED']);
    expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: false });
  });
});

test('a store away during a replication leaves the job to be tried again', async () => {
  b.away = true;
  const { id } = await configure(several(1, 'a', 'b'));
  const snapshot = await take(id);
  const waiting = await replicated(bench, snapshot.id);
  expect(waiting).toMatchObject({ status: 'QUEUED', attempts: 1, error: { code: 'STORAGE_UNAVAILABLE' } });
  expect(await copiesOf(snapshot)).toMatchObject([
    { status: 'COMPLETE' },
    { status: 'UNAVAILABLE', error: 'STORAGE_UNAVAILABLE', lagMs: null },
  ]);
  await expectRestores(bench, snapshot);
  b.away = false;
  // Asked for again, it is the same job that is tried now.
  const again = await backups.startReplication(snapshot.id);
  expect(again.id).toBe(waiting.id);
  expect(await jobSettled(backups, again)).toMatchObject({ status: 'COMPLETED', attempts: 2 });
  expect(await statusesOf(snapshot)).toEqual(['COMPLETE', 'COMPLETE']);
});

test('the remains of a dead backup wait for the store that is away, and are told of', async () => {
  const { id } = await configure(several(2, 'a', 'b'));
  const swept = async () =>
    (
      await bench.database.pool.query<{ swept: boolean; state: string }>(
        `SELECT swept_at IS NOT NULL AS swept, state FROM care_backup.backup_attempts
          WHERE configuration_id = $1 ORDER BY ordinal LIMIT 1`,
        [id],
      )
    ).rows[0];
  for (const store of [a, b]) {
    store.onCall = (operation, key) => {
      if (operation !== 'get' || !key.endsWith('o-000001')) return;
      a.away = true;
      b.away = true;
    };
  }
  await expect(take(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  a.onCall = undefined;
  b.onCall = undefined;
  a.away = false;
  expect((await keysOf(a.sound)).length + (await keysOf(b.sound)).length).toBe(2);
  // One more try with one store: too few confirmations, but what can be swept is.
  await expect(take(id)).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
  expect(await swept()).toEqual({ swept: false, state: 'CLAIMED' });
  expect(logged).toContain('The remains of an earlier backup could not be removed');
  for (const key of await keysOf(a.sound)) expect(isClaim(await a.sound.get(key))).toBe(true);
  expect(await keysOf(b.sound)).toEqual([expect.stringMatching(/o-000001$/)]);
  b.away = false;
  const snapshot = await take(id);
  expect(await swept()).toEqual({ swept: true, state: 'CLAIMED' });
  for (const { sound } of [a, b]) {
    const rest = (await keysOf(sound)).filter((key) => !key.includes(snapshot.storageLocation?.path ?? '-'));
    expect(rest).toHaveLength(2);
    for (const key of rest) expect(isClaim(await sound.get(key))).toBe(true);
  }
  await replicated(bench, snapshot.id);
});

test('copies have a retention of their own, which is checked like any other', async () => {
  const retention = { retentionDays: 400, autoDeleteExpired: false };
  const destination: StorageDestination = {
    type: 'MULTI',
    destinations: [single('a'), { ...single('b'), retention }],
  };
  const { id } = await configure(destination);
  const { storageDestination } = await backups.getConfiguration(id);
  expect(storageDestination.destinations?.[1]?.retention).toMatchObject(retention);
  await expect(
    configure({
      ...destination,
      destinations: [single('a'), { ...single('b'), retention: { retentionDays: -1 } }],
    }),
  ).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
});
