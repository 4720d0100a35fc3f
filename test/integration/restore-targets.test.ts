import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RestorableSnapshot } from '../../src/restore/restore.ts';
import { defineEntity } from '../../src/source/entity.ts';
import type { RelationRecord } from '../../src/types/contents.ts';
import { databaseUrl } from '../harness/database-url.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  differences,
  hiddenSchemas,
  ORGANIZATION,
  request,
  takeSnapshot,
  targetOn,
} from './restore-support.ts';

const OTHER = '00000000-0000-4000-8000-000000000002';
const entity = (type: string, table: string, organization: string = 'organization_id') =>
  defineEntity({ type, table, organization });

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
});
afterAll(() => database[Symbol.asyncDispose]());

describe('rows that a filter left out', () => {
  let snapshot: RestorableSnapshot;
  beforeAll(async () => {
    await database.pool.query(`
      CREATE TABLE client (id int PRIMARY KEY, organization_id uuid);
      INSERT INTO client SELECT i, CASE WHEN i % 4 = 0 THEN '${OTHER}'::uuid ELSE '${ORGANIZATION}' END FROM generate_series(1, 20) i;
      CREATE TABLE tag (id int PRIMARY KEY, client int REFERENCES client, twin int REFERENCES tag);
      INSERT INTO tag SELECT i, NULLIF(i, 8), i FROM generate_series(1, 20) i;
      CREATE TABLE event (id int, day int, client int CONSTRAINT of_client REFERENCES client, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
      CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
      CREATE TABLE event_2 PARTITION OF event DEFAULT;
      INSERT INTO event SELECT i, i, i FROM generate_series(1, 20) i;
    `);
    snapshot = await takeSnapshot(database.url, [
      entity('CLIENT', 'client'),
      entity('TAG', 'tag', 'SHARED'),
      entity('EVENT', 'event', 'SHARED'),
    ]);
  });

  test('leave the foreign keys to them unvalidated, with the number of orphans', async () => {
    const outcome = await targetOn(database.url).restoreToSchema(
      request(snapshot, { targetSchema: 'filtered' }),
    );
    expect(outcome.warnings.map((warning) => warning.code)).toEqual([
      'FOREIGN_KEY_NOT_VALID',
      'FOREIGN_KEY_NOT_VALID',
    ]);
    const messages = outcome.warnings.map((warning) => warning.message).join('\n');
    expect(messages).toContain('tag_client_fkey of tag is NOT VALID: 4 rows refer to rows of client');
    expect(messages).toContain('of_client of event is NOT VALID: 5 rows');
    const { rows } = await database.pool.query(
      "SELECT conname, conrelid::regclass::text AS on, convalidated FROM pg_constraint WHERE connamespace = 'filtered'::regnamespace AND contype = 'f' AND conrelid <> 'filtered.event'::regclass ORDER BY 1, 2",
    );
    expect(rows).toEqual([
      { conname: 'of_client', on: 'filtered.event_1', convalidated: false },
      { conname: 'of_client', on: 'filtered.event_2', convalidated: false },
      { conname: 'tag_client_fkey', on: 'filtered.tag', convalidated: false },
      { conname: 'tag_twin_fkey', on: 'filtered.tag', convalidated: true },
    ]);
    await expect(database.pool.query('INSERT INTO filtered.event VALUES (99, 1, 4)')).rejects.toMatchObject({
      code: '23503',
    });
  });

  test('but where nothing was filtered an orphan fails the restore', async () => {
    const entities = snapshot.contents.entities.map((one) => ({ ...one, filtered: false }));
    const failed = targetOn(database.url).restoreToSchema(
      request({ ...snapshot, contents: { ...snapshot.contents, entities } }, { targetSchema: 'unfiltered' }),
    );
    await expect(failed).rejects.toMatchObject({
      code: 'RESTORE_VALIDATION_FAILED',
      message: expect.stringMatching(/tag_client_fkey|of_client/),
    });
    expect(await hiddenSchemas(database.pool)).toEqual([]);
  });
});

