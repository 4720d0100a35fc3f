import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createDatabase, type Database } from '../../src/repository/database.ts';
import { migrate } from '../../src/repository/migrate.ts';
import { endPool } from '../harness/end-pool.ts';
import { createTestDatabase, startPostgres, type TestDatabase } from '../harness/postgres.ts';
import {
  aCompletedSnapshot,
  aConfiguration,
  aDatabase,
  manualClock,
  ofOrganization,
} from './repository-fixtures.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database[Symbol.asyncDispose]());

const PHI = 'Jane Doe, diabetes';

describe('errors', () => {
  const db = () => aDatabase(database.pool);

  test('of the server keep the SQLSTATE and the constraint, and none of the values', async () => {
    await database.pool.query(
      'CREATE TABLE IF NOT EXISTS public.people (name text PRIMARY KEY, age int CHECK (age > 0))',
    );
    await database.pool.query('INSERT INTO public.people VALUES ($1, 1) ON CONFLICT DO NOTHING', [PHI]);
    const refused = [
      [`INSERT INTO public.people VALUES ('${PHI}', 1)`, '23505', 'people_pkey'],
      [`INSERT INTO public.people VALUES ('${PHI} 2', -1)`, '23514', 'people_age_check'],
      [`SELECT '${PHI}'::uuid`, '22P02', 'SQLSTATE'],
      [`SELECT "${PHI}" FROM public.people`, '42703', 'SQLSTATE'],
    ] as const;
    for (const [statement, state, name] of refused) {
      const error: unknown = await db()
        .query(statement)
        .catch((reason: unknown) => reason);
      expect(error).toMatchObject({
        code: 'DATABASE_FAILED',
        retryable: false,
        message: expect.stringContaining(state),
      });
      expect(String(error)).toContain(name);
      expect(`${String(error)} ${JSON.stringify(error)}`).not.toContain('Jane');
      expect(error).toHaveProperty('cause.code', state);
    }
  });

  test('that a repetition may cure say so', async () => {
    const raise = (state: string) =>
      db().query(`DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '${state}'; END $$`);
    await expect(raise('40001')).rejects.toMatchObject({ code: 'DATABASE_FAILED', retryable: true });
    await expect(raise('40P01')).rejects.toMatchObject({ code: 'DATABASE_FAILED', retryable: true });
    for (const state of ['08006', '57P01', '57P02', '57P03', '53300']) {
      await expect(raise(state)).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE', retryable: true });
    }
  });

  test('of the connection are DATABASE_UNAVAILABLE', async () => {
    const wrongs: [string, boolean][] = [
      ['postgresql://u@127.0.0.1:1/none', true],
      ['postgresql://u@host.invalid/none', true],
      [database.url.replace(/[^/]+$/, 'no_such_database'), false],
      [database.url.replace(/:[^:@/]+@/, ':wrong@'), false],
    ];
    for (const [connectionString, retryable] of wrongs) {
      const pool = new pg.Pool({ connectionString });
      const unreachable = aDatabase(pool);
      const expected = { code: 'DATABASE_UNAVAILABLE', retryable };
      await expect(unreachable.query('SELECT 1')).rejects.toMatchObject(expected);
      await expect(unreachable.withTransaction(async () => 1)).rejects.toMatchObject(expected);
      await endPool(pool);
    }
  });

  test('of a pool without a free connection are DATABASE_UNAVAILABLE', async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 1, connectionTimeoutMillis: 50 });
    const busy = aDatabase(pool);
    await busy.withTransaction(async () => {
      await expect(busy.query('SELECT 1')).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    });
    await endPool(pool);
  });
});

