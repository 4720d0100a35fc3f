import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { DataProtection } from '../../src/compose.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import type { BackupSnapshot, RestoreOperation, StorageDestination } from '../../src/types/backup.ts';
import { startAzurite } from '../harness/azurite.ts';
import { type FakeS3, startFakeS3 } from '../harness/fake-s3.ts';
import { actorOf, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { hiddenSchemas, schemaThere } from '../harness/service-compare.ts';
import { TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const LIMIT_MS = 50_000;

let bench: ServiceBench;

beforeAll(async () => {
  bench = await createBench(tinyData);
  // Several objects of 8 MiB.
  await bench.database.pool.query(
    `INSERT INTO item SELECT n, '${TINY_ORGANIZATION}', '${bench.branches[0][0]}', repeat(md5(n::text), 32768)
       FROM generate_series(1001, 1020) n`,
  );
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

async function until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  for (const end = Date.now() + LIMIT_MS; Date.now() < end; await sleep(20)) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
  }
  throw new Error(`It did not happen: ${what}`);
}

async function backUp(backups: BackupService): Promise<BackupSnapshot> {
  const { id: configurationId } = await backups.createConfiguration({
    name: `c-${crypto.randomUUID()}`,
    scope: {},
    compressionEnabled: false,
  });
  return backups.createSnapshot({ configurationId }, { wait: true });
}

describe('S3 GLACIER', { timeout: 120_000 }, () => {
  let fake: FakeS3;
  let protection: DataProtection;
  let backups: BackupService;
  let snapshot: BackupSnapshot;
  let progress: number[];

  beforeEach(async () => {
    fake = await startFakeS3();
    const storageDestination: StorageDestination = {
      type: 'AWS_S3',
      cloudStorage: {
        provider: 'AWS',
        bucketName: fake.bucketName,
        region: fake.region,
        endpoint: fake.endpoint,
        storageClass: 'GLACIER',
        credentialsRef: 'x',
      },
    };
    protection = await bench.open({
      storageDestination,
      credentials: () => ({ ...fake.keys }),
      thawPollMs: 50,
      storageLimits: { attempts: 2, baseDelayMs: 1, maxDelayMs: 2, breakerOpenMs: 20 },
    });
    backups = protection.backups(actorOf(TINY_ORGANIZATION));
    progress = [];
    protection.on('restore.progress', (event) => {
      if (event.progress.phase === 'THAWING') progress.push(event.progress.percentage);
    });
    snapshot = await backUp(backups);
    fake.requests.length = 0;
  });
  afterEach(async () => {
    await protection.close();
    await fake.close();
  });

  const versions = () =>
    [...fake.bucket.objects.keys()].flatMap((key) => {
      const version = fake.bucket.current(key);
      return version === undefined ? [] : [{ key, version }];
    });
  const objects = () => versions().filter(({ key }) => !key.endsWith('/manifest'));
  const asked = () =>
    fake.requests.filter(({ operation }) => operation === 'RestoreObject').map(({ key }) => key);
  const thaw = ({ version }: ReturnType<typeof objects>[number]): void => {
    version.restore = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2040 00:00:00 GMT"';
  };
  const start = (schemaName: string): Promise<RestoreOperation> =>
    backups.createRestoreOperation({
      snapshotId: snapshot.id,
      restoreDestination: { type: 'TEST', schemaName },
      validationEnabled: false,
    });
  const thawing = (id: string) =>
    until('thawing', async () => {
      const restore = await backups.getRestoreOperation(id);
      return restore.progress?.phase === 'THAWING' && asked().length === objects().length && restore;
    });
  const ended = (id: string) =>
    until('an end', async () => {
      const restore = await backups.getRestoreOperation(id);
      return restore.completedAt !== null && restore;
    });

  it('keeps the manifest at hand and the rest frozen, and claims no check that it could not make', async () => {
    expect(objects().length).toBeGreaterThan(2);
    for (const { version } of objects()) expect(version.storageClass).toBe('GLACIER');
    const manifests = versions().filter(({ key }) => key.endsWith('/manifest'));
    expect(manifests.map(({ version }) => version.storageClass)).toEqual(['STANDARD']);
    expect(snapshot.status).toMatch(/^COMPLETED/);
    expect(snapshot.integrityVerified).not.toBe(true);
    await expect(backups.verifySnapshot(snapshot.id)).rejects.toMatchObject({ code: 'OBJECT_ARCHIVED' });
    expect((await backups.getSnapshot(snapshot.id)).status).toBe(snapshot.status);
    // A frozen object is no failure of the store.
    expect(protection.storageHealth()).toMatchObject([{ state: 'CLOSED', retries: 0 }]);
  });

  it('is thawed for a restore, which waits for the last object', async () => {
    const { id } = await start('thawed');
    expect(await thawing(id)).toMatchObject({ status: 'IN_PROGRESS', progress: { percentage: 1 } });
    const [first, ...others] = objects();
    if (first === undefined) throw new Error('no objects');
    thaw(first);
    await until(
      'progress',
      async () => ((await backups.getRestoreOperation(id)).progress?.percentage ?? 0) > 1,
    );
    expect(await schemaThere(bench.database.pool, 'thawed')).toBe(false);
    for (const other of others) thaw(other);
    expect((await ended(id)).status).toBe('COMPLETED');
    expect(await tinyDifferences(bench.database.pool, 'thawed')).toBe(0);
    // Each was asked for once, however often it was looked at.
    expect([...asked()].sort()).toEqual(
      objects()
        .map(({ key }) => key)
        .sort(),
    );
    expect(progress.some((percentage) => percentage > 1)).toBe(true);
    expect([...progress].sort((a, b) => a - b)).toEqual(progress);
    expect(await backups.verifySnapshot(snapshot.id)).toMatchObject({ passed: true });
  });

  it('is waited for also while the store is away, and asked for anew where the answer was lost', async () => {
    let fail = true;
    fake.fault = ({ operation }) => (operation === 'RestoreObject' && fail ? 'LOSE_ANSWER' : undefined);
    await expect(
      backups.createRestoreOperation(
        { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName: 'away' } },
        { wait: true },
      ),
    ).rejects.toMatchObject({ code: expect.stringMatching(/^STORAGE_/) });
    fail = false;
    fake.fault = () => undefined;
    await until(
      'the breaker',
      async () => protection.storageHealth()[0]?.state !== 'OPEN' || sleep(30, true),
    );
    for (const { version } of objects()) version.restore = undefined;
    fake.requests.length = 0;
    const { id } = await start('away');
    await thawing(id);
    const { failures = 0 } = protection.storageHealth()[0] ?? {};
    fake.fault = () => 'CUT_BEFORE';
    await until('failures', async () => (protection.storageHealth()[0]?.failures ?? 0) > failures + 2);
    fake.fault = () => undefined;
    objects().forEach(thaw);
    expect((await ended(id)).status).toBe('COMPLETED');
    expect(await tinyDifferences(bench.database.pool, 'away')).toBe(0);
  });

  it('ends at once where the restore is cancelled, and where the store says no', async () => {
    const { id } = await start('cancelled');
    await thawing(id);
    expect((await backups.cancelRestoreOperation(id)).status).toBe('CANCELLED');
    const looks = fake.requests.length;
    await sleep(200);
    expect(fake.requests.length).toBe(looks);
    const { id: denied } = await start('denied');
    await thawing(denied);
    fake.fault = ({ operation }) =>
      operation === 'HeadObject' ? { status: 403, code: 'AccessDenied' } : undefined;
    expect(await ended(denied)).toMatchObject({
      status: 'FAILED',
      statusReason: expect.stringContaining('STORAGE_DENIED'),
    });
    for (const schema of ['cancelled', 'denied'])
      expect(await schemaThere(bench.database.pool, schema)).toBe(false);
    expect(await hiddenSchemas(bench.database.pool)).toEqual([]);
  });
});

describe('Azure Archive', { timeout: 120_000 }, () => {
  it('is thawed for a restore', async () => {
    await using azurite = await startAzurite();
    const { accountName, accountKey, endpoint } = azurite;
    const container = await azurite.container();
    const protection = await bench.open({
      storageDestination: {
        type: 'AZURE_BLOB',
        cloudStorage: {
          provider: 'AZURE',
          bucketName: container.containerName,
          accountName,
          endpoint,
          storageClass: 'Archive',
          credentialsRef: 'x',
        },
      },
      credentials: () => ({ accountKey }),
      thawPollMs: 50,
    });
    const tiers = async (): Promise<Record<string, number>> => {
      const found: Record<string, number> = {};
      for await (const { name, properties } of container.listBlobsFlat()) {
        const what = `${name.endsWith('/manifest') ? 'manifest' : 'object'} ${properties.accessTier}`;
        found[what] = (found[what] ?? 0) + 1;
      }
      return found;
    };
    const backups = protection.backups(actorOf(TINY_ORGANIZATION));
    const snapshot = await backUp(backups);
    expect(snapshot.integrityVerified).not.toBe(true);
    expect(await tiers()).toEqual({ 'manifest Hot': 1, 'object Archive': 3 });
    await expect(backups.verifySnapshot(snapshot.id)).rejects.toMatchObject({ code: 'OBJECT_ARCHIVED' });
    const restore = await backups.createRestoreOperation(
      {
        snapshotId: snapshot.id,
        restoreDestination: { type: 'TEST', schemaName: 'azure' },
        validationEnabled: false,
      },
      { wait: true },
    );
    expect(restore.status).toBe('COMPLETED');
    expect(await tinyDifferences(bench.database.pool, 'azure')).toBe(0);
    expect(await tiers()).toEqual({ 'manifest Hot': 1, 'object Hot': 3 });
    await protection.close();
  });
});