describe('encodings', () => {
  const encoded = async (name: string, encoding: string): Promise<string> => {
    await database.pool.query(
      `CREATE DATABASE ${name} TEMPLATE template0 ENCODING '${encoding}' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'`,
    );
    return databaseUrl(database.url, name);
  };
  const query = async (url: string, sql: string): Promise<unknown[]> => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      return (await client.query(sql)).rows;
    } finally {
      await client.end();
    }
  };
  const setUp = (text: string): string =>
    `CREATE TABLE words (id int PRIMARY KEY, word text); INSERT INTO words SELECT i, ${text} FROM generate_series(1, 3) i`;
  const name = `restore_encoding_${process.pid}`;
  const drop = (): Promise<unknown> => database.pool.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);

  test('LATIN1 goes into UTF8', async () => {
    const latin = await encoded(name, 'LATIN1');
    try {
      await query(latin, setUp("U&'\\00e9t\\00e9\\00a0' || i"));
      const snapshot = await takeSnapshot(latin, [entity('WORD', 'words', 'SHARED')]);
      expect(snapshot.contents.source.encoding).toBe('LATIN1');
      await targetOn(database.url).restoreToSchema(request(snapshot, { targetSchema: 'from_latin' }));
      const { rows } = await database.pool.query('SELECT word FROM from_latin.words ORDER BY id');
      expect(rows.map((row) => row.word)).toEqual(['été\u00a01', 'été\u00a02', 'été\u00a03']);
    } finally {
      await drop();
    }
  });

  test('what the target cannot represent fails', async () => {
    await database.pool.query(
      `CREATE SCHEMA emoji; SET search_path = emoji; ${setUp("'😀' || i")}; RESET search_path`,
    );
    const words = defineEntity({ type: 'WORD', table: 'words', schema: 'emoji', organization: 'SHARED' });
    const snapshot = await takeSnapshot(database.url, [words]);
    const latin = await encoded(name, 'LATIN1');
    try {
      await expect(targetOn(latin).restoreToSchema(request(snapshot))).rejects.toMatchObject({
        code: 'RESTORE_TARGET_INCOMPATIBLE',
      });
    } finally {
      await drop();
    }
  });
});

test('an enum that was altered since the backup comes back as it was, beside the live one', async () => {
  await database.pool.query(`
    CREATE TYPE phase AS ENUM ('asked', 'agreed'); CREATE TYPE untouched AS ENUM ('a', 'b');
    CREATE TYPE step AS (phase phase, at date); CREATE DOMAIN phases AS phase[];
    CREATE TABLE plan (id int PRIMARY KEY, phase phase DEFAULT 'asked', history step[], phases phases, same untouched, CHECK (phase <> 'agreed' OR id > 1));
    INSERT INTO plan SELECT i, CASE WHEN i > 3 THEN 'agreed'::phase ELSE 'asked' END, ARRAY[ROW('asked', '2026-01-01')::step], '{asked,agreed}', 'b' FROM generate_series(1, 6) i;
  `);
  const snapshot = await takeSnapshot(database.url, [entity('PLAN', 'plan', 'SHARED')]);
  await database.pool.query("ALTER TYPE phase RENAME VALUE 'agreed' TO 'accepted'");
  await targetOn(database.url).restoreToSchema(request(snapshot, { targetSchema: 'older' }));
  const { rows } = await database.pool.query(
    "SELECT attname, atttypid::regtype::text AS type FROM pg_attribute WHERE attrelid = 'older.plan'::regclass AND attnum > 1 ORDER BY attnum",
  );
  expect(rows.map((row) => row.type)).toEqual(['older.phase', 'older.step[]', 'older.phases', 'untouched']);
  const values = await database.pool.query(
    'SELECT phase::text, history::text, phases::text FROM older.plan WHERE id = 6',
  );
  expect(values.rows).toEqual([
    { phase: 'agreed', history: '{"(asked,2026-01-01)"}', phases: '{asked,agreed}' },
  ]);
});

