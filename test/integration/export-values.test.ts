import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createRowExporter } from '../../src/export/row-exporter.ts';
import { TEXT_DECODERS, textDecoder } from '../../src/export/text-encoding.ts';
import { copyIn } from '../../src/postgres/copy-in.ts';
import { openSession } from '../../src/postgres/session.ts';
import { databaseUrl } from '../harness/database-url.ts';
import { exportTaken, linesOf, parquetRows } from '../harness/exported.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import { shared, type Taken, take } from '../harness/source-extraction.ts';
import { catalogType } from '../harness/source-types.ts';

let database: TestDatabase;
/** With the pinned settings, under which values have the text that the archive has. */
let session: pg.Client;
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  session = await openSession({ connection: { connectionString: database.url }, name: 'export-test' });
});
afterAll(async () => {
  await session.end();
  await database[Symbol.asyncDispose]();
});

const taking = (bufferSize: number, url = database.url): Promise<Taken> =>
  take({
    connection: { connectionString: url },
    superuser: url,
    entities: [shared('RANDOM', 'Rows', { schema: 'random' })],
    bufferSize,
  });

/** Puts a CSV into a table of the same shape, and gives the rows that are not the same to the last byte. */
async function differentWhenLoaded(csv: Buffer): Promise<unknown[]> {
  await session.query('DROP TABLE IF EXISTS random.loaded; CREATE TABLE random.loaded (LIKE random."Rows")');
  await copyIn(
    session,
    `COPY random.loaded FROM STDIN (FORMAT csv, HEADER match, ENCODING 'UTF8')`,
    (async function* () {
      yield csv;
    })(),
  );
  const { rows } = await session.query(
    'SELECT a.id AS stored, b.id AS loaded FROM random."Rows" a FULL JOIN random.loaded b USING (id) WHERE a IS NULL OR b IS NULL OR NOT record_image_eq(a, b)',
  );
  return rows;
}

/** Each row as the texts that COPY has for its columns, which a cast to text may differ from. */
async function storedTexts(columns: readonly string[]): Promise<Record<string, string | null>[]> {
  const texts = columns.map(
    (name) => `CASE WHEN ${name} IS NOT NULL THEN format('%s', ${name}) END AS ${name}`,
  );
  const { rows } = await session.query(`SELECT ${texts} FROM random."Rows" ORDER BY "Rows".id`);
  return rows;
}

test('each type of PostgreSQL by itself and as array comes back from every format', {
  timeout: 60_000,
}, async () => {
  const { rows: found } = await session.query<{ typname: string }>(
    `SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
        AND typcategory <> 'A' AND typisdefined AND typrelid = 0 ORDER BY 1`,
  );
  const types = found.flatMap(({ typname }) => catalogType(typname) ?? []);
  expect(types.length).toBeGreaterThan(70);
  const columns = types.flatMap(({ sql }, i) => [`c${i} ${sql}`, `a${i} ${sql}[]`]);
  await session.query(`CREATE SCHEMA random; CREATE TABLE random."Rows" (id serial PRIMARY KEY, ${columns})`);
  const samples = types.map(({ value }, i) => fc.sample(value, { seed: 7 + i, numRuns: 25 }));
  for (let n = 0; n < 25; n += 1) {
    const values = samples.flatMap((sample, i) => {
      const [one, other] = [sample[n], sample[(n + 7) % 25]];
      return n === 0 ? ['NULL', 'NULL'] : [one, `ARRAY[${one}, NULL, ${other}]::${types[i]?.sql}[]`];
    });
    await session.query(`INSERT INTO random."Rows" VALUES (DEFAULT, ${values})`);
  }
  const taken = await taking(4096);

  expect(await differentWhenLoaded(await exportTaken(taken, 'CSV'))).toEqual([]);

  const { rows: described } = await session.query<{ name: string; type: string }>(
    `SELECT attname AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
      WHERE attrelid = 'random."Rows"'::regclass AND attnum > 0 ORDER BY attnum`,
  );
  const names = described.map(({ name }) => name);
  const stored = await storedTexts(names);
  expect(stored).toHaveLength(25);

  // Not by JSON.parse, which keeps neither the digits of numbers nor twofold keys.
  const lines = (await exportTaken(taken, 'NDJSON')).toString().split('\n').slice(0, -1);
  const texts = described.map(({ name, type }) =>
    type === 'json' || type === 'jsonb'
      ? `nullif((line::json->'${name}')::text, 'null') AS ${name}`
      : `line::json->>'${name}' AS ${name}`,
  );
  const { rows: read } = await session.query(
    `SELECT ${texts} FROM unnest($1::text[]) line ORDER BY (line::json->>'id')::int`,
    [lines],
  );
  const asJson = (type: string, text: string | null): string | null => {
    if (type === 'boolean' && text !== null) return String(text === 't');
    if (type !== 'json' && type !== 'jsonb') return text;
    return text === null || text.trim() === 'null' ? null : text.trim();
  };
  expect(read).toEqual(
    stored.map((row) =>
      Object.fromEntries(described.map(({ name, type }) => [name, asJson(type, row[name] ?? null)])),
    ),
  );

  const rows = await parquetRows(await exportTaken(taken, 'PARQUET'));
  expect(rows.toSorted((a, b) => Number(a.id) - Number(b.id))).toEqual(
    stored.map((row) =>
      Object.fromEntries(
        described.map(({ name, type }) => {
          const text = row[name] ?? null;
          if (text === null) return [name, null];
          if (['integer', 'smallint', 'real', 'double precision'].includes(type)) return [name, Number(text)];
          if (type === 'bigint') return [name, BigInt(text)];
          return [name, type === 'boolean' ? text === 't' : text];
        }),
      ),
    ),
  );
});

