import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BackupScope, CustomFilter } from '../../src/types/backup.ts';
import type { EntityInput } from '../../src/types/entity.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  codeOf,
  countOf,
  ORGANIZATION,
  OTHER_ORGANIZATION,
  requestOf,
  shared,
  sourceOf,
  take,
} from '../harness/source-extraction.ts';

const [NORTH, SOUTH, EAST] = [1, 2, 3].map((n) => `0b0d1e5a-0000-4000-8000-00000000010${n}`) as [
  string,
  string,
  string,
];

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  await database.pool.query(`
    CREATE SCHEMA care; CREATE SCHEMA kit; CREATE EXTENSION citext SCHEMA kit;
    CREATE TABLE codes (code text PRIMARY KEY, label text);
    INSERT INTO codes SELECT 'c' || i, 'Code ' || i FROM generate_series(1, 20) i;
    CREATE TABLE clients (id int PRIMARY KEY, organization_id uuid, branch_id uuid, deleted_at timestamptz, name kit.citext, score numeric, tags text[], data jsonb, kind text);
    INSERT INTO clients SELECT i,
        CASE i % 3 WHEN 0 THEN '${OTHER_ORGANIZATION}' ELSE '${ORGANIZATION}' END::uuid,
        CASE i % 4 WHEN 0 THEN '${NORTH}' WHEN 1 THEN '${SOUTH}' WHEN 2 THEN '${EAST}' END::uuid,
        CASE WHEN i % 10 = 0 THEN now() END, CASE WHEN i % 2 = 0 THEN 'Ann' ELSE 'ANN' END || (i % 5), i / 4.0, ARRAY['t' || i], '{}', E'it''s \\\\ ' || i
      FROM generate_series(1, 300) i;
    CREATE TABLE care.plans (region text, id int, client_id int, deleted_at timestamptz, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE care.plans_n PARTITION OF care.plans FOR VALUES IN ('n');
    CREATE TABLE care.plans_rest (deleted_at timestamptz, client_id int, id int NOT NULL, region text NOT NULL);
    ALTER TABLE care.plans ATTACH PARTITION care.plans_rest DEFAULT;
    INSERT INTO care.plans SELECT CASE i % 2 WHEN 0 THEN 'n' ELSE 's' END, i, i % 320, NULL FROM generate_series(1, 700) i;
    CREATE TABLE tasks (id int PRIMARY KEY, plan int, area text, due date, at timestamp, done timestamptz, caregiver_id text, clocked text);
    INSERT INTO tasks SELECT i, CASE WHEN i % 50 = 0 THEN NULL ELSE i % 710 END, CASE i % 2 WHEN 0 THEN 'n' ELSE 's' END,
        CASE WHEN i % 9 > 0 THEN date '2024-03-01' + i % 60 END, timestamp '2024-03-01' + i * interval '61 min', timestamptz '2024-03-01Z' + i * interval '59 min', 'g' || i % 7, '2024'
      FROM generate_series(1, 1500) i;
    CREATE TABLE nicks (id serial PRIMARY KEY, of_name kit.citext, organization_id uuid NOT NULL);
    CREATE TABLE named (name kit.citext PRIMARY KEY, organization_id uuid NOT NULL);
    INSERT INTO named VALUES ('Ann', '${ORGANIZATION}'), ('bob', '${ORGANIZATION}'), ('Eve', '${OTHER_ORGANIZATION}');
    CREATE TABLE notes_of (id serial PRIMARY KEY, name kit.citext REFERENCES named);
    INSERT INTO notes_of (name) SELECT (ARRAY['ANN', 'ann', 'BOB', 'eve', 'Ann'])[1 + i % 5] FROM generate_series(1, 100) i;
  `);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
});

const codes = shared('CODE', 'codes');
const client: EntityInput = { type: 'CLIENT', table: 'clients' };
const plan: EntityInput = {
  type: 'CARE_PLAN',
  table: 'plans',
  schema: 'care',
  organization: { through: 'client_id', entity: 'CLIENT' },
  branch: { through: 'client_id', entity: 'CLIENT' },
};
const task = (date?: string): EntityInput => ({
  type: 'TASK',
  table: 'tasks',
  organization: { through: ['plan', 'area'], entity: 'CARE_PLAN' },
  ...(date === undefined ? {} : { date }),
});

