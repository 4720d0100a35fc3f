import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { encodeRewrappedKey } from '../../src/archive/key-sidecar.ts';
import { encodeSidecar, type Sidecar, sidecarName } from '../../src/archive/sidecar.ts';
import type { DataProtection, DataProtectionOptions } from '../../src/compose.ts';
import type { KeyProvider } from '../../src/keys/keys.ts';
import { createKeyringFile, localKeyring } from '../../src/keys/local-keyring.ts';
import { passphraseKeyring } from '../../src/keys/passphrase-keyring.ts';
import { createBackupRepository } from '../../src/repository/backup-repository.ts';
import { createDatabase } from '../../src/repository/database.ts';
import { createWrappingKeys } from '../../src/repository/wrapping-keys.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { BackupSnapshot, StorageDestination, StorageJob } from '../../src/types/backup.ts';
import { StorageError } from '../../src/types/errors.ts';
import {
  copyOf,
  expectRestores,
  jobSettled,
  replicated,
  several,
  single,
  TestStores,
  until,
} from '../harness/multi-stores.ts';
import { actorOf, auditActions, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { BRANCH_A, OTHER_ORGANIZATION, TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const stores = new TestStores();
const [a, b, c] = [stores.get('a'), stores.get('b'), stores.get('c')];
let folder: string;
let file: string;
let keys: KeyProvider;
let bench: ServiceBench;
let now = Date.now();
const opened: DataProtection[] = [];

/** The keyring of the test that runs. */
const present: KeyProvider = {
  description: 'the keyring of the test',
  currentKeyId: () => keys.currentKeyId(),
  wrap: (dataKey, context) => keys.wrap(dataKey, context),
  unwrap: (wrapped, context) => keys.unwrap(wrapped, context),
  macKey: (context, keyId) => keys.macKey(context, keyId),
  rotate: () => keys.rotate(),
  keyInfo: async (keyId) => keys.keyInfo?.(keyId),
  retire: async (keyId) => keys.retire?.(keyId),
};

beforeAll(async () => {
  bench = await createBench(tinyData, {
    ...stores.options,
    keys: present,
    clock: { now: () => new Date(now) },
    storageDestination: single('a'),
  });
});
afterAll(() => bench[Symbol.asyncDispose]());
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'care-keys-'));
  file = join(folder, 'keyring.json');
  await createKeyringFile(file);
  keys = localKeyring({ file });
  now = Date.now();
});
afterEach(async () => {
  stores.reset();
  for (const one of opened.splice(0)) await one.close();
  await rm(folder, { recursive: true, force: true });
  // What one test keeps would be in the way of what the next retires.
  await bench.database.pool.query(
    'TRUNCATE care_backup.backup_configurations, care_backup.wrapping_keys CASCADE',
  );
});

/** Another process, as it were. */
async function open(over: Partial<DataProtectionOptions>): Promise<BackupService> {
  const protection = await bench.open(over);
  opened.push(protection);
  return protection.backups(actorOf(TINY_ORGANIZATION));
}

/** Reads every byte, with the data key that is found. */
async function expectOpens({ id }: BackupSnapshot): Promise<void> {
  expect((await bench.backups.verifySnapshot(id)).passed).toBe(true);
}

async function take(destination: StorageDestination = single('a')): Promise<BackupSnapshot> {
  const { id } = await bench.configure({ storageDestination: destination });
  const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  if (destination.type === 'MULTI') await replicated(bench, snapshot.id);
  return snapshot;
}

const settled = async (jobs: readonly StorageJob[]): Promise<StorageJob[]> =>
  Promise.all(jobs.map((job) => jobSettled(bench.backups, job)));

async function rewrap(): Promise<void> {
  for (const job of await settled(await bench.backups.rewrapKeys()))
    expect(job).toMatchObject({ status: 'COMPLETED' });
}

/** Rotates, re-wraps everything and retires what was the current key. */
async function replaceKey(): Promise<string> {
  const { previousKeyId, keyId } = await bench.backups.rotateKey();
  await rewrap();
  await bench.backups.retireKey(previousKeyId);
  return keyId;
}

async function keysOf(store = a): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of store.sound.list('')) found.push(key);
  return found.sort();
}
const sidecarsIn = async (store = a): Promise<string[]> =>
  (await keysOf(store)).filter((key) => key.includes('/sidecar-keys-'));

