import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startWriter } from '../../examples/care-platform/generate.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { ChecksumAlgorithm, CompressionAlgorithm } from '../../src/types/encryption.ts';
import type { BackupEvents } from '../../src/types/events.ts';
import {
  actorOf,
  auditActions,
  carePlatform,
  createBench,
  filesBelow,
  SEED,
  type ServiceBench,
  wholeScope,
} from '../harness/service-bench.ts';
import { differingTables } from '../harness/service-compare.ts';
import { OTHER_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const VISITS = 300;
let bench: ServiceBench;
let tiny: ServiceBench;

beforeAll(async () => {
  bench = await createBench(carePlatform(VISITS));
  tiny = await createBench(tinyData);
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
  await tiny[Symbol.asyncDispose]();
});

const into = (schemaName: string) => ({ restoreDestination: { type: 'STAGING', schemaName } }) as const;

describe('a whole organization', () => {
  test('is backed up, verified and restored identical, with what the catalog says of it', async () => {
    const configuration = await bench.configure({ scope: wholeScope });
    const snapshot = await bench.backups.createSnapshot(
      { configurationId: configuration.id, tags: { why: 'test' } },
      { wait: true },
    );
    expect(snapshot).toMatchObject({
      status: 'COMPLETED',
      snapshotType: 'FULL',
      trigger: 'MANUAL',
      encrypted: true,
      encryptionAlgorithm: 'AES-256-GCM',
      encryptionKeyId: 'bench-key',
      integrityVerified: true,
      tags: { why: 'test' },
      errors: [],
      warnings: [],
    });
    expect(snapshot.snapshotNumber).toMatch(/^BKP-20\d\d-\d{6}$/);
    expect(snapshot.dataMetrics?.recordsByEntity).toMatchObject({ VISIT: VISITS, ORGANIZATION: 1 });
    expect(Date.parse(snapshot.expiresAt ?? '') - Date.parse(snapshot.completedAt ?? '')).toBe(
      30 * 86_400_000,
    );
    const [object, manifest] = (await filesBelow(bench.folder)).reverse();
    expect([object, manifest].map((file) => file?.split('/').at(-1)).sort()).toEqual([
      'manifest',
      'o-000001',
    ]);

    expect(await bench.backups.verifySnapshot(snapshot.id)).toMatchObject({
      passed: true,
      recordsExpected: snapshot.dataMetrics?.totalRecords,
      recordsFound: snapshot.dataMetrics?.totalRecords,
    });
    const restore = await bench.backups.createRestoreOperation(
      { snapshotId: snapshot.id, ...into('whole') },
      { wait: true },
    );
    expect(restore).toMatchObject({ status: 'COMPLETED', warnings: [], validationResults: { passed: true } });
    expect(
      await differingTables(bench.database.pool, { organization: bench.organizations[0], schema: 'whole' }),
    ).toEqual([]);

    expect(await bench.backups.getSnapshot(snapshot.id)).toMatchObject({ restoreCount: 1 });
    expect(await bench.backups.getConfiguration(configuration.id)).toMatchObject({
      totalBackupsCreated: 1,
      totalStorageUsed: snapshot.dataMetrics?.storedSizeBytes,
      lastSuccessfulBackupAt: snapshot.completedAt,
    });
    expect(await auditActions(bench.database.pool, snapshot.id)).toEqual([
      'snapshot.requested',
      'snapshot.completed',
      'snapshot.verified',
    ]);
    expect(await auditActions(bench.database.pool, restore.id)).toEqual([
      'restore.requested',
      'restore.completed',
    ]);
  });

  test('is one moment while a writer goes on: what is restored references nothing that is missing', async () => {
    const { id } = await bench.configure({ scope: wholeScope });
    const writer = await startWriter(bench.database.url, { seed: SEED, intervalMs: 1 });
    const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    await writer.stop();
    const restore = await bench.backups.createRestoreOperation(
      { snapshotId: snapshot.id, ...into('moment') },
      { wait: true },
    );
    expect(restore).toMatchObject({ status: 'COMPLETED', warnings: [] });
  });

  test('limited to a branch holds that branch’s rows and those that belong to them', async () => {
    const [branch = ''] = bench.branches[0];
    const { id } = await bench.configure({ branchIds: [branch], scope: wholeScope });
    const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    await bench.backups.createRestoreOperation(
      { snapshotId: snapshot.id, ...into('branch') },
      { wait: true },
    );
    const own = `t.branch_id = '${branch}'`;
    const parents = `EXISTS (SELECT 1 FROM care_plans c WHERE c.id = t.care_plan_id AND c.branch_id = '${branch}')`;
    const differing = await differingTables(bench.database.pool, {
      organization: bench.organizations[0],
      schema: 'branch',
      types: ['BRANCH', 'CLIENT', 'CAREGIVER', 'CARE_PLAN', 'TASK', 'VISIT'],
      only: {
        branches: `t.id = '${branch}'`,
        clients: own,
        caregivers: own,
        care_plans: own,
        visits: own,
        tasks: parents,
      },
    });
    expect(differing).toEqual([]);
    expect(snapshot.dataMetrics?.recordsByEntity.VISIT).toBeLessThan(VISITS);
  });
});

test('a run in the background tells how far it is, in the catalog and in events', async () => {
  const storage = memoryStorage();
  const looked = Promise.withResolvers<void>();
  const waiting: ObjectStorage = {
    ...storage,
    put: async (...put) => {
      await looked.promise;
      return storage.put(...put);
    },
  };
  const protection = await tiny.open({ openStorage: () => waiting });
  const backups = protection.backups(actorOf(tiny.organizations[0]));
  const seen: string[] = [];
  const names: (keyof BackupEvents)[] = [
    'snapshot.started',
    'snapshot.progress',
    'snapshot.completed',
    'snapshot.failed',
  ];
  const completed = Promise.withResolvers<void>();
  for (const name of names) protection.on(name, () => seen.push(name));
  protection.on('snapshot.completed', () => completed.resolve());
  const { id: configurationId } = await tiny.configure();
  const queued = await backups.createSnapshot({ configurationId });
  expect(queued).toMatchObject({ status: 'QUEUED', progress: null, startedAt: null });
  let running = queued;
  const told = () => seen.filter((name) => name === 'snapshot.progress').length;
  // The first put waits, so that this is to be seen on a slow machine too.
  while ((running.progress?.phase !== 'UPLOADING' || told() < 2) && running.completedAt === null) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    running = await backups.getSnapshot(queued.id);
  }
  looked.resolve();
  expect(running).toMatchObject({
    status: 'IN_PROGRESS',
    progress: { phase: 'UPLOADING', recordsProcessed: 120, entitiesTotal: 2, entitiesCompleted: 2 },
  });
  await completed.promise;
  expect(await backups.getSnapshot(queued.id)).toMatchObject({ status: 'COMPLETED' });
  expect(seen[0]).toBe('snapshot.started');
  expect(seen.at(-1)).toBe('snapshot.completed');
  expect(told()).toBeGreaterThanOrEqual(2);
});

