import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDatabase } from '../../src/repository/database.ts';
import { defineEntity } from '../../src/source/entity.ts';
import { createTableHandlers, type TableHandlers } from '../../src/source/table-handler.ts';
import { mergePatch } from '../../src/sync/merge-patch.ts';
import type { Actor } from '../../src/types/actor.ts';
import type { EntityInput } from '../../src/types/entity.ts';
import type { Json } from '../../src/types/ids.ts';
import type { EntityRow, SyncOperation } from '../../src/types/offline-sync.ts';
import type { EntityChange, HandlerContext } from '../../src/types/sync-handler.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';

const ORGANIZATION = '00000000-0000-4000-8000-00000000a0a1';
const OTHER = '00000000-0000-4000-8000-00000000b0b2';
const BRANCH = '00000000-0000-4000-8000-00000000c0c3';
const ID = '00000000-0000-4000-8000-00000000d0d4';
const ID_2 = '00000000-0000-4000-8000-00000000e0e5';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
});
afterAll(() => database[Symbol.asyncDispose]());

const ACTOR: Actor = {
  userId: '00000000-0000-4000-8000-0000000000a1',
  organizationId: ORGANIZATION,
  branchIds: 'ALL',
  permissions: ['sync:write'],
};

let tables = 0;
/** A table of its own; `%` in the statements stands for its name. */
async function onTable(
  columns: string,
  statements: readonly string[] = [],
  over: Partial<EntityInput> = {},
): Promise<{ readonly table: string; readonly handlers: TableHandlers }> {
  tables += 1;
  const table = `t${tables}`;
  await database.pool.query(`CREATE TABLE ${table} (${columns})`);
  for (const statement of statements)
    await database.pool.query(statement.replaceAll('%', table).replaceAll('$ORG', `'${ORGANIZATION}'`));
  const handlers = createTableHandlers({
    connection: { connectionString: database.url },
    entities: [defineEntity({ type: 'THING', table, ...over })],
  });
  return { table, handlers };
}

/** In a transaction that is kept, on `pool`. */
const within = <T>(
  work: (context: HandlerContext) => Promise<T>,
  actor: Actor = ACTOR,
  pool: pg.Pool = database.pool,
): Promise<T> =>
  createDatabase({ pool, clock: { now: () => new Date() } }).withTransaction(({ host }) =>
    work({ organizationId: ORGANIZATION, actor, tx: host, now: new Date() }),
  );

const change = (
  kind: EntityChange['kind'],
  entityId: string,
  after: EntityRow | null,
  over: {
    readonly operation?: SyncOperation;
    readonly payload?: EntityRow;
    readonly before?: EntityRow;
  } = {},
): EntityChange => ({
  ...{ kind, entityId, before: over.before ?? null, after },
  changed: kind === 'UPDATE' ? Object.keys(after ?? {}) : [],
  operation: {
    operationId: ID,
    operation: over.operation ?? (kind === 'CREATE' ? 'CREATE' : 'UPDATE'),
    payload: over.payload ?? after ?? {},
    occurredAt: '2026-01-01T00:00:00Z',
    deviceId: 'd',
    metadata: {},
  },
});

const loadOne = async (handlers: TableHandlers, id: string, actor = ACTOR) =>
  (await within((context) => handlers.handlerFor('THING').load([id], context, 'APPLY'), actor)).get(id);
const applied = (handlers: TableHandlers, ...changes: EntityChange[]) =>
  within(async (context) => {
    const handler = handlers.handlerFor('THING');
    const [only] = changes;
    if (changes.length === 1 && only !== undefined) return [await handler.apply(only, context)];
    return (await handler.applyMany?.(changes, context)) ?? [];
  });
const rowsOf = async (table: string): Promise<Record<string, unknown>[]> =>
  (
    await database.pool.query<{ row: Record<string, unknown> }>(
      `SELECT to_json(whole.*) AS row FROM ${table} whole`,
    )
  ).rows.map(({ row }) => row);

const KEY = 'id uuid PRIMARY KEY, organization_id uuid NOT NULL';

