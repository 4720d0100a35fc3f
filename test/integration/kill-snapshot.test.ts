import { readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isClaim } from '../../src/archive/claim.ts';
import { createAuditLog } from '../../src/repository/audit-log.ts';
import { createDatabase } from '../../src/repository/database.ts';
import type { BackupSnapshot } from '../../src/types/backup.ts';
import { runChild, share, startChild } from '../harness/kill-process.ts';
import { auditActions, createBench, filesBelow, type ServiceBench } from '../harness/service-bench.ts';
import { TINY_ORGANIZATION, tinyData, tinyDifferences } from '../harness/service-tiny.ts';

const SHARE = 3;
let bench: ServiceBench;
let schemas = 0;

beforeAll(async () => {
  bench = await createBench(tinyData);
});
afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

const good = (snapshot: BackupSnapshot): boolean => snapshot.status.startsWith('COMPLETED');

const snapshotsOf = async (configurationId: string): Promise<readonly BackupSnapshot[]> =>
  (await bench.backups.listSnapshots({ configurationId })).items;

/** The server needs a moment to see that a process is gone; a second would be a lock that outlives its holder. */
async function backUp(configurationId: string): Promise<BackupSnapshot> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await bench.backups.createSnapshot({ configurationId }, { wait: true });
    } catch (error) {
      if ((error as { code?: string }).code !== 'BACKUP_ALREADY_RUNNING' || tries === 20) throw error;
      await sleep(50);
    }
  }
}

async function restoresIdentical(snapshot: BackupSnapshot): Promise<void> {
  schemas += 1;
  const schemaName = `back_${schemas}`;
  await bench.backups.createRestoreOperation(
    { snapshotId: snapshot.id, restoreDestination: { type: 'TEST', schemaName } },
    { wait: true },
  );
  expect(await tinyDifferences(bench.database.pool, schemaName)).toBe(0);
}

const objectsOf = async (configurationId: string): Promise<string[]> =>
  (await filesBelow(bench.folder)).filter((file) => file.includes(configurationId));

const child = (configurationId: string) => ({
  url: bench.database.url,
  folder: bench.folder,
  configurationId,
});

/** What must be true of a configuration after a process died in a run of it, however far it had come. */
async function expectRecovered(configurationId: string): Promise<'FAILED' | 'COMPLETED' | 'NOTHING'> {
  const manifest = (await objectsOf(configurationId)).some((file) => file.endsWith('/manifest'));
  const [died] = await snapshotsOf(configurationId);
  if (died !== undefined && good(died))
    expect((await bench.backups.verifySnapshot(died.id)).passed).toBe(true);

  const next = await backUp(configurationId);
  expect(next.status).toBe('COMPLETED');
  expect((await bench.backups.verifySnapshot(next.id)).passed).toBe(true);
  const after = (await snapshotsOf(configurationId)).filter(({ id }) => id !== next.id);
  if (died === undefined) {
    expect(after).toEqual([]);
    return 'NOTHING';
  }
  const [found] = after;
  expect(after).toHaveLength(1);
  expect(found?.status).toBe(manifest ? 'COMPLETED' : 'FAILED');
  const configuration = await bench.backups.getConfiguration(configurationId);
  expect(configuration.totalBackupsCreated).toBe(manifest ? 2 : 1);
  const remains = (await objectsOf(configurationId)).filter((file) =>
    file.includes(`/${died.snapshotNumber}/`),
  );
  if (found !== undefined && manifest) {
    expect((await bench.backups.verifySnapshot(found.id)).passed).toBe(true);
    await restoresIdentical(found);
    return 'COMPLETED';
  }
  expect(found?.statusReason).toContain('BACKUP_INTERRUPTED');
  expect(remains.map((file) => file.split('/').at(-1))).toEqual(['manifest']);
  expect(isClaim(await readFile(join(bench.folder, remains[0] ?? '')))).toBe(true);
  return 'FAILED';
}