/** Written by hand, not by the planner: what the rows of a scope are. */
const ownClients = (more = '') => `t.organization_id = '${ORGANIZATION}' ${more}`;
const ownPlans = (more = '') =>
  `t.deleted_at IS NULL AND t.client_id IN (SELECT id FROM public.clients WHERE organization_id = '${ORGANIZATION}' ${more})`;
const ownTasks = (
  more = '',
) => `EXISTS (SELECT 1 FROM care.plans p JOIN public.clients c ON c.id = p.client_id
  WHERE p.id = t.plan AND p.region = t.area AND c.organization_id = '${ORGANIZATION}' ${more})`;

interface Case {
  readonly entities: readonly EntityInput[];
  readonly scope?: BackupScope;
  readonly branchIds?: readonly string[];
  readonly tables: Readonly<Record<string, string>>;
}
const taking = ({ entities, scope = {}, branchIds, tables }: Case) =>
  take({
    connection: { connectionString: database.url },
    superuser: database.url,
    entities,
    tables,
    request: { scope, branchIds: branchIds ?? null },
  });
const checking = (
  entities: readonly EntityInput[],
  scope: BackupScope,
  branchIds: readonly string[] | null = null,
) => {
  const source = sourceOf({ connection: { connectionString: database.url }, entities });
  return source.check(requestOf({ scope, branchIds })).then(
    () => ({ code: 'NONE', message: '' }),
    (error: { code?: string; message: string }) => ({
      code: error.code ?? 'untyped',
      message: error.message,
    }),
  );
};

describe('whose rows', () => {
  test('one organization’s, directly, through a partitioned owner, through two; shared ones besides', async () => {
    const { rows, contents } = await taking({
      entities: [codes, client, plan, task()],
      tables: {
        codes: '',
        clients: ownClients('AND t.deleted_at IS NULL'),
        'care.plans': ownPlans(),
        tasks: ownTasks(),
      },
    });
    expect([...rows].map(([name, lines]) => [name, lines.length > 15])).toEqual([
      ['public.codes', true],
      ['public.clients', true],
      ['care.plans_n', true],
      ['care.plans_rest', true],
      ['public.tasks', true],
    ]);
    expect(contents.entities.map(({ type, filtered }) => [type, filtered])).toEqual([
      ['CODE', false],
      ['CLIENT', true],
      ['CARE_PLAN', true],
      ['TASK', true],
    ]);
  });

  test('the organizations and what nobody owns make up the table', async () => {
    const entities = [client, plan, task()];
    const scope = { includeSoftDeleted: true };
    const counts = new Map<string, number>();
    let warned: string[] = [];
    for (const organizationId of [ORGANIZATION, OTHER_ORGANIZATION]) {
      const snapshot = await sourceOf({ connection: { connectionString: database.url }, entities }).open(
        requestOf({ organizationId, scope }),
      );
      const contents = await snapshot.extract(
        { acquire: async () => Buffer.alloc(65_536), release: () => undefined, add: () => undefined },
        () => undefined,
      );
      for (const { type, rows } of contents.entities) counts.set(type, (counts.get(type) ?? 0) + rows);
      warned = contents.warnings.map(({ code, message }) => `${code} ${message}`);
    }
    expect(counts.get('CLIENT')).toBe(300);
    // Plans of clients 301 to 319 and 0, tasks without a plan or with one of those: in no backup, and named.
    expect(counts.get('CARE_PLAN')).toBe(700 - 19 * 2 - 2);
    expect(counts.get('TASK')).toBeLessThan(1500);
    expect(warned).toEqual([
      expect.stringMatching(/^ROWS_WITHOUT_ORGANIZATION care\.plans_n .*client_id leads to no CLIENT/),
      expect.stringMatching(/^ROWS_WITHOUT_ORGANIZATION care\.plans_rest /),
      expect.stringMatching(/^ROWS_WITHOUT_ORGANIZATION public\.tasks .*plan, area leads to no CARE_PLAN/),
    ]);
  });

  test('rows whose organization is NULL are named, also where NOT NULL was never validated', async () => {
    await database.pool.query(`
      CREATE TABLE strays (id serial PRIMARY KEY, organization_id uuid);
      INSERT INTO strays (organization_id) VALUES (NULL), ('${ORGANIZATION}');
      CREATE TABLE strays_declared AS TABLE strays; ALTER TABLE strays_declared ADD PRIMARY KEY (id);
      ALTER TABLE strays_declared ADD CONSTRAINT later NOT NULL organization_id NOT VALID;
      CREATE TABLE tidy (id serial PRIMARY KEY, organization_id uuid NOT NULL)`);
    const { contents } = await taking({
      entities: ['strays', 'strays_declared', 'tidy'].map((table) => ({ type: table.toUpperCase(), table })),
      tables: { strays: ownClients(), strays_declared: ownClients(), tidy: ownClients() },
    });
    expect(contents.warnings.map(({ message }) => message.split(' ')[0])).toEqual([
      'public.strays',
      'public.strays_declared',
    ]);
  });

  test('an extension’s type is compared by its own operators: citext keys and filters match in any case', async () => {
    const { rows } = await taking({
      entities: [
        { type: 'NAMED', table: 'named' },
        { type: 'NOTE', table: 'notes_of', organization: { through: 'name', entity: 'NAMED' } },
      ],
      tables: { named: ownClients(), notes_of: "lower(t.name::text) IN ('ann', 'bob')" },
    });
    expect(rows.get('public.notes_of')).toHaveLength(80);
    for (const [operator, value, condition] of [
      ['=', 'ann1', "lower(t.name::text) = 'ann1'"],
      ['!=', 'ann1', "lower(t.name::text) <> 'ann1'"],
      ['>', 'ANN3', "lower(t.name::text) > 'ann3'"],
      ['IN', ['ann1', 'ANN2'], "lower(t.name::text) IN ('ann1', 'ann2')"],
      ['IN', ['aNn1'], "lower(t.name::text) = 'ann1'"],
    ] as const) {
      const { rows: found } = await taking({
        entities: [client],
        scope: {
          includeSoftDeleted: true,
          customFilters: [{ entityType: 'CLIENT', column: 'name', operator, value }],
        },
        tables: { clients: ownClients(`AND ${condition}`) },
      });
      expect(countOf(found)).toBeGreaterThan(20);
    }
  });

  test('owners outside the scope are read, and locked, all the same', async () => {
    const source = sourceOf({
      connection: { connectionString: database.url },
      entities: [client, plan, task()],
    });
    const snapshot = await source.open(requestOf({ scope: { includeEntities: ['TASK'] } }));
    try {
      expect(snapshot.entities.map(({ type }) => type)).toEqual(['TASK']);
      const { rows } = await database.pool.query(
        `SELECT DISTINCT l.relation::regclass::text AS name FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
          WHERE l.mode = 'AccessShareLock' AND c.relkind IN ('r', 'p') AND c.oid >= 16384
            AND l.pid = (SELECT pid FROM pg_stat_activity WHERE application_name = 'care-backup snapshot' AND datname = current_database()) ORDER BY 1`,
      );
      expect(rows.map(({ name }) => name)).toEqual([
        'care.plans',
        'care.plans_n',
        'care.plans_rest',
        'clients',
        'tasks',
      ]);
    } finally {
      await snapshot.close();
    }
  });
});

