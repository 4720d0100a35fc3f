import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { KeyProvider } from '../../src/keys/keys.ts';
import { faultyStorage } from '../../src/storage/faulty.ts';
import { memoryStorage } from '../../src/storage/memory.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { share } from '../harness/kill-process.ts';
import { benchKeyring, createBench, librarySessions, type ServiceBench } from '../harness/service-bench.ts';
import { hiddenSchemas, schemaThere } from '../harness/service-compare.ts';
import { type CutStep, type Cutter, connectionCutter } from '../harness/service-cut.ts';
import { expectSettled } from '../harness/service-settled.ts';
import { tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const SHARE = 8;
let bench: ServiceBench;
let cutter: Cutter;
let used: ObjectStorage;
let schemas = 0;
/** Runs while a backup holds its snapshot and has read nothing yet. */
let beforeWrap: (() => Promise<void>) | undefined;

beforeAll(async () => {
  cutter = connectionCutter();
  const keyring = benchKeyring();
  const keys: KeyProvider = {
    ...keyring,
    wrap: async (dataKey, context) => {
      await beforeWrap?.();
      return keyring.wrap(dataKey, context);
    },
  };
  bench = await createBench(tinyData, { openStorage: () => used, keys });
});
afterAll(async () => {
  cutter[Symbol.dispose]();
  await bench[Symbol.asyncDispose]();
});
beforeEach(() => {
  used = memoryStorage();
});
afterEach(() => {
  // A test that failed must not cut the next one's connections.
  cutter.arm();
});

/** A step of what is entered in the catalog, where an answer that is lost leaves open whether it took place. */
const isCommit = ({ text, moment }: CutStep): boolean => text === 'COMMIT' && moment === 'sent';

interface CutRun {
  readonly steps: number;
  /** What was cut: one step, or none. */
  readonly cut: readonly CutStep[];
}

/**
 * Cuts a run at its n-th step. Heartbeats come by the clock, so that a run may have fewer steps than the one that was
 * counted: then it has ended before it was cut, and another is cut near the end of that one.
 */
async function cutAt(at: number, run: (at: number) => Promise<CutRun>): Promise<void> {
  for (let step = at, tries = 1; ; tries += 1) {
    const { steps, cut } = await run(step);
    if (cut.length > 0) return;
    expect(steps).toBeLessThan(step);
    expect(tries).toBeLessThan(10);
    step = steps - tries;
  }
}

async function cutBackup(at: number | undefined): Promise<CutRun> {
  const { id } = await bench.configure();
  cutter.arm(at);
  const outcome = await bench.backups
    .createSnapshot({ configurationId: id }, { wait: true })
    .catch((error: { code: string }) => error);
  const ran = { steps: cutter.steps.length, cut: cutter.cut };
  cutter.arm();
  if (ran.cut.length === 0) expect(outcome).toMatchObject({ status: 'COMPLETED' });
  if ('code' in outcome)
    expect(outcome.code).toMatch(/^(DATABASE_UNAVAILABLE|BACKUP_ATTEMPT_LOST|SOURCE_CHANGED)$/);
  const earlier = await expectSettled(bench.backups, id, used);
  // What was told to have ended well has.
  if (!('code' in outcome)) expect(earlier.map(({ status }) => status)).toEqual(['COMPLETED']);
  return ran;
}

async function cutRestore(
  snapshotId: string,
  at: number | ((step: CutStep) => boolean) | undefined,
): Promise<CutRun> {
  schemas += 1;
  const schemaName = `back_${schemas}`;
  const restoreDestination = { type: 'TEST', schemaName } as const;
  cutter.arm(at);
  const outcome = await bench.backups
    .createRestoreOperation({ snapshotId, restoreDestination }, { wait: true })
    .catch((error: { code: string }) => error);
  const ran = { steps: cutter.steps.length, cut: cutter.cut };
  cutter.arm();
  if (ran.cut.length === 0) expect(outcome).toMatchObject({ status: 'COMPLETED' });
  if ('code' in outcome) expect(outcome.code).toMatch(/^DATABASE_UNAVAILABLE$/);
  else expect(await tinyDifferences(bench.database.pool, schemaName)).toBe(0);
  schemas += 1;
  const next = { type: 'TEST', schemaName: `back_${schemas}` } as const;
  await bench.backups.createRestoreOperation({ snapshotId, restoreDestination: next }, { wait: true });
  expect(await hiddenSchemas(bench.database.pool)).toEqual([]);
  const { rows } = await bench.database.pool.query<{ status: string }>(
    "SELECT status FROM care_backup.restore_operations WHERE restore_destination->>'schemaName' = $1",
    [schemaName],
  );
  const there = await schemaThere(bench.database.pool, schemaName);
  expect(rows.every(({ status }) => (there ? status.startsWith('COMPLETED') : status === 'FAILED'))).toBe(
    true,
  );
  if (there) expect(await tinyDifferences(bench.database.pool, schemaName)).toBe(0);
  return ran;
}

test('a backup whose connection is cut at whatever statement ends well or leaves nothing', async () => {
  const { steps: last } = await cutBackup(undefined);
  expect(last).toBeGreaterThan(200);
  for (const at of share(last - 3, SHARE, 17)) await cutAt(at, cutBackup);
}, 1_800_000);

test('a backup whose answer to the last COMMIT is lost counts once', async () => {
  let commits = 0;
  const { id } = await bench.configure();
  cutter.arm((step) => {
    if (step.text.includes('"backup_configurations" AS c')) commits = 1;
    return commits === 1 && isCommit(step);
  });
  const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  expect(cutter.cut).toHaveLength(1);
  expect(snapshot.status).toBe('COMPLETED');
  expect((await bench.backups.getConfiguration(id)).totalBackupsCreated).toBe(1);
  await expectSettled(bench.backups, id, used);
});

test('a restore whose connection is cut at whatever statement leaves all or nothing', async () => {
  const { id } = await bench.configure();
  const snapshot = await bench.backups.createSnapshot({ configurationId: id }, { wait: true });
  const { steps: last } = await cutRestore(snapshot.id, undefined);
  for (const at of share(last - 3, SHARE / 2, 29)) await cutAt(at, (step) => cutRestore(snapshot.id, step));
  // Statements whose effect cannot be told from a lost answer.
  for (const statement of ['CREATE SCHEMA', 'ALTER SCHEMA']) {
    for (const moment of ['sent', 'after'] as const) {
      const { cut } = await cutRestore(
        snapshot.id,
        (step) => step.text.includes(statement) && step.moment === moment,
      );
      expect(cut).toHaveLength(1);
    }
  }
}, 1_800_000);

describe('a session that the server ends', () => {
  test.each(['care-backup lock', 'care-backup'])('%s, while objects are stored', async (name) => {
    const { id } = await bench.configure();
    const sound = used;
    const hanging = faultyStorage(sound, [{ operation: 'put', call: 1, effect: 'hang', when: 'after' }]);
    used = hanging;
    const run = bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    const ended = run.catch((error: { code: string }) => error);
    while (hanging.injected.length === 0) await sleep(10);
    const sessions = (await librarySessions(bench.database.pool)).filter((session) => session.name === name);
    expect(sessions.length).toBeGreaterThan(0);
    for (const { pid } of sessions) await bench.database.pool.query('SELECT pg_terminate_backend($1)', [pid]);
    if (name === 'care-backup') {
      // The control connections are replaced: the run goes on, and is cancelled like any other.
      await sleep(600);
      const [running] = (await bench.backups.listSnapshots({ configurationId: id })).items;
      expect(running?.status).toBe('IN_PROGRESS');
      await bench.backups.cancelSnapshot(running?.id ?? '');
    }
    expect(await ended).toMatchObject({
      code: name === 'care-backup' ? 'BACKUP_CANCELLED' : 'BACKUP_ATTEMPT_LOST',
    });
    used = sound;
    await expectSettled(bench.backups, id, sound);
  });

  test('the one that holds the snapshot, before the rows are read', async () => {
    const { id } = await bench.configure();
    beforeWrap = async () => {
      const sessions = await librarySessions(bench.database.pool);
      const [leader] = sessions.filter(({ name }) => name === 'care-backup snapshot');
      expect(leader).toBeDefined();
      await bench.database.pool.query('SELECT pg_terminate_backend($1)', [leader?.pid]);
    };
    const run = bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    await expect(run).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    beforeWrap = undefined;
    await expectSettled(bench.backups, id, used);
  });

  test('the one that holds the snapshot, while the session for the last check is opened', async () => {
    const { id } = await bench.configure();
    const asked = 'FROM (SELECT pg_catalog.pg_current_snapshot()::text AS snapshot)';
    cutter.arm(({ text, moment }) => moment === 'after' && text.includes(asked));
    const run = bench.backups.createSnapshot({ configurationId: id }, { wait: true });
    await expect(run).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    expect(cutter.cut).toHaveLength(1);
    cutter.arm();
    await expectSettled(bench.backups, id, used);
  });
});