describe('tables of any shape', () => {
  test('more columns than a function has arguments', async () => {
    const many = Array.from({ length: 120 }, (_, i) => `c${i} integer`).join(', ');
    const { handlers } = await onTable(`${KEY}, ${many}`);
    expect(await applied(handlers, change('CREATE', ID, { c0: 1, c119: 2 }))).toMatchObject([
      { c0: 1, c119: 2 },
    ]);
    expect((await loadOne(handlers, ID))?.row).toMatchObject({ c0: 1, c119: 2, c60: null });
  });

  test('columns whose names mean something in a statement', async () => {
    const odd = ['care_id', 'care_row', 'ordinality', 'price$4', 'k0', 'i', 't', 'x', '$&', "it's", 'a"b'];
    const { table, handlers } = await onTable(
      `"a" text, "o$$rg" uuid NOT NULL, ${odd.map((name) => `"${name.replaceAll('"', '""')}" text`).join(', ')}, n numeric, PRIMARY KEY (a, n)`,
      [],
      { organization: 'o$$rg' },
    );
    const id = JSON.stringify(['x', '1']);
    const values = Object.fromEntries(odd.map((name) => [name, `of ${name}`]));
    await applied(handlers, change('CREATE', id, values));
    expect(await applied(handlers, change('UPDATE', id, { care_id: 'new' }))).toMatchObject([
      { ...values, care_id: 'new' },
    ]);
    expect(await rowsOf(table)).toMatchObject([{ ...values, care_id: 'new', o$$rg: ORGANIZATION }]);
    await applied(handlers, change('DELETE', id, null));
    expect(await rowsOf(table)).toEqual([]);

    const byKey = await onTable(`${KEY}, "price$4" text, care_id text`);
    await applied(byKey.handlers, change('CREATE', ID, { price$4: 'a', care_id: 'b' }));
    await applied(byKey.handlers, change('UPDATE', ID, { price$4: 'c' }));
    expect(await rowsOf(byKey.table)).toMatchObject([{ price$4: 'c', care_id: 'b' }]);
  });

  test('a domain that is NOT NULL holds for what is written, not for what is left alone', async () => {
    await database.pool.query('CREATE DOMAIN filled AS text NOT NULL CHECK (VALUE <> $$$$)');
    const { handlers } = await onTable(`${KEY}, name filled DEFAULT 'n', notes text`);
    await applied(handlers, change('CREATE', ID, { notes: 'a' }));
    expect(await applied(handlers, change('UPDATE', ID, { notes: 'b' }))).toMatchObject([
      { name: 'n', notes: 'b' },
    ]);
    await expect(applied(handlers, change('UPDATE', ID, { name: null }))).rejects.toMatchObject({
      code: '23502',
    });
  });

  test('an organization and a branch that stand as text, in any case', async () => {
    const { table, handlers } = await onTable(
      'id text PRIMARY KEY, organization_id text NOT NULL, branch_id varchar(36), notes text',
      [
        `INSERT INTO % VALUES ('own', upper($ORG), upper('${BRANCH}')), ('else', '${OTHER}', '${BRANCH}'), ('away', $ORG, '${OTHER}')`,
      ],
    );
    const limited = { ...ACTOR, branchIds: [BRANCH] };
    const seen = await within(
      (context) => handlers.handlerFor('THING').load(['own', 'else', 'away'], context, 'APPLY'),
      limited,
    );
    expect([...seen].map(([id, { visible }]) => [id, visible]).sort()).toEqual([
      ['away', false],
      ['else', false],
      ['own', true],
    ]);
    await applied(handlers, change('CREATE', 'new', { branch_id: BRANCH }));
    await expect(applied(handlers, change('UPDATE', 'else', { notes: 'x' }))).rejects.toMatchObject({
      code: 'FORBIDDEN',
    });
    expect(await rowsOf(table)).toContainEqual(
      expect.objectContaining({ id: 'new', organization_id: ORGANIZATION }),
    );
  });

  test('rows that belong to all are read, and not written', async () => {
    const { handlers } = await onTable(
      'code text PRIMARY KEY, label text',
      [`INSERT INTO % VALUES ('a', 'A')`],
      { organization: 'SHARED' },
    );
    expect(await loadOne(handlers, 'a')).toMatchObject({ visible: true, row: { label: 'A' } });
    await expect(applied(handlers, change('UPDATE', 'a', { label: 'B' }))).rejects.toMatchObject({
      code: 'FORBIDDEN',
    });
  });

  test('rows that belong to all through others are not written either', async () => {
    const parent = await onTable('code text PRIMARY KEY', [`INSERT INTO % VALUES ('a')`]);
    const { table } = await onTable(`id uuid PRIMARY KEY, code text, rate numeric`, [
      `INSERT INTO % VALUES ('${ID}', 'a', 1)`,
    ]);
    const handlers = createTableHandlers({
      connection: { connectionString: database.url },
      entities: [
        defineEntity({ type: 'CODE', table: parent.table, organization: 'SHARED' }),
        defineEntity({ type: 'THING', table, organization: { through: 'code', entity: 'CODE' } }),
      ],
    });
    expect((await loadOne(handlers, ID))?.visible).toBe(true);
    for (const one of [
      change('UPDATE', ID, { rate: 2 }),
      change('DELETE', ID, null),
      change('CREATE', ID_2, { code: 'a' }),
    ])
      await expect(applied(handlers, one)).rejects.toMatchObject({ code: 'FORBIDDEN' });
  });

  test('a branch that is no UUID is nobody’s', async () => {
    const { handlers } = await onTable(`${KEY}, branch_id integer, notes text`, [
      `INSERT INTO % VALUES ('${ID}', $ORG, 7)`,
    ]);
    expect(await loadOne(handlers, ID)).toMatchObject({ visible: true, branchId: null });
    expect(await loadOne(handlers, ID, { ...ACTOR, branchIds: [BRANCH] })).toMatchObject({ visible: false });
    expect(await applied(handlers, change('UPDATE', ID, { notes: 'a' }))).toMatchObject([{ branch_id: 7 }]);
  });

  test('a partitioned table of an odd name in an odd schema, beside one of its name', async () => {
    const schema = 'Odd "Schema"';
    const table = `${'Long "'.repeat(9)}Table`;
    const quoted = (name: string) => pg.escapeIdentifier(name);
    const full = `${quoted(schema)}.${quoted(table)}`;
    await database.pool.query(
      `CREATE SCHEMA ${quoted(schema)}; CREATE TABLE ${quoted(table)} (id integer PRIMARY KEY);
       CREATE TABLE ${full} (id integer, "Day" date, organization_id uuid NOT NULL, notes text, deleted_at timestamptz, PRIMARY KEY (id, "Day")) PARTITION BY RANGE ("Day");
       CREATE TABLE ${quoted(schema)}.p1 PARTITION OF ${full} FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
       CREATE TABLE ${quoted(schema)}.p2 PARTITION OF ${full} DEFAULT`,
    );
    const handlers = createTableHandlers({
      connection: { connectionString: database.url },
      entities: [defineEntity({ type: 'THING', table, schema })],
    });
    const ids = ['2026-01-05', '2026-03-05'].map((day) => JSON.stringify(['1', day]));
    await applied(handlers, ...ids.map((id) => change('CREATE', id, { notes: 'a' })));
    await applied(handlers, ...ids.map((id) => change('UPDATE', id, { notes: 'b' })));
    await applied(handlers, change('DELETE', ids[0] ?? '', null));
    const rows = await rowsOf(full);
    expect(rows.map((row) => [row['Day'], row['notes'], row['deleted_at'] === null])).toEqual([
      ['2026-01-05', 'b', false],
      ['2026-03-05', 'b', true],
    ]);
  });

  test('updated_at is filled in where the table has no default, and left alone where it is no time', async () => {
    const { handlers } = await onTable(`${KEY}, notes text, updated_at timestamptz NOT NULL`);
    const [made] = await applied(handlers, change('CREATE', ID, { notes: 'a' }));
    expect(made?.['updated_at']).toMatch(/^\d{4}-/);
    const epoch = await onTable(`${KEY}, notes text, updated_at bigint`);
    await applied(epoch.handlers, change('CREATE', ID, { notes: 'a' }));
    expect(await applied(epoch.handlers, change('UPDATE', ID, { notes: 'b' }))).toMatchObject([
      { notes: 'b', updated_at: null },
    ]);
    const shape = await epoch.handlers.handlerFor('THING').describe?.();
    expect(shape?.serverOwned).toEqual(['updated_at']);
  });

  test.each(['infinity', '12026-01-01 00:00:00+00', '0044-03-15 00:00:00+00 BC'])(
    'updated_at %s says nothing of when a row changed',
    async (at) => {
      const { handlers } = await onTable(`${KEY}, updated_at timestamptz`, [
        `INSERT INTO % VALUES ('${ID}', $ORG, '${at}')`,
      ]);
      expect(await loadOne(handlers, ID)).toMatchObject({ visible: true, updatedAt: null });
    },
  );
});