const folderOf = ({ storageLocation }: BackupSnapshot): string =>
  (storageLocation?.path ?? '').replace(/[^/]+\/$/, '');

/** The text of the keyring never holds what was retired. */
const idsInFile = async (): Promise<string[]> =>
  JSON.parse(await readFile(file, 'utf8')).keys.map(({ id }: { id: string }) => id);

test('rotated, re-wrapped and retired: everything restores by the new key alone, and no object was touched', async () => {
  const old = await keys.currentKeyId();
  const first = await take();
  const second = await take();
  const before = await copyOf(a.sound);
  // As a bucket with locks: what was written stays.
  a.onCall = (operation, key) => {
    if (operation === 'delete') throw new StorageError('locked', 'STORAGE_DENIED', { key });
  };
  expect(await bench.backups.rewrapKeys()).toEqual([]);
  const { keyId } = await bench.backups.rotateKey();
  await expect(bench.backups.retireKey(old)).rejects.toMatchObject({
    code: 'KEY_IN_USE',
    message: expect.stringContaining('2 kept snapshots'),
  });
  await bench.backups.deleteConfiguration(second.configurationId);
  await rewrap();
  expect(await bench.backups.rewrapKeys()).toEqual([]);
  await bench.backups.retireKey(old);
  expect(await idsInFile()).toEqual([keyId]);
  expect(await sidecarsIn()).toEqual(
    [first, second].map((snapshot) => `${folderOf(snapshot)}sidecar-keys-000001`).sort(),
  );
  for await (const { key } of before.list(''))
    expect(Buffer.from(await a.sound.get(key)).equals(await before.get(key))).toBe(true);
  for (const { id } of [first, second]) {
    const snapshot = await bench.backups.getSnapshot(id);
    expect(snapshot.encryptionKeyId).toBe(keyId);
    await expectRestores(bench, snapshot);
    const { passed, checks } = await bench.backups.verifySnapshot(id);
    expect(passed).toBe(true);
    expect(checks).toContainEqual({
      name: 'key',
      passed: true,
      details: `opened by ${keyId}, wrapped in sidecar-keys-000001`,
    });
  }
  expect(await auditActions(bench.database.pool, old)).toEqual([
    'keys.rotation_requested',
    'keys.retirement_begun',
    'keys.retired',
  ]);
  expect(await auditActions(bench.database.pool, first.id)).toContain('snapshot.key_rewrapped');
  // And once more, from the sidecar.
  await replaceKey();
  await expectOpens(first);
  expect(await sidecarsIn()).toHaveLength(4);
});

