import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { EntityInput } from '../../src/types/entity.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  codeOf,
  countOf,
  expectNoSessions,
  requestOf,
  shared,
  sourceOf,
  take,
} from '../harness/source-extraction.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
});
afterAll(async () => {
  await expectNoSessions(database.pool);
  await database[Symbol.asyncDispose]();
});

const taking = (entities: readonly EntityInput[], more: Partial<Parameters<typeof take>[0]> = {}) =>
  take({ connection: { connectionString: database.url }, superuser: database.url, entities, ...more });

const opening = (entities: readonly EntityInput[]): Promise<string> =>
  codeOf(
    sourceOf({ connection: { connectionString: database.url }, entities })
      .open(requestOf())
      .then((snapshot) => snapshot.close()),
  );

describe('tables of every shape', () => {
  test('empty, one row, no columns, only generated columns, dropped columns', async () => {
    await database.pool.query(`
      CREATE TABLE g_empty (id int PRIMARY KEY, note text);
      CREATE TABLE g_one (id int PRIMARY KEY, note text);
      INSERT INTO g_one VALUES (1, E'tab\\there \\\\ back\\nline \\\\. end');
      CREATE TABLE g_generated (id int PRIMARY KEY GENERATED ALWAYS AS (7) STORED, other int GENERATED ALWAYS AS (8) VIRTUAL);
      INSERT INTO g_generated DEFAULT VALUES;
      CREATE TABLE g_dropped (gone text, id int PRIMARY KEY, x int, y text);
      INSERT INTO g_dropped SELECT 'g', i, i, 'y' || i FROM generate_series(1, 500) i;
      ALTER TABLE g_dropped DROP COLUMN gone, DROP COLUMN x;
      ALTER TABLE g_dropped ADD COLUMN x numeric DEFAULT 1.50, ADD COLUMN virtual text GENERATED ALWAYS AS (y || 'v') VIRTUAL;
      UPDATE g_dropped SET x = id * 1.10 WHERE id % 3 = 0;
    `);
    const { contents, rows } = await taking(
      ['empty', 'one', 'generated', 'dropped'].map((name) => shared(name.toUpperCase(), `g_${name}`)),
    );
    expect(contents.entities.map(({ type, rows }) => [type, rows])).toEqual([
      ['EMPTY', 0],
      ['ONE', 1],
      ['GENERATED', 1],
      ['DROPPED', 500],
    ]);
    expect(rows.get('public.g_generated')).toEqual(['']);
    expect(rows.get('public.g_one')).toEqual(['1\ttab\\there \\\\ back\\nline \\\\. end']);
  });

  test('a table without columns cannot have a key, and is refused as such', async () => {
    await database.pool.query('CREATE TABLE g_nothing (); INSERT INTO g_nothing DEFAULT VALUES');
    expect(await opening([shared('NOTHING', 'g_nothing')])).toBe('ENTITY_INVALID');
  });

  test('a partition without columns of its own to give: only generated ones in the leaf', async () => {
    await database.pool.query(`
      CREATE TABLE g_bare (id int GENERATED ALWAYS AS (1) STORED UNIQUE NOT NULL);
      INSERT INTO g_bare DEFAULT VALUES;
    `);
    const { rows } = await taking([shared('BARE', 'g_bare', { key: 'id' })], { bufferSize: 1 });
    expect(countOf(rows)).toBe(1);
  });

  test.each([64, 100, 4096, 65_536, 4 * 1024 * 1024])(
    'rows of all sizes around buffers of %i bytes, a row of 9 MB among them',
    { timeout: 60_000 },
    async (bufferSize) => {
      const table = `g_sizes_${bufferSize}`;
      await database.pool.query(`CREATE TABLE ${table} (id serial PRIMARY KEY, body text)`);
      // Rows of the length of a buffer, one less and one more, twice and thrice: each with its id, a tab and a line end.
      await database.pool.query(
        `INSERT INTO ${table} (body) SELECT repeat('x', greatest(0, n)) FROM (
           SELECT CASE i % 8 WHEN 0 THEN $1 - 3 WHEN 1 THEN $1 - 4 WHEN 2 THEN $1 - 5 WHEN 3 THEN 0 WHEN 4 THEN $1 * 2 - 3
                             WHEN 5 THEN 7 WHEN 6 THEN $1 / 2 - 4 ELSE $1 * 3 + 1 END AS n FROM generate_series(0, 31) i) s`,
        [bufferSize > 1_000_000 ? 40_000 : bufferSize],
      );
      if (bufferSize > 1000) {
        await database.pool.query(
          `INSERT INTO ${table} (body) VALUES (repeat('0123456789', 900000)), (repeat('z', $1 - 1)), ('after')`,
          [bufferSize],
        );
      }
      const { rows, segments } = await taking([shared('SIZES', table)], { bufferSize });
      expect(countOf(rows)).toBe(bufferSize > 1000 ? 35 : 32);
      expect(segments.some((segment) => segment.continues)).toBe(true);
    },
  );

  test('large tables are read in ranges of pages by several sessions', { timeout: 60_000 }, async () => {
    await database.pool.query(`
      CREATE TABLE g_large (id int PRIMARY KEY, body text) WITH (fillfactor = 10);
      ALTER TABLE g_large ALTER body SET STORAGE PLAIN;
      INSERT INTO g_large SELECT i, repeat('p', 900) FROM generate_series(1, 17000) i;
      DELETE FROM g_large WHERE id % 7 = 0;
      UPDATE g_large SET body = 'moved' WHERE id % 5 = 0;
      ANALYZE g_large;
    `);
    const { rows, segments } = await taking([shared('LARGE', 'g_large')], {
      request: requestOf({ maxConcurrency: 3 }),
    });
    expect(countOf(rows)).toBe(17000 - Math.floor(17000 / 7));
    expect(new Set(segments.map(({ run }) => run)).size).toBeGreaterThan(2);
  });
});

