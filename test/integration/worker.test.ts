import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { DataProtection, DataProtectionOptions } from '../../src/compose.ts';
import { createDatabase } from '../../src/repository/database.ts';
import { createWorkFinder } from '../../src/repository/work-finder.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { BackupSnapshot, BackupSnapshotStatus } from '../../src/types/backup.ts';
import { StorageError } from '../../src/types/errors.ts';
import { actorOf, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { OTHER_ORGANIZATION, TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const POLL_MS = 100;
const LIMIT_MS = 60_000;

let bench: ServiceBench;
beforeAll(async () => {
  bench = await createBench(tinyData, { execution: 'worker' });
});
afterAll(() => bench[Symbol.asyncDispose]());

const opened: DataProtection[] = [];
afterEach(async () => {
  for (const one of opened.splice(0)) await one.close();
  // What a test left waiting must not be run by the workers of the next.
  await sql('UPDATE care_backup.backup_configurations SET next_scheduled_backup_at = NULL');
});

const sql = (text: string, values: readonly unknown[] = []) => bench.database.pool.query(text, [...values]);

/** Another process, as it were. */
async function open(over: Partial<DataProtectionOptions> = {}): Promise<DataProtection> {
  const protection = await bench.open({ execution: 'worker', ...over });
  opened.push(protection);
  return protection;
}

const work = async (over: Partial<DataProtectionOptions> = {}) =>
  (await open(over)).startWorker({ pollMs: POLL_MS });

async function until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  const end = Date.now() + LIMIT_MS;
  while (Date.now() < end) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    await sleep(50);
  }
  throw new Error(`It did not happen: ${what}`);
}

const reaches = (id: string, status: BackupSnapshotStatus): Promise<BackupSnapshot> =>
  until(`snapshot ${status}`, async () => {
    const snapshot = await bench.backups.getSnapshot(id);
    return snapshot.status === status && snapshot;
  });

const attemptsOf = async (id: string): Promise<number> => {
  const { rows } = await sql(
    'SELECT count(*)::int AS n FROM care_backup.backup_attempts WHERE snapshot_id = $1',
    [id],
  );
  return rows[0]?.n ?? 0;
};

/** A storage whose next puts fail, as a provider that is down for a while. */
function failing(inner: ObjectStorage): { readonly storage: ObjectStorage; fail: StorageError | undefined } {
  const state: { storage: ObjectStorage; fail: StorageError | undefined } = {
    fail: undefined,
    storage: {
      ...inner,
      put: async (key, body, options) => {
        if (state.fail !== undefined && !key.endsWith('manifest')) throw state.fail;
        return inner.put(key, body, options);
      },
    },
  };
  return state;
}

const down = () => new StorageError('Injected: the provider is down.', 'STORAGE_UNAVAILABLE');