describe('one row has one id', () => {
  test('texts that differ in case are two rows', async () => {
    const { table, handlers } = await onTable(
      'id text PRIMARY KEY, organization_id uuid NOT NULL, notes text',
      [`INSERT INTO % VALUES ('${ID}', $ORG, 'lower'), (upper('${ID}'), $ORG, 'upper')`],
    );
    const ids = [ID, ID.toUpperCase()];
    const seen = await within((context) => handlers.handlerFor('THING').load(ids, context, 'APPLY'));
    expect(ids.map((id) => seen.get(id)?.row['notes'])).toEqual(['lower', 'upper']);
    await applied(handlers, ...ids.map((id, i) => change('UPDATE', id, { notes: `new ${i}` })));
    expect((await rowsOf(table)).map(({ id, notes }) => [id, notes])).toEqual([
      [ID, 'new 0'],
      [ID.toUpperCase(), 'new 1'],
    ]);
  });

  test.each([
    ['uuid', ID, [ID.toUpperCase()]],
    ['integer', '7', ['07', '+7', ' 7', '7.0']],
    ['numeric(10,2)', '7.50', ['7.5', '07.50', '7.500']],
    ['char(6)', 'ab', ['ab ', 'ab    ', 'a']],
    ['varchar(6)', 'ab', ['ab ', 'AB']],
    ['date', '2026-01-02', ['2026-1-2', '2026-01-02T00:00:00Z', '2026-02-30']],
    ['timestamptz', '2026-01-02T03:04:05.600000Z', ['2026-01-02T03:04:05.6Z', '2026-01-02T04:04:05.6+01:00']],
    ['timestamp', '2026-01-02 03:04:05.6', ['2026-01-02T03:04:05.6', '2026-01-02 03:04:05.600']],
  ])('of a key that is %s: as the row shows it', async (type, id, others) => {
    const { table, handlers } = await onTable(
      `id ${type} PRIMARY KEY, organization_id uuid NOT NULL, notes text`,
    );
    const stray = type.startsWith('char') ? [`INSERT INTO ${table} VALUES ('a', '${ORGANIZATION}')`] : [];
    for (const statement of stray) await database.pool.query(statement);
    expect(await applied(handlers, change('CREATE', id, { notes: 'a' }))).toMatchObject([{ notes: 'a' }]);
    expect(await applied(handlers, change('UPDATE', id, { notes: 'b' }))).toMatchObject([{ notes: 'b' }]);
    const ids = [id, ...others];
    const seen = await within((context) => handlers.handlerFor('THING').load(ids, context, 'APPLY'));
    expect([...seen.keys()].filter((one) => one !== 'a')).toEqual([id]);
    await database.pool.query(`TRUNCATE ${table}`);
    for (const other of others.filter(
      (one) => one !== 'a' && one !== 'AB' && (one !== 'ab ' || type !== 'varchar(6)'),
    ))
      await expect(applied(handlers, change('CREATE', other, {}))).rejects.toMatchObject({
        code: 'VALIDATION_FAILED',
        issues: [{ path: 'entityId' }],
      });
    await applied(handlers, change('CREATE', id, {}));
    await applied(handlers, change('DELETE', id, null));
    expect(await rowsOf(table)).toEqual([]);
  });

  test('of several columns: the JSON of their texts, without blanks', async () => {
    const { handlers } = await onTable(
      'a text, b integer, organization_id uuid NOT NULL, PRIMARY KEY (a, b)',
      [`INSERT INTO % VALUES ('x y', 1, $ORG)`],
    );
    const id = JSON.stringify(['x y', '1']);
    const seen = await within((context) =>
      handlers
        .handlerFor('THING')
        .load([id, '["x y", "1"]', '["x\\u0020y","1"]', '["x y","01"]', '["x y"]', 'x y'], context, 'APPLY'),
    );
    expect([...seen.keys()]).toEqual([id]);
  });

  test('a row that is brought under another id than its own is refused', async () => {
    const { table, handlers } = await onTable(`${KEY}, notes text`);
    await expect(applied(handlers, change('CREATE', ID, { id: ID_2 }))).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
      issues: [{ path: 'id' }],
    });
    await applied(handlers, change('CREATE', ID, { id: ID.toUpperCase() }));
    expect(await rowsOf(table)).toMatchObject([{ id: ID }]);
    const counted = await onTable(
      'id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid NOT NULL, notes text',
    );
    await expect(applied(counted.handlers, change('CREATE', '5', {}))).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
    });
  });
});