describe('a key is retired only', () => {
  test('by an administrator of the whole organization, and never the current one or one that nobody knows', async () => {
    const current = await keys.currentKeyId();
    for (const over of [{ permissions: ['backup:delete'] as const }, { branchIds: [BRANCH_A] }]) {
      const other = bench.protection.backups(actorOf(TINY_ORGANIZATION, over));
      for (const call of [
        () => other.getKeyStatus(),
        () => other.rotateKey(),
        () => other.rewrapKeys(),
        () => other.retireKey('some-key'),
      ]) {
        await expect(call()).rejects.toMatchObject({ code: 'FORBIDDEN' });
      }
    }
    await expect(bench.backups.retireKey(current)).rejects.toMatchObject({ code: 'INVALID_STATE' });
    await expect(keys.retire?.(current)).rejects.toMatchObject({ code: 'INVALID_STATE' });
    await expect(bench.backups.retireKey('no-such-key')).rejects.toMatchObject({ code: 'KEY_UNAVAILABLE' });
    await expect(bench.backups.retireKey('not an id')).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
    await expect(bench.backups.rewrapKeys({ toKeyId: 'no-such-key' })).rejects.toMatchObject({
      code: 'INVALID_STATE',
    });
    expect(await idsInFile()).toEqual([current]);
  });

  test('when no other organization needs it, of which nothing is told', async () => {
    const old = await keys.currentKeyId();
    const others = bench.protection.backups(actorOf(OTHER_ORGANIZATION));
    const configuration = await others.createConfiguration({ name: 'theirs' });
    const snapshot = await others.createSnapshot({ configurationId: configuration.id }, { wait: true });
    await bench.backups.rotateKey();
    expect(await bench.backups.rewrapKeys()).toEqual([]);
    await expect(bench.backups.retireKey(old)).rejects.toMatchObject({
      code: 'KEY_IN_USE',
      message: expect.stringMatching(/: snapshots of other organizations need it$/),
    });
    expect((await bench.backups.getKeyStatus()).keys.map(({ keyId }) => keyId)).not.toContain(old);
    const [job] = await others.rewrapKeys();
    await jobSettled(others, job ?? { id: '', attempts: 0 });
    await bench.backups.retireKey(old);
    expect((await others.verifySnapshot(snapshot.id)).passed).toBe(true);
  });

  test('when no backup that runs was begun with it', async () => {
    const old = await keys.currentKeyId();
    const { id } = await bench.configure();
    const stored = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    a.onCall = async (operation) => {
      if (operation !== 'put') return;
      stored.resolve();
      await go.promise;
    };
    const run = bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    await stored.promise;
    await bench.backups.rotateKey();
    await expect(bench.backups.retireKey(old)).rejects.toMatchObject({ code: 'KEY_IN_USE' });
    go.resolve();
    await expectOpens(await run);
  });

  test('and a backup that wraps with it at that moment fails instead of counting', async () => {
    const old = await keys.currentKeyId();
    const wrapped = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    // Another process, which is slow between wrapping and saying so.
    const slow = await open({
      keys: {
        ...keys,
        wrap: async (dataKey, context) => {
          const given = await keys.wrap(dataKey, context);
          wrapped.resolve();
          await go.promise;
          return given;
        },
      },
    });
    const { id } = await bench.configure();
    const run = slow.createSnapshot({ configurationId: id }, { wait: true });
    run.catch(() => undefined);
    await wrapped.promise;
    await bench.backups.rotateKey();
    await bench.backups.retireKey(old);
    go.resolve();
    await expect(run).rejects.toMatchObject({ code: 'KEY_UNAVAILABLE', retryable: true });
    expect((await keysOf()).filter((key) => !key.endsWith('/manifest'))).toEqual([]);
    await expectOpens(await bench.backups.createSnapshot({ configurationId: id }, { wait: true }));
  });

  test('after whoever is noting its use has ended; whoever comes later waits, and is refused', async () => {
    const { id } = await take();
    const db = createDatabase({ pool: bench.database.pool, clock: { now: () => new Date() } });
    const ledger = createWrappingKeys(db);
    const note = (keyId: string, held?: Promise<void>) =>
      db.withTransaction(async (tx) => {
        const state = await ledger.use(tx, keyId);
        const scope = { organizationId: TINY_ORGANIZATION, branchIds: 'ALL' } as const;
        if (state === 'USABLE') await createBackupRepository(tx, scope).recordKey(id, keyId);
        await held;
        return state;
      });
    const retire = (keyId: string, held?: Promise<void>) =>
      db.withTransaction(async (tx) => {
        const { own } = await ledger.retire(tx, keyId, TINY_ORGANIZATION);
        await held;
        return own;
      });
    for (const [first, second, outcome] of [
      [note, retire, ['USABLE', 1]],
      [retire, note, [0, 'RETIRED']],
    ] as const) {
      const keyId = `key-${first.name}`;
      const held = Promise.withResolvers<void>();
      const one = first(keyId, held.promise);
      await until('the lock is held', async () => {
        const { rows } = await bench.database.pool.query(
          "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()",
        );
        return rows.length > 0;
      });
      const two = second(keyId);
      await until('the other waits for it', async () => {
        const { rows } = await bench.database.pool.query(
          "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        );
        return rows.length > 0;
      });
      held.resolve();
      expect(await Promise.all([one, two])).toEqual(outcome);
    }
  });

  test('by a provider that can; another says how, and nothing new is wrapped by it then', async () => {
    const [one, two] = [randomBytes(32), randomBytes(32)];
    const ring = (current: string) =>
      localKeyring({
        keys: [
          { id: 'one', key: one },
          { id: 'two', key: two },
        ],
        current,
      });
    const before = await open({ keys: ring('one') });
    const after = await open({ keys: ring('two') });
    await expect(after.retireKey('one')).rejects.toMatchObject({
      code: 'NOT_SUPPORTED',
      message: expect.stringContaining('take it out of the keyring'),
    });
    const { id } = await bench.configure();
    await expect(before.createSnapshot({ configurationId: id }, { wait: true })).rejects.toMatchObject({
      code: 'KEY_UNAVAILABLE',
    });
    expect((await before.getKeyStatus()).warnings.map(({ code }) => code)).toEqual(['KEY_RETIRED']);
  });

  test('once, where an earlier call had removed it and was cut off', async () => {
    const old = await keys.currentKeyId();
    await bench.backups.rotateKey();
    const cut = await open({
      keys: {
        ...keys,
        retire: async (id) => {
          await keys.retire?.(id);
          throw new Error('cut off');
        },
      },
    });
    await expect(cut.retireKey(old)).rejects.toMatchObject({
      code: 'KEY_UNAVAILABLE',
    });
    await bench.backups.retireKey(old);
    await bench.backups.retireKey(old);
  });
});

describe('what somebody puts beside a snapshot', () => {
  async function spoiled(snapshot: BackupSnapshot, other: BackupSnapshot): Promise<Buffer[]> {
    const context = {
      organizationId: snapshot.organizationId,
      configurationId: snapshot.configurationId,
      snapshotId: snapshot.id,
    };
    const attemptId = snapshot.storageLocation?.path.split('/').at(-2) ?? '';
    const genuine = Buffer.from(await a.sound.get(`${folderOf(snapshot)}sidecar-keys-000001`));
    const foreign = Buffer.from(await a.sound.get(`${folderOf(other)}sidecar-keys-000001`));
    const flipped = Buffer.from(genuine);
    flipped[40] = (flipped[40] ?? 0) ^ 1;
    // Authentic in all, and yet another data key: only the commitment tells.
    const wrappedKey = await keys.wrap(randomBytes(32), context);
    const mac = await keys.macKey({ ...context, purpose: 'sidecar' });
    const written: Omit<Sidecar, 'number'> = {
      kind: 'keys',
      context,
      writtenAt: new Date().toISOString(),
      payload: encodeRewrappedKey({ attemptId, wrappedKey }),
    };
    const forged = (number: number, key?: typeof mac) => encodeSidecar({ ...written, number }, key);
    return [
      genuine,
      foreign,
      flipped,
      Buffer.alloc(0),
      forged(6),
      forged(7, { keyId: mac.keyId, key: randomBytes(32) }),
      forged(8, { keyId: 'no-such-key', key: randomBytes(32) }),
      forged(9, mac),
    ];
  }

  test('neither opens it wrongly nor keeps it from opening, nor from being re-wrapped, replicated and moved', async () => {
    const snapshot = await take(several(2, 'a', 'b'));
    const other = await take();
    await replaceKey();
    let number = 2;
    const junk = await spoiled(snapshot, other);
    for (const bytes of [...junk, ...junk]) {
      const name = sidecarName({ kind: 'keys', number });
      for (const store of [a, b]) await store.sound.put(`${folderOf(snapshot)}${name}`, [bytes]);
      number += 1;
    }
    const last = `${folderOf(snapshot)}sidecar-keys-4294967295`;
    for (const store of [a, b]) await store.sound.put(last, [Buffer.from('junk')]);
    await expectOpens(snapshot);
    await replaceKey();
    await expectOpens(snapshot);
    const healed = await jobSettled(bench.backups, await bench.backups.healSnapshot(snapshot.id));
    expect(healed).toMatchObject({ status: 'COMPLETED', result: { damaged: 0 } });
    const moved = await bench.backups.migrateStorage(snapshot.configurationId, single('c'));
    expect(await jobSettled(bench.backups, moved)).toMatchObject({
      status: 'COMPLETED',
      result: { damaged: [] },
    });
    for (const store of [a, b]) store.sound = memoryStorage();
    await expectOpens(await bench.backups.getSnapshot(snapshot.id));
  });

  test('does not stand before the manifest’s own key, and one that was deleted brings that back', async () => {
    const snapshot = await take();
    const other = await take();
    await bench.backups.rotateKey();
    await rewrap();
    const genuine = `${folderOf(snapshot)}sidecar-keys-000001`;
    const junk = await spoiled(snapshot, other);
    await a.sound.delete(genuine);
    await expectOpens(snapshot);
    let number = 1;
    for (const bytes of [...junk, ...junk]) {
      await a.sound.put(`${folderOf(snapshot)}${sidecarName({ kind: 'keys', number })}`, [bytes]);
      number += 1;
    }
    await expectOpens(snapshot);
  });

  test('is told from a key that is missing, and from a storage that does not answer', async () => {
    const snapshot = await take();
    await replaceKey();
    const ring = localKeyring({ keys: [{ id: 'other', key: randomBytes(32) }] });
    const elsewhere = await open({ keys: ring });
    await expect(elsewhere.verifySnapshot(snapshot.id)).rejects.toMatchObject({ code: 'KEY_UNAVAILABLE' });
    a.onCall = (operation, key) => {
      if (operation === 'list' && key.includes('sidecar'))
        throw new StorageError('away', 'STORAGE_UNAVAILABLE', { key });
    };
    await expect(bench.backups.verifySnapshot(snapshot.id)).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
      retryable: true,
    });
  });
});

