import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { assertMigrated, migrate, migrateDown } from '../../src/repository/migrate.ts';
import { catalogDump } from '../harness/catalog-dump.ts';
import { endPool } from '../harness/end-pool.ts';
import { createTestDatabase, startPostgres, type TestDatabase } from '../harness/postgres.ts';

const FOLDER = join(import.meta.dirname, '../../migrations');
const FILES = (await readdir(FOLDER)).sort();
const NAMES = FILES.map((file) => file.replace('.sql', ''));
/** Every table that the files make, and the one in which it is kept which of them ran. */
const TABLES = [
  'migrations',
  ...(await Promise.all(FILES.map((file) => readFile(join(FOLDER, file), 'utf8')))).flatMap((sql) =>
    [...sql.matchAll(/^CREATE TABLE (\w+)/gm)].map(([, name = '']) => name),
  ),
].sort();

async function tables(pool: pg.Pool, schema: string): Promise<string[]> {
  const { rows } = await pool.query<{ name: string }>(
    'SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace' +
      " WHERE n.nspname = $1 AND c.relkind = 'r' ORDER BY 1",
    [schema],
  );
  return rows.map((row) => row.name);
}

describe('migrations', () => {
  test('make the tables in a schema of their own and nothing elsewhere', async () => {
    await using database = await createTestDatabase({ migrated: false });
    expect(await migrate({ connection: database.url })).toEqual(NAMES);
    expect(await tables(database.pool, 'care_backup')).toEqual(TABLES);
    expect(await tables(database.pool, 'public')).toEqual([]);
    await assertMigrated({ connection: database.pool });
  });

  test('are harmless when repeated', async () => {
    await using database = await createTestDatabase();
    const before = await catalogDump(database.pool, 'care_backup');
    expect(await migrate({ connection: database.url })).toEqual([]);
    expect(await catalogDump(database.pool, 'care_backup')).toEqual(before);
  });

  test('up, down and up again give the same catalog', async () => {
    await using database = await createTestDatabase();
    const first = await catalogDump(database.pool, 'care_backup');
    expect(first.length).toBeGreaterThan(150);
    expect(await migrateDown({ connection: database.url })).toEqual(NAMES.toReversed());
    expect(await tables(database.pool, 'care_backup')).toEqual(['migrations']);
    const down = await catalogDump(database.pool, 'care_backup');
    expect(down.filter((line) => line.startsWith('function'))).toEqual([]);
    expect(await migrateDown({ connection: database.url })).toEqual([]);
    expect(await migrate({ connection: database.url })).toEqual(NAMES);
    expect(await catalogDump(database.pool, 'care_backup')).toEqual(first);
  });

  test('run once when 20 processes start at the same time', async () => {
    await using database = await createTestDatabase({ migrated: false });
    const runs = await Promise.all(Array.from({ length: 20 }, () => migrate({ connection: database.url })));
    expect(runs.filter((names) => names.length > 0)).toEqual([NAMES]);
    const { rows } = await database.pool.query('SELECT name FROM care_backup.migrations ORDER BY id');
    expect(rows.map((row) => row.name)).toEqual(NAMES);
  });

  test('run once when 20 go through one pool, whose connections stay usable', async () => {
    await using database = await createTestDatabase({ migrated: false });
    const runs = await Promise.all(Array.from({ length: 20 }, () => migrate({ connection: database.pool })));
    expect(runs.filter((names) => names.length > 0)).toHaveLength(1);
    const { rows } = await database.pool.query('SHOW search_path');
    expect(rows[0].search_path).toBe('"$user", public');
  });

  test.each(['Care-Backup 2', 'select', 'a.b,c;d', 'schéma', 'x'.repeat(63)])(
    'work in a schema named %s',
    async (schema) => {
      await using database = await createTestDatabase({ migrated: false });
      await migrate({ connection: database.url, schema });
      expect(await tables(database.pool, schema)).toEqual(TABLES);
      expect(await migrate({ connection: database.url, schema })).toEqual([]);
      await assertMigrated({ connection: database.pool, schema });
      await migrateDown({ connection: database.url, schema });
    },
  );

  test.each(['', 'a"b', "a'b", 'a\\b', 'a\nb', 'pg_mine', '$user', 'x'.repeat(64)])(
    'refuse the schema name %j',
    async (schema) => {
      await expect(migrate({ connection: 'postgresql://127.0.0.1:1/x', schema })).rejects.toMatchObject({
        code: 'CONFIGURATION_INVALID',
      });
    },
  );

  test('two schemas live side by side in one database', async () => {
    await using database = await createTestDatabase();
    await migrate({ connection: database.url, schema: 'second' });
    expect(await catalogDump(database.pool, 'second')).toEqual(
      await catalogDump(database.pool, 'care_backup'),
    );
  });

  test('need only CREATE on a schema that was made beforehand', async () => {
    await using database = await createTestDatabase({ migrated: false });
    const role = `limited_${database.name}`;
    await database.pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'limited'`);
    try {
      await database.pool.query(`CREATE SCHEMA care_backup AUTHORIZATION ${role}`);
      await database.pool.query('REVOKE CREATE ON SCHEMA public FROM PUBLIC');
      const url = new URL(database.url);
      url.username = role;
      url.password = 'limited';
      expect(await migrate({ connection: url.href })).toEqual(NAMES);
      const refused = migrate({ connection: url.href, schema: 'another' });
      await expect(refused).rejects.toMatchObject({ code: 'MIGRATION_FAILED', message: /42501/ });
      await database.pool.query(`DROP OWNED BY ${role} CASCADE`);
    } finally {
      await database.pool.query(`DROP OWNED BY ${role} CASCADE; DROP ROLE ${role}`);
    }
  });
});

describe('a hostile environment', () => {
  test('settings of role and database do not reach the migration', async () => {
    await using server = await startPostgres();
    const admin = new pg.Pool({ connectionString: server.url, max: 1 });
    await migrate({ connection: server.url, schema: 'plain' });
    await admin.query(`
      CREATE SCHEMA evil;
      CREATE TABLE evil.counters (oops int);
      ALTER ROLE postgres SET search_path = evil, pg_catalog;
      ALTER ROLE postgres SET statement_timeout = '300ms';
      ALTER ROLE postgres SET lock_timeout = '100ms';
      ALTER ROLE postgres SET idle_in_transaction_session_timeout = '300ms';
      ALTER ROLE postgres SET row_security = off;
      ALTER ROLE postgres SET TimeZone = 'Pacific/Kiritimati';
      ALTER ROLE postgres SET DateStyle = 'SQL, DMY';
      ALTER ROLE postgres SET standard_conforming_strings = off;
      ALTER ROLE postgres SET default_transaction_isolation = 'serializable';
      ALTER ROLE postgres SET default_transaction_read_only = on;
    `);
    // Longer than the timeouts, they wait for somebody else's migration.
    const other = await admin.connect();
    await other.query('SELECT pg_advisory_lock(4216007331)');
    const released = sleep(700).then(() => other.release(true));
    const runs = await Promise.all(
      Array.from({ length: 8 }, () => migrate({ connection: server.url, schema: 'mine' })),
    );
    expect(runs.filter((names) => names.length > 0)).toEqual([NAMES]);
    await released;
    await endPool(admin);
    const pool = new pg.Pool({ connectionString: server.url, max: 1 });
    await assertMigrated({ connection: pool, schema: 'mine' });
    await pool.query('SET statement_timeout = 0; SET search_path = public');
    const [mine, plain] = [await catalogDump(pool, 'mine'), await catalogDump(pool, 'plain')];
    await endPool(pool);
    expect(mine).toEqual(plain);
  });

  test('a server that is not there is DATABASE_UNAVAILABLE', async () => {
    const run = migrate({ connection: 'postgresql://nobody@127.0.0.1:1/none' });
    await expect(run).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE', retryable: true });
  });
});

describe('the state of the schema', () => {
  test('absent or older is SCHEMA_MISSING', async () => {
    await using database = await createTestDatabase({ migrated: false });
    const absent = assertMigrated({ connection: database.pool });
    await expect(absent).rejects.toMatchObject({
      code: 'SCHEMA_MISSING',
      message: /0001_backup, 0002_audit, 0003_work/,
    });
    await migrate({ connection: database.url });
    await database.pool.query("DELETE FROM care_backup.migrations WHERE name = '0003_work'");
    const older = assertMigrated({ connection: database.pool });
    await expect(older).rejects.toMatchObject({ code: 'SCHEMA_MISSING', message: /missing 0003_work/ });
  });

  test('newer is SCHEMA_NEWER for assertMigrated, migrate and migrateDown, and stays as it is', async () => {
    await using database = await createTestDatabase();
    await database.pool.query(
      "INSERT INTO care_backup.migrations (name, run_on) VALUES ('0099_future', now())",
    );
    const before = await catalogDump(database.pool, 'care_backup');
    const newer = { code: 'SCHEMA_NEWER', message: /0099_future/ };
    await expect(assertMigrated({ connection: database.pool })).rejects.toMatchObject(newer);
    await expect(migrate({ connection: database.url })).rejects.toMatchObject(newer);
    await expect(migrateDown({ connection: database.url })).rejects.toMatchObject(newer);
    expect(await catalogDump(database.pool, 'care_backup')).toEqual(before);
  });
});

describe('a migration that fails', () => {
  let directory: string;
  let database: TestDatabase;
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'care-migrations-'));
    database = await createTestDatabase({ migrated: false });
  });
  afterAll(async () => {
    await rm(directory, { recursive: true });
    await database[Symbol.asyncDispose]();
  });

  test('leaves nothing behind: no schema, no ledger, no earlier migration of the same run', async () => {
    await writeFile(join(directory, '0001_good.sql'), '-- Up Migration\nCREATE TABLE good (a int);\n');
    await writeFile(
      join(directory, '0002_bad.sql'),
      '-- Up Migration\nCREATE TABLE bad (a int); SELECT 1/0;\n',
    );
    const run = migrate({ connection: database.url, schema: 'failing', directory });
    await expect(run).rejects.toMatchObject({ code: 'MIGRATION_FAILED', message: /22012/ });
    const { rows } = await database.pool.query("SELECT 1 FROM pg_namespace WHERE nspname = 'failing'");
    expect(rows).toEqual([]);
    const { rows: locks } = await database.pool.query(
      `SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database()`,
    );
    expect(locks).toEqual([]);
  });

  test('leaves an existing schema as it was, and runs when corrected', async () => {
    await writeFile(join(directory, '0002_bad.sql'), '-- Up Migration\nCREATE TABLE second (a int);\n');
    expect(await migrate({ connection: database.url, schema: 'growing', directory })).toEqual([
      '0001_good',
      '0002_bad',
    ]);
    const before = await catalogDump(database.pool, 'growing');
    await writeFile(
      join(directory, '0003_worse.sql'),
      '-- Up Migration\nDROP TABLE good; SELECT nonsense;\n',
    );
    await expect(migrate({ connection: database.url, schema: 'growing', directory })).rejects.toMatchObject({
      code: 'MIGRATION_FAILED',
    });
    expect(await catalogDump(database.pool, 'growing')).toEqual(before);
    await writeFile(join(directory, '0003_worse.sql'), '-- Up Migration\nDROP TABLE good;\n');
    expect(await migrate({ connection: database.url, schema: 'growing', directory })).toEqual(['0003_worse']);
    expect(await tables(database.pool, 'growing')).toEqual(['migrations', 'second']);
  });
});