describe('documents', () => {
  const EXACT = '12345678901234567890';

  test('with a number that JavaScript would change are merged like others', async () => {
    const { table, handlers } = await onTable(`${KEY}, doc jsonb`, [
      `INSERT INTO % VALUES ('${ID}', $ORG, '{"n": ${EXACT}, "deep": [{"e": 0.12345678901234567890}], "s": "x"}')`,
    ]);
    const doc = (await loadOne(handlers, ID))?.row['doc'];
    await applied(handlers, change('UPDATE', ID, { doc: mergePatch(doc, { mood: 'good' }) }));
    const { rows } = await database.pool.query<{ doc: string }>(`SELECT doc::text AS doc FROM ${table}`);
    expect(rows[0]?.doc).toBe(
      `{"n": ${EXACT}, "s": "x", "deep": [{"e": 0.12345678901234567890}], "mood": "good"}`,
    );
  });

  test('show a number as one where JavaScript has it, however it is written', async () => {
    const { handlers } = await onTable(`${KEY}, doc jsonb`, [
      `INSERT INTO % VALUES ('${ID}', $ORG, '{"temperature": 37.0, "e": 1.50}')`,
    ]);
    expect((await loadOne(handlers, ID))?.row['doc']).toEqual({ temperature: 37, e: 1.5 });
  });

  test.each<[string, Json]>([
    ['a field of the name $exact', { a: { $exact: '1' }, b: 2 }],
    ['nothing else', { $exact: '[1, 2]' }],
    ['a text', { $exact: 'no JSON' }],
    ['a number of its own', { $exact: 5 }],
    ['another field', { $exact: '5', more: true }],
  ])('with %s stay what they are', async (_, doc) => {
    const { table, handlers } = await onTable(`${KEY}, doc jsonb`);
    await database.pool.query(`INSERT INTO ${table} VALUES ($1, $2, $3)`, [
      ID,
      ORGANIZATION,
      JSON.stringify(doc),
    ]);
    const row = (await loadOne(handlers, ID))?.row['doc'] ?? null;
    await applied(handlers, change('UPDATE', ID, { doc: row }));
    expect(await rowsOf(table)).toMatchObject([{ doc }]);
    expect((await rowsOf(table))[0]?.['doc']).toEqual(doc);
  });

  test('that are json keep the order of their fields', async () => {
    const { table, handlers } = await onTable(`${KEY}, doc json`);
    await applied(handlers, change('CREATE', ID, { doc: { zebra: 1, a: { y: 1, b: 2 } } }));
    const { rows } = await database.pool.query<{ doc: string }>(`SELECT doc::text AS doc FROM ${table}`);
    expect(rows[0]?.doc.replaceAll(' ', '')).toBe('{"zebra":1,"a":{"y":1,"b":2}}');
  });
});

