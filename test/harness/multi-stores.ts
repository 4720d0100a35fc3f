import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import type { DataProtectionOptions } from '../../src/compose.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import type { BackupSnapshot, StorageDestination, StorageJob } from '../../src/types/backup.ts';
import { StorageError } from '../../src/types/errors.ts';
import type { ServiceBench } from './service-bench.ts';
import { tinyDifferences } from './service-tiny.ts';

/** A store that can be away, and be watched. */
export interface TestStore {
  readonly storage: ObjectStorage;
  /** What it holds, whether it is away or not. */
  sound: ObjectStorage;
  away: boolean;
  /** Before each call; what it throws, the call rejects with. */
  onCall: ((operation: 'put' | 'get' | 'stat' | 'list' | 'delete', key: string) => unknown) | undefined;
}

function testStore(name: string): TestStore {
  const gate = async (operation: Parameters<NonNullable<TestStore['onCall']>>[0], key: string) => {
    await store.onCall?.(operation, key);
    if (store.away) throw new StorageError(`${name} is away`, 'STORAGE_UNAVAILABLE', { key });
    return store.sound;
  };
  const store: TestStore = {
    sound: memoryStorage(),
    away: false,
    onCall: undefined,
    storage: {
      description: name,
      put: async (key, body, options) => (await gate('put', key)).put(key, body, options),
      get: async (key, options) => (await gate('get', key)).get(key, options),
      stat: async (key, options) => (await gate('stat', key)).stat(key, options),
      async *list(prefix, options) {
        yield* (await gate('list', prefix)).list(prefix, options);
      },
      delete: async (key, options) => (await gate('delete', key)).delete(key, options),
    },
  };
  return store;
}

/** Stores by name, as destinations of the service. */
export class TestStores {
  readonly #stores = new Map<string, TestStore>();

  get(name: string): TestStore {
    const store = this.#stores.get(name) ?? testStore(name);
    this.#stores.set(name, store);
    return store;
  }

  /** Empties every store; all are there, and nobody watches. */
  reset(): void {
    for (const store of this.#stores.values()) {
      store.sound = memoryStorage();
      store.away = false;
      store.onCall = undefined;
    }
  }

  readonly options: Partial<DataProtectionOptions> = {
    openStorage: ({ localStorage }) =>
      localStorage === undefined ? undefined : this.get(localStorage.path).storage,
  };
}

export async function copyOf(storage: ObjectStorage): Promise<ObjectStorage> {
  const copy = memoryStorage();
  for await (const { key } of storage.list('')) await copy.put(key, [await storage.get(key)]);
  return copy;
}

export const single = (name: string, prefix?: string): StorageDestination => ({
  type: 'LOCAL_FILESYSTEM',
  localStorage: { path: name, ...(prefix === undefined ? {} : { prefix }) },
});

export const several = (minimumConfirmations: number, ...names: string[]): StorageDestination => ({
  type: 'MULTI',
  minimumConfirmations,
  destinations: names.map((name) => single(name)),
});

export async function until<T>(what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  const end = Date.now() + 60_000;
  while (Date.now() < end) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    await sleep(20);
  }
  throw new Error(`It did not happen: ${what}`);
}

/** The job once it has ended, or waits for another try than it had when it was asked for. */
export const jobSettled = (
  backups: BackupService,
  { id, attempts }: Pick<StorageJob, 'id' | 'attempts'>,
): Promise<StorageJob> =>
  until('a settled job', async () => {
    const job = await backups.getJobStatus(id);
    const waits = job.status === 'QUEUED' && job.error !== null && job.attempts > attempts;
    return (waits || ['COMPLETED', 'FAILED', 'CANCELLED'].includes(job.status)) && job;
  });

/** Waits for the replication that follows a backup by itself. */
export async function replicated(
  { database, backups }: ServiceBench,
  snapshotId: string,
): Promise<StorageJob> {
  const { rows } = await database.pool.query<{ id: string }>(
    `SELECT id::text AS id FROM care_backup.storage_jobs WHERE snapshot_id = $1 AND kind = 'REPLICATION'
      ORDER BY created_at DESC LIMIT 1`,
    [snapshotId],
  );
  return jobSettled(backups, { id: rows[0]?.id ?? '', attempts: 0 });
}

let schemas = 0;

/** Restores into a schema of its own and compares every row. */
export async function expectRestores(
  { database, backups }: ServiceBench,
  { id }: BackupSnapshot,
): Promise<void> {
  schemas += 1;
  const schemaName = `multi_${schemas}`;
  await backups.createRestoreOperation(
    { snapshotId: id, restoreDestination: { type: 'TEST', schemaName } },
    { wait: true },
  );
  expect(await tinyDifferences(database.pool, schemaName)).toBe(0);
  await database.pool.query(`DROP SCHEMA "${schemaName}" CASCADE`);
}

/** Refuses the restore, and leaves no row anywhere. */
export async function expectRefused(
  { database, backups }: ServiceBench,
  { id }: BackupSnapshot,
): Promise<void> {
  schemas += 1;
  const schemaName = `multi_${schemas}`;
  await expect(
    backups.createRestoreOperation(
      { snapshotId: id, restoreDestination: { type: 'TEST', schemaName } },
      { wait: true },
    ),
  ).rejects.toMatchObject({ code: expect.stringMatching(/^(ARCHIVE|STORAGE)_/) });
  const { rows } = await database.pool.query('SELECT 1 FROM pg_namespace WHERE nspname = $1', [schemaName]);
  expect(rows).toEqual([]);
}