describe('branches, clients, caregivers, dates, soft-deleted rows', () => {
  test('soft-deleted rows only when asked for', async () => {
    const without = await taking({
      entities: [client],
      tables: { clients: ownClients('AND t.deleted_at IS NULL') },
    });
    const all = await taking({
      entities: [client],
      scope: { includeSoftDeleted: true },
      tables: { clients: ownClients() },
    });
    expect([countOf(without.rows), countOf(all.rows)]).toEqual([180, 200]);
  });

  test('branches of the configuration and of the scope intersect; through owners too; SHARED stays', async () => {
    const both = { scope: { branchIds: [NORTH, SOUTH] }, branchIds: [SOUTH, EAST] };
    await taking({
      ...both,
      entities: [codes, client, plan],
      tables: {
        codes: '',
        clients: ownClients(`AND t.branch_id = '${SOUTH}' AND t.deleted_at IS NULL`),
        'care.plans': ownPlans(`AND branch_id = '${SOUTH}'`),
      },
    });
    expect((await checking([client], { branchIds: [NORTH] }, [SOUTH])).code).toBe('ENTITY_SCOPE_UNSUPPORTED');
    expect((await checking([client], {}, [])).code).toBe('ENTITY_SCOPE_UNSUPPORTED');
  });

  test('the branch of an entity that names none comes from its owner', async () => {
    await taking({
      branchIds: [NORTH],
      entities: [client, plan, task()],
      scope: { includeEntities: ['TASK'] },
      tables: { tasks: ownTasks(`AND c.branch_id = '${NORTH}'`) },
    });
  });

  test('clients and caregivers', async () => {
    await taking({
      entities: [client, plan],
      scope: { clientIds: ['4', '5', '7', '9999'] },
      tables: {
        clients: ownClients('AND t.id IN (4, 5, 7) AND t.deleted_at IS NULL'),
        'care.plans': `${ownPlans()} AND t.client_id IN (4, 5, 7)`,
      },
    });
    await taking({
      entities: [client, plan, task()],
      scope: { includeEntities: ['TASK'], caregiverIds: ['g1'] },
      tables: { tasks: `${ownTasks()} AND t.caregiver_id = 'g1'` },
    });
  });

  test.each([
    [
      'due',
      "t.due IS NULL OR (t.due::timestamp >= '2024-03-05 12:00' AND t.due::timestamp < '2024-03-20 12:00')",
    ],
    ['at', "t.at >= '2024-03-05 12:00' AND t.at < '2024-03-20 12:00'"],
    ['done', "t.done >= '2024-03-05 12:00Z' AND t.done < '2024-03-20 12:00Z'"],
  ])('dates in [start, end) by %s, rows without a date besides', async (date, condition) => {
    const { rows } = await taking({
      entities: [client, plan, task(date)],
      scope: {
        includeEntities: ['TASK'],
        dateRangeStart: '2024-03-05T12:00:00.000Z',
        dateRangeEnd: '2024-03-20T14:00:00.000+02:00',
      },
      tables: { tasks: `${ownTasks()} AND (${condition})` },
    });
    expect(countOf(rows)).toBeGreaterThan(50);
  });

  test('a filter that an entity cannot give is an error that names the entity', async () => {
    const bare = shared('BARE', 'codes');
    const lone: EntityInput = { type: 'LONE', table: 'nicks' };
    for (const [entities, scope, branchIds, named] of [
      [[lone], {}, [NORTH], 'branches'],
      [[lone, client], { branchIds: [NORTH] }, null, 'LONE'],
      [[bare], { clientIds: ['1'] }, null, 'clients'],
      [[bare], { caregiverIds: ['1'] }, null, 'caregivers'],
      [[bare], { dateRangeStart: '2024-01-01T00:00:00.000Z' }, null, 'dates'],
      [
        [client, plan, task('clocked')],
        { includeEntities: ['TASK'], dateRangeEnd: '2024-01-01T00:00:00.000Z' },
        null,
        'clocked',
      ],
    ] as const) {
      const { code, message } = await checking(entities, scope, branchIds);
      expect([code, message]).toEqual(['ENTITY_SCOPE_UNSUPPORTED', expect.stringContaining(named)]);
    }
  });
});

