import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDatabase } from '../../src/repository/database.ts';
import { defineEntity } from '../../src/source/entity.ts';
import { createTableHandlers } from '../../src/source/table-handler.ts';
import type { EntityRow } from '../../src/types/offline-sync.ts';
import type { EntityChange, HandlerContext } from '../../src/types/sync-handler.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  catalogType,
  EXCLUDED,
  type RandomSchema,
  randomSchema,
  rowsOfSchema,
} from '../harness/source-types.ts';

const SOAK = process.env.CARE_SOAK === '1';
const ORGANIZATION = '00000000-0000-4000-8000-00000000a0a1';

let database: TestDatabase;
let names: string[];
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  const { rows } = await database.pool.query<{ typname: string }>(
    `SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
        AND typcategory <> 'A' AND typisdefined AND typrelid = 0 ORDER BY 1`,
  );
  names = rows.map(({ typname }) => typname).filter((name) => !(name in EXCLUDED));
});
afterAll(() => database[Symbol.asyncDispose]());

const within = <T>(work: (context: HandlerContext) => Promise<T>): Promise<T> =>
  createDatabase({ pool: database.pool, clock: { now: () => new Date() } }).withTransaction(({ host }) =>
    work({
      organizationId: ORGANIZATION,
      actor: { userId: ORGANIZATION, organizationId: ORGANIZATION, branchIds: 'ALL', permissions: [] },
      tx: host,
      now: new Date(),
    }),
  );

const change = (kind: 'CREATE' | 'UPDATE', entityId: string, after: EntityRow): EntityChange => ({
  ...{ kind, entityId, before: null, after, changed: Object.keys(after) },
  operation: {
    operationId: entityId,
    operation: kind,
    payload: after,
    occurredAt: '2026-01-01T00:00:00Z',
    deviceId: 'd',
    metadata: {},
  },
});

/** Writes rows back as they are shown, and brings them again under other ids. */
async function writesWhatItShows(schema: RandomSchema, values: readonly string[][]): Promise<void> {
  const columns = schema.columns.map(({ sql }, i) => `"c ${i}" ${sql}`);
  await database.pool.query(
    `DROP SCHEMA IF EXISTS random CASCADE; CREATE SCHEMA random; ${schema.create.join('; ')};
     CREATE TABLE random.rows (id uuid PRIMARY KEY, organization_id uuid NOT NULL, ${columns.join(', ')});
     ${values.map((row) => `INSERT INTO random.rows VALUES ('${randomUUID()}', '${ORGANIZATION}', ${row.join(', ')})`).join('; ')};
     CREATE TABLE random.earlier AS TABLE random.rows`,
  );
  const handler = createTableHandlers({
    connection: { connectionString: database.url },
    entities: [defineEntity({ type: 'THING', table: 'rows', schema: 'random' })],
  }).handlerFor('THING');
  const { rows } = await database.pool.query<{ id: string }>('SELECT id FROM random.rows');
  const ids = rows.map(({ id }) => id);
  const copies = new Map(ids.map((id) => [id, randomUUID()]));
  await within(async (context) => {
    const shown = await handler.load(ids, context, 'APPLY');
    const writable = ({ id: _, organization_id: __, ...row }: EntityRow): EntityRow => row;
    const all = [...shown].map(([id, { row }]) => ({ id, row: writable(row) }));
    const changes = all.map(({ id, row }) => change('UPDATE', id, row));
    expect(await handler.applyMany?.(changes, context)).toEqual([...shown.values()].map(({ row }) => row));
    await handler.applyMany?.(
      all.map(({ id, row }) => change('CREATE', copies.get(id) ?? '', row)),
      context,
    );
  });
  for (const [i, { sql }] of schema.columns.entries()) {
    const text = (alias: string) => `${alias}."c ${i}"::text`;
    const { rows: altered } = await database.pool.query(
      `SELECT $3::text AS type, ${text('a')} AS was, ${text('b')} AS is
         FROM unnest($1::uuid[], $2::uuid[]) AS ids(old, new)
         JOIN random.earlier a ON a.id = ids.old JOIN random.rows b ON b.id IN (ids.old, ids.new)
        WHERE ${text('a')} IS DISTINCT FROM ${text('b')}`,
      [[...copies.keys()], [...copies.values()], sql],
    );
    expect(altered.filter(({ was, is }) => !isSameDocument(sql, was, is))).toEqual([]);
  }
}

/** Documents are the same as values; a null in one is the column's own. */
function isSameDocument(type: string, was: string | null, is: string | null): boolean {
  if (!/json/.test(type) && !type.startsWith('random.')) return false;
  try {
    return (
      JSON.stringify(sorted(JSON.parse(was ?? 'null'))) === JSON.stringify(sorted(JSON.parse(is ?? 'null')))
    );
  } catch {
    return false;
  }
}

const sorted = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(sorted)
    : typeof value === 'object' && value !== null
      ? Object.fromEntries(
          Object.entries(value)
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([name, item]) => [name, sorted(item)]),
        )
      : value;

test('every type of PostgreSQL is written as it is shown', async () => {
  for (const name of names) {
    const type = catalogType(name);
    if (type === undefined) throw new Error(`${name} is not known`);
    const schema = { create: [], columns: [type] };
    const rows = fc.sample(type.value, { numRuns: 12, seed: 7 }).map((value) => [value]);
    await writesWhatItShows(schema, rows);
  }
}, 120_000);

test('arrays, enums, domains and composites are written as they are shown', async () => {
  const schemas = randomSchema(names).chain((schema) =>
    rowsOfSchema(schema).map((rows) => ({ schema, rows })),
  );
  await fc.assert(
    fc.asyncProperty(schemas, ({ schema, rows }) => writesWhatItShows(schema, rows)),
    { numRuns: SOAK ? 500 : 40, ...(SOAK ? {} : { seed: 11 }) },
  );
}, 600_000);
