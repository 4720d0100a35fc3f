import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RestorableSnapshot } from '../../src/restore/restore.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import { ENTITIES, FIXTURE } from './restore-fixture.ts';
import {
  differences,
  hiddenSchemas,
  request,
  schemaExists,
  takeSnapshot,
  targetOn,
} from './restore-support.ts';

const ROLE = `restore_reader_${randomBytes(4).toString('hex')}`;
const GONE_ROLE = `restore_gone_${randomBytes(4).toString('hex')}`;

let source: TestDatabase;
let snapshot: RestorableSnapshot;

beforeAll(async () => {
  source = await createTestDatabase({ migrated: false });
  await source.pool.query(FIXTURE);
  await source.pool.query(`
    CREATE ROLE ${ROLE}; CREATE ROLE ${GONE_ROLE};
    CREATE POLICY readers ON care.guarded FOR SELECT TO ${ROLE}, ${GONE_ROLE} USING (id > 2);
    CREATE POLICY vanished ON care.guarded AS RESTRICTIVE TO ${GONE_ROLE} USING (true) WITH CHECK (secret <> '');
    GRANT SELECT, INSERT ON care.guarded TO ${ROLE}; GRANT SELECT (id) ON care.hen TO PUBLIC; GRANT UPDATE ON care.egg TO ${GONE_ROLE} WITH GRANT OPTION;
  `);
  // Rows span segments: some are larger than 64 KiB.
  snapshot = await takeSnapshot(source.url, ENTITIES, { segmentBytes: 64 * 1024 });
  await source.pool.query(`DROP OWNED BY ${GONE_ROLE}; DROP ROLE ${GONE_ROLE}`);
});

afterAll(async () => {
  await source.pool.query(`DROP OWNED BY ${ROLE}; DROP ROLE ${ROLE}`);
  await source[Symbol.asyncDispose]();
});

test('rows span segments and tables span runs', () => {
  expect(snapshot.segments.some((segment) => segment.continues)).toBe(true);
  expect(snapshot.segments.length).toBeGreaterThan(30);
});

describe('beside the live tables', () => {
  let outcome: Awaited<ReturnType<ReturnType<typeof targetOn>['restoreToSchema']>>;

  beforeAll(async () => {
    outcome = await targetOn(source.url).restoreToSchema(
      request(snapshot, { targetSchema: 'copy "of" care' }),
    );
  });
  const copy = '"copy ""of"" care"';

  test.each(snapshotTables())('every row of %s equals the live one', async (table, key) => {
    // The other organization is not in the snapshot.
    expect(await differences(source.pool, `"${table}"`, ['care', copy], key)).toBe(table === 'org' ? 1 : 0);
  });

  test('the outcome counts and validates', () => {
    expect(outcome.validation.passed).toBe(true);
    expect(outcome.validation.recordsFound).toBe(outcome.validation.recordsExpected);
    expect(outcome.metrics.recordsByEntity).toMatchObject({ VISIT: 800, EMPTY: 0, DERIVED: 1 });
    expect(outcome.validation.checks.find((check) => check.name === 'content of VISIT')?.details).toMatch(
      /^800 rows/,
    );
  });

  test('catalogs are the same but for the schema', async () => {
    const describeSchema = async (schema: string): Promise<unknown[]> => {
      const { rows } = await source.pool.query(
        `SELECT c.relname, c.relkind, CASE WHEN c.relkind <> 'S' THEN c.relpersistence END AS persistence, c.reloptions, c.relrowsecurity, c.relforcerowsecurity, pg_get_expr(c.relpartbound, c.oid) AS bound,
           (SELECT array_agg(a.attname || ' ' || replace(format_type(a.atttypid, a.atttypmod), $1 || '.', '') || a.attnotnull || a.attgenerated::text || a.attidentity::text || a.attcollation || a.attcompression::text ORDER BY a.attnum)
              FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT attisdropped AND c.relkind IN ('r', 'p')) AS columns,
           (SELECT array_agg(k.conname || replace(pg_get_constraintdef(k.oid), $1 || '.', '') || (k.conparentid <> 0) || k.conislocal ORDER BY k.conname, k.contype)
              FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname <> 'to_outside' AND k.contype <> 'n') AS constraints,
           (SELECT array_agg(replace(pg_get_indexdef(i.indexrelid), $1 || '.', '') ORDER BY i.indexrelid::regclass::text) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid) AS indexes,
           (SELECT array_agg(b.attname || replace(pg_get_expr(a.adbin, a.adrelid), $1 || '.', '') ORDER BY b.attname) FROM pg_attrdef a JOIN pg_attribute b ON b.attrelid = a.adrelid AND b.attnum = a.adnum WHERE a.adrelid = c.oid) AS defaults,
           (SELECT d.refobjid::regclass::text LIKE '%.%' FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S' AND d.refclassid = 'pg_class'::regclass) AS owned
          FROM pg_class c WHERE c.relnamespace = quote_ident($2)::regnamespace AND c.relkind IN ('r', 'p', 'S', 'I', 'i') AND c.relname <> ALL (ARRAY['outsider', 'outsider_pkey'])
         ORDER BY c.relname`,
        [schema === 'care' ? 'care' : copy, schema],
      );
      return rows;
    };
    // Types are those of `care` where they are the same, in both.
    const [live, restored] = [await describeSchema('care'), await describeSchema('copy "of" care')];
    const plain = (rows: unknown[]): unknown => JSON.parse(JSON.stringify(rows).replaceAll('care.', ''));
    expect(plain(restored)).toEqual(plain(live));
    expect(live.length).toBeGreaterThan(40);
  });

  test('identical types are reused, a domain with unfulfilled constraints is made anew', async () => {
    const { rows } = await source.pool.query(
      `SELECT a.attname, t.typnamespace::regnamespace::text AS schema FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = '${copy}."Client"'::regclass AND a.attname IN ('feeling', 'home', 'code')`,
    );
    expect(Object.fromEntries(rows.map((row) => [row.attname, row.schema]))).toEqual({
      feeling: 'care',
      home: 'care',
      code: copy,
    });
    await expect(
      source.pool.query(`UPDATE ${copy}."Client" SET code = 'too long' WHERE id = 1`),
    ).rejects.toMatchObject({ constraint: 'short' });
  });

  test('inserting goes on past the restored ids, on the copy only', async () => {
    const before = await source.pool.query('SELECT last_value FROM care.shared_numbers');
    for (const schema of [copy]) {
      await source.pool.query(
        `INSERT INTO ${schema}."Client" (organization_id, "full Name") SELECT id, 'new' FROM ${schema}.org`,
      );
      await source.pool.query(
        `INSERT INTO ${schema}.visit (organization_id, day, region, client) SELECT id, '2025-02-02', 'n', 1 FROM ${schema}.org`,
      );
      await source.pool.query(
        `INSERT INTO ${schema}.volatile (organization_id) SELECT id FROM ${schema}.org`,
      );
    }
    expect((await source.pool.query('SELECT last_value FROM care.shared_numbers')).rows).toEqual(before.rows);
    const { rows } = await source.pool.query(
      `SELECT max(id) AS client, max(number) AS number FROM ${copy}."Client"`,
    );
    expect(rows[0]).toMatchObject({ client: '504', number: 3515 });
    // The copy's foreign keys refer to the copy.
    await source.pool.query(`DELETE FROM ${copy}.visit WHERE id > 8090`);
    const fks = await source.pool.query(
      `SELECT DISTINCT f.relnamespace::regnamespace::text AS schema FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid WHERE k.connamespace = '${copy}'::regnamespace`,
    );
    expect(fks.rows).toEqual([{ schema: copy }]);
  });

  test('access is as recorded for the roles that are there, and the schema is closed', async () => {
    const policies = await source.pool.query(
      `SELECT policyname, roles::text FROM pg_policies WHERE schemaname = 'copy "of" care'`,
    );
    expect(policies.rows).toEqual([{ policyname: 'readers', roles: `{${ROLE}}` }]);
    const { rows } = await source.pool.query(
      `SELECT has_table_privilege($1, '${copy}.guarded', 'SELECT') AS granted, has_table_privilege($1, '${copy}.guarded', 'DELETE') AS not_granted,
              has_column_privilege($1, '${copy}.hen', 'id', 'SELECT') AS on_column, has_schema_privilege($1, '${copy}'::regnamespace, 'USAGE') AS usage`,
      [ROLE],
    );
    expect(rows[0]).toEqual({ granted: true, not_granted: false, on_column: true, usage: false });
    expect(outcome.warnings.map((warning) => warning.code).sort()).toEqual([
      'FOREIGN_KEY_LEFT_OUT',
      'POLICY_LEFT_OUT',
      'ROLE_MISSING',
    ]);
    expect(JSON.stringify(outcome.warnings)).toContain(GONE_ROLE);
  });

  test('a second restore to the same name is refused before anything is made', async () => {
    await expect(
      targetOn(source.url).restoreToSchema(request(snapshot, { targetSchema: 'copy "of" care' })),
    ).rejects.toMatchObject({ code: 'RESTORE_TARGET_EXISTS' });
    expect(await hiddenSchemas(source.pool)).toEqual([]);
  });
});