describe('a transaction', () => {
  const db = () => aDatabase(database.pool);

  test('joins the one that it is in', async () => {
    const organizationId = randomUUID();
    const run = db().withTransaction(async (tx) => {
      await tx.withTransaction(async (inner) => {
        expect(inner).toBe(tx);
        await ofOrganization(inner, organizationId).insertConfig(aConfiguration());
      });
      throw new Error('outer');
    });
    await expect(run).rejects.toThrow('outer');
    expect((await ofOrganization(db(), organizationId).listConfigs()).items).toEqual([]);
  });

  test('in which a failure was swallowed does not pretend to have committed', async () => {
    const run = db().withTransaction(async (tx) => {
      await tx.query('SELECT 1/0').catch(() => {});
      return 'done';
    });
    await expect(run).rejects.toMatchObject({
      code: 'INTERNAL',
      message: expect.stringContaining('rolled back'),
    });
  });

  describe('that sends its first statements behind its BEGIN', () => {
    const piped = async (work: (db: Database, pool: pg.Pool) => Promise<void>) => {
      const pool = new pg.Pool({ connectionString: database.url, pipeline: true, max: 1 });
      await work(aDatabase(pool), pool);
      await endPool(pool);
    };
    const marked = async (mark: string) =>
      (await database.pool.query('SELECT FROM public.marks WHERE mark = $1', [mark])).rowCount;
    beforeAll(() => database.pool.query('CREATE TABLE public.marks (mark text)'));

    test('commits all of them, or none', () =>
      piped(async (own) => {
        const both = (mark: string, last: string) =>
          own.withTransaction(
            (tx) =>
              Promise.all([
                tx.query('INSERT INTO public.marks VALUES ($1)', [mark]),
                tx.query('INSERT INTO public.marks VALUES ($1)', [mark]),
                tx.query(last),
              ]),
            { lock_timeout: '1s' },
            'AT_ONCE',
          );
        await both('kept', "SELECT 1 / (current_setting('lock_timeout') = '1s')::int");
        expect(await marked('kept')).toBe(2);
        await expect(both('undone', 'SELECT 1/0')).rejects.toMatchObject({ code: 'DATABASE_FAILED' });
        expect(await marked('undone')).toBe(0);
        await both('again', 'SELECT 1');
        expect(await marked('again')).toBe(2);
      }));

    test('hears of nothing where that BEGIN has failed, and asks nothing further', () =>
      piped(async (own) => {
        const heard: string[] = [];
        const run = own.withTransaction(
          async (tx) => {
            await tx.query('SELECT 1').finally(() => heard.push('ended'));
            heard.push('answered');
            await tx.host.query("INSERT INTO public.marks VALUES ('never')");
          },
          { lock_timeout: 'no time' },
          'AT_ONCE',
        );
        await expect(run).rejects.toMatchObject({
          code: 'DATABASE_FAILED',
          message: expect.stringContaining('22023'),
        });
        expect(await own.query('SELECT 1 AS one')).toEqual([{ one: '1' }]);
        expect(heard).toEqual(['ended']);
        expect(await marked('never')).toBe(0);
      }));
  });

  test('is not to be used after its end', async () => {
    const { tx } = await db().withTransaction(async (transaction) => ({ tx: transaction }));
    await expect(tx.query('SELECT 1')).rejects.toMatchObject({ code: 'INTERNAL' });
    let failed: Database | undefined;
    const run = db().withTransaction(async (transaction) => {
      failed = transaction;
      throw new Error('no');
    });
    await expect(run).rejects.toThrow('no');
    await expect(failed?.query('SELECT 1')).rejects.toMatchObject({ code: 'INTERNAL' });
  });

  test('whose connection is killed between two statements fails, the process and the pool live on', async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 1 });
    pool.on('error', () => {});
    const own = aDatabase(pool);
    const run = own.withTransaction(async (tx) => {
      const [row] = await tx.query('SELECT pg_backend_pid()::text AS pid');
      await database.pool.query('SELECT pg_terminate_backend($1)', [Number(row?.pid)]);
      await new Promise((resolve) => setTimeout(resolve, 100));
      await tx.query('SELECT 1');
    });
    await expect(run).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE', retryable: true });
    expect(await own.query("SELECT 'alive' AS state")).toEqual([{ state: 'alive' }]);
    await endPool(pool);
  });

  test('is READ COMMITTED and READ WRITE whatever the host has set', async () => {
    const pool = new pg.Pool({
      connectionString: database.url,
      options: '-c default_transaction_isolation=serializable -c default_transaction_read_only=on',
    });
    await aDatabase(pool).withTransaction(async (tx) => {
      expect(
        await tx.query(
          "SELECT current_setting('transaction_isolation') || current_setting('transaction_read_only') AS mode",
        ),
      ).toEqual([{ mode: 'read committedoff' }]);
    });
    await endPool(pool);
  });
});

