import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { BackupService } from '../../src/service/backup-service.ts';
import { type FaultyStorage, faultyStorage, type StorageFault } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { BackupSnapshot } from '../../src/types/backup.ts';
import { StorageError } from '../../src/types/errors.ts';
import { actorOf, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { hiddenSchemas, schemaThere } from '../harness/service-compare.ts';
import { expectSettled, isGood, keysOf } from '../harness/service-settled.ts';
import { TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

let bench: ServiceBench;
let backups: BackupService;
let sound: ObjectStorage;
let used: ObjectStorage;

beforeAll(async () => {
  bench = await createBench(tinyData, { openStorage: () => used });
  backups = bench.protection.backups(actorOf(TINY_ORGANIZATION));
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});
beforeEach(() => {
  sound = memoryStorage();
  used = sound;
});

/** The calls of a run without faults: an object, its reading back, the manifest. */
const CALLS = ['put o-000001', 'get o-000001', 'put manifest'];

async function runWith(plan: readonly StorageFault[]) {
  const { id } = await bench.configure();
  const faulty = faultyStorage(sound, plan);
  used = faulty;
  const outcome = await backups.createSnapshot({ configurationId: id }, { wait: true }).then(
    (snapshot) => ({ snapshot, code: undefined }),
    (error: { code?: string }) => ({ snapshot: undefined, code: error.code }),
  );
  used = sound;
  return { id, faulty, ...outcome };
}

const named = ({ calls }: FaultyStorage): string[] =>
  calls.map(({ operation, key }) => `${operation} ${key.split('/').at(-1)}`);

test('a full disk is told as one, and frees what it can', async () => {
  for (const error of MORE) {
    const { id, code } = await runWith([
      { operation: 'put', call: 1, effect: 'fail', when: 'before', error },
    ]);
    expect(code).toBe(error.code);
    expect((await expectSettled(backups, id, sound))[0]?.statusReason).toContain(error.code);
  }
});

test('a run without faults makes these calls', async () => {
  const { faulty, snapshot } = await runWith([]);
  expect(snapshot?.status).toBe('COMPLETED');
  expect(named(faulty)).toEqual(CALLS);
});

const FEW = [new StorageError('down', 'STORAGE_UNAVAILABLE'), new TypeError('of the host')];
const MORE = [
  new StorageError('full', 'STORAGE_FULL'),
  new StorageError('denied', 'STORAGE_DENIED'),
  new StorageError('taken', 'STORAGE_ALREADY_EXISTS'),
  new StorageError('missing', 'STORAGE_NOT_FOUND'),
];
const SOAK = process.env.CARE_SOAK === '1';
/** Without CARE_SOAK one of the few in turn, so that each is met by some call before and after its effect. */
const errorsFor = (call: number, when: 'before' | 'after'): readonly Error[] => {
  const turn = (call + (when === 'before' ? 0 : 1)) % FEW.length;
  return SOAK ? [...FEW, ...MORE] : FEW.slice(turn, turn + 1);
};

describe.each(CALLS.map((name, index) => ({ name, call: index + 1 })))('$name', ({ call }) => {
  test.each(['before', 'after'] as const)('that fails %s its effect, with whatever error', async (when) => {
    for (const error of errorsFor(call, when)) {
      const { id, faulty, code, snapshot } = await runWith([{ call, effect: 'fail', when, error }]);
      expect(faulty.injected).toHaveLength(1);
      // The manifest is there although its answer was lost: then the backup is, too.
      const lost = call === 3 && when === 'after';
      expect(snapshot?.status).toBe(lost ? 'COMPLETED' : undefined);
      if (!lost) expect(code).toMatch(/^(STORAGE_|ARCHIVE_INCOMPLETE|INTERNAL)/);
      const [earlier] = await expectSettled(backups, id, sound);
      expect(earlier?.status).toBe(lost ? 'COMPLETED' : 'FAILED');
      expect(earlier?.statusReason ?? '').not.toContain('of the host');
    }
  });

  test.each(['before', 'after'] as const)(
    'that hangs %s its effect ends within a second of the cancellation',
    async (when) => {
      const { id } = await bench.configure();
      const faulty = faultyStorage(sound, [{ call, effect: 'hang', when }]);
      used = faulty;
      const { id: snapshotId } = await backups.createSnapshot({ configurationId: id });
      while (faulty.injected.length === 0) await sleep(10);
      const since = Date.now();
      const ended = await backups.cancelSnapshot(snapshotId);
      expect(Date.now() - since).toBeLessThan(10_000);
      used = sound;
      expect(ended.status).toBe(call === 3 && when === 'after' ? 'COMPLETED' : 'CANCELLED');
      await expectSettled(backups, id, sound);
    },
  );
});

describe('faults of what follows a failure', () => {
  /** After the first failure: the claim, the listing, the deletion; or, where the manifest's put fails, its reading first. */
  const faults = [2, 3, 4].flatMap((call) => (['before', 'after'] as const).map((when) => ({ call, when })));
  test.each(faults)('call $call $when', async ({ call, when }) => {
    // Both failures before each of them; without CARE_SOAK one, in turn.
    const firsts = SOAK ? [1, 3] : [(call + (when === 'before' ? 0 : 1)) % 2 === 0 ? 1 : 3];
    for (const first of firsts) {
      const { id } = await runWith([
        { call: first, effect: 'fail', when: 'after' },
        { call: first === 1 ? call : call + 2, effect: 'fail', when },
      ]);
      await expectSettled(backups, id, sound);
    }
  });

  test('a storage that is gone altogether leaves a run that the next one ends', async () => {
    for (const from of [1, 2, 3]) {
      const { id } = await bench.configure();
      const down = new StorageError('down', 'STORAGE_UNAVAILABLE');
      const plan = Array.from(
        { length: 40 },
        (_, index) => ({ call: index + from, effect: 'fail', when: 'before', error: down }) as const,
      );
      used = faultyStorage(sound, plan);
      await expect(backups.createSnapshot({ configurationId: id }, { wait: true })).rejects.toMatchObject({
        code: 'STORAGE_UNAVAILABLE',
      });
      // While it is gone nothing begins; a claim that cannot be placed says nothing about the run before.
      const again = backups.createSnapshot({ configurationId: id }, { wait: true });
      await expect(again).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      used = sound;
      const earlier = await expectSettled(backups, id, sound);
      expect(earlier.some(isGood)).toBe(false);
    }
  });

  test('a former destination that is gone does not keep a configuration from its backups', async () => {
    const { id } = await bench.configure();
    const down = Array.from(
      { length: 40 },
      (_, index) => ({ call: index + 3, effect: 'fail', when: 'before' }) as const,
    );
    used = faultyStorage(sound, down);
    await expect(backups.createSnapshot({ configurationId: id }, { wait: true })).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
    });
    const path = '/nowhere/else';
    await backups.updateConfiguration(id, {
      storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path } },
    });
    const gone = used;
    const elsewhere = memoryStorage();
    await using other = await bench.open({
      openStorage: (destination) => (destination.localStorage?.path === path ? elsewhere : gone),
    });
    const theirs = other.backups(actorOf(TINY_ORGANIZATION));
    expect(await theirs.createSnapshot({ configurationId: id }, { wait: true })).toMatchObject({
      status: 'COMPLETED',
    });
    const { items } = await theirs.listSnapshots({ configurationId: id });
    expect(items.map(({ status }) => status)).toEqual(['COMPLETED', 'FAILED']);
  });
});