/** The steps of a backup in this version; their numbers differ by a few between runs. */
async function stepsOfBackup(): Promise<{ last: number; named: string[] }> {
  const { id } = await bench.configure();
  const end = await runChild({ ...child(id), trace: true });
  const lines = end.output.split('\n').filter((line) => line.startsWith('STEP '));
  expect(end.output).toContain(`DONE ${lines.length}`);
  return { last: lines.length, named: lines.map((line) => line.split(' ').slice(2).join(' ')) };
}

describe('a process that is killed', () => {
  test('at whatever step leaves nothing that blocks or that counts falsely', async () => {
    const { last } = await stepsOfBackup();
    expect(last).toBeGreaterThan(200);
    const steps = share(last, SHARE, 5);
    const outcomes: string[] = [];
    const work = async (): Promise<void> => {
      for (let at = steps.shift(); at !== undefined; at = steps.shift()) {
        const { id } = await bench.configure();
        const end = await runChild({ ...child(id), at });
        expect(end, end.output).toMatchObject({ signal: 'SIGKILL' });
        outcomes.push(await expectRecovered(id));
      }
    };
    await Promise.all([work(), work()]);
    // Which steps the share falls on depends on the heartbeats; the finished run is among the named steps below.
    expect(outcomes).toContain('FAILED');
    expect(['NOTHING', 'FAILED', 'COMPLETED']).toEqual(expect.arrayContaining(outcomes));
  }, 1_800_000);

  test.each([
    ['before put o-', 'FAILED'],
    ['after put o-', 'FAILED'],
    ['before get o-', 'FAILED'],
    ['before put manifest', 'FAILED'],
    ['after put manifest', 'COMPLETED'],
    ['before UPDATE "care_backup"."backup_configurations"', 'COMPLETED'],
    ['before INSERT INTO "care_backup"."backup_attempts"', 'NOTHING'],
    ['before UPDATE "care_backup"."backup_snapshots"', 'FAILED'],
  ])('%s: %s', async (atName, outcome) => {
    const { id } = await bench.configure();
    const end = await runChild({ ...child(id), atName });
    expect(end, end.output).toMatchObject({ signal: 'SIGKILL' });
    expect(await expectRecovered(id)).toBe(outcome);
  });

  test('is ended by whoever cancels its run', async () => {
    const { id } = await bench.configure();
    await runChild({ ...child(id), atName: 'after put o-' });
    const [died] = await snapshotsOf(id);
    await sleep(100);
    const cancelled = await bench.backups.cancelSnapshot(died?.id ?? '');
    expect(cancelled.status).toBe('CANCELLED');
    expect((await objectsOf(id)).map((file) => file.split('/').at(-1))).toEqual(['manifest']);
    expect(await auditActions(bench.database.pool, cancelled.id)).toEqual([
      'snapshot.requested',
      'snapshot.cancel_requested',
      'snapshot.cancelled',
    ]);
    expect((await backUp(id)).status).toBe('COMPLETED');
  });

  test('does not keep a configuration from being deleted', async () => {
    const { id } = await bench.configure();
    await runChild({ ...child(id), atName: 'after put o-' });
    await sleep(100);
    await bench.backups.deleteConfiguration(id);
    expect((await objectsOf(id)).map((file) => file.split('/').at(-1))).toEqual(['manifest']);
  });

  test('and whose manifest was damaged afterwards does not count and blocks nothing', async () => {
    const { id } = await bench.configure();
    await runChild({ ...child(id), atName: 'after put manifest' });
    const [manifest] = (await objectsOf(id)).filter((file) => file.endsWith('/manifest'));
    const path = join(bench.folder, manifest ?? '');
    const bytes = await readFile(path);
    bytes[bytes.length - 20] = (bytes[bytes.length - 20] ?? 0) ^ 1;
    await writeFile(path, bytes);
    const next = await backUp(id);
    const [, died] = await snapshotsOf(id);
    expect([next.status, died?.status]).toEqual(['COMPLETED', 'FAILED']);
    expect(died?.statusReason).toContain('ARCHIVE_');
    expect((await backUp(id)).status).toBe('COMPLETED');
  });
});