describe('several stores', () => {
  test('all have the sidecar before the old key may go; each alone restores, also one that was filled anew', async () => {
    const snapshot = await take(several(1, 'a', 'b'));
    const old = await keys.currentKeyId();
    await bench.backups.rotateKey();
    b.away = true;
    const [waiting] = await settled(await bench.backups.rewrapKeys());
    expect(waiting).toMatchObject({ status: 'QUEUED', error: { code: 'STORAGE_UNAVAILABLE' } });
    await expect(bench.backups.retireKey(old)).rejects.toMatchObject({ code: 'KEY_IN_USE' });
    b.away = false;
    // Killed between the two stores: the next try begins with what one of them has.
    b.onCall = (operation, key) => {
      if (operation === 'put') throw new StorageError('cut', 'STORAGE_UNAVAILABLE', { key });
    };
    const [again] = await settled(await bench.backups.rewrapKeys());
    expect(again).toMatchObject({ id: waiting?.id, status: 'QUEUED' });
    expect([await sidecarsIn(a), await sidecarsIn(b)].map(({ length }) => length)).toEqual([1, 0]);
    await expect(bench.backups.retireKey(old)).rejects.toMatchObject({ code: 'KEY_IN_USE' });
    b.onCall = undefined;
    await rewrap();
    await bench.backups.retireKey(old);
    const whole = await copyOf(a.sound);
    a.sound = memoryStorage();
    await expectRestores(bench, snapshot);
    b.sound = whole;
    await expectOpens(snapshot);
    await jobSettled(bench.backups, await bench.backups.startReplication(snapshot.id));
    expect(await sidecarsIn(a)).toEqual(await sidecarsIn(b));
    b.sound = memoryStorage();
    await expectOpens(snapshot);
  });

  test('a move takes the sidecars along, and what is removed of the former place leaves none', async () => {
    const snapshot = await take();
    await replaceKey();
    const { configurationId } = snapshot;
    await settled([await bench.backups.migrateStorage(configurationId, several(2, 'b', 'c'))]);
    expect(await sidecarsIn(c)).toHaveLength(1);
    const [removed] = await settled([await bench.backups.removeMigrated(configurationId)]);
    expect(removed).toMatchObject({ status: 'COMPLETED' });
    expect(await keysOf(a)).toEqual([]);
    await replaceKey();
    await expectOpens(await bench.backups.getSnapshot(snapshot.id));
    expect((await sidecarsIn(b)).length).toBe(2);
  });
});

