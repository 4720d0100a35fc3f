import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DataProtection } from '../../src/compose.ts';
import type { BackupSnapshot, CreateBackupConfigInput, StorageDestination, UUID } from '../../src/index.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { localStorage } from '../../src/storage/local.ts';
import { StorageError } from '../../src/types/errors.ts';
import type { BackupEvents } from '../../src/types/events.ts';
import { actorOf, createBench, filesBelow, ownRows, type ServiceBench } from '../harness/service-bench.ts';
import {
  BRANCH_A,
  BRANCH_B,
  OTHER_ORGANIZATION,
  TINY_ORGANIZATION,
  tinyData,
} from '../harness/service-tiny.ts';

let bench: ServiceBench;
let now = new Date('2026-06-15T12:00:00Z');
/** Folders whose listing fails. */
const broken = new Set<string>();
const PRICES = {
  LOCAL_FILESYSTEM: { perGbMonth: 0.1, perThousandWrites: 5, currency: 'EUR' },
  GLACIER: { perGbMonth: 0.004 },
};

beforeAll(async () => {
  bench = await createBench(tinyData, {
    clock: { now: () => now },
    storagePrices: PRICES,
    openStorage: ({ localStorage: local }) => {
      if (local === undefined || !broken.has(local.path)) return undefined;
      const storage = localStorage({ path: local.path });
      return {
        ...storage,
        // biome-ignore lint/correctness/useYield: it fails before the first
        async *list() {
          throw new StorageError('The planted failure', 'STORAGE_UNAVAILABLE');
        },
      };
    },
  });
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

/** An organization, and so a catalog, of one's own, for each test: the data of the bench is the first one's. */
let folder: string;
let backups: BackupService;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'care-usage-'));
  now = new Date('2026-06-15T12:00:00Z');
  backups = bench.backups;
  await bench.database.pool.query(
    `TRUNCATE care_backup.backup_queue, care_backup.storage_jobs, care_backup.backup_attempts,
       care_backup.restore_conflicts, care_backup.restore_images, care_backup.restore_image_tables,
       care_backup.restore_operations, care_backup.backup_snapshots, care_backup.backup_configurations`,
  );
});
afterEach(async () => {
  broken.clear();
  // Replications of the last test may still store.
  await rm(folder, { recursive: true, force: true, maxRetries: 20 });
});

const local = (
  over: Partial<StorageDestination> = {},
  path = folder,
  prefix?: string,
): StorageDestination => ({
  type: 'LOCAL_FILESYSTEM',
  localStorage: { path, ...(prefix === undefined ? {} : { prefix }) },
  ...over,
});

async function configure(
  storageDestination: StorageDestination,
  over: Partial<CreateBackupConfigInput> = {},
) {
  return backups.createConfiguration({ name: `c-${randomUUID()}`, scope: {}, storageDestination, ...over });
}

const take = (configurationId: UUID, service = backups): Promise<BackupSnapshot> =>
  service.createSnapshot({ configurationId }, { wait: true });

const storedBytes = (...snapshots: readonly BackupSnapshot[]): number =>
  snapshots.reduce((sum, snapshot) => sum + (snapshot.dataMetrics?.storedSizeBytes ?? Number.NaN), 0);
const objectsOf = (...snapshots: readonly BackupSnapshot[]): number =>
  snapshots.reduce((sum, snapshot) => sum + (snapshot.dataMetrics?.objects ?? Number.NaN), 0);

async function bytesBelow(path: string): Promise<{ objects: number; bytes: number }> {
  const files = await filesBelow(path);
  const sizes = await Promise.all(files.map(async (file) => (await stat(join(path, file))).size));
  return { objects: files.length, bytes: sizes.reduce((sum, size) => sum + size, 0) };
}

async function jobEnded(id: UUID): Promise<void> {
  for (;;) {
    const { status, error } = await backups.getJobStatus(id);
    if (status === 'COMPLETED') return;
    if (status === 'FAILED') throw new Error(error?.message);
    await sleep(20);
  }
}

/** Waits for the replication that begins by itself. */
async function copied(id: UUID): Promise<void> {
  for (;;) {
    const { storageLocation } = await backups.getSnapshot(id);
    if (storageLocation?.replicationLocations.every(({ status }) => status === 'COMPLETE')) return;
    await sleep(20);
  }
}

