import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestDatabase } from '../harness/postgres.ts';
import { codeOf, expectNoSessions, requestOf, take } from '../harness/source-extraction.ts';
import {
  type BackupRole,
  createBackupRole,
  createDatabases,
  Disturbance,
  disown,
  setStage,
  stageEntities,
} from '../harness/source-stage.ts';

/** Before the locks, between locks and snapshot, behind the snapshot, when it is open, in mid-read, behind the reading. */
const STEPS = ['LISTED', 'LOCKED', 'EXPORTED', 'OPEN', 'MIDWAY', 'READ'] as const;
type Step = (typeof STEPS)[number];
const ROUNDS = process.env.CARE_SOAK === '1' ? 25 : 1;

let databases: TestDatabase[];
let roles: BackupRole[];
beforeAll(async () => {
  databases = await createDatabases(STEPS.length);
  roles = [];
  for (const database of databases) roles.push(await createBackupRole(database));
});
afterAll(async () => {
  for (const [i, database] of databases.entries()) {
    await expectNoSessions(database.pool);
    const role = roles[i];
    if (role === undefined) continue;
    await disown(database, role);
    await database[Symbol.asyncDispose]();
  }
  const admin = (await createDatabases(1))[0];
  if (admin === undefined) return;
  for (const role of roles) await admin.pool.query(`DROP ROLE ${role.name}`);
  await admin[Symbol.asyncDispose]();
});

interface Change {
  readonly sql: string | readonly string[];
  /** Errors that may say why there is no snapshot; without: there must be one. */
  readonly may?: readonly string[];
  /** Where a snapshot would be wrong, so that there must be an error. */
  readonly must?: { readonly [step in Step]?: string };
  /** Where the change has to wait until the backup is over. */
  readonly waits?: readonly Step[];
}

const LOCKED: readonly Step[] = ['LOCKED', 'EXPORTED', 'OPEN', 'MIDWAY', 'READ'];
const UNLOCKED_CHANGE = {
  may: ['SOURCE_CHANGED'],
  must: {
    EXPORTED: 'SOURCE_CHANGED',
    OPEN: 'SOURCE_CHANGED',
    MIDWAY: 'SOURCE_CHANGED',
    READ: 'SOURCE_CHANGED',
  },
} as const;