test('two that re-wrap at once, in two processes, are one job, and each snapshot is wrapped once', async () => {
  const { id } = await bench.configure();
  for (let n = 0; n < 3; n += 1) await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  await bench.backups.rotateKey();
  const other = await open({});
  const asked = await Promise.all([bench.backups, other, bench.backups].map((one) => one.rewrapKeys()));
  expect(new Set(asked.flat().map((job) => job.id)).size).toBe(1);
  const [job] = await settled(asked[0] ?? []);
  expect(job).toMatchObject({ status: 'COMPLETED', result: { snapshots: 3 } });
  expect(await sidecarsIn()).toHaveLength(3);
});

test('one that is broken off begins anew with what is left; what cannot be opened is named at the end', async () => {
  const { id } = await bench.configure();
  const taken: BackupSnapshot[] = [];
  for (let n = 0; n < 3; n += 1)
    taken.push(await bench.backups.createSnapshot({ configurationId: id }, { wait: true }));
  await bench.backups.rotateKey();
  const reached = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  let puts = 0;
  a.onCall = async (operation) => {
    if (operation !== 'put') return;
    puts += 1;
    if (puts < 2) return;
    reached.resolve();
    await go.promise;
  };
  const [begun] = await bench.backups.rewrapKeys();
  await reached.promise;
  const cancelled = bench.backups.cancelJob(begun?.id ?? '');
  go.resolve();
  await cancelled;
  await until('the job is over', async () => {
    const { rows } = await bench.database.pool.query(
      "SELECT 1 FROM pg_stat_activity WHERE application_name = 'care-backup lock' AND datname = current_database()",
    );
    return rows.length === 0;
  });
  a.onCall = undefined;
  const [broken] = taken;
  if (broken === undefined) throw new Error('nothing was taken');
  const manifest = `${broken.storageLocation?.manifestKey}`;
  const bytes = await a.sound.get(manifest);
  await a.sound.delete(manifest);
  const [failed] = await settled(await bench.backups.rewrapKeys());
  expect(failed).toMatchObject({
    status: 'FAILED',
    error: { code: 'ARCHIVE_INCOMPLETE', message: expect.stringContaining(broken.snapshotNumber) },
  });
  await a.sound.put(manifest, [bytes]);
  await rewrap();
  const numbers = (await sidecarsIn()).map((key) => key.split('/').at(-2));
  expect(new Set(numbers).size).toBe(3);
});

