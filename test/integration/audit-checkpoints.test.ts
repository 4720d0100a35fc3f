import { randomUUID } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DataProtection } from '../../src/compose.ts';
import { localKeyring } from '../../src/keys/local-keyring.ts';
import { createAuditLog } from '../../src/repository/audit-log.ts';
import { createDatabase } from '../../src/repository/database.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import { StorageError } from '../../src/types/errors.ts';
import type { BackupEvents } from '../../src/types/events.ts';
import {
  actorOf,
  benchKeyring,
  createBench,
  filesBelow,
  type ServiceBench,
} from '../harness/service-bench.ts';
import { tinyData } from '../harness/service-tiny.ts';
import { untilTrue } from '../harness/worker-fleet.ts';

const DAY_MS = 24 * 60 * 60 * 1000;
let now = Date.parse('2026-03-01T12:00:00.000Z');
const clock = { now: () => new Date(now) };

let bench: ServiceBench;
let organization: string;
let backups: BackupService;
beforeAll(async () => {
  bench = await createBench(tinyData, { clock });
});
afterAll(() => bench[Symbol.asyncDispose]());
beforeEach(() => {
  organization = randomUUID();
  backups = bench.protection.backups(actorOf(organization));
});

const audit = createAuditLog();
const db = () => createDatabase({ pool: bench.database.pool, clock });

/** Entries as actions would make them. */
async function enter(count: number, action = 'thing.done'): Promise<void> {
  await db().withTransaction(async (transaction) => {
    for (let index = 0; index < count; index += 1) {
      await audit.append(transaction, {
        organizationId: organization,
        action,
        userId: randomUUID(),
        resourceType: 'thing',
        resourceId: `${action}-${index}`,
        details: { index },
      });
    }
  });
}

const as = (protection: DataProtection): BackupService => protection.backups(actorOf(organization));
const file = (sequence: number): string =>
  join(bench.folder, organization, 'audit', `checkpoint-${String(sequence).padStart(12, '0')}`);
const problem = async (service = backups) => (await service.verifyAuditLog()).problem;
const entries = async (): Promise<number[]> => {
  const { rows } = await bench.database.pool.query<{ sequence: string }>(
    'SELECT sequence FROM care_backup.audit_log WHERE organization_id = $1 ORDER BY sequence',
    [organization],
  );
  return rows.map(({ sequence }) => Number(sequence));
};

/** What somebody with the database's highest rights can do. */
async function tamper(...statements: readonly string[]): Promise<void> {
  const tables = ['audit_log', 'audit_checkpoints'];
  await bench.database.pool.query(`BEGIN;
    ${tables.map((table) => `ALTER TABLE care_backup.${table} DISABLE TRIGGER USER;`).join('')}
    ${statements.map((one) => `${one.replaceAll(':org', `'${organization}'`)};`).join('')}
    ALTER TABLE care_backup.audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;
    ALTER TABLE care_backup.audit_log ENABLE ALWAYS TRIGGER audit_log_pruned_only;
    ALTER TABLE care_backup.audit_checkpoints ENABLE ALWAYS TRIGGER audit_checkpoints_append_only;
    COMMIT`);
}
const cutBehind = (sequence: number) => [
  `DELETE FROM care_backup.audit_log WHERE organization_id = :org AND sequence > ${sequence}`,
  `UPDATE care_backup.audit_heads h SET sequence = ${sequence}, hash = (SELECT a.hash FROM care_backup.audit_log a
    WHERE a.organization_id = :org AND a.sequence = ${sequence}) WHERE h.organization_id = :org`,
];
const noRecords = 'DELETE FROM care_backup.audit_checkpoints WHERE organization_id = :org';

