import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { entities as descriptions } from '../../examples/care-platform/entities.ts';
import {
  branchIds,
  createSchema,
  generatePlatform,
  organizationId,
} from '../../examples/care-platform/generate.ts';
import { createDatabase } from '../../src/repository/database.ts';
import { defineEntity } from '../../src/source/entity.ts';
import { createTableHandlers, type TableHandlers } from '../../src/source/table-handler.ts';
import type { Actor } from '../../src/types/actor.ts';
import type { EntityRow } from '../../src/types/offline-sync.ts';
import type { EntityChange, HandlerContext } from '../../src/types/sync-handler.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';

const SEED = 5;
const VISITS = 40;
const ORGANIZATION = organizationId(SEED, 1);
const OTHER = organizationId(SEED, 2);
const BRANCHES = branchIds(SEED, 1, VISITS);

let database: TestDatabase;
let handlers: TableHandlers;
beforeAll(async () => {
  database = await createTestDatabase();
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await createSchema(client);
  await generatePlatform(client, { seed: SEED, organizations: 2, visits: VISITS });
  await client.query(`CREATE TABLE odd ("Key ""q""" text PRIMARY KEY, organization_id uuid NOT NULL, exact jsonb, plain json, f4 real, f8 double precision,
    n numeric, b bigint, ts timestamptz, ranges int4range[], "we ird" text DEFAULT 'd')`);
  await client.end();
  handlers = createTableHandlers({
    connection: { connectionString: database.url },
    entities: [...descriptions.map((one) => defineEntity(one)), defineEntity({ type: 'ODD', table: 'odd' })],
  });
});
afterAll(() => database[Symbol.asyncDispose]());

const person = (over: Partial<Actor> = {}): Actor => ({
  userId: '00000000-0000-4000-8000-0000000000a1',
  organizationId: ORGANIZATION,
  branchIds: 'ALL',
  permissions: ['sync:write'],
  ...over,
});

/** In a transaction that is undone. */
async function within<T>(work: (context: HandlerContext) => Promise<T>, actor = person()): Promise<T> {
  const db = createDatabase({ pool: database.pool, clock: { now: () => new Date() } });
  let result: { readonly value: T } | undefined;
  const undo = new Error('undone');
  await db
    .withTransaction(async ({ host }) => {
      result = { value: await work({ organizationId: ORGANIZATION, actor, tx: host, now: new Date() }) };
      throw undo;
    })
    .catch((error: unknown) => {
      if (error !== undo) throw error;
    });
  if (result === undefined) throw new Error('nothing');
  return result.value;
}

const change = (
  kind: EntityChange['kind'],
  entityId: string,
  after: EntityRow | null,
  changed: readonly string[] = [],
): EntityChange => ({
  ...{ kind, entityId, before: null, after, changed },
  operation: {
    operationId: entityId,
    operation: 'UPDATE',
    payload: {},
    occurredAt: '2026-01-01T00:00:00Z',
    deviceId: 'd',
    metadata: {},
  },
});

const TABLES: readonly (readonly [string, string, readonly string[]])[] = [
  ['VISIT', 'visits', ['id']],
  ['CLIENT', 'clients', ['id']],
  ['CAREGIVER', 'caregivers', ['id']],
  ['CARE_PLAN', 'care_plans', ['id']],
  ['NOTE', 'notes', ['id', 'created_at']],
  ['INVOICE', 'invoices', ['id']],
  ['USER', 'users', ['id']],
  ['DOCUMENT', 'documents', ['id']],
];

describe.each(TABLES)('%s', (type, table, key) => {
  test('what is read and written back is what it was, in every column', async () => {
    const handler = handlers.handlerFor(type);
    const { rows } = await database.pool.query<Record<string, string>>(
      `SELECT ${key.map((name) => `${name === 'created_at' ? `to_char(${name} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')` : `${name}::text`} AS ${name}`).join(', ')}
         FROM ${table} WHERE organization_id = $1${key.includes('created_at') ? " AND created_at > '0001-01-01Z' AND isfinite(created_at)" : ''} ORDER BY 1 LIMIT 60`,
      [ORGANIZATION],
    );
    // The seed has creation times of infinity and before Christ, which no device can hold as a part of an id.
    const ids = rows.map((row) =>
      key.length === 1 ? (row[key[0] ?? ''] ?? '') : JSON.stringify(key.map((name) => row[name])),
    );
    expect(ids.length).toBeGreaterThan(0);
    await within(async (context) => {
      const shape = await handler.describe?.();
      const loaded = await handler.load(ids, context, 'APPLY');
      expect(loaded.size).toBe(ids.length);
      const columns = Object.keys([...loaded.values()][0]?.row ?? {}).filter(
        (name) => !shape?.serverOwned.includes(name) && !key.includes(name) && name !== 'organization_id',
      );
      // As values: in documents 83.0 may become 83.
      const rows = `SELECT to_jsonb(t) - 'updated_at' AS row FROM ${table} t`;
      await context.tx.query(`CREATE TEMP TABLE earlier ON COMMIT DROP AS ${rows}`);
      const changes = [...loaded].map(([id, { row }]) => change('UPDATE', id, row, columns));
      await handler.applyMany?.(changes, context);
      const altered = await context.tx.query(
        `(${rows} EXCEPT SELECT row FROM earlier) UNION ALL (SELECT row FROM earlier EXCEPT ${rows})`,
      );
      expect(altered.rows).toEqual([]);
    });
  });
});

