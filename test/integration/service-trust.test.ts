import { mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createArchiveWriter } from '../../src/archive/writer.ts';
import { createDataProtection } from '../../src/compose.ts';
import { defineEntity } from '../../src/source/entity.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { StorageError } from '../../src/types/errors.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import { actorOf, benchKeyring } from '../harness/service-bench.ts';

const ORGANIZATION = 'abcdef00-0000-4000-8000-0000000000cc';
const entities = [defineEntity({ type: 'NOTE', table: 'notes' })];
let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await database.pool.query(
    'CREATE TABLE notes (id int PRIMARY KEY, organization_id text NOT NULL, body text)',
  );
  await database.pool.query('INSERT INTO notes SELECT i, $1, $2 FROM generate_series(1, 7) i', [
    ORGANIZATION.toUpperCase(),
    'true',
  ]);
});
afterAll(() => database[Symbol.asyncDispose]());

const on = (storage: ObjectStorage | undefined, path = '/unused') =>
  createDataProtection({
    database: database.url,
    entities,
    keys: benchKeyring(),
    storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path } },
    openStorage: () => storage,
  });

test('an organization’s id in upper case, in a column of text, is the organization’s', async () => {
  await using protection = await on(memoryStorage());
  const backups = protection.backups(actorOf(ORGANIZATION));
  const { id } = await backups.createConfiguration({ name: 'Text' });
  const snapshot = await backups.createSnapshot({ configurationId: id }, { wait: true });
  expect(snapshot.dataMetrics?.totalRecords).toBe(7);
});

describe('who can write to the storage and has no key', () => {
  test('cannot put an archive in the clear in the place of an encrypted one', async () => {
    const inner = memoryStorage();
    let forging = true;
    const storage: ObjectStorage = {
      ...inner,
      async put(key, body, options) {
        if (!forging || !key.endsWith('/manifest')) return inner.put(key, body, options);
        forging = false;
        await forge(inner, key);
        throw new StorageError('The answer was lost', 'STORAGE_UNAVAILABLE');
      },
    };
    await using protection = await on(storage);
    const backups = protection.backups(actorOf(ORGANIZATION));
    const { id } = await backups.createConfiguration({ name: 'Forged' });
    const run = backups.createSnapshot({ configurationId: id }, { wait: true });
    await expect(run).rejects.toMatchObject({ code: 'BACKUP_ATTEMPT_LOST' });
    const good = await backups.createSnapshot({ configurationId: id }, { wait: true });
    const { items } = await backups.listSnapshots({ configurationId: id });
    expect(items.map(({ status }) => status)).toEqual(['COMPLETED', 'FAILED']);
    expect(items[0]?.id).toBe(good.id);
  });
});

/** An archive that nobody encrypted, with the identity that the name of the manifest tells. */
async function forge(storage: ObjectStorage, manifestKey: string): Promise<void> {
  const [organizationId, configurationId, snapshotNumber, attemptId] = manifestKey.split('/');
  const { rows } = await database.pool.query<{ id: string }>(
    'SELECT id FROM care_backup.backup_snapshots WHERE snapshot_number = $1',
    [snapshotNumber],
  );
  if (!organizationId || !configurationId || !snapshotNumber || !attemptId || !rows[0])
    throw new Error('no name');
  const writer = createArchiveWriter({
    identity: { organizationId, configurationId, snapshotNumber, attemptId, snapshotId: rows[0].id },
    createdAt: new Date(),
    compression: { algorithm: 'ZSTD' },
    checksum: 'SHA256',
    reopen: 'TRUST',
    store: async () => undefined,
  });
  const { bytes } = await writer.finish({
    contentsVersion: 1,
    source: {},
    scope: {},
    branchIds: null,
    entities: [],
    types: [],
    sequences: [],
    relations: [],
    warnings: [],
  });
  await storage.put(manifestKey, [bytes]);
}

test('a folder that is gone is no empty storage', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'care-trust-'));
  const path = join(folder, 'disk');
  try {
    await using protection = await on(undefined, path);
    const backups = protection.backups(actorOf(ORGANIZATION));
    const { id } = await backups.createConfiguration({ name: 'Disk' });
    const snapshot = await backups.createSnapshot({ configurationId: id }, { wait: true });
    await rename(path, join(folder, 'unmounted'));
    const gone = { code: 'STORAGE_UNAVAILABLE' };
    await expect(backups.verifySnapshot(snapshot.id)).rejects.toMatchObject(gone);
    await expect(backups.createSnapshot({ configurationId: id }, { wait: true })).rejects.toMatchObject(gone);
    await rename(join(folder, 'unmounted'), path);
    expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true });
    expect(await backups.getSnapshot(snapshot.id)).toMatchObject({ integrityVerified: true });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