test('rows of partitions by hash find their partition again, where the hash is another', async () => {
  await database.pool.query(`
    CREATE TYPE kind AS ENUM ('a', 'b', 'c', 'd', 'e');
    CREATE TABLE piece (id int, kind kind, PRIMARY KEY (id, kind)) PARTITION BY HASH (kind);
    CREATE TABLE piece_0 PARTITION OF piece FOR VALUES WITH (MODULUS 3, REMAINDER 0);
    CREATE TABLE piece_1 PARTITION OF piece FOR VALUES WITH (MODULUS 3, REMAINDER 1);
    CREATE TABLE piece_2 PARTITION OF piece FOR VALUES WITH (MODULUS 3, REMAINDER 2);
    INSERT INTO piece SELECT i, (enum_range(NULL::kind))[1 + i % 5] FROM generate_series(1, 500) i`);
  const snapshot = await takeSnapshot(database.url, [entity('PIECE', 'piece', 'SHARED')]);
  await database.pool.query("ALTER TYPE kind ADD VALUE 'f'");
  await targetOn(database.url).restoreToSchema(request(snapshot, { targetSchema: 'pieces' }));
  const { rows } = await database.pool.query(
    'SELECT count(*)::int AS n FROM piece l JOIN pieces.piece r USING (id) WHERE l.kind::text = r.kind::text',
  );
  expect(rows).toEqual([{ n: 500 }]);
});

test('a type of the target that takes the place of the source’s is refused', async () => {
  await using other = await createTestDatabase({ migrated: false });
  await database.pool.query(`CREATE SCHEMA aa; CREATE SCHEMA zz; CREATE TYPE zz.tone AS ENUM ('x');
    CREATE TABLE aa.song (id int PRIMARY KEY, tone zz.tone); INSERT INTO aa.song VALUES (1, 'x')`);
  const songs = defineEntity({ type: 'SONG', table: 'song', schema: 'aa', organization: 'SHARED' });
  const snapshot = await takeSnapshot(database.url, [songs]);
  await other.pool.query(
    "CREATE SCHEMA aa; CREATE SCHEMA zz; CREATE TYPE zz.tone AS ENUM ('x'); CREATE DOMAIN aa.tone AS text",
  );
  await expect(targetOn(other.url).restoreToSchema(request(snapshot))).rejects.toMatchObject({
    code: 'RESTORE_TARGET_INCOMPATIBLE',
    message: expect.stringContaining('aa.tone'),
  });
  await other.pool.query('DROP DOMAIN aa.tone; DROP TYPE zz.tone');
  await targetOn(other.url).restoreToSchema(request(snapshot));
});

test('sequences move past restored ids that lie beyond what was recorded', async () => {
  await database.pool.query(`CREATE TABLE note (id serial PRIMARY KEY, back int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1 MAXVALUE -1));
    INSERT INTO note SELECT FROM generate_series(1, 9)`);
  const snapshot = await takeSnapshot(database.url, [entity('NOTE', 'note', 'SHARED')]);
  const sequences = snapshot.contents.sequences.map((sequence) => ({
    ...sequence,
    lastValue: sequence.start,
    isCalled: false,
  }));
  await targetOn(database.url).restoreToSchema(
    request({ ...snapshot, contents: { ...snapshot.contents, sequences } }, { targetSchema: 'noted' }),
  );
  const { rows } = await database.pool.query('INSERT INTO noted.note DEFAULT VALUES RETURNING *');
  expect(rows).toEqual([{ id: 10, back: -10 }]);
  expect(await differences(database.pool, 'note', ['public', 'noted'], ['id'])).toBe(1);
});