describe('partitioned tables', () => {
  test('two levels, a default partition, other column orders, dropped columns, no rows, no partitions', async () => {
    await database.pool.query(`
      CREATE SCHEMA parts;
      CREATE TABLE p_visits (id int, region text, day date, note text, gone int, PRIMARY KEY (id, region, day)) PARTITION BY LIST (region);
      CREATE TABLE parts.p_north (note text, day date NOT NULL, dropped int, region text NOT NULL, id int NOT NULL, gone int) PARTITION BY RANGE (day);
      ALTER TABLE parts.p_north DROP COLUMN dropped;
      ALTER TABLE p_visits ATTACH PARTITION parts.p_north FOR VALUES IN ('north');
      ALTER TABLE p_visits DROP COLUMN gone;
      CREATE TABLE parts."P 2024" PARTITION OF parts.p_north FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
      CREATE TABLE parts.p_rest (region text NOT NULL, id int NOT NULL, note text, day date NOT NULL);
      ALTER TABLE parts.p_north ATTACH PARTITION parts.p_rest DEFAULT;
      CREATE TABLE p_other PARTITION OF p_visits DEFAULT;
      CREATE TABLE p_void PARTITION OF p_visits FOR VALUES IN ('void');
      INSERT INTO p_visits SELECT i, CASE WHEN i % 3 = 0 THEN 'south' ELSE 'north' END, date '2023-12-01' + i, 'n' || i FROM generate_series(1, 600) i;
      CREATE TABLE p_childless (id int PRIMARY KEY) PARTITION BY RANGE (id);
    `);
    const { contents, rows } = await taking([
      shared('VISIT', 'p_visits'),
      shared('CHILDLESS', 'p_childless'),
    ]);
    expect(Object.fromEntries([...rows].map(([name, lines]) => [name, lines.length]))).toEqual({
      'public.p_other': 200,
      'public.p_void': 0,
      'parts.P 2024': 244,
      'parts.p_rest': 156,
    });
    expect(contents.entities.map(({ type, rows, filtered }) => [type, rows, filtered])).toEqual([
      ['VISIT', 600, false],
      ['CHILDLESS', 0, false],
    ]);
    expect(contents.relations[0]?.key).toEqual(['id', 'region', 'day']);
  });

  test('keys: composite, a unique index over NOT NULL columns, and what is none', async () => {
    await database.pool.query(`
      CREATE TABLE k_index (a int NOT NULL, b text NOT NULL, c int, d int NOT NULL); CREATE UNIQUE INDEX ON k_index (b, a);
      CREATE UNIQUE INDEX ON k_index (c); CREATE UNIQUE INDEX ON k_index (d) WHERE d > 0;
      CREATE UNIQUE INDEX ON k_index (abs(a)) ;
      INSERT INTO k_index VALUES (1, 'x', NULL, 1), (2, 'x', NULL, 2);
      CREATE TABLE k_maybe (id int, UNIQUE (id)); INSERT INTO k_maybe VALUES (NULL), (NULL);
      ALTER TABLE k_maybe ADD CONSTRAINT nn NOT NULL id NOT VALID;
    `);
    const { contents } = await taking([shared('INDEXED', 'k_index', { key: ['a', 'b'] })]);
    expect(contents.relations[0]?.key).toEqual(['a', 'b']);
    for (const key of ['c', 'd', 'a', ['a', 'd'], 'nowhere'])
      expect(await opening([shared('INDEXED', 'k_index', { key })]), String(key)).toBe('ENTITY_INVALID');
    expect(await opening([shared('INDEXED', 'k_index')])).toBe('ENTITY_INVALID');
    // PostgreSQL 18: declared NOT NULL, never validated, and NULL all the same.
    expect(await opening([shared('MAYBE', 'k_maybe', { key: 'id' })])).toBe('ENTITY_INVALID');
  });
});