describe('the state of the keys', () => {
  const DAY = 86_400_000;

  test('names each that is needed, its age by the provider, and one that is missing', async () => {
    const old = await keys.currentKeyId();
    const first = await take();
    const second = await take();
    const { keyId } = await bench.backups.rotateKey();
    const third = await take();
    const status = await bench.backups.getKeyStatus();
    expect(status).toMatchObject({ currentKeyId: keyId, warnings: [] });
    expect(status.keys).toMatchObject([
      {
        keyId,
        current: true,
        snapshots: 1,
        state: 'AVAILABLE',
        ageDays: 0,
        newestSnapshotAt: third.createdAt,
      },
      {
        keyId: old,
        current: false,
        snapshots: 2,
        state: 'AVAILABLE',
        oldestSnapshotAt: first.createdAt,
        newestSnapshotAt: second.createdAt,
      },
    ]);
    await keys.retire?.(old);
    const without = await bench.backups.getKeyStatus();
    expect(without.keys[1]).toMatchObject({ keyId: old, state: 'UNAVAILABLE', error: 'KEY_UNAVAILABLE' });
    expect(without.warnings.map(({ code }) => code)).toEqual(['KEY_UNAVAILABLE']);
    a.away = true;
    expect((await bench.backups.getKeyStatus()).keys[0]).toMatchObject({ state: 'UNKNOWN' });
  });

  test('an old key is told of once a day, and no backup carries a warning for it', async () => {
    const told: string[] = [];
    bench.protection.on('keys.rotation_due', ({ keyId, ageDays }) => told.push(`${keyId} ${ageDays}`));
    const current = await keys.currentKeyId();
    const made = new Date(now - 89 * DAY).toISOString();
    const old = (await readFile(file, 'utf8')).replace(/("createdAt": ")[^"]*/, `$1${made}`);
    await writeFile(file, old);
    await take();
    expect(told).toEqual([]);
    now += 1.5 * DAY;
    for (let n = 0; n < 2; n += 1) expect(await take()).toMatchObject({ status: 'COMPLETED', warnings: [] });
    expect(told).toEqual([`${current} 90`]);
    now += DAY;
    await take();
    expect(told).toEqual([`${current} 90`, `${current} 91`]);
    expect((await bench.backups.getKeyStatus()).warnings.map(({ code }) => code)).toEqual(['KEY_TOO_OLD']);
    const oldest = new Date(now - 2 * DAY).toISOString();
    await replaceKey();
    await take();
    expect(told).toHaveLength(2);
    // Snapshots that are older than the key that wraps them now do not make it old, also where nobody knows when it was made.
    const text = (await readFile(file, 'utf8')).replace(/,\s*"createdAt":[^}]*/g, '');
    const [key] = JSON.parse(text).keys;
    const ageless = localKeyring({ keys: [key] });
    const elsewhere = await open({ keys: ageless });
    const [use] = (await elsewhere.getKeyStatus()).keys;
    expect(use).toMatchObject({ createdAt: null, ageDays: 0, current: true });
    expect(use?.oldestSnapshotAt && use.oldestSnapshotAt < oldest).toBe(true);
  });

  test('where the provider only opens, there is no current key', async () => {
    const given = { name: 'one', credentials: () => ({ passphrase: 'six words or more of it' }) };
    const plain = await open({ keys: passphraseKeyring({ passphrases: [given] }) });
    expect(await plain.getKeyStatus()).toEqual({ currentKeyId: null, keys: [], warnings: [] });
    await expect(plain.rotateKey()).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
  });
});
