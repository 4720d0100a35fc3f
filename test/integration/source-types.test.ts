import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { copyIn } from '../../src/postgres/copy-in.ts';
import { openSession } from '../../src/postgres/session.ts';
import { createRestoreTarget } from '../../src/restore/apply.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import { copiedRows, shared, type Taken, take } from '../harness/source-extraction.ts';
import { catalogType, EXCLUDED, randomSchema, rowsOfSchema } from '../harness/source-types.ts';

const SOAK = process.env.CARE_SOAK === '1';

let database: TestDatabase;
let names: string[];
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  const { rows } = await database.pool.query<{ typname: string }>(
    `SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
        AND typcategory <> 'A' AND typisdefined AND typrelid = 0 ORDER BY 1`,
  );
  names = rows.map(({ typname }) => typname);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
});

const taking = (bufferSize = 4096): Promise<Taken> =>
  take({
    connection: { connectionString: database.url },
    superuser: database.pool,
    entities: [shared('RANDOM', 'Rows', { schema: 'random' })],
    bufferSize,
  });

/** Loads what came out into a table of the same shape, under the pins, and compares image with image. */
async function comparedWhenLoadedAgain({ contents, segments }: Taken): Promise<unknown[]> {
  await database.pool.query('CREATE TABLE random.loaded (LIKE random."Rows")');
  const session = await openSession({ connection: { connectionString: database.url }, name: 'load' });
  try {
    const rows = await copyIn(
      session,
      `COPY random.loaded FROM STDIN (FORMAT text, ENCODING '${contents.source.encoding}')`,
      (async function* () {
        for (const { bytes } of segments) yield bytes;
      })(),
    );
    expect(rows).toBe(contents.entities[0]?.rows);
  } finally {
    await session.end();
  }
  const { rows: columns } = await database.pool.query<{ name: string; type: string }>(
    `SELECT attname AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
      WHERE attrelid = 'random."Rows"'::regclass AND attnum > 0 ORDER BY attnum`,
  );
  const different: unknown[] = [];
  for (const { name, type } of columns) {
    const { rows } = await database.pool.query(
      `SELECT id, left(a."${name}"::text, 200) AS stored, left(b."${name}"::text, 200) AS loaded
         FROM random."Rows" a FULL JOIN random.loaded b USING (id) WHERE record_image_eq(ROW(a."${name}"), ROW(b."${name}")) IS NOT TRUE`,
    );
    different.push(...rows.map((row) => ({ type, ...row })));
  }
  return different;
}

const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** Restores what came out into a schema of its own and gives its rows as COPY text under the pins. */
async function restored({ contents, segments }: Taken): Promise<string[]> {
  await database.pool.query('DROP SCHEMA IF EXISTS again CASCADE');
  const ordinals = new Map<number, number>();
  const target = createRestoreTarget({
    lockWaitMs: 30_000,
    connection: { connectionString: database.url },
    clock: { now: () => new Date() },
    logger: quiet,
  });
  await target.restoreToSchema({
    restoreId: randomUUID(),
    targetSchema: 'again',
    maxConcurrency: 1,
    validation: 'FULL',
    signal: new AbortController().signal,
    onProgress: () => undefined,
    snapshot: {
      contents,
      segments: segments.map(({ part, run, rows, continues, bytes }) => {
        const ordinal = ordinals.get(run) ?? 0;
        ordinals.set(run, ordinal + 1);
        return { part, run, ordinal, rows, continues, rawLength: bytes.length };
      }),
      read: async (segment) => segments[segment]?.bytes ?? Buffer.alloc(0),
    },
  });
  return copiedRows(database.pool, 'COPY again."Rows" TO STDOUT');
}

test('every base, range and multirange type of this server is tried, or named with the reason why not', () => {
  const unknown = names.filter((name) => catalogType(name) === undefined && EXCLUDED[name] === undefined);
  expect(unknown).toEqual([]);
  expect(names.length).toBeGreaterThan(70);
});

test('each type by itself and as array: out as PostgreSQL writes it, and back to the same image', {
  timeout: 120_000,
}, async () => {
  const types = names.flatMap((name) => catalogType(name) ?? []);
  const seed = 20_260_101;
  await database.pool.query('DROP SCHEMA IF EXISTS random CASCADE; CREATE SCHEMA random');
  const columns = types.flatMap(({ sql }, i) => [`c${i} ${sql}`, `a${i} ${sql}[]`]);
  await database.pool.query(`CREATE TABLE random."Rows" (id serial PRIMARY KEY, ${columns})`);
  const samples = types.map(({ value }, i) => fc.sample(value, { seed: seed + i, numRuns: 25 }));
  for (let n = 0; n < 25; n += 1) {
    const values = samples.flatMap((sample, i) => {
      const sql = types[i]?.sql ?? '';
      const [one, other] = [sample[n] ?? 'NULL', sample[(n + 7) % 25] ?? 'NULL'];
      return [n === 0 ? 'NULL' : one, n === 0 ? `'{}'::${sql}[]` : `ARRAY[${one}, NULL, ${other}]::${sql}[]`];
    });
    await database.pool.query(`INSERT INTO random."Rows" VALUES (DEFAULT, ${values})`);
  }
  expect(await comparedWhenLoadedAgain(await taking())).toEqual([]);
});

test('random schemas of domains, enums, composites and arrays (property)', {
  timeout: SOAK ? 1_800_000 : 60_000,
}, async () => {
  const usable = names.filter((name) => catalogType(name) !== undefined);
  await fc.assert(
    fc.asyncProperty(
      randomSchema(usable).chain((schema) =>
        fc.tuple(fc.constant(schema), rowsOfSchema(schema), fc.integer({ min: 1, max: 3000 })),
      ),
      async ([schema, rows, bufferSize]) => {
        const statements = [
          'DROP SCHEMA IF EXISTS random CASCADE',
          'CREATE SCHEMA random',
          ...schema.create,
          `CREATE TABLE random."Rows" (id serial PRIMARY KEY, ${schema.columns.map(({ sql }, i) => `"c ${i}" ${sql}`)})`,
          ...rows.map((row) => `INSERT INTO random."Rows" VALUES (DEFAULT, ${row})`),
        ];
        await database.pool.query(statements.join(';\n'));
        const taken = await taking(bufferSize);
        expect(taken.rows.get('random.Rows')).toHaveLength(rows.length);
        expect(await restored(taken)).toEqual(taken.rows.get('random.Rows'));
        expect(await comparedWhenLoadedAgain(taken)).toEqual([]);
      },
    ),
    { numRuns: SOAK ? 1_500 : 15 },
  );
});