const cell = fc.option(
  fc.oneof(
    fc.constantFrom(
      '',
      '\\N',
      '\\.',
      'N',
      '"',
      ',',
      '\r\n',
      '\t',
      '\\',
      '\b\f\v\u0001',
      '\ufeff',
      '=1+1',
      '\u2028',
      ' ',
    ),
    fc.string({ unit: 'binary', maxLength: 40 }).map((text) => text.replaceAll('\0', '').toWellFormed()),
    fc.integer({ min: 500, max: 4000 }).map((length) => 'a\\\n'.repeat(length / 3)),
  ),
);

test('texts of all kinds, however the rows are cut into segments (property)', {
  timeout: 60_000,
}, async () => {
  await session.query(
    'DROP SCHEMA IF EXISTS random CASCADE; CREATE SCHEMA random; CREATE TABLE random."Rows" (id int PRIMARY KEY, "a b" text, "__proto__" text, "c""\\,d" text)',
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(cell, cell, cell), { maxLength: 12 }),
      fc.integer({ min: 1, max: 3000 }),
      async (cells, bufferSize) => {
        await session.query('TRUNCATE random."Rows"');
        for (const [id, texts] of cells.entries())
          await session.query('INSERT INTO random."Rows" VALUES ($1, $2, $3, $4)', [id, ...texts]);
        const taken = await taking(bufferSize);
        const inOrder = (rows: readonly Record<string, unknown>[]) =>
          rows.map((row) => Object.values(row)).sort(([a], [b]) => Number(a) - Number(b));
        const expected = cells.map((texts, id) => [id, ...texts]);
        const lines = linesOf(await exportTaken(taken, 'NDJSON'));
        expect(inOrder(lines)).toEqual(expected);
        for (const line of lines) expect(Object.keys(line)).toEqual(['id', 'a b', '__proto__', 'c"\\,d']);
        expect(await differentWhenLoaded(await exportTaken(taken, 'CSV'))).toEqual([]);
        const rows = await parquetRows(await exportTaken(taken, 'PARQUET'));
        expect(
          rows.map((row) => [row.id, row['a b'], row['c"\\,d']]).sort(([a], [b]) => Number(a) - Number(b)),
        ).toEqual(expected.map(([id, a, , c]) => [id, a, c]));
      },
    ),
    { numRuns: process.env.CARE_SOAK === '1' ? 500 : 6 },
  );
});

test('every byte means to the exporter what it means to PostgreSQL, in every encoding that it takes', async () => {
  await session.query(`CREATE FUNCTION pg_temp.decoded(b bytea, e name) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RETURN pg_catalog.convert_from(b, e); EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$`);
  const high = Array.from({ length: 94 }, (_, n) => 0xa1 + n);
  for (const encoding of ['LATIN1', ...Object.keys(TEXT_DECODERS)]) {
    const decode = textDecoder(encoding);
    const inputs =
      encoding === 'EUC_KR'
        ? high.flatMap((a) => high.map((b) => Buffer.from([a, b])))
        : Array.from({ length: 255 }, (_, n) => Buffer.from([n + 1]));
    const { rows } = await session.query<{ text: string | null }>(
      'SELECT pg_temp.decoded(b, $2) AS text FROM unnest($1::bytea[]) WITH ORDINALITY u(b, n) ORDER BY n',
      [inputs, encoding],
    );
    const different = inputs.filter((input, n) => {
      const text = rows[n]?.text ?? null;
      try {
        // Bytes that PostgreSQL has no character for may stand in its tables all the same.
        return text !== null && decode(input) !== text;
      } catch {
        // Said, not guessed.
        return false;
      }
    });
    expect(different, encoding).toEqual([]);
    expect(rows.filter(({ text }) => text !== null).length, encoding).toBeGreaterThan(100);
  }
});

test('a database in another encoding is read in it; one that says nothing of its bytes is refused by name', async () => {
  const name = `${database.name}_latin1`;
  await session.query(`CREATE DATABASE "${name}" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`);
  const url = databaseUrl(database.url, name);
  const client = new pg.Client({ connectionString: url });
  try {
    await client.connect();
    await client.query(
      `CREATE SCHEMA random; CREATE TABLE random."Rows" (id int PRIMARY KEY, "Größe" text);
      INSERT INTO random."Rows" VALUES (1, 'Zoë – naïve'), (2, chr(133) || chr(159))`.replace(' –', ''),
    );
    const taken = await taking(7, url);
    expect(taken.contents.source.encoding).toBe('LATIN1');
    expect(linesOf(await exportTaken(taken, 'NDJSON'))).toEqual([
      { id: 1, Größe: 'Zoë naïve' },
      { id: 2, Größe: '\u0085\u009f' },
    ]);
  } finally {
    await client.end();
    await session.query(`DROP DATABASE "${name}" WITH (FORCE)`);
  }
  await expect(createRowExporter().open('CSV', 'SQL_ASCII')).rejects.toMatchObject({
    code: 'NOT_SUPPORTED',
    message: expect.stringContaining('SQL_ASCII'),
  });
});