describe('names', () => {
  const odd = [
    'to',
    'user',
    'Select',
    'quo"te',
    "apos'trophe",
    'space d',
    'back\\slash',
    'dé$ña 字',
    'ü'.repeat(31),
    'x'.repeat(63),
    '%s{}',
    ';--',
  ];

  test('of tables, schemas and columns of every kind', async () => {
    const entities: EntityInput[] = [];
    for (const [i, name] of odd.entries()) {
      const schema = odd[(i + 1) % odd.length] ?? '';
      const column = odd[(i + 2) % odd.length] ?? '';
      const q = pg.escapeIdentifier;
      await database.pool.query(
        `CREATE SCHEMA IF NOT EXISTS ${q(schema)};
         CREATE TABLE ${q(schema)}.${q(name)} (${q(column)} int PRIMARY KEY, t text, "t_owner" text, ${q(name)} text);
         INSERT INTO ${q(schema)}.${q(name)} SELECT i, 't', ${pg.escapeLiteral(name)}, NULL FROM generate_series(1, ${i + 2}) i`,
      );
      entities.push(shared(`ODD_${i}`, name, { schema, key: column }));
    }
    const { rows } = await taking(entities, {
      request: requestOf({
        scope: {
          customFilters: odd.map((_, i) => ({
            entityType: `ODD_${i}`,
            column: odd[(i + 2) % odd.length] ?? '',
            operator: '>',
            value: 0,
          })),
        },
      }),
    });
    expect(rows.size).toBe(odd.length);
    expect(countOf(rows)).toBe(odd.reduce((sum, _, i) => sum + i + 2, 0));
  });
});