describe('every way to store restores identical', () => {
  const compressions: CompressionAlgorithm[] = ['ZSTD', 'GZIP', 'BROTLI', 'LZ4', 'NONE'];
  const checksums: ChecksumAlgorithm[] = ['SHA256', 'SHA512', 'BLAKE3'];
  // Without CARE_SOAK each two of the three settings meet; with it each three.
  const cases = compressions.flatMap((compressionAlgorithm, row) =>
    checksums.flatMap((checksumAlgorithm, column) =>
      [true, false]
        .filter((encrypted) => process.env.CARE_SOAK === '1' || encrypted === ((row + column) % 2 === 0))
        .map((encrypted) => ({ compressionAlgorithm, checksumAlgorithm, encrypted })),
    ),
  );
  test.each(cases)('$compressionAlgorithm, $checksumAlgorithm, encrypted $encrypted', async (how) => {
    const { compressionAlgorithm, checksumAlgorithm, encrypted } = how;
    const { id } = await tiny.configure({
      compressionAlgorithm,
      checksumAlgorithm,
      encryptionEnabled: encrypted,
      allowUnencryptedPHI: !encrypted,
    });
    const snapshot = await tiny.backups.createSnapshot({ configurationId: id }, { wait: true });
    expect(snapshot).toMatchObject({
      encrypted,
      compressionAlgorithm,
      checksumAlgorithm,
      compressed: compressionAlgorithm !== 'NONE',
    });
    expect(snapshot.checksum).toHaveLength(checksumAlgorithm === 'SHA512' ? 128 : 64);
    expect(await tiny.backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true });
    const schema = `b_${compressionAlgorithm}_${checksumAlgorithm}_${encrypted}`.toLowerCase();
    await tiny.backups.createRestoreOperation({ snapshotId: snapshot.id, ...into(schema) }, { wait: true });
    expect(await tinyDifferences(tiny.database.pool, schema)).toBe(0);
  });
});