const CHANGES: Readonly<Record<string, Change>> = {
  insert: {
    sql: 'INSERT INTO stage.plain SELECT id + 10000, amount, state, place, score, body FROM stage.plain',
  },
  update: { sql: "UPDATE stage.plain SET amount = -amount, body = repeat('u', 300)" },
  delete: { sql: ['DELETE FROM stage.plain', 'DELETE FROM stage.visits'] },
  'delete and vacuum': { sql: ['DELETE FROM stage.plain', 'VACUUM stage.plain'] },
  truncate: { sql: 'TRUNCATE stage.plain', waits: LOCKED },
  'truncate a partition': { sql: 'TRUNCATE stage.visits_24', waits: LOCKED },
  'add column': { sql: 'ALTER TABLE stage.plain ADD COLUMN extra int DEFAULT 5', waits: LOCKED },
  'alter type of column': {
    sql: 'ALTER TABLE stage.plain ALTER amount TYPE text USING (amount + 1)::text',
    waits: LOCKED,
  },
  'drop column': { sql: 'ALTER TABLE stage.plain DROP COLUMN body', waits: LOCKED },
  'vacuum full': { sql: 'VACUUM FULL stage.plain', waits: LOCKED },
  cluster: { sql: 'CLUSTER stage.plain USING plain_amount', waits: LOCKED },
  'drop table': {
    sql: 'DROP TABLE stage.plain',
    may: ['ENTITY_INVALID'],
    must: { LISTED: 'ENTITY_INVALID' },
    waits: LOCKED,
  },
  'swap tables': {
    sql: 'BEGIN; ALTER TABLE stage.plain RENAME TO old; ALTER TABLE spare.plain SET SCHEMA stage; COMMIT',
    waits: LOCKED,
  },
  'drop and recreate': {
    sql: 'BEGIN; DROP TABLE stage.secured; CREATE TABLE stage.secured (id int PRIMARY KEY); INSERT INTO stage.secured VALUES (1); GRANT SELECT ON stage.secured TO PUBLIC; COMMIT',
    waits: LOCKED,
  },
  attach: {
    sql: "ALTER TABLE stage.visits ATTACH PARTITION stage.visits_25 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
  },
  'create partition': {
    sql: "BEGIN; CREATE TABLE stage.visits_26 PARTITION OF stage.visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); INSERT INTO stage.visits VALUES (1, '2026-05-05', NULL); GRANT SELECT ON stage.visits_26 TO PUBLIC; COMMIT",
    waits: LOCKED,
  },
  'inherit from a plain table': {
    sql: 'CREATE TABLE stage.heir () INHERITS (stage.plain)',
    may: ['ENTITY_INVALID'],
    must: { LISTED: 'ENTITY_INVALID', LOCKED: 'ENTITY_INVALID' },
  },
  detach: { sql: 'ALTER TABLE stage.visits DETACH PARTITION stage.visits_23', waits: LOCKED },
  'detach concurrently': {
    sql: 'ALTER TABLE stage.visits DETACH PARTITION stage.visits_23 CONCURRENTLY',
    may: ['SOURCE_CHANGED'],
  },
  'rename value': { sql: "ALTER TYPE stage.state RENAME VALUE 'open' TO 'ajar'", ...UNLOCKED_CHANGE },
  'rename value and back': {
    sql: [
      "ALTER TYPE stage.state RENAME VALUE 'open' TO 'ajar'",
      'SELECT pg_sleep(0.03)',
      "ALTER TYPE stage.state RENAME VALUE 'ajar' TO 'open'",
    ],
    ...UNLOCKED_CHANGE,
  },
  'rename value inside a row type': {
    sql: "ALTER TYPE stage.mood RENAME VALUE 'well' TO 'fine'",
    ...UNLOCKED_CHANGE,
  },
  'add value': { sql: "ALTER TYPE stage.state ADD VALUE 'gone' BEFORE 'new'", ...UNLOCKED_CHANGE },
  'alter domain': {
    sql: 'ALTER DOMAIN stage.score ADD CONSTRAINT small CHECK (VALUE < 1000000)',
    ...UNLOCKED_CHANGE,
  },
  'add attribute': { sql: 'ALTER TYPE stage.place ADD ATTRIBUTE town text', ...UNLOCKED_CHANGE },
  'add column to a row type': { sql: 'ALTER TABLE stage.inner_row ADD COLUMN more text', ...UNLOCKED_CHANGE },
  'swap schemas': {
    sql: 'BEGIN; ALTER SCHEMA stage RENAME TO kept; ALTER SCHEMA spare RENAME TO stage; COMMIT',
    may: ['ENTITY_INVALID'],
    must: {
      LISTED: 'ENTITY_INVALID',
      LOCKED: 'ENTITY_INVALID',
      EXPORTED: 'ENTITY_INVALID',
      OPEN: 'SOURCE_CHANGED',
      MIDWAY: 'SOURCE_CHANGED',
      READ: 'SOURCE_CHANGED',
    },
  },
  'swap schemas and back': {
    sql: [
      'BEGIN; ALTER SCHEMA stage RENAME TO kept; ALTER SCHEMA spare RENAME TO stage; COMMIT',
      'SELECT pg_sleep(0.03)',
      'BEGIN; ALTER SCHEMA stage RENAME TO spare; ALTER SCHEMA kept RENAME TO stage; COMMIT',
    ],
    may: ['SOURCE_CHANGED', 'ENTITY_INVALID'],
    must: {
      EXPORTED: 'SOURCE_CHANGED',
      OPEN: 'SOURCE_CHANGED',
      MIDWAY: 'SOURCE_CHANGED',
      READ: 'SOURCE_CHANGED',
    },
  },
  'create index concurrently': { sql: 'CREATE INDEX CONCURRENTLY fresh ON stage.plain (score)' },
  'drop index concurrently': { sql: 'DROP INDEX CONCURRENTLY stage.plain_amount' },
  'reindex concurrently': { sql: 'REINDEX TABLE CONCURRENTLY stage.plain' },
  'enable row security': {
    sql: 'ALTER TABLE stage.plain ENABLE ROW LEVEL SECURITY; ALTER ROLE $role NOBYPASSRLS',
    may: ['SOURCE_FILTERED'],
    must: { LISTED: 'SOURCE_FILTERED' },
    waits: LOCKED,
  },
  'take BYPASSRLS away': {
    sql: 'ALTER ROLE $role NOBYPASSRLS',
    may: ['SOURCE_FILTERED'],
    must: {
      LISTED: 'SOURCE_FILTERED',
      LOCKED: 'SOURCE_FILTERED',
      EXPORTED: 'SOURCE_FILTERED',
      OPEN: 'SOURCE_FILTERED',
    },
  },
  revoke: {
    sql: 'REVOKE SELECT ON stage.plain FROM $role',
    may: ['SOURCE_PRIVILEGE_MISSING'],
    must: {
      LISTED: 'SOURCE_PRIVILEGE_MISSING',
      LOCKED: 'SOURCE_PRIVILEGE_MISSING',
      EXPORTED: 'SOURCE_PRIVILEGE_MISSING',
      OPEN: 'SOURCE_PRIVILEGE_MISSING',
    },
  },
  'drop sequence rights': {
    sql: 'REVOKE SELECT ON stage.outer_row_id_seq FROM $role',
    may: ['SOURCE_PRIVILEGE_MISSING'],
    must: { OPEN: 'SOURCE_PRIVILEGE_MISSING', READ: 'SOURCE_PRIVILEGE_MISSING' },
  },
};