describe('what cannot be backed up is refused', () => {
  beforeAll(async () => {
    await database.pool.query(`
      CREATE TABLE r_table (id int PRIMARY KEY, organization_id uuid, up int, other int);
      CREATE VIEW r_view AS SELECT * FROM r_table;
      CREATE MATERIALIZED VIEW r_matview AS SELECT * FROM r_table;
      CREATE SEQUENCE r_sequence;
      CREATE TYPE r_type AS (id int);
      CREATE TABLE r_parent (id int PRIMARY KEY);
      CREATE TABLE r_child () INHERITS (r_parent);
      CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
      CREATE FOREIGN TABLE r_foreign (id int) SERVER files OPTIONS (filename '/dev/null');
      CREATE TABLE r_mixed (id int) PARTITION BY RANGE (id);
      CREATE FOREIGN TABLE r_mixed_1 PARTITION OF r_mixed FOR VALUES FROM (1) TO (2) SERVER files OPTIONS (filename '/dev/null');
      CREATE TABLE r_parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
      CREATE TABLE r_parted_1 PARTITION OF r_parted FOR VALUES FROM (1) TO (9);
    `);
  });

  test.each<[string, EntityInput[], RegExp]>([
    ['a missing table', [shared('X', 'nowhere')], /X \(public.nowhere\)/],
    ['a missing schema', [shared('X', 'r_table', { schema: 'nowhere' })], /nowhere/],
    ['a view', [shared('X', 'r_view')], /a view/],
    ['a materialized view', [shared('X', 'r_matview')], /materialized/],
    ['a sequence', [shared('X', 'r_sequence')], /a sequence/],
    ['a composite type', [shared('X', 'r_type')], /composite/],
    ['a foreign table', [shared('X', 'r_foreign')], /foreign table/],
    ['a foreign partition', [shared('X', 'r_mixed')], /r_mixed_1/],
    ['a table with inheritance children', [shared('X', 'r_parent')], /r_child/],
    ['a missing column', [shared('X', 'r_table', { client: 'nowhere' })], /nowhere.*client/],
    [
      'a missing classified column',
      [shared('X', 'r_table', { classification: { columns: { no: { pii: true } } } })],
      /no/,
    ],
    ['no organization', [{ type: 'X', table: 'r_parted' }], /organization_id/],
    [
      'a way to nobody',
      [shared('X', 'r_table', { organization: { through: 'up', entity: 'Y' } })],
      /not registered/,
    ],
    [
      'a way to itself',
      [shared('X', 'r_table', { organization: { through: 'up', entity: 'X' } })],
      /leads back/,
    ],
    [
      'ways in a circle',
      [
        shared('X', 'r_table', { organization: { through: 'up', entity: 'Y' } }),
        shared('Y', 'r_parted', { organization: { through: 'id', entity: 'X' } }),
      ],
      /leads back/,
    ],
    [
      'too few columns for a key',
      [
        shared('X', 'r_table', { organization: { through: ['up', 'other'], entity: 'Y' } }),
        shared('Y', 'r_parted'),
      ],
      /2 columns/,
    ],
    ['one type twice', [shared('X', 'r_table'), shared('X', 'r_parted')], /defined twice/],
    ['one table in two entities', [shared('X', 'r_table'), shared('Y', 'r_table')], /both X and Y/],
    [
      'a partition that is an entity of its own',
      [shared('X', 'r_parted'), shared('Y', 'r_parted_1')],
      /r_parted_1.*both/,
    ],
  ])('%s', async (_, entities, message) => {
    const source = sourceOf({ connection: { connectionString: database.url }, entities });
    for (const attempt of [source.open, source.check]) {
      const error = await attempt(requestOf()).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: 'ENTITY_INVALID' });
      expect(String(error)).toMatch(message);
    }
  });
});

describe('encodings', () => {
  async function withEncoding(
    encoding: string,
    work: (url: string, admin: pg.Client) => Promise<void>,
  ): Promise<void> {
    const name = `${database.name}_${encoding.toLowerCase()}`;
    await database.pool.query(
      `CREATE DATABASE ${name} TEMPLATE template0 ENCODING '${encoding}' LOCALE_PROVIDER libc LOCALE 'C'`,
    );
    const url = new URL(database.url);
    url.pathname = `/${name}`;
    const admin = new pg.Client({ connectionString: url.href });
    await admin.connect();
    try {
      await work(url.href, admin);
    } finally {
      await admin.end();
      await database.pool.query(`DROP DATABASE ${name} WITH (FORCE)`);
    }
  }

  test.each([
    ['LATIN1', "convert_from('\\x42e4f6ff', 'LATIN1')"],
    ['EUC_JP', "convert_from('\\xc6fccbdcb8ec', 'EUC_JP')"],
    ['SQL_ASCII', "convert_from('\\xff42fec328', 'SQL_ASCII')"],
  ])('%s: the bytes leave as they are stored', async (encoding, expression) => {
    await withEncoding(encoding, async (url, admin) => {
      await admin.query(
        `CREATE TABLE texts (id serial PRIMARY KEY, body text); INSERT INTO texts (body) VALUES (${expression}), ('plain'), (E'\\t\\\\')`,
      );
      const { contents, segments } = await take({
        connection: { connectionString: url },
        superuser: url,
        entities: [shared('TEXT', 'texts')],
      });
      expect(contents.source.encoding).toBe(encoding);
      const hex = expression.split("'\\x")[1]?.split("'")[0] ?? '';
      expect(Buffer.concat(segments.map(({ bytes }) => bytes)).toString('hex')).toContain(hex);
    });
  });

  test('a filter value that the encoding does not have is refused', async () => {
    await withEncoding('LATIN1', async (url, admin) => {
      await admin.query('CREATE TABLE texts (id serial PRIMARY KEY, body text)');
      const source = sourceOf({ connection: { connectionString: url }, entities: [shared('TEXT', 'texts')] });
      const scope = {
        customFilters: [{ entityType: 'TEXT', column: 'body', operator: '=', value: '日本' }],
      } as const;
      expect(await codeOf(source.check(requestOf({ scope })))).toBe('ENTITY_SCOPE_UNSUPPORTED');
    });
  });
});
