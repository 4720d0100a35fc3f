import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { BackupSnapshot } from '../../src/types/backup.ts';
import { runChild, share } from '../harness/kill-process.ts';
import { auditActions, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';

const SHARE = 3;
let bench: ServiceBench;
let snapshot: BackupSnapshot;
let whole: string;

beforeAll(async () => {
  bench = await createBench(tinyData);
  const { id } = await bench.configure();
  snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  whole = await rows();
  // One that would alter what is restored, and one that is off: both must stand afterwards as they stood.
  await sql(`CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.secret := 'spoilt'; RETURN NEW; END $$;
    CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION spoil();
    ALTER TABLE item ENABLE ALWAYS TRIGGER spoil;
    CREATE TRIGGER off BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION spoil();
    ALTER TABLE item DISABLE TRIGGER off`);
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

const sql = async (text: string) => (await bench.database.pool.query<Record<string, string>>(text)).rows;

async function rows(): Promise<string> {
  const found = await sql(`SELECT string_agg(r, ' ' ORDER BY r) AS all FROM (
    SELECT 'item' || i::text AS r FROM item i UNION ALL SELECT 'part' || p::text FROM part p) r`);
  return found[0]?.all ?? '';
}

const triggers = () =>
  sql(
    "SELECT tgname AS name, tgenabled AS enabled FROM pg_trigger WHERE tgrelid = 'item'::regclass AND NOT tgisinternal ORDER BY 1",
  );

async function damage(): Promise<string> {
  const own = `(SELECT id FROM item WHERE organization_id = '${TINY_ORGANIZATION}')`;
  await sql(
    `DELETE FROM part WHERE id % 3 = 0 AND item_id IN ${own}; UPDATE part SET weight = -1 WHERE id % 7 = 0 AND item_id IN ${own};
     UPDATE item SET secret = 'lost' WHERE id IN ${own}`,
  );
  return rows();
}

const order = () => ({
  url: bench.database.url,
  folder: bench.folder,
  configurationId: snapshot.configurationId,
  disableTriggers: ['spoil', 'off'],
});

async function operations(): Promise<{ id: string; status: string }[]> {
  return (await sql('SELECT id::text, status FROM care_backup.restore_operations ORDER BY ordinal DESC')) as {
    id: string;
    status: string;
  }[];
}

/** All of it or nothing, and the catalog says which. */
async function expectRecovered(damaged: string, before: number): Promise<'DONE' | 'NOTHING'> {
  // The server ends the dead session's last statement, which may be the commit.
  await sleep(200);
  const state = await rows();
  expect([damaged, whole].includes(state)).toBe(true);
  expect(await triggers()).toEqual([
    { name: 'off', enabled: 'D' },
    { name: 'spoil', enabled: 'A' },
  ]);
  // The next restore of the organization ends what the dead process left.
  await bench.backups.createRestoreOperation(
    { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName: `next_${before}` } },
    { wait: true },
  );
  const all = await operations();
  const own = all.slice(1, all.length - before);
  expect(own.length).toBeLessThanOrEqual(1);
  const [operation] = own;
  const done = state === whole;
  if (operation !== undefined) {
    expect(operation.status).toBe(done ? 'COMPLETED' : 'FAILED');
    expect((await auditActions(bench.database.pool, operation.id)).at(-1)).toBe(
      done ? 'restore.completed' : 'restore.failed',
    );
  } else {
    expect(done).toBe(false);
  }
  const images = await sql(
    `SELECT count(*)::text AS n FROM care_backup.restore_images WHERE restore_id = '${operation?.id ?? snapshot.id}'`,
  );
  expect(images[0]?.n === '0').toBe(!done);
  return done ? 'DONE' : 'NOTHING';
}

test('a process that is killed at whatever step of a live restore leaves all of it or nothing', async () => {
  await damage();
  const traced = await runChild({ ...order(), snapshotId: snapshot.id, trace: true });
  expect(traced.output).toContain('DONE');
  expect(await rows()).toBe(whole);
  const last = traced.output.split('\n').filter((line) => line.startsWith('STEP ')).length;
  for (const at of share(last, SHARE, 3)) {
    const damaged = await damage();
    const before = (await operations()).length;
    const end = await runChild({ ...order(), snapshotId: snapshot.id, at });
    expect(end, end.output).toMatchObject({ signal: 'SIGKILL' });
    await expectRecovered(damaged, before);
  }
}, 1_800_000);

test.each([
  ['after ALTER TABLE ONLY', 'NOTHING'],
  ['after UPDATE "public"."item"', 'NOTHING'],
  ['after ALTER TABLE ONLY public.item ENABLE', 'NOTHING'],
  ['before SELECT pg_catalog.pg_advisory_unlock', 'DONE'],
])('killed %s: %s', async (atName, outcome) => {
  const damaged = await damage();
  const before = (await operations()).length;
  const end = await runChild({ ...order(), snapshotId: snapshot.id, atName });
  expect(end, end.output).toMatchObject({ signal: 'SIGKILL' });
  expect(await expectRecovered(damaged, before)).toBe(outcome);
});

test.each(['after DELETE FROM "public"."part"', 'before COMMIT', 'after COMMIT'])(
  'a rollback that is killed %s leaves all of it or nothing',
  async (atName) => {
    const damaged = await damage();
    const restored = await runChild({ ...order(), snapshotId: snapshot.id });
    expect(restored.output).toContain('DONE');
    const [operation] = await operations();
    const end = await runChild({ ...order(), rollBack: operation?.id ?? '', atName });
    expect(end, end.output).toMatchObject({ signal: 'SIGKILL' });
    await sleep(200);
    const undone = (await rows()) === damaged;
    expect(undone || (await rows()) === whole).toBe(true);
    expect((await operations())[0]?.status).toBe(undone ? 'ROLLED_BACK' : 'COMPLETED');
    expect(undone).toBe(atName === 'after COMMIT');
    expect(await triggers()).toContainEqual({ name: 'spoil', enabled: 'A' });
  },
);
