import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type EntityDescription, entities } from '../../examples/care-platform/entities.ts';
import {
  branchIds,
  createSchema,
  generatePlatform,
  organizationId,
  platformId,
  platformRows,
  startWriter,
} from '../../examples/care-platform/generate.ts';
import { createDataProtection, defineEntity } from '../../src/index.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';

const SIZE = { organizations: 2, visits: 600 };
const SEED = 11;

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  await platformIn(database, SEED);
});

afterAll(() => database[Symbol.asyncDispose]());

async function platformIn({ url, pool }: TestDatabase, seed: number, connection?: pg.Client): Promise<void> {
  const client = await pool.connect();
  await createSchema(client).finally(() => client.release());
  await generatePlatform(connection ?? url, { ...SIZE, seed });
}

/** The name of every table with a digest of its rows, whole and in the order of its key. */
async function digests({ pool }: TestDatabase): Promise<Record<string, string>> {
  const { rows } = await pool.query<{ table: string; key: string }>(
    `SELECT c.relname AS table, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS key
       FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
      WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition GROUP BY 1 ORDER BY 1`,
  );
  const found: Record<string, string> = {};
  for (const { table, key } of rows) {
    const { rows: digest } = await pool.query<{ digest: string }>(
      `SELECT count(*) || ' ' || md5(string_agg(t::text, E'\\n' ORDER BY ${key})) AS digest FROM ${table} t`,
    );
    found[table] = digest[0]?.digest ?? '';
  }
  return found;
}

describe('the generator', () => {
  test('fills every table with as many rows as it says', async () => {
    const counts = Object.entries(await digests(database)).map(([table, digest]) => [
      table,
      Number(digest.split(' ')[0]),
    ]);
    expect(Object.fromEntries(counts)).toEqual(platformRows(SIZE));
  });

  test('gives the same rows for the same seed, on one connection with other settings too', async () => {
    await using other = await createTestDatabase({ migrated: false });
    const client = new pg.Client({
      connectionString: other.url,
      options:
        '-c TimeZone=Asia/Kolkata -c DateStyle=German,DMY -c extra_float_digits=0 -c IntervalStyle=iso_8601',
    });
    await client.connect();
    try {
      await platformIn(other, SEED, client);
      const { rows } = await client.query<{ zone: string; load: string }>(
        "SELECT current_setting('TimeZone') AS zone, current_setting('app.bulk_load', true) AS load",
      );
      expect(rows[0]).toEqual({ zone: 'Asia/Kolkata', load: '' });
    } finally {
      await client.end();
    }
    expect(await digests(other)).toEqual(await digests(database));
  });

  test('gives other rows for another seed', async () => {
    await using other = await createTestDatabase({ migrated: false });
    await platformIn(other, SEED + 1);
    const [mine, theirs] = [await digests(database), await digests(other)];
    const same = Object.keys(mine).filter((table) => mine[table] === theirs[table]);
    expect(same).toEqual(['service_codes']);
  });

  test('names ids without looking', async () => {
    const idsOf = async (sql: string): Promise<string[]> =>
      (await database.pool.query<{ id: string }>(sql)).rows.map(({ id }) => id);
    const second = organizationId(SEED, 2);
    expect((await idsOf('SELECT id FROM organizations')).toSorted()).toEqual(
      [organizationId(SEED, 1), second].toSorted(),
    );
    expect((await idsOf(`SELECT id FROM branches WHERE organization_id = '${second}'`)).toSorted()).toEqual(
      branchIds(SEED, 2, SIZE.visits).toSorted(),
    );
    expect(
      await idsOf(`SELECT id FROM visits WHERE id = '${platformId(SEED, 'visit', 1, 600)}'`),
    ).toHaveLength(1);
  });
});