async function disturb(change: Change, step: Step): Promise<{ code: string; waited: boolean }> {
  const index = STEPS.indexOf(step);
  const database = databases[index];
  const role = roles[index];
  if (database === undefined || role === undefined) throw new Error('no stage');
  await setStage(database, role.name);
  const disturbance = new Disturbance(database);
  let ran = false;
  let waited = false;
  const statements = [change.sql].flat().map((sql) => sql.replaceAll('$role', role.name));
  const when = async (at: Step): Promise<void> => {
    if (at !== step || ran) return;
    ran = true;
    waited = await disturbance.run(statements, database);
  };
  const taken = take({
    connection: role.on(database),
    superuser: database.pool,
    entities: stageEntities,
    bufferSize: 2048,
    gate: (given) => (given === 9 ? when('MIDWAY') : undefined),
    onStep: async (at) => {
      if (at !== 'DESCRIBED') await when(at);
    },
    beforeExtract: () => when('OPEN'),
  });
  const code = await codeOf(taken);
  await disturbance.end();
  if (code.startsWith('untyped')) await taken;
  expect(ran, 'the change was tried').toBe(true);
  expect(disturbance.error).toBeUndefined();
  await expectNoSessions(database.pool);
  return { code, waited };
}

describe('a change at any step: the snapshot’s state to the row, or an error that says why', () => {
  const numbered = Object.entries(CHANGES).map(([name, change], i) => [name, change, i] as const);

  // Without CARE_SOAK every other step, in turn, so that each kind of change meets each step in some form.
  test.each(numbered)('%s', { timeout: 30_000 * ROUNDS }, async (_, change, nth) => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const steps = STEPS.filter((_, i) => ROUNDS > 1 || i % 2 === nth % 2);
      const outcomes = await Promise.all(
        steps.map(async (step) => [step, await disturb(change, step)] as const),
      );
      for (const [step, { code, waited }] of outcomes) {
        const must = change.must?.[step];
        if (must !== undefined) expect(code, `at ${step}`).toBe(must);
        else expect(['NONE', ...(change.may ?? [])], `at ${step}`).toContain(code);
        if (change.waits?.includes(step)) expect(waited, `at ${step} it waits for the backup`).toBe(true);
      }
    }
  });
});

