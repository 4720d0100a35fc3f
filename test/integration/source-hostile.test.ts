import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  codeOf,
  expectNoSessions,
  keepingSink,
  requestOf,
  rowsOf,
  shared,
  sourceOf,
  take,
} from '../harness/source-extraction.ts';
import {
  type BackupRole,
  createBackupRole,
  disown,
  setStage,
  stageEntities,
} from '../harness/source-stage.ts';

let database: TestDatabase;
let role: BackupRole;
let connection: pg.ClientConfig;
const sql = (text: string) =>
  database.pool.query(text.replaceAll('$role', role.name).replaceAll('$database', database.name));

beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  role = await createBackupRole(database);
  connection = role.on(database);
});
afterAll(async () => {
  await expectNoSessions(database.pool);
  await disown(database, role);
  await role[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});
beforeEach(() => setStage(database, role.name));

const taking = (more: Partial<Parameters<typeof take>[0]> = {}) =>
  take({ connection, superuser: database.pool, entities: stageEntities, ...more });
const failure = (promise: Promise<unknown>): Promise<{ code: string; message: string; cause: unknown }> =>
  promise.then(
    () => ({ code: 'NONE', message: '', cause: undefined }),
    (error: { code: string; message: string; cause: unknown }) => error,
  );
const source = (entities = stageEntities) => sourceOf({ connection, entities });

describe('settings of the server, the database and the role', () => {
  const HOSTILE: Readonly<Record<string, string>> = {
    DateStyle: "'SQL, DMY'",
    IntervalStyle: "'sql_standard'",
    extra_float_digits: '-15',
    bytea_output: "'escape'",
    TimeZone: "'Asia/Kathmandu'",
    search_path: 'traps, public',
    default_transaction_isolation: "'serializable'",
    default_transaction_read_only: 'on',
    default_transaction_deferrable: 'on',
    standard_conforming_strings: 'off',
    backslash_quote: 'on',
    row_security: 'on',
    lc_monetary: "'C'",
    client_encoding: "'LATIN1'",
    xmloption: 'document',
    xmlbinary: 'hex',
    quote_all_identifiers: 'on',
    array_nulls: 'off',
    transform_null_equals: 'on',
    lock_timeout: "'1ms'",
    idle_in_transaction_session_timeout: "'100ms'",
    idle_session_timeout: "'100ms'",
    statement_timeout: "'50ms'",
    transaction_timeout: "'60ms'",
    synchronize_seqscans: 'on',
    enable_seqscan: 'off',
    client_connection_check_interval: '0',
  };

  test('change nothing in what comes out', { timeout: 60_000 }, async () => {
    await sql(`
      CREATE SCHEMA traps; CREATE TABLE traps.values (id int); CREATE TABLE traps.pg_class (oid oid, relname name);
      CREATE TABLE stage.values (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, i interval, f float8, r real, b bytea, x xml, m money, a text[], n numeric, u text, reg regclass);
      INSERT INTO stage.values SELECT i, date '2024-03-04' + i, '2024-03-04 05:06:07.123456', '2024-03-04 05:06:07.123456+03', interval '-1 year 2 days -03:04:05.6',
          0.1 + 0.2, 0.1::real / 3, '\\x00ff5c', 'fragment <a/>'::xml, 1234.56, ARRAY[NULL, 'NULL', 'a,"b'], 1.10, E'Zoë \\\\ \\u5b57', 'traps.values' FROM generate_series(1, 300) i;
      GRANT SELECT ON ALL TABLES IN SCHEMA stage TO $role; GRANT USAGE ON SCHEMA traps TO $role; GRANT SELECT ON ALL TABLES IN SCHEMA traps TO $role`);
    const entities = [...stageEntities, shared('VALUES', 'values', { schema: 'stage' })];
    const plain = await taking({ entities });
    for (const where of ['ROLE $role', 'ROLE $role IN DATABASE $database']) {
      for (const [name, value] of Object.entries(HOSTILE)) await sql(`ALTER ${where} SET ${name} = ${value}`);
      const { rows, contents } = await taking({
        entities,
        bufferSize: 512,
        gate: (n) => (n % 50 === 3 ? sleep(150) : undefined),
      });
      expect(rows).toEqual(plain.rows);
      expect(contents.source.settings).toEqual(plain.contents.source.settings);
      expect(contents.relations).toEqual(plain.contents.relations);
      expect(contents.types).toEqual(plain.contents.types);
      await sql(`ALTER ${where} RESET ALL`);
    }
    expect(plain.contents.source.settings).toMatchObject({
      DateStyle: 'ISO, YMD',
      IntervalStyle: 'postgres',
      TimeZone: 'UTC',
      extra_float_digits: '3',
      bytea_output: 'hex',
    });
  });

  test('timeouts below the time that a backup takes', { timeout: 60_000 }, async () => {
    for (const name of [
      'statement_timeout',
      'idle_in_transaction_session_timeout',
      'idle_session_timeout',
      'transaction_timeout',
      'lock_timeout',
    ])
      await sql(`ALTER ROLE $role SET ${name} = '400ms'`);
    try {
      await taking({ bufferSize: 512, gate: (n) => (n === 3 ? sleep(1_000) : undefined) });
    } finally {
      await sql('ALTER ROLE $role RESET ALL');
    }
  });

  test('type parsers and options of the host’s own pg change nothing', async () => {
    const plain = await taking();
    const { types } = pg;
    const oids = [16, 20, 21, 23, 25, 26, 114, 1000, 1009, 1043, 3802];
    const before = oids.map((oid) => types.getTypeParser(oid));
    for (const oid of oids) types.setTypeParser(oid, () => ({ parsed: oid }));
    try {
      const theirs: pg.ClientConfig = {
        ...connection,
        statement_timeout: 1,
        query_timeout: 1,
        lock_timeout: 1,
        types: { getTypeParser: () => () => 'theirs' },
      };
      const snapshot = await sourceOf({ connection: theirs, entities: stageEntities }).open(requestOf());
      const sink = keepingSink();
      const contents = await snapshot.extract(sink, () => undefined);
      expect(rowsOf(sink.segments, contents)).toEqual(plain.rows);
      expect(contents.relations).toEqual(plain.contents.relations);
    } finally {
      for (const [i, oid] of oids.entries()) types.setTypeParser(oid, before[i] ?? String);
    }
  });
});

describe('locks that others hold', () => {
  test('a holder that lets go in time is waited for', async () => {
    const holder = await database.pool.connect();
    await holder.query(
      'BEGIN; LOCK TABLE stage.plain IN ACCESS EXCLUSIVE MODE; DELETE FROM stage.plain WHERE id <= 100',
    );
    const taken = taking();
    await sleep(2_500);
    await holder.query('COMMIT');
    holder.release();
    expect((await taken).rows.get('stage.plain')).toHaveLength(300);
  });

  test('an ACCESS EXCLUSIVE request that comes while rows are read neither hangs the run nor loses rows', async () => {
    for (const [statement, left] of [
      ['TRUNCATE stage.plain, stage.secured, stage.outer_row', 400],
      ['TRUNCATE stage.visits', 0],
    ] as const) {
      let waiting: Promise<unknown> | undefined;
      const { rows } = await taking({
        bufferSize: 256,
        request: requestOf({ maxConcurrency: 1 }),
        gate: async (n) => {
          if (n !== 5) return;
          waiting = database.pool.query(statement);
          await sleep(100);
        },
      });
      expect(rows.get('stage.plain')).toHaveLength(left);
      await waiting;
    }
  });

  test('a REINDEX waits for no more than the statement that reads the table', async () => {
    const reindex = () => database.pool.query('REINDEX INDEX stage.plain_amount; REINDEX TABLE stage.plain');
    await sql('ANALYZE stage.plain, stage.secured, stage.outer_row, stage.visits');
    const snapshot = await source().open(requestOf({ maxConcurrency: 1 }));
    await reindex();
    let again: Promise<unknown> | undefined;
    const sink = keepingSink({
      bufferSize: 256,
      gate: async () => {
        // The plain table has been read, and another one is.
        const parts = sink.segments.map(({ part }) => part);
        if (again !== undefined || !parts.includes(0) || parts.at(-1) === 0) return;
        again = reindex();
        await again;
      },
    });
    await snapshot.extract(sink, () => undefined);
    expect(again).toBeDefined();
  });
});

describe('rights', () => {
  test.each([
    ['a table', 'REVOKE SELECT ON stage.plain FROM $role', /SELECT on stage\.plain/],
    ['a partition', 'REVOKE SELECT ON stage.visits_24 FROM $role', /SELECT on stage\.visits_24/],
    [
      'all columns but one',
      'REVOKE SELECT ON stage.plain FROM $role; GRANT SELECT (id, amount) ON stage.plain TO $role',
      /stage\.plain .*id, amount/,
    ],
    ['a schema', 'REVOKE USAGE ON SCHEMA stage FROM $role', /USAGE on the schema of stage\.plain/],
    ['a sequence', 'REVOKE SELECT ON stage.outer_row_id_seq FROM $role', /sequence stage\.outer_row_id_seq/],
  ])('SOURCE_PRIVILEGE_MISSING names %s', async (_, revoke, named) => {
    await sql(revoke);
    const error = await failure(source().open(requestOf()));
    expect([error.code, error.message]).toEqual(['SOURCE_PRIVILEGE_MISSING', expect.stringMatching(named)]);
  });

  test('row-level security that filters is SOURCE_FILTERED: a policy, or FORCE on the owner', async () => {
    await sql('ALTER ROLE $role NOBYPASSRLS');
    for (const attempt of [source().open, source().check]) {
      const error = await failure(attempt(requestOf()));
      expect([error.code, error.message]).toEqual([
        'SOURCE_FILTERED',
        expect.stringContaining('stage.secured'),
      ]);
    }
    await sql('GRANT CREATE ON SCHEMA stage TO $role; ALTER TABLE stage.secured OWNER TO $role');
    expect((await taking()).rows.get('stage.secured')).toHaveLength(100);
    await sql('ALTER TABLE stage.secured FORCE ROW LEVEL SECURITY');
    expect(await codeOf(source().open(requestOf()))).toBe('SOURCE_FILTERED');
  });

  test('BYPASSRLS taken away once the snapshot is open: SOURCE_FILTERED, not fewer rows', async () => {
    const taken = taking({ beforeExtract: () => sql('ALTER ROLE $role NOBYPASSRLS') });
    expect(await codeOf(taken)).toBe('SOURCE_FILTERED');
  });

  test('columns that refer to large objects are refused by name; other oids are not', async () => {
    await sql(`
      CREATE DOMAIN stage.lo AS oid;
      CREATE TABLE stage.scans (id int PRIMARY KEY, of_table oid, scan oid, page stage.lo);
      INSERT INTO stage.scans SELECT i, 'stage.plain'::regclass, NULL, NULL FROM generate_series(1, 3) i; GRANT SELECT ON stage.scans TO $role`);
    const scans = [shared('SCAN', 'scans', { schema: 'stage' })];
    await taking({ entities: scans });
    await sql(
      "UPDATE stage.scans SET scan = lo_from_bytea(0, '\\x01') WHERE id = 1; UPDATE stage.scans SET page = lo_from_bytea(0, '\\x01') WHERE id = 2",
    );
    const error = await failure(source(scans).open(requestOf()));
    expect([error.code, error.message]).toEqual([
      'SOURCE_UNSUPPORTED',
      expect.stringMatching(/scans\.scan, stage\.scans\.page/),
    ]);
    await sql('SELECT lo_unlink(oid) FROM pg_largeobject_metadata');
  });
});