describe('a snapshot whose reads go wrong', () => {
  let snapshot: BackupSnapshot;
  let stored: ObjectStorage;
  let schemas = 0;

  beforeAll(async () => {
    const { id } = await bench.configure();
    stored = memoryStorage();
    used = stored;
    snapshot = await backups.createSnapshot({ configurationId: id }, { wait: true });
  });

  async function refusesRestore(code: RegExp): Promise<void> {
    schemas += 1;
    const schemaName = `refused_${schemas}`;
    const restore = backups.createRestoreOperation(
      { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName } },
      { wait: true },
    );
    await expect(restore).rejects.toMatchObject({ code: expect.stringMatching(code) });
    expect(await schemaThere(bench.database.pool, schemaName)).toBe(false);
    expect(await hiddenSchemas(bench.database.pool)).toEqual([]);
  }

  test.each([
    { call: 1, effect: 'cut', length: 100 },
    { call: 1, effect: 'alter', offset: 400 },
    { call: 2, effect: 'cut', length: 10 },
    { call: 2, effect: 'alter', offset: 30 },
  ] as const)('get $call, $effect', async (fault) => {
    const looking = faultyStorage(stored, [{ ...fault, operation: 'get' }]);
    used = looking;
    expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: false });
    expect(looking.injected).toHaveLength(1);
    used = faultyStorage(stored, [{ ...fault, operation: 'get' }]);
    await refusesRestore(/^ARCHIVE_/);
  });

  test.each([
    { operation: 'get', call: 1 },
    { operation: 'get', call: 2 },
    // The first lists the sidecars: where the manifest’s own key opens it, nobody misses them.
    { operation: 'list', call: 2 },
  ] as const)('$operation $call fails', async (which) => {
    const fault = { ...which, effect: 'fail', when: 'before' } as const;
    used = faultyStorage(stored, [fault]);
    if (which.operation === 'get') {
      await expect(backups.verifySnapshot(snapshot.id)).rejects.toMatchObject({
        code: 'STORAGE_UNAVAILABLE',
      });
    }
    used = faultyStorage(stored, [fault]);
    await refusesRestore(/^STORAGE_UNAVAILABLE$/);
  });

  test.each([
    { operation: 'get', call: 1 },
    { operation: 'get', call: 2 },
    { operation: 'list', call: 1 },
  ] as const)('$operation $call hangs, and the restore is cancelled within a second', async (which) => {
    const hanging = faultyStorage(stored, [{ ...which, effect: 'hang', when: 'before' }]);
    used = hanging;
    schemas += 1;
    const schemaName = `refused_${schemas}`;
    const { id } = await backups.createRestoreOperation({
      snapshotId: snapshot.id,
      restoreDestination: { type: 'TEST', schemaName },
    });
    while (hanging.injected.length === 0) await sleep(10);
    const since = Date.now();
    const ended = await backups.cancelRestoreOperation(id);
    expect(Date.now() - since).toBeLessThan(10_000);
    expect(ended.status).toBe('CANCELLED');
    expect(await schemaThere(bench.database.pool, schemaName)).toBe(false);
    expect(await hiddenSchemas(bench.database.pool)).toEqual([]);
  });

  test('and is whole afterwards', async () => {
    used = stored;
    expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true });
    await backups.createRestoreOperation(
      { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName: 'whole' } },
      { wait: true },
    );
    expect(await tinyDifferences(bench.database.pool, 'whole')).toBe(0);
    expect(await keysOf(stored)).toHaveLength(2);
  });
});