test('a table without columns keeps its rows, and many tables do not run out of sessions', async () => {
  const table = (name: string, rows: number): RelationRecord => ({
    schema: 'public',
    name,
    kind: 'TABLE',
    persistence: 'PERMANENT',
    parent: null,
    partitionBound: null,
    partitionKey: null,
    columns: [],
    key: [],
    constraints: [],
    indexes: [],
    rowSecurity: 'OFF',
    policies: [],
    grants: [],
    triggers: [],
    options: [],
    rows,
    bytes: rows,
  });
  const relations = Array.from({ length: 250 }, (_, i) => table(`bare_${i}`, i % 5));
  const filled = relations.flatMap((relation, part) =>
    relation.rows > 0 ? [{ part, rows: relation.rows }] : [],
  );
  const snapshot: RestorableSnapshot = {
    contents: {
      contentsVersion: 1,
      source: {
        serverVersion: 150000,
        encoding: 'UTF8',
        database: '',
        systemIdentifier: null,
        snapshot: '',
        takenAt: '2026-01-01T00:00:00.000Z',
        searchPath: ['public'],
        settings: {},
      },
      scope: {},
      branchIds: null,
      entities: relations.map(({ name, rows, bytes }, relation) => ({
        type: name,
        relation,
        classification: {},
        rows,
        bytes,
        filtered: false,
      })),
      types: [],
      sequences: [],
      relations,
      warnings: [],
    },
    segments: filled.map(({ part, rows }, run) => ({
      part,
      run,
      ordinal: 0,
      rawLength: rows,
      rows,
      continues: false,
    })),
    read: async (index) => Buffer.alloc(filled[index]?.rows ?? 0, '\n'),
  };
  const steps: number[] = [];
  const outcome = await targetOn(database.url).restoreToSchema(
    request(snapshot, {
      targetSchema: 'bare',
      maxConcurrency: 4,
      onProgress: (step) => steps.push(step.entitiesCompleted),
    }),
  );
  expect(outcome.validation.recordsFound).toBe(500);
  expect(Math.max(...steps)).toBe(250);
  expect((await database.pool.query('SELECT count(*)::int AS n FROM bare.bare_4')).rows).toEqual([{ n: 4 }]);

  // What a failure leaves of more tables than one transaction can lock is dropped too.
  const read = async (): Promise<Buffer> => Buffer.alloc(0);
  await expect(targetOn(database.url).restoreToSchema(request({ ...snapshot, read }))).rejects.toMatchObject({
    code: 'ARCHIVE_CORRUPT',
  });
  expect(await hiddenSchemas(database.pool)).toEqual([]);
});

test('settings of the role and default privileges do not come through', async () => {
  await database.pool.query(`
    CREATE TABLE plain (id serial PRIMARY KEY, n numeric, f float8, d date, i interval, t timestamptz);
    INSERT INTO plain (n, f, d, i, t) VALUES (1.10, 0.1 + 0.2, '2026-03-04', '1 month 2 days', '2026-03-29 02:30+01')`);
  const snapshot = await takeSnapshot(database.url, [entity('PLAIN', 'plain', 'SHARED')]);
  const name = (await database.pool.query('SELECT current_database() AS name')).rows[0]?.name;
  await database.pool.query(`
    ALTER DATABASE "${name}" SET session_replication_role = replica; ALTER DATABASE "${name}" SET "DateStyle" = 'SQL, DMY';
    ALTER DATABASE "${name}" SET extra_float_digits = 0; ALTER DATABASE "${name}" SET statement_timeout = '1ms'; ALTER DATABASE "${name}" SET "IntervalStyle" = iso_8601;
    ALTER DATABASE "${name}" SET search_path = nowhere; ALTER DATABASE "${name}" SET default_transaction_read_only = on;
    ALTER DATABASE "${name}" SET synchronous_commit = off;
    ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC`);
  try {
    await targetOn(database.url).restoreToSchema(request(snapshot, { targetSchema: 'exact' }));
  } finally {
    await database.pool.query(`ALTER DATABASE "${name}" RESET ALL;
      ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM PUBLIC`);
  }
  expect(await differences(database.pool, 'plain', ['public', 'exact'], ['id'])).toBe(0);
  const { rows } = await database.pool.query(`
    SELECT (SELECT count(*)::int FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'exact'::regnamespace AND a.grantee = 0) AS tables,
           (SELECT count(*)::int FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'exact' AND a.grantee = 0) AS schemas`);
  expect(rows).toEqual([{ tables: 0, schemas: 0 }]);
});
