import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { BackupSnapshot, RestoreOperation } from '../../src/types/backup.ts';
import { runChild, share, startChild } from '../harness/kill-process.ts';
import { actorOf, auditActions, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { hiddenSchemas, schemaThere } from '../harness/service-compare.ts';
import { TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const SHARE = 2;
let bench: ServiceBench;
let snapshot: BackupSnapshot;
let schemas = 0;

beforeAll(async () => {
  bench = await createBench(tinyData);
  const { id } = await bench.configure();
  snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

const nextSchema = (): string => {
  schemas += 1;
  return `back_${schemas}`;
};

const restoreInto = (schemaName: string): Promise<RestoreOperation> =>
  bench.backups.createRestoreOperation(
    { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName } },
    { wait: true },
  );

const order = (schema: string) => ({
  url: bench.database.url,
  folder: bench.folder,
  configurationId: snapshot.configurationId,
  snapshotId: snapshot.id,
  schema,
});

async function operationsInto(
  schema: string,
): Promise<{ id: string; status: string; reason: string | null }[]> {
  const { rows } = await bench.database.pool.query<{ id: string; status: string; reason: string | null }>(
    `SELECT id::text, status, status_reason AS reason FROM care_backup.restore_operations
      WHERE restore_destination->>'schemaName' = $1`,
    [schema],
  );
  return rows;
}

/** What must be true after a process died in a restore, however far it had come. */
async function expectRecovered(schema: string): Promise<'FAILED' | 'DONE' | 'NOTHING'> {
  // The server ends the dead session's last statement, which may be the rename.
  await sleep(200);
  const renamed = await schemaThere(bench.database.pool, schema);
  if (renamed) expect(await tinyDifferences(bench.database.pool, schema)).toBe(0);
  const another = nextSchema();
  await restoreInto(another);
  expect(await hiddenSchemas(bench.database.pool)).toEqual([]);
  expect(await schemaThere(bench.database.pool, schema)).toBe(renamed);
  const [operation] = await operationsInto(schema);
  if (operation === undefined) {
    expect(renamed).toBe(false);
    return 'NOTHING';
  }
  const audited = await auditActions(bench.database.pool, operation.id);
  if (renamed) {
    expect(operation.status).toMatch(/^COMPLETED/);
    expect(audited).toEqual(['restore.requested', 'restore.completed']);
    return 'DONE';
  }
  expect(operation.status).toBe('FAILED');
  expect(operation.reason).toContain('RESTORE_INTERRUPTED');
  expect(audited).toEqual(['restore.requested', 'restore.failed']);
  return 'FAILED';
}

test('a process that is killed at whatever step of a restore leaves all of it or nothing', async () => {
  const traced = await runChild({ ...order(nextSchema()), trace: true });
  expect(traced.output).toContain('DONE');
  const last = traced.output.split('\n').filter((line) => line.startsWith('STEP ')).length;
  const outcomes: string[] = [];
  for (const at of share(last, SHARE, 3)) {
    const schema = nextSchema();
    const end = await runChild({ ...order(schema), at });
    expect(end, end.output).toMatchObject({ signal: 'SIGKILL' });
    outcomes.push(await expectRecovered(schema));
  }
  expect(outcomes).toContain('FAILED');
  if (process.env.CARE_SOAK === '1') expect(new Set(outcomes).size).toBe(3);
}, 1_800_000);

test.each([
  ['after INSERT INTO "care_backup"."restore_operations"', 'NOTHING'],
  ['before UPDATE "care_backup"."restore_operations"', 'FAILED'],
  ['before get manifest', 'FAILED'],
  ['after CREATE SCHEMA', 'FAILED'],
  ['after get o-', 'FAILED'],
  ['before ALTER SCHEMA', 'FAILED'],
  ['after ALTER SCHEMA', 'DONE'],
  ['before UPDATE "care_backup"."backup_snapshots"', 'DONE'],
])('killed %s: %s', async (atName, outcome) => {
  const schema = nextSchema();
  const end = await runChild({ ...order(schema), atName });
  expect(end, end.output).toMatchObject({ signal: 'SIGKILL' });
  expect(await expectRecovered(schema)).toBe(outcome);
});

test.each([
  'before get manifest',
  'after CREATE SCHEMA',
  'after ALTER SCHEMA',
  'before UPDATE "care_backup"."restore_op',
])('a restore that is slow at "%s" is not taken for a dead one', async (atName) => {
  const schema = nextSchema();
  const slow = startChild({ ...order(schema), atName, signal: 'SIGSTOP' });
  await slow.said('AT ');
  await restoreInto(nextSchema());
  expect((await operationsInto(schema))[0]?.status).toMatch(/QUEUED|PREPARING|IN_PROGRESS|VALIDATING/);
  slow.process.kill('SIGCONT');
  expect((await slow.end).output).toContain('DONE');
  expect(await operationsInto(schema)).toMatchObject([{ status: 'COMPLETED' }]);
  expect(await tinyDifferences(bench.database.pool, schema)).toBe(0);
});

test('restores of one process do not take each other for dead', async () => {
  const wanted = [nextSchema(), nextSchema(), nextSchema(), nextSchema()];
  const ended = await Promise.all(wanted.map(restoreInto));
  expect(ended.map(({ status }) => status)).toEqual(wanted.map(() => 'COMPLETED'));
  for (const schema of wanted) expect(await tinyDifferences(bench.database.pool, schema)).toBe(0);
});

test('a restore whose process has died is ended by whoever cancels it', async () => {
  const schema = nextSchema();
  await runChild({ ...order(schema), atName: 'after CREATE SCHEMA' });
  await sleep(200);
  const [died] = await operationsInto(schema);
  const ended = await bench.backups.cancelRestoreOperation(died?.id ?? '');
  expect(ended.status).toBe('FAILED');
  expect(await hiddenSchemas(bench.database.pool)).toEqual([]);
});

test('a restore whose end could not be entered is not called failed while its schema is there', async () => {
  await bench.database.pool.query(`
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.action = 'restore.completed' THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON care_backup.audit_log FOR EACH ROW EXECUTE FUNCTION refuse()`);
  const schema = nextSchema();
  await expect(restoreInto(schema)).rejects.toMatchObject({ code: 'DATABASE_FAILED' });
  expect(await schemaThere(bench.database.pool, schema)).toBe(true);
  expect((await operationsInto(schema))[0]?.status).not.toBe('FAILED');
  await bench.database.pool.query('DROP TRIGGER refuse ON care_backup.audit_log; DROP FUNCTION refuse()');
  await restoreInto(nextSchema());
  expect((await operationsInto(schema))[0]?.status).toBe('COMPLETED_WITH_WARNINGS');
  expect(await tinyDifferences(bench.database.pool, schema)).toBe(0);
});

test('another organization’s restore sweeps nothing of this one', async () => {
  const schema = nextSchema();
  await runChild({ ...order(schema), atName: 'after CREATE SCHEMA' });
  await sleep(200);
  const other = bench.protection.backups(actorOf(tinyData.organizations[1]));
  const { id } = await other.createConfiguration({ name: 'other' });
  const theirs = await other.createSnapshot({ configurationId: id }, { wait: true });
  const into = nextSchema();
  await other.createRestoreOperation(
    { snapshotId: theirs.id, restoreDestination: { type: 'TEST', schemaName: into } },
    { wait: true },
  );
  expect(await hiddenSchemas(bench.database.pool)).toHaveLength(1);
  expect(await tinyDifferences(bench.database.pool, into, `organization_id <> '${TINY_ORGANIZATION}'`)).toBe(
    0,
  );
  expect(await expectRecovered(schema)).toBe('FAILED');
});