function heard(protection: DataProtection): BackupEvents['storage.quota'][] {
  const events: BackupEvents['storage.quota'][] = [];
  protection.on('storage.quota', (event) => void events.push(event));
  return events;
}

describe('usage, from the catalog', () => {
  test('by configuration, by place and in all', async () => {
    const first = await configure(local({}, folder, 'one'));
    const second = await configure(local({}, folder, 'two'));
    const empty = await configure(local({}, folder, 'two'));
    const a = await take(first.id);
    now = new Date('2026-06-16T12:00:00Z');
    const b = await take(first.id);
    const c = await take(second.id);
    const usage = await backups.getStorageUsage();
    expect(usage).toMatchObject({
      asOf: now.toISOString(),
      snapshots: 3,
      objects: objectsOf(a, b, c),
      storedBytes: storedBytes(a, b, c),
      occupiedBytes: storedBytes(a, b, c),
      pendingBytes: 0,
      oldestSnapshotAt: a.completedAt,
      newestSnapshotAt: c.completedAt,
      quotas: [],
      measured: null,
    });
    expect(usage.compressionRatio).toBeCloseTo(usage.rawBytes / usage.storedBytes, 10);
    expect(usage.configurations.map((one) => [one.configurationId, one.snapshots, one.storedBytes])).toEqual([
      [empty.id, 0, 0],
      [second.id, 1, storedBytes(c)],
      [first.id, 2, storedBytes(a, b)],
    ]);
    expect(usage.configurations[0]?.compressionRatio).toBeNull();
    expect(usage.places.map((place) => [place.snapshots, place.bytes, place.objects])).toEqual([
      [2, storedBytes(a, b), objectsOf(a, b)],
      [1, storedBytes(c), objectsOf(c)],
    ]);
    const only = await backups.getStorageUsage({ configurationId: first.id });
    expect(only).toMatchObject({ snapshots: 2, storedBytes: storedBytes(a, b) });
    expect(only.places).toHaveLength(1);
  });

  test('failed snapshots and deleted ones do not count; those of a deleted configuration do', async () => {
    const kept = await configure(local());
    const deleted = await configure(local());
    const gone = await take(kept.id);
    const failed = await take(kept.id);
    const stays = await take(deleted.id);
    await backups.deleteConfiguration(deleted.id);
    const never = await configure(local());
    await backups.deleteConfiguration(never.id);
    const { pool } = bench.database;
    await pool.query(
      `UPDATE care_backup.backup_snapshots SET status = 'DELETED', deleted_at = $2, deleted_by = $1 WHERE id = $1`,
      [gone.id, now],
    );
    await pool.query(`UPDATE care_backup.backup_snapshots SET status = 'FAILED' WHERE id = $1`, [failed.id]);
    const usage = await backups.getStorageUsage();
    expect(usage).toMatchObject({ snapshots: 1, storedBytes: storedBytes(stays) });
    expect(usage.configurations.map(({ configurationId, deleted: was }) => [configurationId, was])).toEqual([
      [deleted.id, true],
      [kept.id, false],
    ]);
    expect((await backups.getStorageUsage({ configurationId: deleted.id })).snapshots).toBe(1);
    await expect(backups.getStorageUsage({ configurationId: never.id })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  test('every copy of MULTI that is whole, and what others may still take up', async () => {
    const second = await mkdtemp(join(tmpdir(), 'care-usage-'));
    const multi: StorageDestination = {
      type: 'MULTI',
      destinations: [local({}, folder, 'p'), local({}, second)],
    };
    const { id } = await configure(multi);
    const snapshot = await take(id);
    await copied(snapshot.id);
    const bytes = storedBytes(snapshot);
    const whole = await backups.getStorageUsage({ measure: true });
    expect(whole).toMatchObject({
      snapshots: 1,
      storedBytes: bytes,
      occupiedBytes: 2 * bytes,
      pendingBytes: 0,
    });
    expect(whole.places.map((place) => [place.snapshots, place.bytes, place.type])).toEqual([
      [1, bytes, 'LOCAL_FILESYSTEM'],
      [1, bytes, 'LOCAL_FILESYSTEM'],
    ]);
    expect(
      whole.measured?.map(({ unaccounted, missingSnapshots }) => [unaccounted, missingSnapshots]),
    ).toEqual([
      [{ objects: 0, bytes: 0 }, 0],
      [{ objects: 0, bytes: 0 }, 0],
    ]);
    await bench.database.pool.query(
      `UPDATE care_backup.backup_snapshots SET storage_location =
         jsonb_set(storage_location, '{replicationLocations,1}',
           storage_location->'replicationLocations'->1 || '{"status":"UNAVAILABLE","bytes":10,"objects":0}')`,
    );
    expect(await backups.getStorageUsage()).toMatchObject({
      occupiedBytes: bytes + 10,
      pendingBytes: bytes - 10,
    });
    await rm(second, { recursive: true });
  });

  test('what a migration left behind, until it is removed', async () => {
    const { id } = await configure(local({}, folder, 'old'));
    const snapshot = await take(id);
    await jobEnded((await backups.migrateStorage(id, local({}, folder, 'new'))).id);
    const bytes = storedBytes(snapshot);
    const moved = await backups.getStorageUsage({ measure: true });
    expect(moved).toMatchObject({ snapshots: 1, storedBytes: bytes, occupiedBytes: 2 * bytes });
    expect(moved.places.map((place) => [place.snapshots, place.bytes, place.formerBytes]).sort()).toEqual([
      [0, 0, bytes],
      [1, bytes, 0],
    ]);
    expect(moved.measured?.map(({ unaccounted }) => unaccounted?.objects)).toEqual([0, 0]);
    await jobEnded((await backups.removeMigrated(id)).id);
    expect(await backups.getStorageUsage()).toMatchObject({ occupiedBytes: bytes });
  });

  test('one place in two storage classes, whatever else of the destinations differs', async () => {
    const { id } = await configure(local());
    await take(id);
    await take(id);
    const cloud = (storageClass?: string, credentialsRef?: string) => ({
      type: 'AWS_S3',
      cloudStorage: {
        provider: 'AWS',
        bucketName: 'b',
        ...(storageClass && { storageClass }),
        ...(credentialsRef && { credentialsRef }),
      },
    });
    const { pool } = bench.database;
    const { rows } = await pool.query<{ id: string }>(
      'SELECT id FROM care_backup.backup_snapshots ORDER BY ordinal',
    );
    for (const [index, destination] of [cloud('GLACIER', 'x'), cloud(undefined, 'y')].entries()) {
      await pool.query(
        `UPDATE care_backup.backup_snapshots SET storage_location = jsonb_set(storage_location, '{destination}', $2) WHERE id = $1`,
        [rows[index]?.id, JSON.stringify(destination)],
      );
    }
    const { places } = await backups.getStorageUsage();
    expect(places.map(({ type, storageClass, snapshots }) => [type, storageClass, snapshots])).toEqual([
      ['AWS_S3', 'GLACIER', 1],
      ['AWS_S3', null, 1],
      ['LOCAL_FILESYSTEM', null, 0],
    ]);
  });

  test('a sum that JavaScript does not hold exactly is an error', async () => {
    const { id } = await configure(local());
    await take(id);
    await take(id);
    await bench.database.pool.query(
      `UPDATE care_backup.backup_snapshots SET data_metrics = data_metrics || '{"storedSizeBytes": ${Number.MAX_SAFE_INTEGER}}'`,
    );
    await expect(backups.getStorageUsage()).rejects.toMatchObject({ code: 'INTERNAL' });
    await expect(backups.getStorageAnalytics()).rejects.toMatchObject({ code: 'INTERNAL' });
  });

  test('each actor sees what is his', async () => {
    const whole = await configure(local());
    const ofA = await configure(local({ quotaBytes: 1_000_000_000 }), { branchIds: [BRANCH_A] });
    await take(whole.id);
    const a = await take(ofA.id);
    const limited = bench.protection.backups(actorOf(TINY_ORGANIZATION, { branchIds: [BRANCH_A] }));
    await writeFile(join(folder, TINY_ORGANIZATION, ofA.id, 'strange'), 'x');
    const usage = await limited.getStorageUsage({ measure: true });
    expect(usage).toMatchObject({ snapshots: 1, storedBytes: storedBytes(a), quotas: [] });
    expect(usage.configurations.map(({ configurationId }) => configurationId)).toEqual([ofA.id]);
    expect(usage.measured).toMatchObject([
      { objects: objectsOf(a) + 1, unaccounted: null, missingSnapshots: 0, error: null },
    ]);
    const analytics = await limited.getStorageAnalytics();
    expect(analytics).toMatchObject({ now: { snapshots: 1 }, quotas: [] });
    expect(analytics.months.at(-1)).toMatchObject({ snapshots: 1, addedBytes: storedBytes(a) });
    for (const nobody of [
      bench.protection.backups(actorOf(OTHER_ORGANIZATION)),
      bench.protection.backups(actorOf(TINY_ORGANIZATION, { branchIds: [BRANCH_B] })),
      bench.protection.backups(actorOf(TINY_ORGANIZATION, { branchIds: [] })),
    ]) {
      const nothing = { snapshots: 0, configurations: [], places: [], quotas: [], measured: [] };
      expect(await nobody.getStorageUsage({ measure: true })).toMatchObject(nothing);
      const none = await nobody.getStorageAnalytics({ months: 2 });
      expect(none.months).toMatchObject([
        { month: '2026-05', snapshots: 0, storedBytesAtEnd: 0 },
        { month: '2026-06', snapshots: 0, storedBytesAtEnd: 0 },
      ]);
    }
  });
});

describe('usage, measured', () => {
  test('all that lies there, and what belongs to no snapshot', async () => {
    const { id } = await configure(local({}, folder, 'p'));
    const other = await configure(local({}, folder, 'p'));
    const snapshot = await take(id);
    await take(other.id);
    const clean = await backups.getStorageUsage({ measure: true });
    expect(clean.measured).toEqual([
      {
        description: snapshot.storageLocation?.description,
        type: 'LOCAL_FILESYSTEM',
        error: null,
        ...(await bytesBelow(folder)),
        unaccounted: { objects: 0, bytes: 0 },
        missingSnapshots: 0,
      },
    ]);
    const attempt = join(folder, 'p', TINY_ORGANIZATION, id, 'BKP-2026-999999', randomUUID());
    await mkdir(attempt, { recursive: true });
    await writeFile(join(attempt, 'o-000001'), 'remains');
    await writeFile(join(folder, 'p', 'beside'), 'of nobody');
    const measured = async (configurationId?: UUID) =>
      (await backups.getStorageUsage({ measure: true, ...(configurationId && { configurationId }) }))
        .measured;
    expect(await measured()).toMatchObject([{ unaccounted: { objects: 1, bytes: 7 }, missingSnapshots: 0 }]);
    expect(await measured(id)).toMatchObject([
      { objects: objectsOf(snapshot) + 2, unaccounted: { objects: 1, bytes: 7 } },
    ]);
    expect(await measured(other.id)).toMatchObject([{ unaccounted: { objects: 0, bytes: 0 } }]);
    await rm(join(folder, snapshot.storageLocation?.path ?? ''), { recursive: true });
    expect(await measured()).toMatchObject([{ missingSnapshots: 1 }]);
    expect(await measured(other.id)).toMatchObject([{ missingSnapshots: 0 }]);
  });

  test('remains at a destination that holds no snapshot show', async () => {
    const { id } = await configure(local());
    const attempt = join(folder, TINY_ORGANIZATION, id, 'BKP-2026-999999', randomUUID());
    await mkdir(attempt, { recursive: true });
    await writeFile(join(attempt, 'manifest'), 'claim');
    expect((await backups.getStorageUsage({ measure: true })).measured).toMatchObject([
      { objects: 1, bytes: 5, unaccounted: { objects: 1, bytes: 5 } },
    ]);
  });

  test('a run that goes on is no difference', async () => {
    const open = Promise.withResolvers<void>();
    const proceed = Promise.withResolvers<void>();
    const protection = await bench.open({
      hooks: {
        onSnapshotOpen: () => {
          open.resolve();
          return proceed.promise;
        },
      },
    });
    const service = protection.backups(actorOf(TINY_ORGANIZATION));
    const { id } = await configure(local());
    const run = take(id, service);
    await open.promise;
    const { rows } = await bench.database.pool.query<{ prefix: string }>(
      'SELECT storage_prefix AS prefix FROM care_backup.backup_attempts',
    );
    const attempt = join(folder, rows[0]?.prefix ?? '');
    await mkdir(attempt, { recursive: true });
    await writeFile(join(attempt, 'o-000099'), 'on its way');
    expect((await backups.getStorageUsage({ measure: true })).measured).toMatchObject([
      { objects: 1, unaccounted: { objects: 0 }, missingSnapshots: 0 },
    ]);
    await rm(join(attempt, 'o-000099'));
    proceed.resolve();
    await run;
  });

  test('a storage that does not answer is said to, and the others are told', async () => {
    const other = join(folder, 'other');
    await mkdir(other);
    await take((await configure(local())).id);
    await take((await configure(local({}, other))).id);
    broken.add(other);
    const usage = await backups.getStorageUsage({ measure: true });
    const errors = usage.measured?.map(({ error, unaccounted }) => `${error} ${unaccounted?.objects}`);
    expect(errors?.sort()).toEqual(['STORAGE_UNAVAILABLE undefined', 'null 0']);
    expect(usage.snapshots).toBe(2);
  });

  test('can be stopped', async () => {
    await take((await configure(local())).id);
    const reason = new Error('enough');
    await expect(
      backups.getStorageUsage({ measure: true }, { signal: AbortSignal.abort(reason) }),
    ).rejects.toBe(reason);
  });
});

describe('the quota', () => {
  /** What one snapshot of the organization comes to; the rows are always the same. */
  async function sizeOfOne(): Promise<number> {
    const { id } = await configure(local({}, folder, 'size'));
    return storedBytes(await take(id));
  }

  test('at or above it no backup begins, and nothing is entered', async () => {
    const events = heard(bench.protection);
    const { id } = await configure(local());
    const snapshot = await take(id);
    const used = storedBytes(snapshot);
    const full = await configure(local({ quotaBytes: used }));
    const before = [await ownRows(bench.database.pool), ...(await filesBelow(folder))];
    for (const wait of [true, false]) {
      await expect(backups.createSnapshot({ configurationId: full.id }, { wait })).rejects.toMatchObject({
        code: 'STORAGE_QUOTA_EXCEEDED',
        retryable: false,
      });
    }
    expect([await ownRows(bench.database.pool), ...(await filesBelow(folder))]).toEqual(before);
    const description = snapshot.storageLocation?.description;
    expect(events[0]).toEqual({
      organizationId: TINY_ORGANIZATION,
      description,
      type: 'LOCAL_FILESYSTEM',
      quotaBytes: used,
      usedBytes: used,
      share: 1,
    });
    await backups.updateConfiguration(full.id, { storageDestination: local({ quotaBytes: used + 1 }) });
    expect(await take(full.id)).toMatchObject({ status: 'COMPLETED_WITH_WARNINGS' });
    expect((await backups.getStorageUsage()).quotas).toMatchObject([{ description, quotaBytes: used + 1 }]);
  });

  test('another prefix is another place, another organization has its own', async () => {
    const size = await sizeOfOne();
    await take((await configure(local())).id);
    await take((await configure(local({ quotaBytes: 10 * size }, folder, 'p'))).id);
    const foreign = bench.protection.backups(actorOf(OTHER_ORGANIZATION));
    const { id } = await foreign.createConfiguration({
      name: 'foreign',
      storageDestination: local({ quotaBytes: 10 * size }),
    });
    expect((await take(id, foreign)).warnings).toEqual([]);
    expect((await foreign.getStorageUsage()).quotas).toHaveLength(1);
  });

  test('at 80 % a backup succeeds with a warning and an event, and not before', async () => {
    const size = await sizeOfOne();
    const quotaBytes = Math.ceil((size * 2) / 0.81);
    const { id } = await configure(local({ quotaBytes }));
    const events = heard(bench.protection);
    expect(await take(id)).toMatchObject({ status: 'COMPLETED', warnings: [] });
    expect(events).toEqual([]);
    const second = await take(id);
    expect(second).toMatchObject({
      status: 'COMPLETED_WITH_WARNINGS',
      warnings: [{ code: 'QUOTA_WARNING', message: expect.stringMatching(/^8\d % of the quota of /) }],
    });
    expect(events).toMatchObject([{ quotaBytes, description: second.storageLocation?.description }]);
    const [quota] = (await backups.getStorageUsage()).quotas;
    expect(events[0]).toEqual({ organizationId: TINY_ORGANIZATION, ...quota });
  });

  test('two configurations that end at once do not overlook each other', async () => {
    const size = await sizeOfOne();
    for (let round = 0; round < 3; round += 1) {
      const path = join(folder, `round-${round}`);
      await mkdir(path);
      const quotaBytes = Math.ceil((size * 2) / 0.85);
      const pair = [
        await configure(local({ quotaBytes }, path)),
        await configure(local({ quotaBytes }, path)),
      ];
      const both = await Promise.all(pair.map(({ id }) => take(id)));
      expect(both.map(({ warnings }) => warnings.length)).toContain(1);
    }
  });

  test('what runs have stored so far counts for others, and for nobody once they are over', async () => {
    const { id } = await configure(local({ quotaBytes: 1_000_000_000 }));
    const other = await configure(local({ quotaBytes: 1_000_000_000 }));
    const snapshot = await take(id);
    const open = Promise.withResolvers<void>();
    const proceed = Promise.withResolvers<void>();
    const protection = await bench.open({
      hooks: {
        onSnapshotOpen: () => {
          open.resolve();
          return proceed.promise;
        },
      },
    });
    const running = await protection
      .backups(actorOf(TINY_ORGANIZATION))
      .createSnapshot({ configurationId: id });
    await open.promise;
    await bench.database.pool.query(
      `CREATE OR REPLACE FUNCTION care_backup.plant() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN NEW.progress = coalesce(NEW.progress, '{}') || '{"bytesStored": 1000000000}'; RETURN NEW; END $$;
       CREATE TRIGGER plant BEFORE UPDATE ON care_backup.backup_snapshots FOR EACH ROW
         WHEN (NEW.status = 'PREPARING') EXECUTE FUNCTION care_backup.plant();
       UPDATE care_backup.backup_snapshots SET notes = 'x' WHERE status = 'PREPARING'`,
    );
    try {
      await expect(take(other.id)).rejects.toMatchObject({ code: 'STORAGE_QUOTA_EXCEEDED' });
      expect((await backups.getStorageUsage()).quotas[0]?.usedBytes).toBe(
        1_000_000_000 + storedBytes(snapshot),
      );
    } finally {
      await bench.database.pool.query('DROP TRIGGER plant ON care_backup.backup_snapshots');
      proceed.resolve();
      await protection.close();
    }
    expect((await backups.getSnapshot(running.id)).warnings).toEqual([]);
    expect(await take(other.id)).toMatchObject({ status: 'COMPLETED' });
  });

  test('of MULTI holds for each of its stores', async () => {
    const size = await sizeOfOne();
    const second = join(folder, 'second');
    await mkdir(second);
    const copies = (one: Partial<StorageDestination>, other: Partial<StorageDestination>) => [
      local(one, folder, 'p'),
      local(other, second),
    ];
    const multi = (over: Partial<StorageDestination>, destinations = copies({}, {})): StorageDestination => ({
      type: 'MULTI',
      destinations,
      ...over,
    });
    const whole = await configure(multi({ quotaBytes: 2 * size }));
    expect(await take(whole.id)).toMatchObject({ warnings: [] });
    const warned = await take(whole.id);
    expect(warned.warnings.map(({ code }) => code)).toEqual(['QUOTA_WARNING', 'QUOTA_WARNING']);
    await expect(take(whole.id)).rejects.toMatchObject({ code: 'STORAGE_QUOTA_EXCEEDED' });
    const each = await configure(multi({}, copies({ quotaBytes: 100 * size }, { quotaBytes: 2 * size })));
    await expect(take(each.id)).rejects.toMatchObject({ code: 'STORAGE_QUOTA_EXCEEDED' });
    const roomy = await configure(multi({}, copies({}, { quotaBytes: 100 * size })));
    expect(await take(roomy.id)).toMatchObject({ warnings: [] });
    expect((await backups.getStorageUsage()).quotas.map(({ quotaBytes }) => quotaBytes)).toEqual([
      2 * size,
      2 * size,
    ]);
  });

  test('a quota that cannot be told does not cost the backup that is done', async () => {
    const { id } = await configure(local());
    const taken = [await take(id), await take(id)];
    const protection = await bench.open({
      hooks: {
        onSnapshotOpen: async () => {
          await bench.database.pool.query(
            `UPDATE care_backup.backup_snapshots SET data_metrics = data_metrics || '{"storedSizeBytes": ${Number.MAX_SAFE_INTEGER}}'
              WHERE id = ANY ($1)`,
            [taken.map((snapshot) => snapshot.id)],
          );
        },
      },
    });
    const limited = await configure(local({ quotaBytes: Number.MAX_SAFE_INTEGER }));
    expect(await take(limited.id, protection.backups(actorOf(TINY_ORGANIZATION)))).toMatchObject({
      status: 'COMPLETED_WITH_WARNINGS',
      warnings: [{ code: 'QUOTA_UNKNOWN' }],
    });
  });

  test('in a worker a backup that was queued before ends as FAILED, and is not tried again', async () => {
    const size = await sizeOfOne();
    const protection = await bench.open({ execution: 'worker' });
    const service = protection.backups(actorOf(TINY_ORGANIZATION));
    const { id } = await configure(local({ quotaBytes: Math.ceil(size) }));
    const queued = await service.createSnapshot({ configurationId: id });
    await take((await configure(local())).id);
    const worker = await protection.startWorker();
    try {
      let snapshot = await service.getSnapshot(queued.id);
      while (snapshot.status === 'QUEUED') {
        await sleep(50);
        snapshot = await service.getSnapshot(queued.id);
      }
      expect(snapshot).toMatchObject({
        status: 'FAILED',
        errors: [{ code: 'STORAGE_QUOTA_EXCEEDED', recoverable: false }],
      });
      await expect(service.createSnapshot({ configurationId: id })).rejects.toMatchObject({
        code: 'STORAGE_QUOTA_EXCEEDED',
      });
      expect((await service.listSnapshots({ configurationId: id })).items).toHaveLength(1);
    } finally {
      await worker.stop();
    }
  });
});

describe('analytics', () => {
  test('growth by the months of the configuration’s zone', async () => {
    const east = await configure(local(), { timezone: 'Pacific/Auckland' });
    const utc = await configure(local());
    // In Auckland it is April already.
    now = new Date('2026-03-31T13:30:00Z');
    const a = await take(east.id);
    const b = await take(utc.id);
    now = new Date('2026-06-15T12:00:00Z');
    const c = await take(east.id);
    const months = (await backups.getStorageAnalytics({ months: 4 })).months;
    const size = storedBytes;
    expect(months.map((one) => [one.month, one.snapshots, one.addedBytes, one.storedBytesAtEnd])).toEqual([
      ['2026-03', 1, size(b), size(b)],
      ['2026-04', 1, size(a), size(a, b)],
      ['2026-05', 0, 0, size(a, b)],
      ['2026-06', 1, size(c), size(a, b, c)],
    ]);
    expect(months[2]?.averageSnapshotBytes).toBeNull();
    expect(months[3]?.averageSnapshotBytes).toBe(size(c));
    const short = await backups.getStorageAnalytics({ configurationId: east.id, months: 1 });
    expect(short.months).toMatchObject([{ month: '2026-06', storedBytesAtEnd: size(a, c) }]);
    expect(short.now).toMatchObject({ snapshots: 2, storedBytes: size(a, c) });
    expect((await backups.getStorageAnalytics()).months).toHaveLength(12);
  });

  test('at the edge of a month zones do not agree on, there are as many months as were asked for', async () => {
    const east = await configure(local(), { timezone: 'Pacific/Auckland' });
    await configure(local());
    now = new Date('2026-03-31T13:30:00Z');
    await take(east.id);
    const { months } = await backups.getStorageAnalytics({ months: 2 });
    expect(months.map(({ month, snapshots }) => [month, snapshots])).toEqual([
      ['2026-03', 0],
      ['2026-04', 1],
    ]);
  });

  test('what was removed shrinks it', async () => {
    const { id } = await configure(local());
    now = new Date('2026-04-10T12:00:00Z');
    const a = await take(id);
    now = new Date('2026-05-10T12:00:00Z');
    const b = await take(id);
    await bench.database.pool.query(
      `UPDATE care_backup.backup_snapshots SET status = 'DELETED', deleted_at = '2026-06-01T00:00:00Z', deleted_by = id WHERE id = $1`,
      [a.id],
    );
    now = new Date('2026-06-09T12:00:00Z');
    const { months, growth } = await backups.getStorageAnalytics({ months: 3 });
    expect(months).toMatchObject([
      { snapshots: 1, removedSnapshots: 0, storedBytesAtEnd: storedBytes(a) },
      { snapshots: 1, removedSnapshots: 0, storedBytesAtEnd: storedBytes(a, b) },
      { snapshots: 0, removedSnapshots: 1, removedBytes: storedBytes(a), storedBytesAtEnd: storedBytes(b) },
    ]);
    expect(growth).toEqual({ days: 60, bytesPerDay: storedBytes(b) / 60, per30Days: null });
  });

  test('the rate of the last 90 days, and when the quota will be reached at it', async () => {
    const quotaBytes = 100_000;
    const { id } = await configure(local({ quotaBytes }));
    now = new Date('2026-01-01T00:00:00Z');
    const a = await take(id);
    now = new Date('2026-06-01T00:00:00Z');
    const b = await take(id);
    now = new Date('2026-06-30T00:00:00Z');
    const { growth, quotas } = await backups.getStorageAnalytics();
    const bytesPerDay = storedBytes(b) / 90;
    expect(growth.days).toBe(90);
    expect(growth.bytesPerDay).toBeCloseTo(bytesPerDay, 6);
    expect(growth.per30Days).toBeCloseTo((bytesPerDay * 30) / storedBytes(a), 6);
    const days = (quotaBytes - storedBytes(a, b)) / bytesPerDay;
    expect(quotas).toMatchObject([{ quotaBytes, usedBytes: storedBytes(a, b) }]);
    expect(Date.parse(quotas[0]?.reachedAt ?? '')).toBe(now.getTime() + Math.ceil(days * 86_400_000));
    now = new Date('2027-06-30T00:00:00Z');
    expect((await backups.getStorageAnalytics()).quotas).toMatchObject([{ bytesPerDay: 0, reachedAt: null }]);
  });

  test('what it costs, with what was written in 30 days; what has no price is named', async () => {
    const { id } = await configure(local());
    const a = await take(id);
    now = new Date('2026-08-15T12:00:00Z');
    const b = await take(id);
    const { cost } = await backups.getStorageAnalytics();
    const writes = objectsOf(b) + 1;
    const [storageCost, writesCost] = [(storedBytes(a, b) / 1e9) * 0.1, (writes / 1000) * 5];
    expect(cost.unpriced).toEqual([]);
    expect(cost.places).toMatchObject([
      { bytes: storedBytes(a, b), writes, currency: 'EUR', storageCost, writesCost },
    ]);
    expect(cost.perMonth).toEqual({ EUR: storageCost + writesCost });
    const protection = await bench.open({ storagePrices: {} });
    const unknown = await protection.backups(actorOf(TINY_ORGANIZATION)).getStorageAnalytics();
    expect(unknown.cost).toMatchObject({
      perMonth: {},
      places: [],
      unpriced: [{ type: 'LOCAL_FILESYSTEM', storageClass: null, bytes: storedBytes(a, b), writes }],
    });
  });

  test('prices and questions that are none are refused', async () => {
    for (const price of [
      { perGbMonth: -1 },
      { perGbMonth: Number.NaN },
      {},
      { perGbMonth: 1, currency: 'euro' },
    ]) {
      const storagePrices = { AWS_S3: price } as never;
      await expect(bench.open({ storagePrices })).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
    }
    for (const months of [0, 121, 1.5, '3']) {
      const input = { months } as never;
      await expect(backups.getStorageAnalytics(input)).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
    }
    await expect(backups.getStorageUsage({ measure: 'yes' } as never)).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
    });
    expect(await readdir(folder)).toEqual([]);
  });
});
