import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createAuditLog, type NewAuditEntry } from '../../src/repository/audit-log.ts';
import type { Database } from '../../src/repository/database.ts';
import type { UUID } from '../../src/types/ids.ts';
import { endPool } from '../harness/end-pool.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import { aConfiguration, aDatabase, ofOrganization, START } from './repository-fixtures.ts';

const audit = createAuditLog();
let database: TestDatabase;
let db: Database;
let organizationId: UUID;
beforeAll(async () => {
  database = await createTestDatabase();
  db = aDatabase(database.pool);
});
afterAll(() => database[Symbol.asyncDispose]());
beforeEach(() => {
  organizationId = randomUUID();
});

function anEntry(details: NewAuditEntry['details'] = {}, organization: UUID = organizationId): NewAuditEntry {
  return {
    organizationId: organization,
    action: 'backup:create',
    userId: randomUUID(),
    resourceType: 'BACKUP_CONFIGURATION',
    resourceId: randomUUID(),
    details,
  };
}

const enter = (entry: NewAuditEntry) => db.withTransaction((tx) => audit.append(tx, entry));
const verdict = () => audit.verifyChain(db, organizationId);

/** What somebody with the database's highest rights can do. */
async function tamper(statement: string): Promise<void> {
  await database.pool.query(`
    ALTER TABLE care_backup.audit_log DISABLE TRIGGER USER;
    ${statement.replaceAll(':org', `'${organizationId}'`)};
    ALTER TABLE care_backup.audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;
    ALTER TABLE care_backup.audit_log ENABLE ALWAYS TRIGGER audit_log_pruned_only;`);
}

describe('the audit log', () => {
  test('links each entry to the one before', async () => {
    const given = anEntry({ name: 'x' });
    const first = await enter(given);
    const second = await enter(anEntry());
    expect(first).toMatchObject({ ...given, sequence: 1, timestamp: START, prevHash: '0'.repeat(64) });
    expect(second).toMatchObject({ sequence: 2, prevHash: first.hash });
    expect(await verdict()).toEqual({ valid: true, entries: 2, head: second.hash });
  });

  test('of nobody is valid and empty', async () => {
    expect(await verdict()).toEqual({ valid: true, entries: 0, head: '0'.repeat(64) });
  });

  test('verifies whatever the details hold', async () => {
    const details: NewAuditEntry['details'][] = [
      { zebra: 1, apple: { b: [1, 2.5, -0, 1e21, 1e-7, 0.1, 123456789012345], a: null } },
      {
        text: 'äöü "quotes" \\ 💾 \u2028',
        '': 'empty name',
        é: 1,
        z: true,
        Z: false,
        '10': 'ten',
        '9': 'nine',
      },
      { nul: 'a\0b', half: '\uD800', literal: '\\u0000', key: { 'bad\0key': 1 } },
      {},
    ];
    for (const one of details) await enter(anEntry(one));
    expect(await verdict()).toMatchObject({ valid: true, entries: 4 });
  });

  test('takes an action and its entry together or not at all', async () => {
    const run = db.withTransaction(async (tx) => {
      await ofOrganization(tx, organizationId).insertConfig(aConfiguration());
      await audit.append(tx, anEntry());
      throw new Error('too late');
    });
    await expect(run).rejects.toThrow('too late');
    expect(await verdict()).toMatchObject({ entries: 0 });
    expect((await ofOrganization(db, organizationId).listConfigs()).items).toEqual([]);
    await enter(anEntry());
    expect(await verdict()).toMatchObject({ valid: true, entries: 1 });
  });

  test('verifies after 100 entries at the same time in two organizations, some of them rolled back', async () => {
    const other = randomUUID();
    await Promise.all(
      Array.from({ length: 100 }, async (_, index) => {
        const run = db.withTransaction(async (tx) => {
          await audit.append(tx, anEntry({ index }, index % 2 === 0 ? organizationId : other));
          if (index % 10 === 0) throw new Error('rolled back');
        });
        await run.catch(() => {});
      }),
    );
    expect(await verdict()).toMatchObject({ valid: true, entries: 40 });
    expect(await audit.verifyChain(db, other)).toMatchObject({ valid: true, entries: 50 });
  });

  test('verifies while it grows', async () => {
    for (let count = 0; count < 5; count += 1) await enter(anEntry());
    const growing = Promise.all(Array.from({ length: 30 }, () => enter(anEntry())));
    for (let count = 0; count < 5; count += 1) expect(await verdict()).toMatchObject({ valid: true });
    await growing;
    expect(await verdict()).toMatchObject({ valid: true, entries: 35 });
  });

  test('verifies beyond one page', async () => {
    await db.withTransaction(async (tx) => {
      for (let count = 0; count < 1001; count += 1) await audit.append(tx, anEntry());
    });
    expect(await verdict()).toMatchObject({ valid: true, entries: 1001 });
  });
});