/** Rows whose foreign keys lead nowhere, by a check of every key in the catalog; the number of keys looked at. */
async function brokenForeignKeys(pool: pg.Pool): Promise<{ keys: number; broken: string[] }> {
  const { rows } = await pool.query<{ name: string; from: string; to: string; match: string; given: string }>(
    `SELECT k.conname AS name, k.conrelid::regclass::text AS from, k.confrelid::regclass::text AS to,
            string_agg(format('p.%I = f.%I', b.attname, a.attname), ' AND ') AS match,
            string_agg(format('f.%I IS NOT NULL', a.attname), ' AND ') AS given
       FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS c(own, other)
       JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.own
       JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = c.other
      WHERE k.contype = 'f' AND k.conparentid = 0 AND k.connamespace = 'public'::regnamespace
      GROUP BY k.oid, k.conname, k.conrelid, k.confrelid`,
  );
  const broken: string[] = [];
  for (const { name, from, to, match, given } of rows) {
    const found = await pool.query(
      `SELECT FROM ${from} f WHERE ${given} AND NOT EXISTS (SELECT FROM ${to} p WHERE ${match}) LIMIT 1`,
    );
    if (found.rows.length > 0) broken.push(name);
  }
  return { keys: rows.length, broken };
}

test('every foreign key is declared, valid and leads somewhere', async () => {
  const { rows } = await database.pool.query(
    "SELECT conname FROM pg_constraint WHERE contype IN ('f', 'c') AND NOT convalidated",
  );
  expect(rows).toEqual([]);
  const { keys, broken } = await brokenForeignKeys(database.pool);
  expect(keys).toBeGreaterThan(30);
  expect(broken).toEqual([]);
});

describe('the entities', () => {
  test('are the tables of the schema, each once', async () => {
    const tables = entities.map(({ table }) => table);
    expect(tables.toSorted()).toEqual(Object.keys(await digests(database)).toSorted());
  });

  test('name columns that are there', async () => {
    const { rows } = await database.pool.query<{ column: string }>(
      `SELECT table_name || '.' || column_name AS column FROM information_schema.columns WHERE table_schema = 'public'`,
    );
    const columns = new Set(rows.map(({ column }) => column));
    const named = entities.flatMap((entity: EntityDescription) => {
      const { organization, branch, client, caregiver, updatedAt, deletedAt, date, classification } = entity;
      const owners = [organization, branch].flatMap((owner) =>
        owner === undefined || owner === 'SHARED' ? [] : typeof owner === 'string' ? owner : owner.through,
      );
      const others = [client, caregiver, updatedAt, deletedAt, date].filter((name) => name !== undefined);
      const classified = Object.keys(classification?.columns ?? {});
      return [...owners, ...others, ...classified].map((column) => `${entity.table}.${column}`);
    });
    expect(named.length).toBeGreaterThan(20);
    expect(named.filter((column) => !columns.has(column))).toEqual([]);
  });

  test('are accepted by the library', async () => {
    const definitions = entities.map((entity) => defineEntity(entity));
    await using protection = await createDataProtection({ database: database.url, entities: definitions });
    expect(protection).toBeDefined();
  });
});

test('the writer changes every organization without errors and breaks no foreign key', async () => {
  await using busy = await createTestDatabase({ migrated: false });
  await platformIn(busy, SEED);
  const before = await digests(busy);
  const writers = await Promise.all([1, 2].map((seed) => startWriter(busy.url, { seed, intervalMs: 0 })));
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const done = await Promise.all(writers.map((writer) => writer.stop()));
  for (const { statements } of done) expect(statements).toBeGreaterThan(50);

  const after = await digests(busy);
  const changed = Object.keys(after).filter((table) => after[table] !== before[table]);
  expect(changed).toEqual(
    expect.arrayContaining([
      'audit_log',
      'care_plans',
      'clients',
      'evv_records',
      'notes',
      'payments',
      'tasks',
      'visits',
    ]),
  );
  expect((await brokenForeignKeys(busy.pool)).broken).toEqual([]);
  const { rows } = await busy.pool.query(
    `SELECT organization_id FROM audit_log WHERE changed_at > now() - interval '1 minute' GROUP BY 1 ORDER BY 1`,
  );
  expect(rows.map((row) => row.organization_id)).toEqual(
    [organizationId(SEED, 1), organizationId(SEED, 2)].toSorted(),
  );
});

test('the writer keeps to one organization where told to', async () => {
  await using busy = await createTestDatabase({ migrated: false });
  await platformIn(busy, SEED);
  const writer = await startWriter(busy.url, {
    seed: 3,
    intervalMs: 0,
    organizationId: organizationId(SEED, 2),
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  await writer.stop();
  const { rows } = await busy.pool.query(
    `SELECT DISTINCT organization_id FROM audit_log WHERE changed_at > now() - interval '1 minute'`,
  );
  expect(rows).toEqual([{ organization_id: organizationId(SEED, 2) }]);
});