function snapshotTables(): [string, string[]][] {
  const keys: Record<string, string[]> = { visit: ['id'], pair: ['a', 'b'] };
  return ENTITIES.map(({ table }) => [table, keys[table] ?? ['id']]);
}

test('into an empty database: types come along', async () => {
  await using target = await createTestDatabase({ migrated: false });
  await target.pool.query(
    "CREATE SCHEMA care; CREATE FUNCTION care.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)'",
  );
  await target.pool.query("CREATE TYPE care.mood AS ENUM ('low', 'high')");
  await targetOn(target.url).restoreToSchema(request(snapshot, { maxConcurrency: 3 }));
  const { rows } = await target.pool.query(
    `SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'restored'::regnamespace AND t.typtype IN ('e', 'd', 'r', 'm') OR t.oid = to_regtype('restored.address') ORDER BY 1`,
  );
  expect(rows.map((row) => row.typname)).toEqual([
    'address',
    'code',
    'mood',
    'positive',
    'span',
    'spanmulti',
  ]);
  const sum = async (database: TestDatabase, schema: string): Promise<unknown> =>
    (
      await database.pool.query(
        `SELECT md5(string_agg(c::text, '|' ORDER BY id)) AS sum FROM ${schema}."Client" c`,
      )
    ).rows;
  expect(await sum(target, 'restored')).toEqual(await sum(source, 'care'));
});

test('a function that is missing is named', async () => {
  await using target = await createTestDatabase({ migrated: false });
  const failed = targetOn(target.url).restoreToSchema(request(snapshot));
  await expect(failed).rejects.toMatchObject({
    code: 'RESTORE_TARGET_INCOMPATIBLE',
    message: expect.stringContaining('shout(text)'),
  });
  expect(await hiddenSchemas(target.pool)).toEqual([]);
  expect(await schemaExists(target.pool, 'restored')).toBe(false);
});

test('COUNTS compares numbers only', async () => {
  const outcome = await targetOn(source.url).restoreToSchema(
    request(snapshot, { targetSchema: 'counted', validation: 'COUNTS', maxConcurrency: 1 }),
  );
  expect(outcome.validation.checks.map((check) => check.name)).not.toContain('content of VISIT');
  expect(outcome.validation.passed).toBe(true);
});
