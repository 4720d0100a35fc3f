import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Database } from '../../src/repository/database.ts';
import { BACKUP_SNAPSHOT_STATUSES } from '../../src/types/backup.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  aCompletedSnapshot,
  aConfiguration,
  aDatabase,
  aFailure,
  anAttempt,
  aProgress,
  aResult,
  aRunningSnapshot,
  aSnapshot,
  LATER,
  manualClock,
  ofOrganization,
  present,
  START,
} from './repository-fixtures.ts';

let database: TestDatabase;
let db: Database;
beforeAll(async () => {
  database = await createTestDatabase();
  db = aDatabase(database.pool);
});
afterAll(() => database[Symbol.asyncDispose]());

describe('numbers', () => {
  test('of 50 inserts at the same time in two organizations are unique, increasing and without gaps', async () => {
    const organizations = [randomUUID(), randomUUID()].map((id) => ofOrganization(db, id));
    const configurations = await Promise.all(
      organizations.map((repository) => repository.insertConfig(aConfiguration())),
    );
    const inserted = await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        const [repository, configuration] = [
          present(organizations[index % 2]),
          present(configurations[index % 2]),
        ];
        return present(await repository.insertSnapshot(aSnapshot(configuration.id)));
      }),
    );
    for (const configuration of configurations) {
      const numbers = inserted
        .filter((one) => one.configurationId === configuration.id)
        .map((one) => one.snapshotNumber);
      const expected = Array.from(
        { length: 25 },
        (_, index) => `BKP-2026-${String(index + 1).padStart(6, '0')}`,
      );
      expect(numbers.toSorted()).toEqual(expected);
    }
    // The list, newest first, and the numbers agree.
    const repository = present(organizations[0]);
    const listed = await repository.findSnapshotsByConfig(present(configurations[0]).id);
    expect(listed.map((one) => one.snapshotNumber)).toEqual(
      listed
        .map((one) => one.snapshotNumber)
        .toSorted()
        .toReversed(),
    );
  });

  test('begin anew with the UTC year, and grow past six digits', async () => {
    const clock = manualClock('2026-12-31T23:59:59.999Z');
    const organizationId = randomUUID();
    const repository = ofOrganization(aDatabase(database.pool, clock), organizationId);
    const { id } = await repository.insertConfig(aConfiguration());
    const next = async () => present(await repository.insertSnapshot(aSnapshot(id))).snapshotNumber;
    expect(await next()).toBe('BKP-2026-000001');
    clock.set('2027-01-01T00:00:00.000Z');
    expect(await next()).toBe('BKP-2027-000001');
    await database.pool.query(
      'UPDATE care_backup.counters SET last_value = 999999 WHERE organization_id = $1',
      [organizationId],
    );
    expect(await next()).toBe('BKP-2027-1000000');
  });

  test('are not spent on what is not inserted', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    expect(await repository.insertSnapshot(aSnapshot(randomUUID()))).toBeUndefined();
    const orphan = repository.insertSnapshot(aSnapshot(id, { parentSnapshotId: randomUUID() }));
    await expect(orphan).rejects.toMatchObject({ code: 'DATABASE_FAILED', message: /23503/ });
    expect(await repository.insertSnapshot(aSnapshot(id))).toMatchObject({
      snapshotNumber: 'BKP-2026-000001',
    });
  });
});