describe('which entities', () => {
  const kinds: EntityInput[] = [
    { ...client, classification: { columns: { name: { phi: true } } } },
    shared('MONEY', 'nicks', { classification: { financial: true } }),
    shared('LOG', 'named', { auditLog: true }),
    codes,
  ];
  const typesOf = async (scope: BackupScope): Promise<string[]> => {
    const source = sourceOf({ connection: { connectionString: database.url }, entities: kinds });
    return (await source.check(requestOf({ scope }))).map(({ type }) => type);
  };

  test('all, some, all but some, and by kind of data', async () => {
    expect(await typesOf({})).toEqual(['CLIENT', 'MONEY', 'LOG', 'CODE']);
    expect(await typesOf({ includeEntities: ['ALL'] })).toEqual(['CLIENT', 'MONEY', 'LOG', 'CODE']);
    expect(await typesOf({ includeEntities: ['CODE', 'LOG'] })).toEqual(['LOG', 'CODE']);
    expect(await typesOf({ excludeEntities: ['CODE'] })).toEqual(['CLIENT', 'MONEY', 'LOG']);
    expect(await typesOf({ includePHI: false })).toEqual(['MONEY', 'LOG', 'CODE']);
    expect(await typesOf({ includeFinancialData: false })).toEqual(['CLIENT', 'LOG', 'CODE']);
    expect(await typesOf({ includeAuditLogs: false })).toEqual(['CLIENT', 'MONEY', 'CODE']);
  });

  test.each<[BackupScope, string]>([
    [{ includeEntities: ['NOPE'] }, 'ENTITY_UNKNOWN'],
    [{ excludeEntities: ['NOPE'] }, 'ENTITY_UNKNOWN'],
    [{ includeEntities: ['CLIENT', 'CODE'], includePHI: false }, 'ENTITY_SCOPE_UNSUPPORTED'],
    [{ includeEntities: ['MONEY'], includeFinancialData: false }, 'ENTITY_SCOPE_UNSUPPORTED'],
    [{ includeEntities: ['CODE', 'CLIENT'], excludeEntities: ['CODE'] }, 'ENTITY_SCOPE_UNSUPPORTED'],
    [{ excludeEntities: ['CLIENT', 'MONEY', 'LOG', 'CODE'] }, 'ENTITY_SCOPE_UNSUPPORTED'],
    [{ excludeEntities: ['ALL'] }, 'ENTITY_SCOPE_UNSUPPORTED'],
  ])('%j is %s', async (scope, code) => {
    expect(await codeOf(typesOf(scope))).toBe(code);
  });
});