describe('values that the column would make something else of are refused', () => {
  test.each<[string, Json]>([
    ['text', { a: 1 }],
    ['text', ['a']],
    ['text', 5],
    ['text', true],
    ['varchar(100)', { a: 1 }],
    ['bytea', { a: 1 }],
    ['boolean', 'yes'],
    ['boolean', 1],
    ['integer', true],
    ['integer', [1]],
    ['timestamptz', 1767220112],
    ['timestamptz', '2026-01-01T10:00:00'],
    ['timestamptz', '2026-01-01'],
    ['timestamptz', 'now'],
    ['timestamptz', '01/02/03 10:00:00Z'],
    ['timestamp', '2026-01-01T10:00:00+05:00'],
    ['timestamp', 'tomorrow'],
    ['date', '2026-01-01T23:30:00-05:00'],
    ['date', '01/02/2026'],
    ['date', 20260101],
    ['time', '10:00:00+05'],
    ['timetz', '10:00:00'],
    ['interval', 5],
    ['text[]', { a: 1 }],
  ])('%s: %j', async (type, value) => {
    const { table, handlers } = await onTable(`${KEY}, v ${type}`);
    const refused = { code: 'VALIDATION_FAILED', issues: [{ path: 'v' }] };
    await expect(applied(handlers, change('CREATE', ID, { v: value }))).rejects.toMatchObject(refused);
    await database.pool.query(`INSERT INTO ${table} VALUES ('${ID}', '${ORGANIZATION}')`);
    await expect(applied(handlers, change('UPDATE', ID, { v: value }))).rejects.toMatchObject(refused);
  });

  test.each<[string, Json, Json]>([
    ['timestamptz', '2026-01-01T10:00:00.5+01:00', '2026-01-01T09:00:00.500000Z'],
    ['timestamptz', '2026-01-01 10:00:00+00', '2026-01-01T10:00:00.000000Z'],
    ['timestamptz', 'infinity', 'infinity'],
    ['timestamptz', '12026-01-01 10:00:00+00', '12026-01-01 10:00:00+00'],
    ['timestamp', '2026-01-01T10:00:00.000Z', '2026-01-01 10:00:00'],
    ['timestamp', '2026-01-01 10:00:00', '2026-01-01 10:00:00'],
    ['timestamp', '0044-03-15 10:00:00 BC', '0044-03-15 10:00:00 BC'],
    ['date', '2026-01-01', '2026-01-01'],
    ['date', '2026-01-01T00:00:00.000Z', '2026-01-01'],
    ['date', '0044-03-15 BC', '0044-03-15 BC'],
    ['time', '10:00', '10:00:00'],
    ['timetz', '10:00:00+05:45', '10:00:00+05:45'],
    ['interval', '1 day', '1 day'],
    ['numeric(6,2)', 12.5, '12.50'],
    ['numeric', 'NaN', 'NaN'],
    ['bigint', '9007199254740993', '9007199254740993'],
    ['real', 0.1, '0.1'],
    ['boolean', false, false],
    ['text[]', ['a', null], ['a', null]],
    [
      'integer[]',
      [
        [1, 2],
        [3, 4],
      ],
      [
        [1, 2],
        [3, 4],
      ],
    ],
    ['numeric[]', ['1.50'], '{1.50}'],
    ['numeric[]', '{1.50,NULL}', '{1.50,NULL}'],
    ['jsonb', null, null],
    ['jsonb', 'text', 'text'],
    ['jsonb', [1, 'a', null], [1, 'a', null]],
    ['bytea', '\\x00ff', '\\x00ff'],
    ['bit(3)', '101', '101'],
    ['char(4)', 'ab', 'ab'],
    ['int4range', '[1,4)', '[1,4)'],
    ['"char"', 'x', 'x'],
    ['inet', '10.0.0.1', '10.0.0.1'],
  ])('%s takes %j', async (type, value, shown) => {
    const { handlers } = await onTable(`${KEY}, v ${type}`);
    expect((await applied(handlers, change('CREATE', ID, { v: value })))[0]?.['v']).toEqual(shown);
    expect((await applied(handlers, change('UPDATE', ID, { v: value })))[0]?.['v']).toEqual(shown);
    expect((await loadOne(handlers, ID))?.row['v']).toEqual(shown);
  });

  test('a composite takes an object', async () => {
    await database.pool.query('CREATE TYPE place AS (street text, number integer)');
    const { table, handlers } = await onTable(`${KEY}, v place`);
    await applied(handlers, change('CREATE', ID, { v: { street: 'a', number: 1 } }));
    expect(await rowsOf(table)).toMatchObject([{ v: { street: 'a', number: 1 } }]);
    await applied(handlers, change('UPDATE', ID, { v: '(b,2)' }));
    expect(await rowsOf(table)).toMatchObject([{ v: { street: 'b', number: 2 } }]);
  });

  test('what the server alone writes is passed over in a new row', async () => {
    const { table, handlers } = await onTable(
      `${KEY}, a integer, twice integer GENERATED ALWAYS AS (a * 2) STORED, deleted_at timestamptz`,
    );
    await applied(handlers, change('CREATE', ID, { a: 2, twice: 9, deleted_at: '2026-01-01T00:00:00Z' }));
    expect(await rowsOf(table)).toMatchObject([{ a: 2, twice: 4, deleted_at: null }]);
  });
});