describe('a checkpoint', () => {
  test('lies in the database and in the storage, and is made anew only where something is new', async () => {
    await expect(backups.createAuditCheckpoint()).rejects.toMatchObject({ code: 'INVALID_STATE' });
    await enter(3);
    const made = await backups.createAuditCheckpoint();
    expect(made).toMatchObject({ organizationId: organization, sequence: 3, authenticated: true });
    expect(join(bench.folder, made.storageKey ?? '')).toBe(file(3));
    expect(await entries()).toEqual([1, 2, 3, 4]);
    expect(await backups.createAuditCheckpoint()).toEqual(made);
    expect(await entries()).toEqual([1, 2, 3, 4]);
    // A storage that lost it, or another that is the default now, gets it again.
    const bytes = await readFile(file(3));
    await rm(file(3));
    await backups.createAuditCheckpoint();
    expect(await readFile(file(3))).toEqual(bytes);
    await rm(file(3));
    expect((await backups.verifyAuditLog()).checkpoints).toMatchObject({ inStorage: 0, missingInStorage: 1 });
    expect((await backups.createAuditCheckpoint()).sequence).toBe(5);
    await writeFile(file(3), bytes);
    expect(await backups.verifyAuditLog()).toMatchObject({
      valid: true,
      problem: null,
      firstSequence: 1,
      entries: 6,
      checkpoints: { inDatabase: 2, inStorage: 2, missingInStorage: 0, authenticatedThrough: 5 },
    });
  });

  test('is one, or agrees, when many ask at the same time while entries come', async () => {
    await enter(2);
    const others = await Promise.all([1, 2].map(async () => as(await bench.open())));
    await Promise.all([
      ...[backups, ...others, backups, ...others].map((one) => one.createAuditCheckpoint()),
      enter(1),
      enter(1),
    ]);
    const verdict = await backups.verifyAuditLog();
    expect(verdict).toMatchObject({ valid: true, checkpoints: { missingInStorage: 0 } });
    expect(verdict.checkpoints.inDatabase).toBe(verdict.checkpoints.inStorage);
  });

  test('is not entered where the storage does not take it; one whose answer was lost is adopted', async () => {
    const inner = memoryStorage();
    let mode: 'DOWN' | 'LOST' | 'UP' = 'DOWN';
    const put: typeof inner.put = async (...call) => {
      if (mode !== 'DOWN') await inner.put(...call);
      if (mode !== 'UP') throw new StorageError('Injected.', 'STORAGE_UNAVAILABLE');
    };
    const service = as(await bench.open({ openStorage: () => ({ ...inner, put }) }));
    await enter(2);
    for (const next of ['LOST', 'UP'] as const) {
      await expect(service.createAuditCheckpoint()).rejects.toMatchObject({ code: 'STORAGE_UNAVAILABLE' });
      expect(await entries()).toEqual([1, 2]);
      mode = next;
    }
    now += 1000;
    expect((await service.createAuditCheckpoint()).sequence).toBe(2);
    expect((await service.verifyAuditLog()).checkpoints).toMatchObject({ inDatabase: 1, inStorage: 1 });
  });

  test('without a key provider is told as unauthenticated, and nothing is pruned behind it', async () => {
    const service = as(await bench.open({ keys: undefined as never }));
    await enter(2);
    expect(await service.createAuditCheckpoint()).toMatchObject({ sequence: 2, authenticated: false });
    expect(await service.verifyAuditLog()).toMatchObject({
      valid: true,
      checkpoints: { inDatabase: 1, inStorage: 1, authenticatedThrough: null },
    });
    now += 2 * DAY_MS;
    const prune = { before: clock.now().toISOString(), retentionDays: 1 };
    await expect(
      service.pruneAuditLog({ ...prune, before: new Date(now - DAY_MS).toISOString() }),
    ).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
    // Whoever has keys later goes on from there, and makes one that a key vouches for.
    await expect(
      backups.pruneAuditLog({ ...prune, before: new Date(now - DAY_MS).toISOString() }),
    ).rejects.toMatchObject({ code: 'INVALID_STATE' });
    expect(await backups.createAuditCheckpoint()).toMatchObject({ sequence: 4, authenticated: true });
    expect((await backups.verifyAuditLog()).checkpoints.authenticatedThrough).toBe(4);
    // A process without keys cannot tell forged from authenticated, and says so.
    expect((await service.verifyAuditLog()).checkpoints.authenticatedThrough).toBe(null);
  });
});