test('without the integrity check a backup counts as not verified until it is', async () => {
  const { id } = await tiny.configure({ integrityCheckEnabled: false });
  const snapshot = await tiny.backups.createSnapshot({ configurationId: id }, { wait: true });
  expect(snapshot).toMatchObject({
    status: 'COMPLETED',
    integrityVerified: false,
    integrityVerifiedAt: null,
  });
  await tiny.backups.verifySnapshot(snapshot.id);
  expect(await tiny.backups.getSnapshot(snapshot.id)).toMatchObject({ integrityVerified: true });
});

test('an organization without rows has a backup that restores to empty tables', async () => {
  const empty = actorOf('00000000-0000-4000-8000-0000000000ff');
  const backups = tiny.protection.backups(empty);
  const { id } = await backups.createConfiguration({ name: 'empty' });
  const snapshot = await backups.createSnapshot({ configurationId: id }, { wait: true });
  expect(snapshot.dataMetrics).toMatchObject({ totalRecords: 0, recordsByEntity: { ITEM: 0, PART: 0 } });
  expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true, recordsFound: 0 });
  await backups.createRestoreOperation({ snapshotId: snapshot.id, ...into('empty') }, { wait: true });
  expect(await tinyDifferences(tiny.database.pool, 'empty', 'false')).toBe(0);
});

test('an entity without rows among others', async () => {
  await tiny.database.pool.query(
    `DELETE FROM part p USING item i WHERE i.id = p.item_id AND i.organization_id = '${OTHER_ORGANIZATION}'`,
  );
  const backups = tiny.protection.backups(actorOf(OTHER_ORGANIZATION));
  const { id } = await backups.createConfiguration({ name: 'other' });
  const snapshot = await backups.createSnapshot({ configurationId: id }, { wait: true });
  expect(snapshot.dataMetrics?.recordsByEntity).toEqual({ ITEM: 10, PART: 0 });
  await backups.createRestoreOperation({ snapshotId: snapshot.id, ...into('other') }, { wait: true });
  expect(
    await tinyDifferences(tiny.database.pool, 'other', `organization_id = '${OTHER_ORGANIZATION}'`),
  ).toBe(0);
});

test('a restore that had to leave something out is COMPLETED_WITH_WARNINGS', async () => {
  const { id } = await tiny.configure({ scope: { includeEntities: ['PART'] } });
  const snapshot = await tiny.backups.createSnapshot({ configurationId: id }, { wait: true });
  const restore = await tiny.backups.createRestoreOperation(
    { snapshotId: snapshot.id, ...into('parts') },
    { wait: true },
  );
  expect(restore).toMatchObject({
    status: 'COMPLETED_WITH_WARNINGS',
    warnings: [{ code: 'FOREIGN_KEY_LEFT_OUT' }],
  });
});

test('a restore into a schema that exists changes nothing in it', async () => {
  const { id } = await tiny.configure();
  const snapshot = await tiny.backups.createSnapshot({ configurationId: id }, { wait: true });
  await tiny.database.pool.query('CREATE SCHEMA taken; CREATE TABLE taken.item AS SELECT 1 AS x');
  const restore = tiny.backups.createRestoreOperation(
    { snapshotId: snapshot.id, ...into('taken') },
    { wait: true },
  );
  await expect(restore).rejects.toMatchObject({ code: 'RESTORE_TARGET_EXISTS', snapshotId: snapshot.id });
  expect((await tiny.database.pool.query('SELECT * FROM taken.item')).rows).toEqual([{ x: 1 }]);
});

test('snapshots are listed newest first, page by page, by configuration and status', async () => {
  const { id } = await tiny.configure();
  const made: string[] = [];
  for (let count = 0; count < 3; count += 1) {
    made.unshift((await tiny.backups.createSnapshot({ configurationId: id }, { wait: true })).id);
  }
  const first = await tiny.backups.listSnapshots({ configurationId: id, limit: 2 });
  const second = await tiny.backups.listSnapshots({
    configurationId: id,
    limit: 2,
    cursor: first.nextCursor ?? '',
  });
  expect([...first.items, ...second.items].map((snapshot) => snapshot.id)).toEqual(made);
  expect(second.nextCursor).toBeNull();
  expect((await tiny.backups.listSnapshots({ configurationId: id, status: ['FAILED'] })).items).toEqual([]);
});