describe('a snapshot', () => {
  test('begins QUEUED, with what is not known yet null', async () => {
    const organizationId = randomUUID();
    const repository = ofOrganization(db, organizationId);
    const { id } = await repository.insertConfig(aConfiguration());
    const given = aSnapshot(id, { tags: { reason: 'release' }, notes: 'before', scheduledAt: START });
    const snapshot = present(await repository.insertSnapshot(given));
    expect(snapshot).toMatchObject({
      ...given,
      organizationId,
      status: 'QUEUED',
      startedAt: null,
      dataMetrics: null,
      storageLocation: null,
      checksum: null,
      errors: [],
      childSnapshotIds: [],
      integrityVerified: false,
    });
    expect(await repository.findSnapshotById(given.id)).toEqual(snapshot);
  });

  test('names its children, and has parents only in its own configuration', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    const other = await repository.insertConfig(aConfiguration());
    const parent = await aCompletedSnapshot(repository, id);
    const child = aSnapshot(id, { parentSnapshotId: parent.id, generation: 1, snapshotType: 'INCREMENTAL' });
    await repository.insertSnapshot(child);
    expect((await repository.findSnapshotById(parent.id))?.childSnapshotIds).toEqual([child.id]);
    const stray = repository.insertSnapshot(aSnapshot(other.id, { parentSnapshotId: parent.id }));
    await expect(stray).rejects.toMatchObject({ code: 'DATABASE_FAILED' });
  });

  test('of a deleted configuration is not begun', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    await repository.softDeleteConfig(id, randomUUID());
    expect(await repository.insertSnapshot(aSnapshot(id))).toBeUndefined();
  });

  test('that was the last to succeed is found by order, not by clock', async () => {
    const clock = manualClock();
    const repository = ofOrganization(aDatabase(database.pool, clock), randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    expect(await repository.getLastSuccessfulBackup(id)).toBeUndefined();
    await aCompletedSnapshot(repository, id);
    clock.set('2020-01-01T00:00:00.000Z');
    const backdated = await aCompletedSnapshot(repository, id, {
      status: 'COMPLETED_WITH_WARNINGS',
      completedAt: '2020-01-01T00:00:01.000Z',
    });
    await repository.insertSnapshot(aSnapshot(id));
    expect(await repository.getLastSuccessfulBackup(id)).toEqual(backdated);
    const statuses = (await repository.findSnapshotsByConfig(id)).map((one) => one.status);
    expect(statuses).toEqual(['QUEUED', 'COMPLETED_WITH_WARNINGS', 'COMPLETED']);
  });
});