describe('by somebody with all rights in the database', () => {
  const broken: BackupEvents['audit.broken'][] = [];
  beforeEach(async () => {
    broken.length = 0;
    bench.protection.on('audit.broken', (event) => broken.push(event));
    await enter(3);
    await backups.createAuditCheckpoint();
    await enter(1);
    await backups.createAuditCheckpoint();
    await enter(1);
    expect(await entries()).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });

  test('an end cut off together with the head and the checkpoints is found, also when the log has grown again', async () => {
    await tamper(...cutBehind(4), noRecords);
    expect(await problem()).toEqual({ sequence: 5, reason: 'CHECKPOINT_BEYOND_END' });
    expect(broken).toEqual([
      { organizationId: organization, problem: { sequence: 5, reason: 'CHECKPOINT_BEYOND_END' } },
    ]);
    await enter(3);
    expect(await problem()).toEqual({ sequence: 5, reason: 'CHECKPOINT_DIFFERS' });
    expect(await backups.verifyAuditLog()).toMatchObject({
      entries: 4,
      head: null,
      checkpoints: { authenticatedThrough: 3 },
    });
  });

  test('a log made anew gets no checkpoint at a place that one has', async () => {
    await tamper(...cutBehind(2), noRecords);
    await enter(3);
    await expect(backups.createAuditCheckpoint()).rejects.toMatchObject({ code: 'AUDIT_LOG_BROKEN' });
    expect(await problem()).toEqual({ sequence: 3, reason: 'CHECKPOINT_DIFFERS' });
  });

  test('an entry altered since the last checkpoint is not signed, and nothing is pruned', async () => {
    await tamper(
      `UPDATE care_backup.audit_log SET action = 'x' WHERE organization_id = :org AND sequence = 7`,
    );
    const before = await filesBelow(bench.folder);
    await expect(backups.createAuditCheckpoint()).rejects.toMatchObject({ code: 'AUDIT_LOG_BROKEN' });
    now += 3 * DAY_MS;
    const prune = { before: new Date(now - DAY_MS).toISOString(), retentionDays: 1 };
    await expect(backups.pruneAuditLog(prune)).rejects.toMatchObject({ code: 'AUDIT_LOG_BROKEN' });
    expect(await filesBelow(bench.folder)).toEqual(before);
    expect(await entries()).toHaveLength(7);
    expect(await problem()).toEqual({ sequence: 7, reason: 'ALTERED' });
  });

  const setRecord = (value: string): string =>
    `UPDATE care_backup.audit_checkpoints SET record = ${value} WHERE organization_id = :org AND sequence = 5`;
  const records: Readonly<Record<string, string>> = {
    'a flipped bit': setRecord('set_bit(record, 200, 1 - get_bit(record, 200))'),
    nothing: setRecord(`''`),
    'the one of another entry': setRecord(
      '(SELECT record FROM care_backup.audit_checkpoints WHERE organization_id = :org AND sequence = 3)',
    ),
  };
  test.each(Object.keys(records))('a checkpoint that holds %s is found', async (name) => {
    await tamper(records[name] ?? '');
    expect(await problem()).toEqual({ sequence: 5, reason: 'CHECKPOINT_FORGED' });
    await expect(backups.createAuditCheckpoint()).rejects.toMatchObject({ code: 'AUDIT_LOG_BROKEN' });
  });

  test('a checkpoint in the storage that is altered, or of another organization, is found', async () => {
    const bytes = await readFile(file(5));
    await writeFile(file(5), Buffer.concat([bytes, Buffer.from('x')]));
    expect(await problem()).toEqual({ sequence: 5, reason: 'CHECKPOINT_FORGED' });
    await writeFile(file(5), bytes);
    await writeFile(file(999), bytes);
    expect(await problem()).toEqual({ sequence: 999, reason: 'CHECKPOINT_FORGED' });
    await rm(file(999));
    for (const impossible of [0, 5_000_000_000]) {
      await writeFile(file(impossible), bytes);
      expect(await problem()).toEqual({ sequence: impossible, reason: 'CHECKPOINT_FORGED' });
      await rm(file(impossible));
    }
    expect(await problem()).toBe(null);
    const mine = organization;
    organization = randomUUID();
    await enter(5);
    await as(bench.protection).createAuditCheckpoint();
    const foreign = await readFile(file(5));
    organization = mine;
    await writeFile(file(5), foreign);
    expect(await problem()).toEqual({ sequence: 5, reason: 'CHECKPOINT_FORGED' });
  });

  test('checkpoints made with another key under the same id, or with one that nobody has, are found', async () => {
    const forging = as(await bench.open({ keys: benchKeyring(Buffer.alloc(32, 7)) }));
    expect(await problem(forging)).toEqual({ sequence: 3, reason: 'CHECKPOINT_FORGED' });
    const keys = localKeyring({ keys: [{ id: 'other', key: Buffer.alloc(32, 8) }], current: 'other' });
    expect(await problem(as(await bench.open({ keys })))).toEqual({
      sequence: 3,
      reason: 'CHECKPOINT_KEY_UNKNOWN',
    });
  });
});