describe('rows that were there', () => {
  const SOFT = `${KEY}, notes text, kept text, status text DEFAULT 'NEW', updated_at timestamptz NOT NULL DEFAULT '2020-01-01Z', deleted_at timestamptz`;

  test('a new row over one that has come meanwhile is a unique violation, and found again', async () => {
    for (const owner of [ORGANIZATION, OTHER]) {
      const { table, handlers } = await onTable(SOFT);
      await database.pool.query(`INSERT INTO ${table} (id, organization_id) VALUES ($1, $2)`, [ID, owner]);
      await expect(applied(handlers, change('CREATE', ID, { notes: 'x' }))).rejects.toMatchObject({
        code: '23505',
      });
    }
  });

  test('a deleted row comes back as what is to stand, and as changed now', async () => {
    const insert = `INSERT INTO % (id, organization_id, notes, kept, status, deleted_at) VALUES ('${ID}', $ORG, 'old', 'k', 'OLD', now())`;
    const changed = await onTable(SOFT, [insert]);
    const [row] = await applied(
      changed.handlers,
      change(
        'CREATE',
        ID,
        { status: 'DONE' },
        { operation: 'PATCH', payload: { status: 'DONE', notes: null } },
      ),
    );
    // What the operation clears is cleared; of what it does not speak of, nothing is lost.
    expect(row).toMatchObject({ status: 'DONE', notes: null, kept: 'k', deleted_at: null });
    expect(String(row?.['updated_at'])).not.toMatch(/^2020/);
    const anew = await onTable(SOFT, [insert]);
    expect(await applied(anew.handlers, change('CREATE', ID, { notes: 'new' }))).toMatchObject([
      { notes: 'new', kept: null, status: 'NEW', deleted_at: null },
    ]);
    const foreign = await onTable(SOFT, [insert.replace('$ORG', `'${OTHER}'`)]);
    await expect(applied(foreign.handlers, change('CREATE', ID, { notes: 'new' }))).rejects.toMatchObject({
      code: '23505',
    });
  });

  test('deleted, new and deleted rows of one call', async () => {
    const { table, handlers } = await onTable(SOFT, [
      `INSERT INTO % (id, organization_id, notes, deleted_at) VALUES ('${ID}', $ORG, 'old', now())`,
    ]);
    const made = await applied(
      handlers,
      change('CREATE', ID, { notes: 'a' }),
      change('CREATE', ID_2, { notes: 'b' }),
    );
    expect(made.map((row) => row?.['notes'])).toEqual(['a', 'b']);
    expect(
      await applied(handlers, change('DELETE', ID, null), change('UPDATE', ID_2, { notes: 'c' })),
    ).toMatchObject([null, { notes: 'c' }]);
    expect((await rowsOf(table)).length).toBe(2);
  });
});