describe('what was entered', () => {
  test.each([
    'UPDATE care_backup.audit_log SET action = $$x$$',
    'DELETE FROM care_backup.audit_log',
    'DELETE FROM care_backup.audit_log WHERE sequence = 1',
    'TRUNCATE care_backup.audit_log',
    'TRUNCATE care_backup.audit_heads CASCADE',
  ])('is not changed by %s', async (statement) => {
    await enter(anEntry());
    await expect(database.pool.query(statement)).rejects.toMatchObject({ code: '23001' });
    const client = await database.pool.connect();
    await client.query('BEGIN; SET LOCAL session_replication_role = replica');
    await expect(client.query(statement)).rejects.toMatchObject({ code: '23001' });
    await client.query('ROLLBACK');
    client.release();
    expect(await verdict()).toMatchObject({ valid: true, entries: 1 });
  });

  const at2 = 'WHERE organization_id = :org AND sequence = 2';
  test.each([
    [
      'an altered action',
      `UPDATE care_backup.audit_log SET action = 'x' ${at2}`,
      { sequence: 2, reason: 'ALTERED' },
    ],
    [
      'an altered detail',
      `UPDATE care_backup.audit_log SET details = '{"a":1}' ${at2}`,
      { sequence: 2, reason: 'ALTERED' },
    ],
    [
      'an altered time',
      `UPDATE care_backup.audit_log SET "timestamp" = now() ${at2}`,
      { sequence: 2, reason: 'ALTERED' },
    ],
    [
      'a time that is none',
      `UPDATE care_backup.audit_log SET "timestamp" = 'infinity' ${at2}`,
      { sequence: 2, reason: 'ALTERED' },
    ],
    [
      'another link',
      `UPDATE care_backup.audit_log SET prev_hash = repeat('a', 64) ${at2}`,
      { sequence: 2, reason: 'ALTERED' },
    ],
    ['a removed entry', `DELETE FROM care_backup.audit_log ${at2}`, { sequence: 2, reason: 'MISSING' }],
    [
      'a removed beginning',
      'DELETE FROM care_backup.audit_log WHERE organization_id = :org AND sequence = 1',
      { sequence: 1, reason: 'MISSING' },
    ],
    [
      'a removed end',
      'DELETE FROM care_backup.audit_log WHERE organization_id = :org AND sequence = 3',
      { sequence: 3, reason: 'MISSING' },
    ],
    [
      'a removed end with the head set back to a wrong hash',
      `DELETE FROM care_backup.audit_log WHERE organization_id = :org AND sequence = 3;
       UPDATE care_backup.audit_heads SET sequence = 2 WHERE organization_id = :org`,
      { sequence: 2, reason: 'HEAD_DIFFERS' },
    ],
    [
      'exchanged entries',
      `UPDATE care_backup.audit_log SET sequence = 99 ${at2};
       UPDATE care_backup.audit_log SET sequence = 2 WHERE organization_id = :org AND sequence = 3;
       UPDATE care_backup.audit_log SET sequence = 3 WHERE organization_id = :org AND sequence = 99`,
      { sequence: 2, reason: 'ALTERED' },
    ],
  ])('by a superuser: %s is detected', async (_, statement, expected) => {
    for (let count = 0; count < 3; count += 1) await enter(anEntry({ count }));
    await tamper(statement);
    expect(await verdict()).toEqual({ valid: false, ...expected });
  });

  test('by a superuser: an entry made anew, right in itself, does not fit the entry after it', async () => {
    for (let count = 0; count < 3; count += 1) await enter(anEntry({ count }));
    await tamper(`
      CREATE TABLE public.kept AS SELECT * FROM care_backup.audit_log WHERE organization_id = :org AND sequence = 3;
      CREATE TABLE public.head AS SELECT * FROM care_backup.audit_heads WHERE organization_id = :org;
      DELETE FROM care_backup.audit_log WHERE organization_id = :org AND sequence > 1;
      UPDATE care_backup.audit_heads h SET sequence = a.sequence, hash = a.hash FROM care_backup.audit_log a
       WHERE a.organization_id = :org AND h.organization_id = :org`);
    await enter(anEntry({ count: 1000 }));
    expect(await verdict()).toMatchObject({ valid: true, entries: 2 });
    await tamper(`
      INSERT INTO care_backup.audit_log SELECT * FROM public.kept;
      UPDATE care_backup.audit_heads h SET sequence = k.sequence, hash = k.hash FROM public.head k
       WHERE h.organization_id = :org`);
    expect(await verdict()).toEqual({ valid: false, sequence: 3, reason: 'NOT_LINKED' });
  });
});

test('the chain does not depend on session settings or on the host’s type parsers', async () => {
  await enter(anEntry({ a: 1 }));
  const pool = new pg.Pool({
    connectionString: database.url,
    options:
      '-c TimeZone=Asia/Kathmandu -c DateStyle=German -c search_path=pg_temp -c extra_float_digits=-15',
  });
  try {
    expect(await audit.verifyChain(aDatabase(pool), organizationId)).toMatchObject({
      valid: true,
      entries: 1,
    });
  } finally {
    await endPool(pool);
  }
});