describe('a running snapshot', () => {
  test('takes progress from the attempt that holds it, and from no other', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { snapshot, attemptId } = await aRunningSnapshot(repository);
    const token = { snapshotId: snapshot.id, attemptId };
    const update = { status: 'IN_PROGRESS', startedAt: START, progress: aProgress() } as const;
    expect(await repository.updateSnapshotProgress(token, update)).toBe(true);
    expect(await repository.findSnapshotById(snapshot.id)).toMatchObject(update);
    expect(await repository.updateSnapshotProgress({ ...token, attemptId: randomUUID() }, update)).toBe(
      false,
    );
    const another = await aRunningSnapshot(repository);
    expect(await repository.updateSnapshotProgress({ ...token, attemptId: another.attemptId }, update)).toBe(
      false,
    );
    await repository.claimAttempt(attemptId, aFailure());
    expect(await repository.updateSnapshotProgress(token, update)).toBe(false);
  });

  test('refuses progress that could not be read again', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { snapshot, attemptId } = await aRunningSnapshot(repository);
    const progress = { ...aProgress(), bytesPerSecond: Number.POSITIVE_INFINITY };
    const update = repository.updateSnapshotProgress({ snapshotId: snapshot.id, attemptId }, { progress });
    await expect(update).rejects.toMatchObject({ code: 'INTERNAL', message: /bytesPerSecond/ });
    expect(await repository.findSnapshotById(snapshot.id)).toEqual(snapshot);
  });

  test('is finalized with its attempt and its configuration', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { configuration, snapshot, attemptId } = await aRunningSnapshot(repository);
    const result = aResult({
      warnings: [{ code: 'W', message: 'w' }],
      status: 'COMPLETED_WITH_WARNINGS',
      duration: 12.6,
    });
    expect(await repository.finalizeSnapshot({ snapshotId: snapshot.id, attemptId }, result)).toBe(true);
    const { branchIds: _, ...fields } = result;
    expect(await repository.findSnapshotById(snapshot.id)).toMatchObject({ ...fields, duration: 13 });
    expect(await repository.findAttemptById(attemptId)).toMatchObject({ state: 'SEALED' });
    expect(await repository.findConfigById(configuration.id)).toMatchObject({
      lastBackupAt: LATER,
      lastSuccessfulBackupAt: LATER,
      totalBackupsCreated: 1,
      totalStorageUsed: 1000,
    });
    expect(await repository.finalizeSnapshot({ snapshotId: snapshot.id, attemptId }, result)).toBe(false);
    await aCompletedSnapshot(repository, configuration.id, { completedAt: START });
    expect(await repository.findConfigById(configuration.id)).toMatchObject({
      lastBackupAt: LATER,
      totalBackupsCreated: 2,
      totalStorageUsed: 2000,
    });
  });

  test('is not finalized by a claimed attempt, nor failed or cancelled by it', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { configuration, snapshot, attemptId } = await aRunningSnapshot(repository);
    const token = { snapshotId: snapshot.id, attemptId };
    expect(await repository.claimAttempt(attemptId, aFailure())).toBe(true);
    const failed = await repository.findSnapshotById(snapshot.id);
    expect(failed).toMatchObject({
      status: 'FAILED',
      statusReason: 'The worker died',
      errors: [aFailure().error],
    });
    expect(await repository.finalizeSnapshot(token, aResult())).toBe(false);
    expect(await repository.failSnapshot(token, aFailure())).toBeUndefined();
    expect(await repository.cancelSnapshot(token, { statusReason: 'x', completedAt: LATER })).toBe(false);
    expect(await repository.findSnapshotById(snapshot.id)).toEqual(failed);
    expect(await repository.findConfigById(configuration.id)).toMatchObject({
      lastBackupAt: LATER,
      lastSuccessfulBackupAt: null,
      totalBackupsCreated: 0,
    });
  });

  test('claim and finalization at the same moment: exactly one of them takes place', async () => {
    const repository = ofOrganization(db, randomUUID());
    for (let round = 0; round < 20; round += 1) {
      const { snapshot, attemptId } = await aRunningSnapshot(repository);
      const token = { snapshotId: snapshot.id, attemptId };
      const [finalized, claimed] = await Promise.all([
        repository.finalizeSnapshot(token, aResult()),
        repository.claimAttempt(attemptId, aFailure()),
        repository.updateSnapshotProgress(token, { status: 'VERIFYING' }),
      ]);
      expect([finalized, claimed].filter(Boolean)).toHaveLength(1);
      const after = await repository.findSnapshotById(snapshot.id);
      expect(after?.status).toBe(finalized ? 'COMPLETED' : 'FAILED');
      expect((await repository.findAttemptById(attemptId))?.state).toBe(finalized ? 'SEALED' : 'CLAIMED');
    }
  });

  test('fails or is cancelled with its attempt, whose remains are then to be swept', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { configuration, snapshot, attemptId } = await aRunningSnapshot(repository);
    const failure = aFailure({ error: { ...aFailure().error, message: 'bad \0 text \uDC00' } });
    expect(await repository.failSnapshot({ snapshotId: snapshot.id, attemptId }, failure)).toBe('ENDED');
    expect((await repository.findSnapshotById(snapshot.id))?.errors).toMatchObject([
      { message: 'bad \uFFFD text \uFFFD' },
    ]);
    const second = present(await repository.insertSnapshot(aSnapshot(configuration.id)));
    const secondAttempt = await anAttempt(repository, second);
    const cancellation = { statusReason: 'by request', completedAt: LATER, duration: 5 };
    expect(
      await repository.cancelSnapshot({ snapshotId: second.id, attemptId: secondAttempt }, cancellation),
    ).toBe(true);
    expect(await repository.findSnapshotById(second.id)).toMatchObject({
      status: 'CANCELLED',
      ...cancellation,
    });
    const claimed = await repository.findClaimedAttempts(configuration.id, '2030-01-01T00:00:00.000Z');
    expect(claimed.map((attempt) => attempt.id)).toEqual([attemptId, secondAttempt]);
  });

  test('without an attempt ends without one, and only without one', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { configuration, snapshot } = await aRunningSnapshot(repository);
    const cancellation = { statusReason: 'by request', completedAt: LATER };
    expect(await repository.cancelSnapshot({ snapshotId: snapshot.id, attemptId: null }, cancellation)).toBe(
      false,
    );
    const queued = present(await repository.insertSnapshot(aSnapshot(configuration.id)));
    expect(await repository.cancelSnapshot({ snapshotId: queued.id, attemptId: null }, cancellation)).toBe(
      true,
    );
    expect(await repository.cancelSnapshot({ snapshotId: queued.id, attemptId: null }, cancellation)).toBe(
      false,
    );
    const another = present(await repository.insertSnapshot(aSnapshot(configuration.id)));
    expect(await repository.failSnapshot({ snapshotId: another.id, attemptId: null }, aFailure())).toBe(
      'ENDED',
    );
  });

  test('rolled back with the caller’s transaction, leaves nothing of its end', async () => {
    const organizationId = randomUUID();
    const repository = ofOrganization(db, organizationId);
    const { snapshot, attemptId } = await aRunningSnapshot(repository);
    const before = await repository.findSnapshotById(snapshot.id);
    const run = db.withTransaction(async (tx) => {
      const inside = ofOrganization(tx, organizationId);
      expect(await inside.finalizeSnapshot({ snapshotId: snapshot.id, attemptId }, aResult())).toBe(true);
      throw new Error('the audit entry failed');
    });
    await expect(run).rejects.toThrow('the audit entry failed');
    expect(await repository.findSnapshotById(snapshot.id)).toEqual(before);
    expect(await repository.findAttemptById(attemptId)).toMatchObject({ state: 'RUNNING' });
  });
});