describe('partitions that come and go between locks and snapshot', () => {
  const stage = async () => {
    const [database] = databases;
    const [role] = roles;
    if (database === undefined || role === undefined) throw new Error('no stage');
    await setStage(database, role.name);
    const attach =
      "ALTER TABLE stage.visits ATTACH PARTITION stage.visits_25 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')";
    return { database, role, attach };
  };

  test('once: the tables are locked anew', async () => {
    const { database, role, attach } = await stage();
    const steps: string[] = [];
    const { rows } = await take({
      connection: role.on(database),
      superuser: database.pool,
      entities: stageEntities,
      onStep: async (step) => {
        if (step === 'LOCKED' && !steps.includes('LOCKED')) await database.pool.query(attach);
        steps.push(step);
      },
    });
    expect(steps.join(' ')).toBe('LISTED LOCKED EXPORTED LISTED LOCKED EXPORTED DESCRIBED READ');
    expect(rows.get('stage.visits_25')).toHaveLength(50);
  });

  test('again and again: SOURCE_CHANGED', async () => {
    const { database, role } = await stage();
    let n = 0;
    const taken = take({
      connection: role.on(database),
      superuser: database.pool,
      entities: stageEntities,
      onStep: async (step) => {
        if (step !== 'LOCKED') return;
        n += 1;
        await database.pool.query(
          `CREATE TABLE stage.more_${n} (LIKE stage.visits); GRANT SELECT ON stage.more_${n} TO ${role.name};
           ALTER TABLE stage.visits ATTACH PARTITION stage.more_${n} FOR VALUES FROM ('${2050 + n}-01-01') TO ('${2051 + n}-01-01')`,
        );
      },
    });
    expect(await codeOf(taken)).toBe('SOURCE_CHANGED');
    expect(n).toBeGreaterThan(2);
  });
});

describe('writers that never stop', () => {
  test('each of many snapshots holds one state of all tables', { timeout: 60_000 * ROUNDS }, async () => {
    const [database] = databases;
    const [role] = roles;
    if (database === undefined || role === undefined) throw new Error('no stage');
    await setStage(database, role.name);
    let stopped = false;
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      const client = await database.pool.connect();
      try {
        for (let n = 0; !stopped; n += 1) {
          const id = 1000 + writer * 100_000 + n;
          // What belongs together is written together: a row in each table, a partition row that moves.
          await client.query('BEGIN');
          await client.query("INSERT INTO stage.plain VALUES ($1, 0, 'new', NULL, 0, repeat('w', 500))", [
            id,
          ]);
          await client.query("INSERT INTO stage.visits VALUES ($1, '2023-05-05', NULL)", [id]);
          await client.query('INSERT INTO stage.secured VALUES ($1, NULL)', [id]);
          if (n % 3 === 0)
            await client.query('SAVEPOINT s; DELETE FROM stage.plain WHERE id % 7 = 3; ROLLBACK TO s');
          await client.query(n % 5 === 0 ? 'ROLLBACK' : 'COMMIT');
          if (n % 2 === 0)
            await client.query("UPDATE stage.visits SET day = '2024-06-06' WHERE id = $1", [id]);
          if (n % 4 === 0) await client.query('DELETE FROM stage.plain WHERE id = $1', [id - 8]);
        }
      } finally {
        client.release();
      }
    });
    try {
      let before = 0;
      for (let round = 0; round < 6 * ROUNDS; round += 1) {
        const { rows } = await take({
          connection: role.on(database),
          superuser: database.pool,
          entities: stageEntities,
          bufferSize: 1024,
          gate: (given) => (given % 40 === 0 ? sleep(5) : undefined),
          request: requestOf({ maxConcurrency: 3 }),
        });
        const visits =
          (rows.get('stage.visits_23')?.length ?? 0) + (rows.get('stage.visits_24')?.length ?? 0);
        expect(visits - 300, 'rows that were written together').toBe(
          (rows.get('stage.secured')?.length ?? 0) - 100,
        );
        expect(visits).toBeGreaterThan(before);
        before = visits;
      }
    } finally {
      stopped = true;
      await Promise.all(writers);
    }
  });

  test('two snapshots at once, one older than the other', async () => {
    const [database] = databases;
    const [role] = roles;
    if (database === undefined || role === undefined) throw new Error('no stage');
    await setStage(database, role.name);
    const options = {
      connection: role.on(database),
      superuser: database.pool,
      entities: stageEntities,
      bufferSize: 512,
    };
    const first = Promise.withResolvers<void>();
    const older = take({
      ...options,
      beforeExtract: async () => {
        await database.pool.query('DELETE FROM stage.plain WHERE id > 100');
        const newer = await take(options);
        expect(newer.rows.get('stage.plain')).toHaveLength(100);
        first.resolve();
      },
    });
    await first.promise;
    expect((await older).rows.get('stage.plain')).toHaveLength(400);
  });
});