describe('triggers', () => {
  const trigger = (when: string, body: string): readonly string[] => [
    `CREATE FUNCTION f_%() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN ${body} END $f$`,
    `CREATE TRIGGER x ${when} ON % FOR EACH ROW EXECUTE FUNCTION f_%()`,
  ];

  test('one that swallows a row makes nothing applied', async () => {
    const { handlers } = await onTable(`${KEY}, notes text`, [
      `INSERT INTO % VALUES ('${ID}', $ORG)`,
      ...trigger('BEFORE INSERT OR UPDATE OR DELETE', 'RETURN NULL;'),
    ]);
    for (const one of [
      change('CREATE', ID_2, {}),
      change('UPDATE', ID, { notes: 'a' }),
      change('DELETE', ID, null),
    ])
      await expect(applied(handlers, one)).rejects.toMatchObject({ code: 'FORBIDDEN' });
  });

  test('what one changes afterwards is in the row that is given', async () => {
    const { handlers } = await onTable(
      `${KEY}, notes text, length integer`,
      trigger(
        'AFTER INSERT OR UPDATE OF notes',
        'UPDATE % SET length = length(notes) WHERE id = NEW.id; RETURN NULL;',
      ),
    );
    expect(await applied(handlers, change('CREATE', ID, { notes: 'abc' }))).toMatchObject([{ length: 3 }]);
    expect(await applied(handlers, change('UPDATE', ID, { notes: 'abcd' }))).toMatchObject([{ length: 4 }]);
    expect(await applied(handlers, change('DELETE', ID, null))).toEqual([null]);
  });

  test('one that deletes, or does not let delete, is believed', async () => {
    const soft = `${KEY}, notes text, deleted_at timestamptz`;
    const insert = `INSERT INTO % VALUES ('${ID}', $ORG)`;
    const deletes = await onTable(soft, [
      insert,
      ...trigger('BEFORE UPDATE', `IF NEW.notes = 'END' THEN NEW.deleted_at = now(); END IF; RETURN NEW;`),
    ]);
    expect(await applied(deletes.handlers, change('UPDATE', ID, { notes: 'END' }))).toEqual([null]);
    const keeps = await onTable(soft, [
      insert,
      ...trigger('BEFORE UPDATE', `NEW.deleted_at = NULL; RETURN NEW;`),
    ]);
    await expect(applied(keeps.handlers, change('DELETE', ID, null))).rejects.toMatchObject({
      code: 'FORBIDDEN',
    });
  });

  test('a row that one gives to somebody else is not written', async () => {
    const { table, handlers } = await onTable(`${KEY}, notes text`, [
      `INSERT INTO % VALUES ('${ID}', $ORG)`,
      ...trigger(
        'AFTER UPDATE',
        `UPDATE % SET organization_id = '${OTHER}' WHERE id = NEW.id AND organization_id <> '${OTHER}'; RETURN NULL;`,
      ),
    ]);
    await expect(applied(handlers, change('UPDATE', ID, { notes: 'a' }))).rejects.toMatchObject({
      code: 'FORBIDDEN',
    });
    expect(await rowsOf(table)).toMatchObject([{ organization_id: ORGANIZATION, notes: null }]);
  });
});