describe('pruning', () => {
  const days = (count: number): string => new Date(now - count * DAY_MS).toISOString();
  /** Entries 1 to 3 and their checkpoint, five days later 5 to 6 and theirs, five days later 8. */
  beforeEach(async () => {
    await enter(3);
    await backups.createAuditCheckpoint();
    now += 5 * DAY_MS;
    await enter(2);
    await backups.createAuditCheckpoint();
    now += 5 * DAY_MS;
    await enter(1);
    expect(await entries()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test('removes what is older up to the newest checkpoint of its own time, and the rest verifies', async () => {
    expect(await backups.pruneAuditLog({ before: days(11), retentionDays: 1 })).toEqual({
      removed: 0,
      through: null,
    });
    expect(await backups.pruneAuditLog({ before: days(7), retentionDays: 7 })).toEqual({
      removed: 3,
      through: 3,
    });
    // Entry 4 is as old, and no checkpoint of its time covers it.
    expect(await entries()).toEqual([4, 5, 6, 7, 8, 9]);
    await expect(backups.pruneAuditLog({ before: days(7), retentionDays: 7 })).rejects.toMatchObject({
      code: 'INVALID_STATE',
    });
    expect(await backups.verifyAuditLog()).toMatchObject({
      valid: true,
      firstSequence: 4,
      entries: 6,
      checkpoints: { inDatabase: 2, inStorage: 2, authenticatedThrough: 6 },
    });
    expect(await backups.pruneAuditLog({ before: days(4), retentionDays: 1 })).toEqual({
      removed: 3,
      through: 6,
    });
    const { items } = await backups.listAuditLog({ action: 'audit.pruned' });
    expect(items.map(({ details }) => details)).toMatchObject([
      { removed: 3, through: 6 },
      { removed: 3, through: 3, retentionDays: 7 },
    ]);
    await backups.createAuditCheckpoint();
    expect(await backups.verifyAuditLog()).toMatchObject({ valid: true, firstSequence: 7 });
  });

  test('never removes what must be kept, also not by a clock that goes wrong', async () => {
    await expect(backups.pruneAuditLog({ before: days(6), retentionDays: 7 })).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
      issues: [{ path: 'before' }],
    });
    for (const wrong of [
      { before: days(6) },
      { before: days(6), retentionDays: 0 },
      { before: '2026', retentionDays: 1 },
    ]) {
      await expect(backups.pruneAuditLog(wrong as never)).rejects.toMatchObject({
        code: 'VALIDATION_FAILED',
      });
    }
    // An entry from a clock that was ahead keeps all behind it.
    organization = randomUUID();
    const service = as(bench.protection);
    now += 100 * DAY_MS;
    await enter(1);
    now -= 100 * DAY_MS;
    await enter(1);
    await service.createAuditCheckpoint();
    now += 3 * DAY_MS;
    expect(await service.pruneAuditLog({ before: days(1), retentionDays: 1 })).toEqual({
      removed: 0,
      through: null,
    });
  });

  test('is the only way to remove: the database refuses all others', async () => {
    const mark = `INSERT INTO care_backup.audit_checkpoints VALUES ('${organization}', 'PRUNED', 3, 'x')`;
    const remove = (through: number) =>
      `DELETE FROM care_backup.audit_log WHERE organization_id = '${organization}' AND sequence <= ${through}`;
    const refused = { code: '23001' };
    await expect(bench.database.pool.query(remove(3))).rejects.toMatchObject(refused);
    await expect(bench.database.pool.query(`BEGIN; ${mark}; ${remove(4)}; COMMIT`)).rejects.toMatchObject(
      refused,
    );
    for (const statement of [
      `UPDATE care_backup.audit_checkpoints SET record = 'x'`,
      'DELETE FROM care_backup.audit_checkpoints',
      'TRUNCATE care_backup.audit_checkpoints',
    ]) {
      await expect(bench.database.pool.query(statement)).rejects.toMatchObject(refused);
    }
    // A record of an earlier transaction opens nothing.
    await backups.pruneAuditLog({ before: days(7), retentionDays: 1 });
    await tamper(
      `INSERT INTO care_backup.audit_log SELECT organization_id, 1, "timestamp", action, user_id, resource_type, resource_id,
         details, prev_hash, hash FROM care_backup.audit_log WHERE organization_id = :org AND sequence = 4`,
    );
    await expect(bench.database.pool.query(remove(1))).rejects.toMatchObject(refused);
    expect(await problem()).toEqual({ sequence: 3, reason: 'NOT_REMOVED' });
  });

  test('that somebody without the key pretends is found', async () => {
    const mark = `INSERT INTO care_backup.audit_checkpoints
      SELECT :org, 'PRUNED', 3, record FROM care_backup.audit_checkpoints WHERE organization_id = :org AND sequence = 3`;
    // Through the very way that pruning takes.
    await bench.database.pool.query(
      `BEGIN; ${mark}; DELETE FROM care_backup.audit_log WHERE organization_id = :org AND sequence <= 3; COMMIT`.replaceAll(
        ':org',
        `'${organization}'`,
      ),
    );
    expect(await backups.verifyAuditLog()).toMatchObject({
      valid: false,
      problem: { sequence: 1, reason: 'MISSING' },
      entries: 0,
    });
    const left = await entries();
    await expect(backups.pruneAuditLog({ before: days(4), retentionDays: 1 })).rejects.toMatchObject({
      code: 'AUDIT_LOG_BROKEN',
    });
    expect(await entries()).toEqual(left);
  });

  test('by several at once removes once, and who verifies or enters meanwhile notices nothing', async () => {
    const others = await Promise.all([1, 2].map(async () => as(await bench.open())));
    const outcomes = Promise.allSettled(
      [backups, ...others].map((one) => one.pruneAuditLog({ before: days(4), retentionDays: 1 })),
    );
    const verdicts = await Promise.all([
      ...Array.from({ length: 5 }, () => problem()),
      enter(3).then(() => null),
    ]);
    expect(verdicts.every((verdict) => verdict === null)).toBe(true);
    const done = (await outcomes).filter(
      (outcome) => outcome.status === 'fulfilled' && outcome.value.removed > 0,
    );
    expect(done).toHaveLength(1);
    expect(await problem()).toBe(null);
    expect((await backups.listAuditLog({ action: 'audit.pruned' })).items).toHaveLength(1);
  });
});

test('the audit log is listed newest first, by its filters, in pages', async () => {
  const { id } = await backups.createConfiguration({ name: 'x' });
  await enter(2, 'a');
  now += DAY_MS;
  const from = clock.now().toISOString();
  await enter(3, 'b');
  const listed = async (input: Parameters<BackupService['listAuditLog']>[0]) =>
    (await backups.listAuditLog(input)).items.map(({ sequence }) => sequence);
  expect(await listed({})).toEqual([6, 5, 4, 3, 2, 1]);
  expect(await listed({ action: 'a' })).toEqual([3, 2]);
  expect(await listed({ resourceType: 'thing', resourceId: 'b-1' })).toEqual([5]);
  expect(await listed({ resourceType: 'backup_configuration', resourceId: id })).toEqual([1]);
  expect(await listed({ from })).toEqual([6, 5, 4]);
  expect(await listed({ to: from })).toEqual([3, 2, 1]);
  const pages: number[][] = [];
  let cursor: string | null = null;
  do {
    const page: Awaited<ReturnType<BackupService['listAuditLog']>> = await backups.listAuditLog({
      limit: 4,
      ...(cursor === null ? {} : { cursor }),
    });
    pages.push(page.items.map(({ sequence }) => sequence));
    cursor = page.nextCursor;
    await enter(1);
  } while (cursor !== null);
  expect(pages).toEqual([
    [6, 5, 4, 3],
    [2, 1],
  ]);
  for (const input of [
    { limit: 0 },
    { limit: 1001 },
    { cursor: 'x' },
    { from: 'yesterday' },
    { who: 'me' },
  ]) {
    await expect(backups.listAuditLog(input as never)).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  }
});

test('workers make a checkpoint a day of each log that has new entries', async () => {
  await enter(2);
  const idle = organization;
  organization = randomUUID();
  await enter(1);
  const made = async () => (await filesBelow(bench.folder)).filter((name) => name.includes('checkpoint'));
  const before = await made();
  await using protection = await bench.open({ execution: 'worker' });
  await using _worker = await protection.startWorker({ pollMs: 2 });
  now += DAY_MS - 1000;
  await enter(1);
  now += 2000;
  await untilTrue('both have one', async () => {
    const files = await made();
    return [idle, organization].every((one) => files.some((name) => name.startsWith(`${one}/audit/`)));
  });
  // The entry of a checkpoint alone needs no other.
  await enter(1);
  now += 2 * DAY_MS;
  await untilTrue('the one that goes on has another', async () => {
    const files = await made();
    return files.filter((name) => name.startsWith(`${organization}/audit/`)).length === 2;
  });
  expect((await made()).filter((name) => name.startsWith(`${idle}/`))).toHaveLength(1);
  expect((await made()).length).toBeGreaterThanOrEqual(before.length + 3);
  expect(await problem(as(protection))).toBe(null);
});

test('what checkpoints take in a storage belongs to no snapshot and is no remains', async () => {
  const own = bench.backups;
  const { id } = await bench.configure();
  await own.createSnapshot({ configurationId: id }, { wait: true });
  await own.createAuditCheckpoint();
  const { measured } = await own.getStorageUsage({ measure: true });
  expect(measured).toMatchObject([{ unaccounted: { objects: 0, bytes: 0 }, missingSnapshots: 0 }]);
});