describe('the guard of the status, a trigger', () => {
  const running = ['QUEUED', 'PREPARING', 'IN_PROGRESS', 'FINALIZING', 'VERIFYING'];

  test.each(BACKUP_SNAPSHOT_STATUSES)('from %s', async (from) => {
    const repository = ofOrganization(db, randomUUID());
    const { id } = await repository.insertConfig(aConfiguration());
    const snapshot = await aCompletedSnapshot(repository, id);
    const client = await database.pool.connect();
    try {
      for (const to of BACKUP_SNAPSHOT_STATUSES) {
        await client.query('BEGIN');
        // As a superuser may: put the row into the state without asking.
        await client.query('SET LOCAL session_replication_role = replica');
        await client.query('UPDATE care_backup.backup_snapshots SET status = $2 WHERE id = $1', [
          snapshot.id,
          from,
        ]);
        await client.query('SET LOCAL session_replication_role = origin');
        const change = client.query('UPDATE care_backup.backup_snapshots SET status = $2 WHERE id = $1', [
          snapshot.id,
          to,
        ]);
        const revived = !running.includes(from) && running.includes(to);
        const resurrected = ['FAILED', 'CANCELLED'].includes(from) && to.startsWith('COMPLETED');
        if (revived || resurrected) await expect(change).rejects.toMatchObject({ code: '23514' });
        else await change;
        await client.query('ROLLBACK');
      }
    } finally {
      client.release();
    }
  });

  test('a snapshot does not count without what its restore needs', async () => {
    const repository = ofOrganization(db, randomUUID());
    const { snapshot } = await aRunningSnapshot(repository);
    const change = database.pool.query(
      "UPDATE care_backup.backup_snapshots SET status = 'COMPLETED' WHERE id = $1",
      [snapshot.id],
    );
    await expect(change).rejects.toMatchObject({ constraint: 'backup_snapshots_complete' });
  });
});

test('a verification is noted on a snapshot that counts', async () => {
  const repository = ofOrganization(db, randomUUID());
  const { configuration, snapshot } = await aRunningSnapshot(repository);
  const verification = { integrityVerified: false, integrityVerifiedAt: '2026-04-01T00:00:00.000Z' };
  expect(await repository.recordVerification(snapshot.id, verification)).toBe(false);
  await repository.cancelSnapshot(
    {
      snapshotId: snapshot.id,
      attemptId: present((await repository.findUnfinishedAttempts(configuration.id))[0]).id,
    },
    { statusReason: 'x', completedAt: LATER },
  );
  const done = await aCompletedSnapshot(repository, configuration.id);
  expect(await repository.recordVerification(done.id, verification)).toBe(true);
  expect(await repository.findSnapshotById(done.id)).toMatchObject(verification);
});
