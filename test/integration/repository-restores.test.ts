import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BackupRepository } from '../../src/repository/backup-repository.ts';
import type { Database } from '../../src/repository/database.ts';
import type { BackupSnapshot, RestoreOperation } from '../../src/types/backup.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  aCompletedSnapshot,
  aConfiguration,
  aDatabase,
  aFailure,
  aRestore,
  aRestoreProgress,
  LATER,
  ofOrganization,
  present,
  START,
} from './repository-fixtures.ts';

let database: TestDatabase;
let db: Database;
let repository: BackupRepository;
let snapshot: BackupSnapshot;
beforeAll(async () => {
  database = await createTestDatabase();
  db = aDatabase(database.pool);
  repository = ofOrganization(db, randomUUID());
  const { id } = await repository.insertConfig(aConfiguration());
  snapshot = await aCompletedSnapshot(repository, id);
});
afterAll(() => database[Symbol.asyncDispose]());

async function inserted(changes: Parameters<typeof aRestore>[1] = {}): Promise<RestoreOperation> {
  return present(await repository.insertRestore(aRestore(snapshot.id, changes)));
}

describe('a restore', () => {
  test('comes back as it was inserted, with a number of its own', async () => {
    const given = aRestore(snapshot.id, { scope: { recordIds: ['a', 'b'] }, notes: 'drill' });
    const restore = present(await repository.insertRestore(given));
    expect(restore).toMatchObject({
      ...given,
      requestedAt: START,
      progress: null,
      dataMetrics: null,
      errors: [],
    });
    expect(restore.restoreNumber).toBe('RST-2026-000001');
    expect(await repository.findRestoreById(given.id)).toEqual(restore);
    expect(await repository.findRestoreById('nonsense')).toBeUndefined();
    expect(await repository.insertRestore(aRestore(randomUUID()))).toBeUndefined();
  });

  test('is started by one of several workers', async () => {
    const { id } = await inserted();
    const starts = await Promise.all(Array.from({ length: 5 }, () => repository.startRestore(id, LATER)));
    expect(starts.filter(Boolean)).toHaveLength(1);
    expect(await repository.findRestoreById(id)).toMatchObject({ status: 'PREPARING', startedAt: LATER });
  });

  test('takes progress only while it is at work', async () => {
    const { id } = await inserted();
    const update = { status: 'IN_PROGRESS', progress: aRestoreProgress() } as const;
    expect(await repository.updateRestoreProgress(id, update)).toBe(false);
    await repository.startRestore(id, START);
    expect(await repository.updateRestoreProgress(id, update)).toBe(true);
    expect(await repository.findRestoreById(id)).toMatchObject(update);
    await repository.finishRestore(id, { status: 'CANCELLED', completedAt: LATER });
    expect(await repository.updateRestoreProgress(id, update)).toBe(false);
    expect(await repository.findRestoreById(id)).toMatchObject({ status: 'CANCELLED' });
  });

  test('that completes is counted on its snapshot, once', async () => {
    const { id } = await inserted();
    const end = {
      status: 'COMPLETED',
      completedAt: LATER,
      duration: 10,
      dataMetrics: { totalRecords: 1, totalSizeBytes: 2, recordsByEntity: { VISIT: 1 } },
      validationResults: {
        passed: true,
        validatedAt: LATER,
        recordsExpected: 1,
        recordsFound: 1,
        checks: [],
      },
    } as const;
    expect(await repository.finishRestore(id, end)).toBe(false);
    await repository.startRestore(id, START);
    const before = present(await repository.findSnapshotById(snapshot.id)).restoreCount;
    const ends = await Promise.all(Array.from({ length: 5 }, () => repository.finishRestore(id, end)));
    expect(ends.filter(Boolean)).toHaveLength(1);
    expect(await repository.findRestoreById(id)).toMatchObject(end);
    expect(await repository.findSnapshotById(snapshot.id)).toMatchObject({
      restoreCount: before + 1,
      lastRestoredAt: LATER,
    });
  });

  test('that fails keeps its error and is not counted', async () => {
    const { id } = await inserted();
    const before = present(await repository.findSnapshotById(snapshot.id)).restoreCount;
    const { error } = aFailure();
    expect(await repository.finishRestore(id, { status: 'FAILED', completedAt: LATER, error })).toBe(true);
    expect(await repository.findRestoreById(id)).toMatchObject({ status: 'FAILED', errors: [error] });
    expect(await repository.findSnapshotById(snapshot.id)).toMatchObject({ restoreCount: before });
    expect(await repository.startRestore(id, LATER)).toBe(false);
  });
});

describe('an approval', () => {
  test('is given by another person, once', async () => {
    const { id, requestedBy } = await inserted({ status: 'PENDING_APPROVAL', requiresApproval: true });
    expect(await repository.startRestore(id, START)).toBe(false);
    const decision = { status: 'APPROVED', approvedBy: randomUUID(), approvalNotes: 'ok' } as const;
    expect(await repository.decideRestore(id, { ...decision, approvedBy: requestedBy })).toBe(false);
    expect(await repository.decideRestore(id, decision)).toBe(true);
    expect(await repository.decideRestore(id, { ...decision, status: 'REJECTED' })).toBe(false);
    expect(await repository.findRestoreById(id)).toMatchObject({ ...decision, approvedAt: START });
    expect(await repository.startRestore(id, START)).toBe(true);
  });

  test('by the requester is refused by the table itself', async () => {
    const { id } = await inserted({ status: 'PENDING_APPROVAL', requiresApproval: true });
    const change = database.pool.query(
      'UPDATE care_backup.restore_operations SET approved_by = requested_by, approved_at = now() WHERE id = $1',
      [id],
    );
    await expect(change).rejects.toMatchObject({ constraint: 'restore_operations_second_person' });
  });
});