describe('what the host has set', () => {
  const parsers = [
    pg.types.builtins.TIMESTAMPTZ,
    pg.types.builtins.INT8,
    pg.types.builtins.JSONB,
    pg.types.builtins.BOOL,
    pg.types.builtins.TEXT,
  ];
  const before = parsers.map((oid) => pg.types.getTypeParser(oid));
  afterEach(() => {
    parsers.forEach((oid, index) => {
      const parser = before[index];
      if (parser) pg.types.setTypeParser(oid, parser);
    });
  });

  test('type parsers, time zone, date style and search_path do not reach the repository', async () => {
    const organizationId = randomUUID();
    const plain = ofOrganization(aDatabase(database.pool), organizationId);
    const { id } = await plain.insertConfig(aConfiguration());
    const expected = [await aCompletedSnapshot(plain, id), await plain.findConfigById(id)];
    for (const oid of parsers) pg.types.setTypeParser(oid, () => 'the host’s');
    const pool = new pg.Pool({
      connectionString: database.url,
      types: { getTypeParser: () => () => 'the pool’s' },
      options:
        '-c TimeZone=Asia/Kathmandu -c DateStyle=German -c search_path=pg_temp -c bytea_output=escape -c IntervalStyle=sql_standard',
    });
    const repository = ofOrganization(aDatabase(pool), organizationId);
    expect([await repository.getLastSuccessfulBackup(id), await repository.findConfigById(id)]).toEqual(
      expected,
    );
    const written = await aCompletedSnapshot(repository, id);
    await endPool(pool);
    expect(await plain.findSnapshotById(written.id)).toEqual(written);
  });

  test('a schema of another name holds everything', async () => {
    await migrate({ connection: database.url, schema: 'Own Schema' });
    const db = createDatabase({ pool: database.pool, schema: 'Own Schema', clock: manualClock() });
    const repository = ofOrganization(db, randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    await aCompletedSnapshot(repository, id);
    const { rows } = await database.pool.query(
      'SELECT count(*)::int AS count FROM "Own Schema".backup_snapshots',
    );
    expect(rows).toEqual([{ count: 1 }]);
  });
});

describe('stored values that the library would not write', () => {
  test('are refused by name, and the value is not told', async () => {
    const repository = ofOrganization(aDatabase(database.pool), randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    const wrongs = [
      ['total_storage_used = 9007199254740993', 'total_storage_used'],
      [`scope = '{"secret": "${PHI}"}'`, 'scope'],
      ["created_at = 'infinity'", 'created_at'],
    ];
    for (const [set, field] of wrongs) {
      const pool = new pg.Pool({ connectionString: database.url, max: 1 });
      await pool.query(`UPDATE care_backup.backup_configurations SET ${set} WHERE id = $1`, [id]);
      const error: unknown = await repository.findConfigById(id).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: 'INTERNAL', message: expect.stringContaining(field ?? '') });
      expect(String(error)).not.toContain('Jane');
      await pool.query(
        "UPDATE care_backup.backup_configurations SET total_storage_used = 0, scope = '{}', created_at = now() WHERE id = $1",
        [id],
      );
      await endPool(pool);
    }
    expect(await repository.findConfigById(id)).toMatchObject({ id });
  });
});

test('a server that crashes and comes back is unavailable and then available, with what was committed', async () => {
  await using server = await startPostgres();
  await migrate({ connection: server.url });
  const pool = new pg.Pool({ connectionString: server.url, max: 3 });
  pool.on('error', () => {});
  const repository = ofOrganization(aDatabase(pool), randomUUID());
  const { id } = await repository.insertConfig(aConfiguration());
  await server.crash();
  await expect(repository.findConfigById(id)).rejects.toMatchObject({
    code: 'DATABASE_UNAVAILABLE',
    retryable: true,
  });
  await server.restart();
  expect(await repository.findConfigById(id)).toMatchObject({ id });
  await endPool(pool);
});
