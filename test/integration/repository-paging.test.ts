import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Database } from '../../src/repository/database.ts';
import type { BackupSnapshot } from '../../src/types/backup.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  aCompletedSnapshot,
  aConfiguration,
  aDatabase,
  aRestore,
  aSnapshot,
  ofOrganization,
  present,
} from './repository-fixtures.ts';

let database: TestDatabase;
let db: Database;
beforeAll(async () => {
  database = await createTestDatabase();
  db = aDatabase(database.pool);
});
afterAll(() => database[Symbol.asyncDispose]());

/** Copies of one snapshot, as fast as the server makes them, all with the same time of creation. */
async function copies(snapshot: BackupSnapshot, count: number, first: number): Promise<void> {
  const { rows } = await database.pool.query<{ name: string }>(
    "SELECT quote_ident(attname) AS name FROM pg_attribute WHERE attrelid = 'care_backup.backup_snapshots'::regclass" +
      " AND attnum > 0 AND attname NOT IN ('id', 'ordinal', 'snapshot_number')",
  );
  const columns = rows.map((row) => row.name).join(', ');
  await database.pool.query(
    `INSERT INTO care_backup.backup_snapshots (id, snapshot_number, ${columns})
     SELECT gen_random_uuid(), 'COPY-' || n, ${columns} FROM care_backup.backup_snapshots, generate_series($2::int, $3::int) n
      WHERE id = $1`,
    [snapshot.id, first, first + count - 1],
  );
}

describe('a list', () => {
  test('of 1,000 rows, with inserts going on, gives each row once', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    const snapshot = present(await repository.insertSnapshot(aSnapshot(id)));
    await copies(snapshot, 999, 0);
    const existing = (await repository.findSnapshotsByConfig(id)).map((one) => one.id);
    expect(existing).toHaveLength(1000);
    const seen: string[] = [];
    let cursor: string | undefined;
    for (let page = 0; ; page += 1) {
      const [read] = await Promise.all([
        repository.listSnapshots({ configurationId: id, limit: 37, ...(cursor ? { cursor } : {}) }),
        copies(snapshot, 20, 10_000 + page * 20),
      ]);
      seen.push(...read.items.map((one) => one.id));
      if (read.nextCursor === null) break;
      cursor = read.nextCursor;
    }
    expect(new Set(seen).size).toBe(seen.length);
    const known = new Set(existing);
    expect(seen.filter((one) => known.has(one))).toEqual(existing);
  });

  test('says that it ends exactly where it ends', async () => {
    const repository = ofOrganization(db, randomUUID());
    for (let count = 0; count < 4; count += 1) await repository.insertConfig(aConfiguration());
    const first = await repository.listConfigs({ limit: 2 });
    const second = await repository.listConfigs({ limit: 2, cursor: present(first.nextCursor) });
    expect([...first.items, ...second.items]).toHaveLength(4);
    expect(second.nextCursor).toBeNull();
    expect((await repository.listConfigs({ limit: 3 })).nextCursor).not.toBeNull();
    expect((await repository.listConfigs()).nextCursor).toBeNull();
    expect(await ofOrganization(db, randomUUID()).listConfigs()).toEqual({ items: [], nextCursor: null });
  });

  test('keeps its place when the row at the cursor is deleted', async () => {
    const repository = ofOrganization(db, randomUUID());
    for (let count = 0; count < 4; count += 1) await repository.insertConfig(aConfiguration());
    const all = (await repository.listConfigs()).items.map((one) => one.id);
    const first = await repository.listConfigs({ limit: 2 });
    await repository.softDeleteConfig(present(all[1]), randomUUID());
    const second = await repository.listConfigs({ limit: 2, cursor: present(first.nextCursor) });
    expect(second.items.map((one) => one.id)).toEqual(all.slice(2));
  });

  test('is filtered by status, configuration and snapshot', async () => {
    const repository = ofOrganization(db, randomUUID());
    const paused = await repository.insertConfig(aConfiguration({ status: 'PAUSED' }));
    const active = await repository.insertConfig(aConfiguration());
    const ids = (page: { items: readonly { id: string }[] }) => page.items.map((one) => one.id);
    expect(ids(await repository.listConfigs({ status: ['PAUSED'] }))).toEqual([paused.id]);
    expect(ids(await repository.listConfigs({ status: ['PAUSED', 'ACTIVE'] }))).toEqual([
      active.id,
      paused.id,
    ]);
    const done = await aCompletedSnapshot(repository, active.id);
    const queued = present(await repository.insertSnapshot(aSnapshot(paused.id)));
    expect(ids(await repository.listSnapshots({ status: ['COMPLETED'] }))).toEqual([done.id]);
    expect(ids(await repository.listSnapshots({ configurationId: paused.id }))).toEqual([queued.id]);
    const restore = present(await repository.insertRestore(aRestore(done.id)));
    expect(ids(await repository.listRestores({ snapshotId: done.id, status: ['QUEUED'] }))).toEqual([
      restore.id,
    ]);
    expect(ids(await repository.listRestores({ snapshotId: queued.id }))).toEqual([]);
  });

  test('refuses limits and cursors that are not its own', async () => {
    const repository = ofOrganization(db, randomUUID());
    const other = ofOrganization(db, randomUUID());
    for (const one of [repository, other])
      for (let count = 0; count < 2; count += 1) await one.insertConfig(aConfiguration());
    const foreign = present((await other.listConfigs({ limit: 1 })).nextCursor);
    const ofAnotherList = Buffer.from(`backup_snapshots:${randomUUID()}`).toString('base64url');
    const unknown = Buffer.from(`backup_configurations:${randomUUID()}`).toString('base64url');
    for (const cursor of ['', 'x', '%%%', foreign, ofAnotherList, unknown, `${foreign}AA`]) {
      await expect(repository.listConfigs({ cursor })).rejects.toMatchObject({
        code: 'VALIDATION_FAILED',
        issues: [{ path: 'cursor' }],
      });
    }
    for (const limit of [0, -1, 1.5, 1001, Number.NaN]) {
      await expect(repository.listConfigs({ limit })).rejects.toMatchObject({
        code: 'VALIDATION_FAILED',
        issues: [{ path: 'limit' }],
      });
    }
  });
});

test('the lists and the last good backup are served by an index', async () => {
  const repository = ofOrganization(db, randomUUID());
  const { id } = await repository.insertConfig(aConfiguration());
  const snapshot = await aCompletedSnapshot(repository, id);
  await copies(snapshot, 5000, 100_000);
  await database.pool.query('ANALYZE care_backup.backup_snapshots');
  const { rows } = await database.pool.query<{ 'QUERY PLAN': string }>(
    `EXPLAIN SELECT id FROM care_backup.backup_snapshots WHERE organization_id = $1 AND configuration_id = $2
       AND deleted_at IS NULL AND ordinal < 4000 ORDER BY ordinal DESC LIMIT 50`
      .replace('$1', `'${snapshot.organizationId}'`)
      .replace('$2', `'${id}'`),
  );
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  expect(plan).toMatch(/Index.* Scan using backup_snapshots_newest_first/);
  expect(plan).not.toMatch(/Sort/);
});