describe('a table that changes while the process runs', () => {
  test('a new column can be written, and statements are prepared anew', async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 1 });
    try {
      const { table, handlers } = await onTable(`${KEY}, notes text, old text`);
      const handler = handlers.handlerFor('THING');
      await applied(handlers, change('CREATE', ID, { notes: 'a' }));
      const load = () => within((context) => handler.load([ID], context, 'APPLY'), ACTOR, pool);
      await load();
      await database.pool.query(`ALTER TABLE ${table} ADD fresh text, DROP old`);
      await expect(load()).rejects.toMatchObject({ code: '42703' });
      expect((await load()).get(ID)?.row).toMatchObject({ notes: 'a', fresh: null });
      await database.pool.query(`ALTER TABLE ${table} ADD fresher text`);
      expect(await applied(handlers, change('UPDATE', ID, { fresher: 'x' }))).toMatchObject([
        { fresher: 'x' },
      ]);
      await expect(applied(handlers, change('UPDATE', ID, { never: 'x' }))).rejects.toMatchObject({
        code: 'VALIDATION_FAILED',
      });
    } finally {
      await pool.end();
    }
  });

  test('a number that grew beyond JavaScript’s is not read as another', async () => {
    const { table, handlers } = await onTable(`${KEY}, n integer`, [
      `INSERT INTO % VALUES ('${ID}', $ORG, 1)`,
    ]);
    expect((await loadOne(handlers, ID))?.row).toMatchObject({ n: 1 });
    await database.pool.query(`ALTER TABLE ${table} ALTER n TYPE bigint`);
    expect(await applied(handlers, change('UPDATE', ID, { n: 3_000_000_000 }))).toMatchObject([
      { n: 3_000_000_000 },
    ]);
    await database.pool.query(`UPDATE ${table} SET n = 9007199254740993`);
    await expect(loadOne(handlers, ID)).rejects.toMatchObject({ retryable: true });
    expect((await loadOne(handlers, ID))?.row).toMatchObject({ n: '9007199254740993' });
  });
});

test('functions and operators of others’ are not used, wherever the session looks for them', async () => {
  const { handlers } = await onTable(
    'id varchar(10) PRIMARY KEY, organization_id uuid NOT NULL, notes text',
    [
      `INSERT INTO % VALUES ('a', $ORG, 'mine'), ('b', '${OTHER}', 'theirs')`,
      'CREATE SCHEMA evil',
      `CREATE FUNCTION evil.eq(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
      `CREATE FUNCTION evil.eq(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
      'CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = varchar, RIGHTARG = varchar)',
      'CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = uuid, RIGHTARG = uuid)',
      `CREATE FUNCTION evil.json_build_object(text, varchar, text, text, text, text) RETURNS json LANGUAGE sql AS $$SELECT '{"notes": "evil"}'::json$$`,
      `CREATE FUNCTION evil.unnest(varchar[]) RETURNS SETOF varchar LANGUAGE sql AS $$SELECT 'b'::varchar$$`,
    ],
  );
  await within(async (context) => {
    await context.tx.query('SET LOCAL search_path = evil, pg_catalog');
    const seen = await handlers.handlerFor('THING').load(['a', 'b'], context, 'APPLY');
    expect([...seen].map(([id, { visible, row }]) => [id, visible, row['notes']])).toEqual([
      ['a', true, 'mine'],
      ['b', false, 'theirs'],
    ]);
    await handlers.handlerFor('THING').apply(change('UPDATE', 'a', { notes: 'new' }), context);
  });
  expect((await loadOne(handlers, 'b', { ...ACTOR, organizationId: ORGANIZATION }))?.row['notes']).toBe(
    'theirs',
  );
});