/** A way to a server that can be cut and mended. */
async function openWay(host: string, port: number) {
  const open = new Set<Socket>();
  let state: 'open' | 'cut' = 'open';
  const server = createServer((near) => {
    const far = connect(port, host);
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      open.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        open.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
    if (state === 'cut') near.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const cut = (): void => {
    state = 'cut';
    for (const socket of open) socket.destroy();
  };
  return {
    port: typeof address === 'object' ? address?.port : undefined,
    cut,
    mend: (): void => {
      state = 'open';
    },
    [Symbol.asyncDispose]: async () => {
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

describe('a queued backup', () => {
  test('waits for a worker, is run by one, and can be restored', async () => {
    const { id: configurationId } = await bench.configure();
    const queued = await bench.backups.createSnapshot({ configurationId });
    expect(queued.status).toBe('QUEUED');
    await sleep(300);
    expect((await bench.backups.getSnapshot(queued.id)).status).toBe('QUEUED');
    await work();
    const done = await reaches(queued.id, 'COMPLETED');
    expect(await attemptsOf(queued.id)).toBe(1);
    const backups = (await open({ execution: 'inline' })).backups(actorOf(TINY_ORGANIZATION));
    const schemaName = `restored_${configurationId.slice(-8)}`;
    await backups.createRestoreOperation(
      { snapshotId: done.id, restoreDestination: { type: 'STAGING', schemaName } },
      { wait: true },
    );
    expect(await tinyDifferences(bench.database.pool, schemaName)).toBe(0);
  });

  test('is waited for with `wait`, also by the process that has no worker', async () => {
    const { id: configurationId } = await bench.configure();
    await work();
    const done = await bench.backups.createSnapshot({ configurationId }, { wait: true });
    expect(done).toMatchObject({ status: 'COMPLETED', configurationId });
  });

  test('is one per configuration', async () => {
    const { id: configurationId } = await bench.configure();
    await bench.backups.createSnapshot({ configurationId });
    await expect(bench.backups.createSnapshot({ configurationId })).rejects.toMatchObject({
      code: 'BACKUP_ALREADY_RUNNING',
    });
    expect((await bench.backups.listSnapshots({ configurationId })).items).toHaveLength(1);
  });

  test('can be cancelled while it waits; the next is not blocked', async () => {
    const { id: configurationId } = await bench.configure();
    const { id } = await bench.backups.createSnapshot({ configurationId });
    expect((await bench.backups.cancelSnapshot(id)).status).toBe('CANCELLED');
    await work();
    await bench.backups.createSnapshot({ configurationId }, { wait: true });
    expect(await attemptsOf(id)).toBe(0);
  });

  test('waits while its configuration is paused, and ends when that is archived', async () => {
    const [paused, archived] = [await bench.configure(), await bench.configure()];
    const first = await bench.backups.createSnapshot({ configurationId: paused.id });
    const second = await bench.backups.createSnapshot({ configurationId: archived.id });
    await bench.backups.pauseConfiguration(paused.id);
    await bench.backups.archiveConfiguration(archived.id);
    await work();
    await reaches(second.id, 'CANCELLED');
    expect((await bench.backups.getSnapshot(first.id)).status).toBe('QUEUED');
    await bench.backups.resumeConfiguration(paused.id);
    await reaches(first.id, 'COMPLETED');
  });

  test('is tried again after a failure that may pass, leaving nothing of the first try', async () => {
    const storage = memoryStorage();
    const provider = failing(storage);
    provider.fail = down();
    const { id: configurationId } = await bench.configure();
    const { id } = await bench.backups.createSnapshot({ configurationId });
    await work({ openStorage: () => provider.storage });
    await until('a failed try', async () => (await bench.backups.getSnapshot(id)).errors.length === 1);
    const waiting = await reaches(id, 'QUEUED');
    expect(waiting.errors).toMatchObject([{ code: 'STORAGE_UNAVAILABLE', recoverable: true }]);
    provider.fail = undefined;
    await sql('UPDATE care_backup.backup_queue SET not_before = now() WHERE snapshot_id = $1', [id]);
    const done = await reaches(id, 'COMPLETED');
    expect(await attemptsOf(id)).toBe(2);
    const keys: string[] = [];
    for await (const { key } of storage.list('')) keys.push(key);
    const attempt = done.storageLocation?.path ?? '';
    // Of the first try its claim alone.
    expect(keys.filter((key) => !key.startsWith(attempt))).toEqual([expect.stringMatching(/\/manifest$/)]);
  });

  test('fails for good after three tries, and at once for what will not pass', async () => {
    const provider = failing(memoryStorage());
    provider.fail = down();
    const [passing, lasting] = [await bench.configure(), await bench.configure()];
    const first = await bench.backups.createSnapshot({ configurationId: passing.id });
    await work({ openStorage: () => provider.storage });
    for (const tries of [1, 2]) {
      await until(`try ${tries}`, async () => {
        const snapshot = await bench.backups.getSnapshot(first.id);
        return snapshot.errors.length === tries && snapshot.status === 'QUEUED';
      });
      await sql('UPDATE care_backup.backup_queue SET not_before = now() WHERE snapshot_id = $1', [first.id]);
    }
    expect((await reaches(first.id, 'FAILED')).errors).toHaveLength(3);
    provider.fail = new StorageError('Injected: refused.', 'STORAGE_DENIED');
    const second = await bench.backups.createSnapshot({ configurationId: lasting.id });
    expect((await reaches(second.id, 'FAILED')).errors).toHaveLength(1);
    const { rows } = await sql('SELECT * FROM care_backup.backup_queue WHERE snapshot_id = ANY ($1)', [
      [first.id, second.id],
    ]);
    expect(rows).toEqual([]);
  });
});

describe('between the asking and the run', () => {
  test('encryption is switched off: the catalog says what the run did', async () => {
    const { id: configurationId } = await bench.configure();
    const queued = await bench.backups.createSnapshot({ configurationId });
    expect(queued.encrypted).toBe(true);
    await bench.backups.updateConfiguration(configurationId, {
      encryptionEnabled: false,
      allowUnencryptedPHI: true,
      compressionAlgorithm: 'GZIP',
      checksumAlgorithm: 'SHA512',
    });
    await work();
    const done = await reaches(queued.id, 'COMPLETED');
    expect(done).toMatchObject({
      encrypted: false,
      encryptionAlgorithm: null,
      compressionAlgorithm: 'GZIP',
      checksumAlgorithm: 'SHA512',
    });
    expect(await bench.backups.verifySnapshot(done.id)).toMatchObject({ passed: true });
  });

  test('a cancellation is not lost when the try fails before it hears of it', async () => {
    const { id: configurationId } = await bench.configure();
    const { id } = await bench.backups.createSnapshot({ configurationId });
    const fail = Promise.withResolvers<void>();
    const started = Promise.withResolvers<void>();
    await work({
      hooks: {
        onSnapshotOpen: () => {
          started.resolve();
          return fail.promise;
        },
      },
    });
    await started.promise;
    await bench.backups.cancelSnapshot(id);
    fail.reject(down());
    await reaches(id, 'CANCELLED');
    await sleep(5 * POLL_MS);
    expect(await attemptsOf(id)).toBe(1);
  });

  test('what ends without a try is told, and does not suspend its configuration', async () => {
    const { id: configurationId } = await bench.configure();
    await sql('UPDATE care_backup.backup_configurations SET consecutive_failures = 4 WHERE id = $1', [
      configurationId,
    ]);
    const { id } = await bench.backups.createSnapshot({ configurationId });
    await sql("UPDATE care_backup.backup_snapshots SET trigger = 'SCHEDULED' WHERE id = $1", [id]);
    await sql(
      "UPDATE care_backup.backup_queue SET must_end_by = now() - interval '1 second' WHERE snapshot_id = $1",
      [id],
    );
    const protection = await open();
    const told: string[] = [];
    protection.on('snapshot.failed', ({ snapshotId, code }) => told.push(`${snapshotId} ${code}`));
    await protection.startWorker({ pollMs: POLL_MS });
    await reaches(id, 'FAILED');
    await until('the event', async () => told.length > 0);
    expect(told).toEqual([`${id} BACKUP_TIME_LIMIT`]);
    expect((await bench.backups.getConfiguration(configurationId)).status).toBe('ACTIVE');
  });
});

describe('workers', () => {
  test('two share what there is, each run once', async () => {
    const configurations = await Promise.all(Array.from({ length: 6 }, () => bench.configure()));
    const snapshots = await Promise.all(
      configurations.map(({ id: configurationId }) => bench.backups.createSnapshot({ configurationId })),
    );
    await Promise.all([work(), work()]);
    for (const { id } of snapshots) {
      await reaches(id, 'COMPLETED');
      expect(await attemptsOf(id)).toBe(1);
    }
  });

  test('one that stops hands over what it could not finish', async () => {
    const { id: configurationId } = await bench.configure();
    const { id } = await bench.backups.createSnapshot({ configurationId });
    const open = Promise.withResolvers<void>();
    const started = Promise.withResolvers<void>();
    const slow = await work({
      hooks: {
        onSnapshotOpen: () => {
          started.resolve();
          return open.promise;
        },
      },
    });
    await started.promise;
    const stopped = slow.stop({ graceMs: 0 });
    await sleep(100);
    open.resolve();
    await stopped;
    expect((await bench.backups.getSnapshot(id)).errors).toMatchObject([{ code: 'BACKUP_INTERRUPTED' }]);
    await work();
    await reaches(id, 'COMPLETED');
    expect(await attemptsOf(id)).toBe(2);
  });

  test('one that stops lets what runs finish within its grace, and takes nothing new', async () => {
    const { id: configurationId } = await bench.configure();
    const worker = await work({ hooks: { onSnapshotOpen: () => sleep(500) } });
    const last = bench.backups.createSnapshot({ configurationId }, { wait: true });
    const running = async () =>
      (await bench.backups.listSnapshots({ configurationId })).items[0]?.startedAt ?? undefined;
    await until('a run', running);
    await worker.stop({ graceMs: Number.POSITIVE_INFINITY });
    expect((await last).errors).toEqual([]);
    const { id } = await bench.backups.createSnapshot({ configurationId });
    await sleep(5 * POLL_MS);
    expect((await bench.backups.getSnapshot(id)).status).toBe('QUEUED');
  });

  test('wait for a source that cannot be reached, however long, without using up tries', async () => {
    const { hostname, port } = new URL(bench.database.url);
    await using way = await openWay(hostname, Number(port));
    const source = new URL(bench.database.url);
    source.host = `127.0.0.1:${way.port}`;
    const { id: configurationId } = await bench.configure();
    await work({ source: source.href });
    way.cut();
    const { id } = await bench.backups.createSnapshot({ configurationId });
    for (let looks = 0; looks < 4; looks += 1) {
      const hindered = 'SELECT 1 FROM care_backup.backup_queue WHERE snapshot_id = $1 AND not_before > now()';
      await until('a look', async () => (await sql(hindered, [id])).rows.length === 1);
      await sql('UPDATE care_backup.backup_queue SET not_before = now() WHERE snapshot_id = $1', [id]);
    }
    expect(await bench.backups.getSnapshot(id)).toMatchObject({ status: 'QUEUED', errors: [] });
    expect(await attemptsOf(id)).toBe(0);
    way.mend();
    await sql('UPDATE care_backup.backup_queue SET not_before = now() WHERE snapshot_id = $1', [id]);
    await reaches(id, 'COMPLETED');
  });

  test('do not let many that cannot begin keep others from beginning', async () => {
    const hindered = join(bench.folder, 'hindered');
    const destination = { type: 'LOCAL_FILESYSTEM', localStorage: { path: hindered } } as const;
    const configurations = await Promise.all(
      Array.from({ length: 105 }, () => bench.configure({ storageDestination: destination })),
    );
    configurations.push(await bench.configure());
    const left = configurations.slice(0, -1);
    const ask = async (): Promise<void> => {
      for (let next = left.pop(); next !== undefined; next = left.pop())
        await bench.backups.createSnapshot({ configurationId: next.id });
    };
    await Promise.all([ask(), ask(), ask(), ask()]);
    const last = await bench.backups.createSnapshot({ configurationId: configurations.at(-1)?.id ?? '' });
    // Nothing wakes the worker but its own looks.
    await sql('DROP SCHEMA IF EXISTS care_backup_queue CASCADE');
    await work({
      openStorage: ({ localStorage }) => {
        if (localStorage?.path === hindered) throw down();
        return undefined;
      },
    });
    await reaches(last.id, 'COMPLETED');
    await sql("UPDATE care_backup.backup_configurations SET status = 'PAUSED' WHERE id = ANY ($1)", [
      configurations.map(({ id }) => id),
    ]);
  });

  test('take the organizations in turn', async () => {
    const db = createDatabase({ pool: bench.database.pool, clock: { now: () => new Date() } });
    const others = (await open()).backups(actorOf(OTHER_ORGANIZATION));
    const mine = await Promise.all(Array.from({ length: 5 }, () => bench.configure()));
    const theirs = await others.createConfiguration({ name: 'theirs', scope: {} });
    const queued: BackupSnapshot[] = [];
    for (const { id: configurationId } of mine)
      queued.push(await bench.backups.createSnapshot({ configurationId }));
    queued.push(await others.createSnapshot({ configurationId: theirs.id }));
    const { now } = Date;
    const times = [new Date(now() + 1_000).toISOString(), new Date(now() - 15_000).toISOString()] as const;
    const found = await createWorkFinder(db).runnableSnapshots(...times);
    const order = found.map(({ id }) => queued.findIndex((snapshot) => snapshot.id === id));
    expect(order.filter((place) => place >= 0)).toEqual([0, 5, 1, 2, 3, 4]);
    for (const { id } of queued.slice(0, 5)) await bench.backups.cancelSnapshot(id);
    await others.cancelSnapshot(queued.at(-1)?.id ?? '');
  });

  test('are not started on what is closed', async () => {
    const protection = await open();
    await protection.close();
    await expect(protection.startWorker()).rejects.toMatchObject({
      code: expect.stringMatching(/^(INVALID_STATE|DATABASE_UNAVAILABLE|INTERNAL)$/),
    });
  });

  test('refuse a number of runs that is none', async () => {
    const protection = await open();
    for (const backups of [0, -1, 1.5, Number.NaN]) {
      await expect(protection.startWorker({ concurrency: { backups } })).rejects.toMatchObject({
        code: 'CONFIGURATION_INVALID',
      });
    }
  });
});

describe('schedules', () => {
  const hourly = { frequency: 'HOURLY', timezone: 'UTC' } as const;
  const late = (configurationId: string, hours: number) =>
    sql(
      `UPDATE care_backup.backup_configurations SET next_scheduled_backup_at = date_trunc('hour', now()) - $2 * interval '1 hour' WHERE id = $1`,
      [configurationId, hours],
    );
  /** Room for another run of this hour: no two are of one occurrence. */
  const longAgo = (configurationId: string) =>
    sql(
      `UPDATE care_backup.backup_snapshots SET scheduled_at = timestamptz '2020-01-01Z' + ordinal * interval '1 hour' WHERE configuration_id = $1`,
      [configurationId],
    );
  const scheduled = async (configurationId: string) =>
    (await bench.backups.listSnapshots({ configurationId })).items.filter(
      ({ trigger }) => trigger === 'SCHEDULED',
    );

  test('a configuration knows its next start, and loses it without a schedule', async () => {
    const configuration = await bench.configure({ schedule: hourly });
    const next = Date.parse(configuration.nextScheduledBackupAt ?? '');
    expect(next).toBeGreaterThan(Date.now());
    expect(next % 3_600_000).toBe(0);
    const changed = await bench.backups.updateConfiguration(configuration.id, { schedule: [] });
    expect(changed.nextScheduledBackupAt).toBeNull();
    const previewed = (await bench.configure({ schedule: hourly })).id;
    const [first] = await bench.backups.previewSchedule(previewed);
    expect(first?.at.getTime()).toBe(next);
    for (const count of [0, -1, 1.5, 1001, Number.POSITIVE_INFINITY, Number.NaN]) {
      await expect(bench.backups.previewSchedule(previewed, count)).rejects.toMatchObject({
        code: 'VALIDATION_FAILED',
      });
    }
  });

  test('what was missed is caught up by one run, whatever the number of workers', async () => {
    const { id } = await bench.configure({ schedule: hourly });
    await late(id, 3);
    await Promise.all([work(), work(), work()]);
    await until('a scheduled backup', async () => {
      const [first] = await scheduled(id);
      return first?.status === 'COMPLETED';
    });
    await sleep(5 * POLL_MS);
    const runs = await scheduled(id);
    expect(runs).toHaveLength(1);
    expect(runs[0]?.scheduledAt).toBe(
      new Date(Math.floor(Date.parse(runs[0]?.createdAt ?? '') / 3_600_000) * 3_600_000).toISOString(),
    );
    const { nextScheduledBackupAt } = await bench.backups.getConfiguration(id);
    expect(Date.parse(nextScheduledBackupAt ?? '')).toBeGreaterThan(Date.now());
  });

  test('one that is due behind many that may not start yet is started', async () => {
    const hour = (ahead: number) => new Date(Date.now() + ahead * 3_600_000).toISOString().slice(11, 16);
    const closed = { ...hourly, windowStart: hour(3), windowEnd: hour(5) };
    const waiting = await Promise.all(
      Array.from({ length: 105 }, () => bench.configure({ schedule: closed })),
    );
    const { id } = await bench.configure({ schedule: hourly });
    for (const { id: closedId } of waiting) await late(closedId, 3);
    await late(id, 1);
    await work();
    await until('a scheduled backup', async () => (await scheduled(id))[0]?.status === 'COMPLETED');
  });

  test('an occurrence that was run already, under a clock that is ahead, is not run again', async () => {
    const { id } = await bench.configure({ schedule: hourly });
    await late(id, 0);
    const worker = await work();
    await until('a scheduled backup', async () => (await scheduled(id))[0]?.status === 'COMPLETED');
    await late(id, 0);
    await until('the next start', async () => {
      const { nextScheduledBackupAt } = await bench.backups.getConfiguration(id);
      return Date.parse(nextScheduledBackupAt ?? '') > Date.now();
    });
    expect(await scheduled(id)).toHaveLength(1);
    await worker.stop();
  });

  test('a paused configuration starts nothing, and does not catch up when it is resumed', async () => {
    const { id } = await bench.configure({ schedule: hourly });
    await bench.backups.pauseConfiguration(id);
    await late(id, 3);
    await work();
    await sleep(5 * POLL_MS);
    await bench.backups.resumeConfiguration(id);
    await sleep(5 * POLL_MS);
    expect(await scheduled(id)).toEqual([]);
  });

  test('a run that passes its maximum duration fails, and is not tried again', async () => {
    const { id } = await bench.configure({ schedule: { ...hourly, maxDurationMinutes: 1 } });
    await late(id, 1);
    const open = Promise.withResolvers<void>();
    const other = await work({ hooks: { onSnapshotOpen: () => open.promise } });
    const running = await until('a run', async () =>
      (await scheduled(id)).find(({ status }) => status === 'PREPARING'),
    );
    // Begun under one minute: what is tested is that the limit reaches the run, with a shorter one of the next.
    const { rows } = await sql(
      'SELECT max_duration_ms::int AS ms FROM care_backup.backup_queue WHERE snapshot_id = $1',
      [running.id],
    );
    expect(rows).toEqual([{ ms: 60_000 }]);
    open.resolve();
    await reaches(running.id, 'COMPLETED');
    await other.stop();
    const { id: next } = await bench.backups.createSnapshot({ configurationId: id });
    await sql('UPDATE care_backup.backup_queue SET max_duration_ms = 50 WHERE snapshot_id = $1', [next]);
    await work({ hooks: { onSnapshotOpen: () => sleep(500) } });
    const failed = await reaches(next, 'FAILED');
    expect(failed.errors).toMatchObject([{ code: 'BACKUP_TIME_LIMIT', recoverable: false }]);
  });

  test('a run whose window has ended is not begun', async () => {
    const { id: configurationId } = await bench.configure();
    const { id } = await bench.backups.createSnapshot({ configurationId });
    await sql(
      "UPDATE care_backup.backup_queue SET must_end_by = now() - interval '1 second' WHERE snapshot_id = $1",
      [id],
    );
    await work();
    expect((await reaches(id, 'FAILED')).errors).toMatchObject([{ code: 'BACKUP_TIME_LIMIT' }]);
    expect(await attemptsOf(id)).toBe(0);
  });

  test('five failures in a row suspend the configuration; resuming begins anew', async () => {
    const provider = failing(memoryStorage());
    provider.fail = new StorageError('Injected: refused.', 'STORAGE_DENIED');
    const { id } = await bench.configure({ schedule: hourly });
    const protection = await open({ openStorage: () => provider.storage });
    const suspended: string[] = [];
    protection.on('configuration.suspended', ({ configurationId }) => suspended.push(configurationId));
    await protection.startWorker({ pollMs: POLL_MS });
    for (let runs = 1; runs <= 5; runs += 1) {
      expect((await bench.backups.getConfiguration(id)).status).toBe('ACTIVE');
      await late(id, 6 - runs);
      await longAgo(id);
      await until(`run ${runs}`, async () => {
        const items = await scheduled(id);
        return items.length === runs && items.every(({ status }) => status === 'FAILED');
      });
    }
    expect(await bench.backups.getConfiguration(id)).toMatchObject({
      status: 'SUSPENDED',
      statusReason: '5 scheduled backups in a row have failed',
    });
    expect(suspended).toEqual([id]);
    await late(id, 1);
    await sleep(5 * POLL_MS);
    expect(await scheduled(id)).toHaveLength(5);
    provider.fail = undefined;
    expect((await bench.backups.resumeConfiguration(id)).status).toBe('ACTIVE');
    await sql(
      `UPDATE care_backup.backup_snapshots SET scheduled_at = scheduled_at - interval '40 days' WHERE configuration_id = $1`,
      [id],
    );
    await late(id, 1);
    await until('a good run', async () => (await scheduled(id)).some(({ status }) => status === 'COMPLETED'));
    const { rows } = await sql(
      'SELECT consecutive_failures AS n FROM care_backup.backup_configurations WHERE id = $1',
      [id],
    );
    expect(rows).toEqual([{ n: 0 }]);
  });
});