describe('custom filters', () => {
  const filtered = (filter: Omit<CustomFilter, 'entityType'>): BackupScope => ({
    includeSoftDeleted: true,
    customFilters: [{ entityType: 'CLIENT', ...filter }],
  });

  test.each<[Omit<CustomFilter, 'entityType'>, string]>([
    [{ column: 'id', operator: '=', value: 7 }, 't.id = 7'],
    [{ column: 'id', operator: '!=', value: '7' }, 't.id <> 7'],
    [{ column: 'score', operator: '>=', value: 12.25 }, 't.score >= 12.25'],
    [{ column: 'score', operator: '<', value: 1e21 }, 't.score < 1e21'],
    [{ column: 'id', operator: 'IN', value: [1, 2, '4'] }, 't.id IN (1, 2, 4)'],
    [{ column: 'deleted_at', operator: 'IS_NULL' }, 't.deleted_at IS NULL'],
    [{ column: 'deleted_at', operator: 'IS_NOT_NULL' }, 't.deleted_at IS NOT NULL'],
    [{ column: 'kind', operator: '=', value: "it's \\ 5" }, "t.kind = E'it''s \\\\ 5'"],
    [{ column: 'kind', operator: '=', value: "'; DROP TABLE clients; --" }, 'false'],
    [{ column: 'kind', operator: '=', value: "\\'; DROP TABLE clients; --" }, 'false'],
    [{ column: 'kind', operator: 'IN', value: ["x') OR true OR t.kind IN ('", '$1', '\\'] }, 'false'],
    [{ column: 'tags', operator: '=', value: '{t8}' }, "t.tags = ARRAY['t8']"],
    [{ column: 'data', operator: '=', value: '{}' }, 'true'],
    [{ column: 'branch_id', operator: '=', value: NORTH.toUpperCase() }, `t.branch_id = '${NORTH}'`],
  ])('%j', async (filter, condition) => {
    await taking({
      entities: [client],
      scope: filtered(filter),
      tables: { clients: ownClients(`AND (${condition})`) },
    });
    expect((await database.pool.query('SELECT count(*)::int AS n FROM clients')).rows[0]?.n).toBe(300);
  });

  test.each<[Omit<CustomFilter, 'entityType'>]>([
    [{ column: 'id', operator: '=', value: 'seven' }],
    [{ column: 'id', operator: '=', value: '99999999999999999999' }],
    [{ column: 'id', operator: '=', value: '1; DROP TABLE clients' }],
    [{ column: 'branch_id', operator: '=', value: 'x' }],
    [{ column: 'deleted_at', operator: '>', value: '2024-13-01' }],
    [{ column: 'data', operator: '=', value: '{' }],
    [{ column: 'tags', operator: '=', value: 'x' }],
    [{ column: 'nowhere', operator: '=', value: 'x' }],
    [{ column: 'id" = 1 OR "id', operator: '=', value: '1' }],
    [{ column: 'id', operator: '=', value: [1, 2] }],
    [{ column: 'id', operator: 'IN', value: 1 }],
    [{ column: 'id', operator: '<' }],
  ])('%j does not fit', async (filter) => {
    const source = sourceOf({ connection: { connectionString: database.url }, entities: [client] });
    expect(await codeOf(source.check(requestOf({ scope: filtered(filter) })))).toBe(
      'ENTITY_SCOPE_UNSUPPORTED',
    );
    expect(await codeOf(source.open(requestOf({ scope: filtered(filter) })))).toBe(
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  });

  test('on an entity outside the scope is refused', async () => {
    const customFilters = [{ entityType: 'CLIENT', column: 'id', operator: '=', value: 1 }] as const;
    expect((await checking([client, codes], { excludeEntities: ['CLIENT'], customFilters })).code).toBe(
      'ENTITY_SCOPE_UNSUPPORTED',
    );
  });
});