test('numbers that JavaScript would change, odd names and odd values survive', async () => {
  const handler = handlers.handlerFor('ODD');
  await within(async (context) => {
    await context.tx.query(
      `INSERT INTO odd VALUES ('k"1', $1, '{"n": 12345678901234567890, "s": "x"}', '{"a":1,"b":1.00000000000000000001}', 'NaN', 0.1, 12.50, 9007199254740993,
        'infinity', '{"[1,3)"}', 'w')`,
      [ORGANIZATION],
    );
    const text = () => context.tx.query<{ row: string }>(`SELECT odd::text AS row FROM odd`);
    const before = (await text()).rows;
    const loaded = await handler.load(['k"1', 'absent'], context, 'APPLY');
    const row = loaded.get('k"1')?.row ?? {};
    expect(row).toMatchObject({ n: '12.50', b: '9007199254740993', f8: '0.1', f4: 'NaN', ts: 'infinity' });
    const columns = ['exact', 'plain', 'f4', 'f8', 'n', 'b', 'ts', 'ranges', 'we ird'];
    await handler.apply(change('UPDATE', 'k"1', row, columns), context);
    expect((await text()).rows).toEqual(before);
    const made = await handler.apply(change('CREATE', 'k2', { exact: { a: 1 } }), context);
    expect(made).toMatchObject({ 'we ird': 'd', organization_id: ORGANIZATION, exact: { a: 1 } });
    await expect(
      handler.apply(change('UPDATE', 'k2', { nothere: 1 }, ['nothere']), context),
    ).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
    });
  });
});

test('rows of others are known as such, and not written', async () => {
  const { rows } = await database.pool.query<{ id: string; branch: string; org: string }>(
    `SELECT id, branch_id AS branch, organization_id AS org FROM visits`,
  );
  const foreign = rows.find(({ org }) => org === OTHER)?.id ?? '';
  const [branch = ''] = BRANCHES;
  const elsewhere = rows.find((row) => row.org === ORGANIZATION && row.branch !== branch)?.id ?? '';
  const own = rows.find((row) => row.branch === branch)?.id ?? '';
  const handler = handlers.handlerFor('VISIT');
  const limited = person({ branchIds: [branch] });
  const ids = [foreign, elsewhere, own, 'no uuid', own.toUpperCase()];
  const seen = await within(async (context) => handler.load(ids, context, 'READ'), limited);
  expect(seen.get(foreign)?.visible).toBe(false);
  if (elsewhere !== '') expect(seen.get(elsewhere)?.visible).toBe(false);
  expect(seen.get(own)).toMatchObject({ visible: true, branchId: branch });
  expect(seen.has(own.toUpperCase())).toBe(false);
  for (const id of [foreign, elsewhere].filter((one) => one !== '')) {
    await expect(
      within(
        (context) => handler.apply(change('UPDATE', id, { notes: 'mine' }, ['notes']), context),
        limited,
      ),
    ).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(
      within((context) => handler.apply(change('DELETE', id, null), context), limited),
    ).rejects.toMatchObject({ code: 'FORBIDDEN' });
  }
  const away = BRANCHES.find((one) => one !== branch) ?? '';
  await expect(
    within(
      (context) => handler.apply(change('UPDATE', own, { branch_id: away }, ['branch_id']), context),
      limited,
    ),
  ).rejects.toMatchObject({ code: 'FORBIDDEN' });
  await expect(
    within((context) =>
      handler.apply(change('UPDATE', own, { organization_id: OTHER }, ['organization_id']), context),
    ),
  ).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  await expect(
    within((context) =>
      handlers
        .handlerFor('SERVICE_CODE')
        .apply(change('UPDATE', 'x', { description: 'y' }, ['description']), context),
    ),
  ).rejects.toMatchObject({ code: 'FORBIDDEN' });
});

test('a task belongs to whom its care plan belongs to', async () => {
  const { rows } = await database.pool.query<{ own: string; foreign: string; plan: string }>(
    `SELECT (SELECT min(t.id)::text FROM tasks t JOIN care_plans p ON p.id = t.care_plan_id WHERE p.organization_id = $1) AS own,
            (SELECT min(t.id)::text FROM tasks t JOIN care_plans p ON p.id = t.care_plan_id WHERE p.organization_id = $2) AS foreign,
            (SELECT min(id::text) FROM care_plans WHERE organization_id = $2) AS plan`,
    [ORGANIZATION, OTHER],
  );
  const { own = '', foreign = '', plan = '' } = rows[0] ?? {};
  const handler = handlers.handlerFor('TASK');
  const seen = await within((context) =>
    handler.load([own, foreign, '007', '99999999999999999999'], context, 'APPLY'),
  );
  expect([seen.get(own)?.visible, seen.get(foreign)?.visible, seen.size]).toEqual([true, false, 2]);
  await within((context) => handler.apply(change('UPDATE', own, { title: 'mine' }, ['title']), context));
  await expect(
    within((context) =>
      handler.apply(change('UPDATE', own, { care_plan_id: plan }, ['care_plan_id']), context),
    ),
  ).rejects.toMatchObject({ code: 'FORBIDDEN' });
});