test('a run killed after its manifest, an object of which is lost, is not adopted', async () => {
  const { id } = await bench.configure();
  await runChild({ ...child(id), atName: 'after put manifest' });
  const [object = ''] = (await objectsOf(id)).filter((file) => file.endsWith('/o-000001'));
  await rm(join(bench.folder, object));
  const next = await backUp(id);
  const [, died] = await snapshotsOf(id);
  expect([next.status, died?.status]).toEqual(['COMPLETED', 'FAILED']);
  expect(died?.statusReason).toContain('ARCHIVE_INCOMPLETE');
});

describe('a process that is stopped, given up and goes on', () => {
  async function giveUp(atName: string) {
    const { id } = await bench.configure();
    const stopped = startChild({ ...child(id), atName, signal: 'SIGSTOP' });
    await stopped.said('AT ');
    await bench.database.pool.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'care-backup lock'`,
    );
    const next = await backUp(id);
    stopped.process.kill('SIGCONT');
    const end = await stopped.end;
    return { id, next, end };
  }

  test.each([
    'before put o-',
    'after put o-',
    'before get o-',
    'before put manifest',
    'before SELECT pg_catalog.to_json(q)::text FROM ( WITH RECURSIVE',
  ])('at "%s" cannot finish, and its objects are gone after the run after', async (atName) => {
    const { id, next, end } = await giveUp(atName);
    expect(end.output).toContain('ERROR BACKUP_ATTEMPT_LOST');
    await backUp(id);
    const [, , dead] = await snapshotsOf(id);
    expect(dead).toMatchObject({ status: 'FAILED' });
    const remains = (await objectsOf(id)).filter((file) => file.includes(`/${dead?.snapshotNumber}/`));
    expect(remains.map((file) => file.split('/').at(-1))).toEqual(['manifest']);
    expect(isClaim(await readFile(join(bench.folder, remains[0] ?? '')))).toBe(true);
    expect((await bench.backups.verifySnapshot(next.id)).passed).toBe(true);
    expect((await bench.backups.getConfiguration(id)).totalBackupsCreated).toBe(2);
  });

  test('after its manifest was stored was adopted, and is not counted twice', async () => {
    const { id, end } = await giveUp('after put manifest');
    expect(end.output).toContain('DONE');
    const snapshots = await snapshotsOf(id);
    expect(snapshots.map(({ status }) => status)).toEqual(['COMPLETED', 'COMPLETED']);
    expect((await bench.backups.getConfiguration(id)).totalBackupsCreated).toBe(2);
    const adopted = snapshots[1];
    expect(await auditActions(bench.database.pool, adopted?.id ?? '')).toEqual([
      'snapshot.requested',
      'snapshot.adopted',
    ]);
    if (adopted !== undefined) await restoresIdentical(adopted);
  });

  test('what it stores after it was swept goes with the next run', async () => {
    const { id } = await bench.configure();
    await runChild({ ...child(id), atName: 'before put o-' });
    await backUp(id);
    const [, dead] = await snapshotsOf(id);
    const [claim = ''] = (await objectsOf(id)).filter((file) => file.includes(`/${dead?.snapshotNumber}/`));
    await writeFile(join(bench.folder, dirname(claim), 'o-000007'), 'late');
    await backUp(id);
    expect((await objectsOf(id)).filter((file) => file.includes(`/${dead?.snapshotNumber}/`))).toEqual([
      claim,
    ]);
  });
});

test('after all of this the audit chain is whole', async () => {
  const db = createDatabase({ pool: bench.database.pool, clock: { now: () => new Date() } });
  expect(await createAuditLog().verifyChain(db, TINY_ORGANIZATION)).toMatchObject({ valid: true });
});
