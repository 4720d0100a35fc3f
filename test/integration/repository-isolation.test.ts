import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type BackupRepository, createBackupRepository } from '../../src/repository/backup-repository.ts';
import type { Database } from '../../src/repository/database.ts';
import type { NewStorageJob } from '../../src/repository/storage-jobs.ts';
import type { StorageJobKind } from '../../src/types/backup.ts';
import type { UUID } from '../../src/types/ids.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  aCompletedSnapshot,
  aConfiguration,
  aDatabase,
  aFailure,
  aProgress,
  aRestore,
  aRestoreProgress,
  aResult,
  aRunningSnapshot,
  aSnapshot,
  LATER,
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

/** One of each thing of an organization, in the state in which most can be done to it. */
interface Estate {
  readonly organizationId: UUID;
  readonly branchIds: readonly UUID[] | null;
  readonly configurationId: UUID;
  readonly updatedAt: string;
  readonly running: { readonly snapshotId: UUID; readonly attemptId: UUID };
  readonly queuedId: UUID;
  readonly completedId: UUID;
  readonly claimedId: UUID;
  readonly enqueuedId: UUID;
  readonly jobs: { readonly queued: UUID; readonly working: UUID };
  readonly restores: {
    readonly pending: UUID;
    readonly queued: UUID;
    readonly working: UUID;
    readonly done: UUID;
  };
  readonly conflictId: UUID;
}

async function anEstate(branchIds: readonly UUID[] | null): Promise<Estate> {
  const organizationId = randomUUID();
  const own = ofOrganization(db, organizationId);
  const first = await aRunningSnapshot(own, { branchIds });
  await own.claimAttempt(first.attemptId, aFailure());
  const configurationId = first.configuration.id;
  const completed = await aCompletedSnapshot(own, configurationId, { branchIds });
  const restore = async (status: 'PENDING_APPROVAL' | 'QUEUED', rollbackEnabled = false) =>
    present(await own.insertRestore(aRestore(completed.id, { status, rollbackEnabled }))).id;
  const restores = {
    pending: await restore('PENDING_APPROVAL'),
    queued: await restore('QUEUED'),
    working: await restore('QUEUED'),
    done: await restore('QUEUED', true),
  };
  for (const id of [restores.working, restores.done]) await own.startRestore(id, START);
  await own.finishRestore(restores.done, { status: 'COMPLETED', completedAt: LATER });
  const conflictId = randomUUID();
  await db.query(
    `INSERT INTO ${db.table('restore_conflicts')} (id, organization_id, restore_id, entity_type, record_id, kind, fields, columns, backup, status, detected_at)
     VALUES ($4, $1, $2, 'VISIT', '1', 'DIFFERENT', '{note}', '{id,note}', '{1,NULL}', 'PENDING', $3)`,
    [organizationId, restores.done, LATER, conflictId],
  );
  const queuedId = present(await own.insertSnapshot(aSnapshot(configurationId))).id;
  const snapshotId = present(await own.insertSnapshot(aSnapshot(configurationId))).id;
  const attemptId = randomUUID();
  await own.createAttempt({ id: attemptId, snapshotId, storagePrefix: 'p', worker: 'w' });
  const enqueuedId = present(await own.insertSnapshot(aSnapshot(configurationId))).id;
  await own.enqueueRun(enqueuedId, LIMITS);
  await own.insertSnapshot({
    ...aSnapshot(configurationId),
    trigger: 'SCHEDULED',
    scheduledAt: SCHEDULED_AT,
  });
  await own.recordKey(completed.id, 'key-1');
  await own.insertStorageJob({
    ...aStorageJob(configurationId, completed.id, randomUUID(), 'REWRAPPING'),
    snapshotId: null,
  });
  const jobs = { queued: randomUUID(), working: randomUUID() };
  await own.insertStorageJob(aStorageJob(configurationId, completed.id, jobs.queued, 'HEALING'));
  await own.insertStorageJob(aStorageJob(configurationId, completed.id, jobs.working, 'REPLICATION'));
  await own.startStorageJob(jobs.working);
  const { updatedAt } = present(await own.findConfigById(configurationId));
  return {
    organizationId,
    branchIds,
    configurationId,
    updatedAt,
    running: { snapshotId, attemptId },
    queuedId,
    completedId: completed.id,
    claimedId: first.attemptId,
    enqueuedId,
    jobs,
    restores,
    conflictId,
  };
}

const SCHEDULED_AT = '2026-02-03T04:05:06.000Z';
const LIMITS = { maxAttempts: 3, notBefore: START, mustEndBy: null, maxDurationMs: 60_000 };

const aStorageJob = (
  configurationId: UUID,
  snapshotId: UUID,
  id: UUID,
  kind: StorageJobKind,
): NewStorageJob => ({
  id,
  kind,
  configurationId,
  snapshotId,
  input: {},
  maxAttempts: 3,
  requestedBy: randomUUID(),
});

const aStorageProgress = {
  percentage: 50,
  objectsTotal: 2,
  objectsDone: 1,
  bytesTotal: 20,
  bytesDone: 10,
  bytesPerSecond: 5,
  estimatedTimeRemainingMs: 2000,
  updatedAt: LATER,
};

type Call = (repository: BackupRepository, estate: Estate) => Promise<unknown>;

const cancellation = { statusReason: 'x', completedAt: LATER };

/** Every method that is given something of the estate, with a call that would do its work for the estate's owner. */
const CALLS: { readonly [M in Exclude<keyof BackupRepository, 'insertConfig'>]: Call } = {
  updateConfig: (r, e) =>
    r.updateConfig(e.configurationId, { name: 'stolen' }, { expectedUpdatedAt: e.updatedAt }),
  setNextScheduledBackup: (r, e) => r.setNextScheduledBackup(e.configurationId, LATER),
  findConfigById: (r, e) => r.findConfigById(e.configurationId),
  findConfigOfSnapshot: (r, e) => r.findConfigOfSnapshot(e.completedId),
  lockConfig: (r, e) => r.lockConfig(e.configurationId),
  listConfigs: (r) => r.listConfigs(),
  softDeleteConfig: (r, e) => r.softDeleteConfig(e.configurationId, randomUUID()),
  insertSnapshot: (r, e) => r.insertSnapshot(aSnapshot(e.configurationId)),
  findSnapshotById: (r, e) => r.findSnapshotById(e.completedId),
  findSnapshotsByConfig: (r, e) => r.findSnapshotsByConfig(e.configurationId),
  getLastSuccessfulBackup: (r, e) => r.getLastSuccessfulBackup(e.configurationId),
  listSnapshots: (r, e) => r.listSnapshots({ configurationId: e.configurationId }),
  updateSnapshotProgress: (r, e) => r.updateSnapshotProgress(e.running, { progress: aProgress(99) }),
  finalizeSnapshot: (r, e) => r.finalizeSnapshot(e.running, aResult({ branchIds: e.branchIds })),
  failSnapshot: (r, e) => r.failSnapshot(e.running, aFailure()),
  cancelSnapshot: (r, e) => r.cancelSnapshot({ snapshotId: e.queuedId, attemptId: null }, cancellation),
  recordVerification: (r, e) =>
    r.recordVerification(e.completedId, { integrityVerified: false, integrityVerifiedAt: LATER }),
  recordKey: (r, e) => r.recordKey(e.completedId, 'stolen'),
  listKeptByKey: (r) => r.listKeptByKey(),
  findConfigsWrappedOtherwise: (r) => r.findConfigsWrappedOtherwise('another-key'),
  findUnendedStorageJob: (r, e) => r.findUnendedStorageJob('REWRAPPING', e.configurationId),
  recordLocation: (r, e) => r.recordLocation(e.completedId, aResult().storageLocation),
  enqueueRun: async (r, e) => {
    // One run of a configuration at a time: the row that is there makes room.
    await database.pool.query('DELETE FROM care_backup.backup_queue WHERE snapshot_id = $1', [e.enqueuedId]);
    const entered = await r.enqueueRun(e.enqueuedId, LIMITS);
    if (!entered) await ofOrganization(db, e.organizationId).enqueueRun(e.enqueuedId, LIMITS);
    return entered;
  },
  findRunLimits: (r, e) => r.findRunLimits(e.enqueuedId),
  hasScheduledRun: (r, e) => r.hasScheduledRun(e.configurationId, SCHEDULED_AT),
  setRunNotBefore: (r, e) => r.setRunNotBefore(e.enqueuedId, LATER),
  allowAnotherTry: (r, e) => r.allowAnotherTry(e.enqueuedId),
  hasQueuedRun: (r, e) => r.hasQueuedRun(e.configurationId),
  insertStorageJob: (r, e) =>
    r.insertStorageJob(aStorageJob(e.configurationId, e.completedId, randomUUID(), 'VERIFICATION')),
  findStorageJobById: (r, e) => r.findStorageJobById(e.jobs.queued),
  findLastStorageJob: (r, e) => r.findLastStorageJob('HEALING', e.completedId),
  startStorageJob: (r, e) => r.startStorageJob(e.jobs.queued),
  updateStorageJobProgress: (r, e) => r.updateStorageJobProgress(e.jobs.working, aStorageProgress),
  completeStorageJob: (r, e) => r.completeStorageJob(e.jobs.working, { stored: 1 }),
  failStorageJob: (r, e) => r.failStorageJob(e.jobs.working, aFailure().error, LATER),
  cancelStorageJob: (r, e) => r.cancelStorageJob(e.jobs.queued),
  findUsedConfigurations: (r, e) => r.findUsedConfigurations(e.configurationId),
  findUsedPlaces: (r) => r.findUsedPlaces(),
  findKnownPaths: (r) => r.findKnownPaths(),
  findGrowth: (r, e) => r.findGrowth([e.configurationId], []),
  findPlaceGrowth: (r) => r.findPlaceGrowth(START, START),
  takeQuotaUse: (r) => r.takeQuotaUse([aResult().storageLocation.destination]),
  createAttempt: (r, e) =>
    r.createAttempt({ id: randomUUID(), snapshotId: e.queuedId, storagePrefix: 'p', worker: 'thief' }),
  findAttemptById: (r, e) => r.findAttemptById(e.running.attemptId),
  heartbeat: (r, e) => r.heartbeat(e.running.attemptId),
  requestCancel: (r, e) => r.requestCancel(e.running.snapshotId),
  claimAttempt: (r, e) => r.claimAttempt(e.running.attemptId, aFailure()),
  sealAttempt: (r, e) => r.sealAttempt(e.running.attemptId),
  markSwept: (r, e) => r.markSwept(e.claimedId),
  findUnfinishedAttempts: (r, e) => r.findUnfinishedAttempts(e.configurationId),
  findClaimedAttempts: (r, e) => r.findClaimedAttempts(e.configurationId, START),
  insertRestore: (r, e) => r.insertRestore(aRestore(e.completedId)),
  findRestoreById: (r, e) => r.findRestoreById(e.restores.queued),
  listRestores: (r, e) => r.listRestores({ snapshotId: e.completedId }),
  decideRestore: (r, e) =>
    r.decideRestore(e.restores.pending, {
      status: 'APPROVED',
      approvedBy: randomUUID(),
      approvalNotes: null,
    }),
  startRestore: (r, e) => r.startRestore(e.restores.queued, LATER),
  updateRestoreProgress: (r, e) =>
    r.updateRestoreProgress(e.restores.working, { progress: aRestoreProgress(99) }),
  rollBackRestore: (r, e) =>
    r.rollBackRestore(e.restores.done, {
      rolledBackBy: randomUUID(),
      rolledBackAt: LATER,
      statusReason: null,
    }),
  listRestoreConflicts: (r, e) => r.listRestoreConflicts(e.restores.done),
  findRestoreConflict: (r, e) => r.findRestoreConflict(e.conflictId),
  resolveRestoreConflict: (r, e) =>
    r.resolveRestoreConflict(e.conflictId, {
      resolution: 'EXISTING',
      resolvedBy: randomUUID(),
      resolvedAt: LATER,
      notes: null,
    }),
  finishRestore: (r, e) => r.finishRestore(e.restores.working, { status: 'COMPLETED', completedAt: LATER }),
};
const METHODS = Object.entries(CALLS);

function isNothing(value: unknown): boolean {
  if (value === undefined || value === false) return true;
  if (Array.isArray(value)) return value.length === 0;
  return (
    typeof value === 'object' &&
    value !== null &&
    'items' in value &&
    Array.isArray(value.items) &&
    value.items.length === 0
  );
}

/** Every row of the estate's organization, to see that nothing was touched. */
async function everything({ organizationId }: Estate): Promise<unknown> {
  const tables = [
    'backup_configurations',
    'backup_snapshots',
    'backup_attempts',
    'restore_operations',
    'backup_queue',
    'storage_jobs',
    'counters',
  ];
  const contents = tables.map(async (table) => {
    const { rows } = await database.pool.query(
      `SELECT to_jsonb(t) AS row FROM care_backup.${table} t WHERE organization_id = $1 ORDER BY 1`,
      [organizationId],
    );
    return rows;
  });
  return Promise.all(contents);
}

test('the matrix has every method', () => {
  const repository = ofOrganization(db, randomUUID());
  expect(Object.keys(repository).toSorted()).toEqual([...Object.keys(CALLS), 'insertConfig'].toSorted());
});

describe('to its owner, by each method, the estate answers', () => {
  test.each(METHODS)('%s', async (_, call) => {
    const branch = randomUUID();
    for (const branchIds of [null, [branch]] as const) {
      const estate = await anEstate(branchIds);
      // createAttempt waits for the configuration to be free.
      if (call === CALLS.createAttempt)
        await ofOrganization(db, estate.organizationId).claimAttempt(estate.running.attemptId, aFailure());
      const owner = { organizationId: estate.organizationId, branchIds: branchIds ?? ('ALL' as const) };
      expect(isNothing(await call(createBackupRepository(db, owner), estate))).toBe(false);
    }
  });
});

describe('to another organization the estate does not exist, by any method', () => {
  let estate: Estate;
  beforeAll(async () => {
    estate = await anEstate(null);
  });
  test.each(METHODS)('%s', async (_, call) => {
    const before = await everything(estate);
    expect(isNothing(await call(ofOrganization(db, randomUUID()), estate))).toBe(true);
    expect(await everything(estate)).toEqual(before);
  });
});

describe('to an actor of other branches the estate does not exist, by any method', () => {
  const [mine, other] = [randomUUID(), randomUUID()];
  const cases: [string, UUID[] | null, UUID[]][] = [
    ['the whole organization', null, [mine]],
    ['another branch', [other], [mine]],
    ['a branch of the actor and another', [mine, other], [mine]],
    ['a branch, to an actor of none', [mine], []],
  ];
  describe.each(cases)('a configuration of %s', (_, branchIds, actorBranches) => {
    let estate: Estate;
    beforeAll(async () => {
      estate = await anEstate(branchIds);
    });
    test.each(METHODS)('%s', async (method, call) => {
      const before = await everything(estate);
      const actor = createBackupRepository(db, {
        organizationId: estate.organizationId,
        branchIds: actorBranches,
      });
      if (method === 'finalizeSnapshot')
        await expect(call(actor, estate)).rejects.toMatchObject({ code: 'FORBIDDEN' });
      else expect(isNothing(await call(actor, estate))).toBe(true);
      expect(await everything(estate)).toEqual(before);
    });
  });
});

describe('what a snapshot holds decides who sees it, whatever becomes of its configuration', () => {
  test('a snapshot of the whole organization stays hidden when the configuration is narrowed to a branch', async () => {
    const [mine, organizationId] = [randomUUID(), randomUUID()];
    const all = ofOrganization(db, organizationId);
    const limited = createBackupRepository(db, { organizationId, branchIds: [mine] });
    const { id, updatedAt } = await all.insertConfig(aConfiguration());
    const old = await aCompletedSnapshot(all, id);
    await all.updateConfig(id, { branchIds: [mine] }, { expectedUpdatedAt: updatedAt });
    const young = await aCompletedSnapshot(all, id, { branchIds: [mine] });
    expect(await limited.findConfigById(id)).toMatchObject({ id });
    expect((await limited.findSnapshotsByConfig(id)).map((one) => one.id)).toEqual([young.id]);
    expect(await limited.insertRestore(aRestore(old.id))).toBeUndefined();
    expect(await limited.findConfigOfSnapshot(old.id)).toBeUndefined();
  });

  test('and a run that has read more than the configuration says now is recorded as what it has read', async () => {
    const [mine, organizationId] = [randomUUID(), randomUUID()];
    const all = ofOrganization(db, organizationId);
    const limited = createBackupRepository(db, { organizationId, branchIds: [mine] });
    const { id } = await all.insertConfig(aConfiguration({ branchIds: [mine] }));
    const snapshot = await aCompletedSnapshot(all, id, { branchIds: null });
    expect(await limited.findSnapshotById(snapshot.id)).toBeUndefined();
  });
});

test('no row refers to another organization’s, even for a superuser', async () => {
  const [mine, foreign] = [await anEstate(null), await anEstate(null)];
  const statements = [
    `UPDATE care_backup.backup_snapshots SET configuration_id = '${foreign.configurationId}' WHERE id = '${mine.queuedId}'`,
    `UPDATE care_backup.backup_snapshots SET parent_snapshot_id = '${foreign.completedId}' WHERE id = '${mine.queuedId}'`,
    `UPDATE care_backup.backup_attempts SET snapshot_id = '${foreign.queuedId}' WHERE id = '${mine.claimedId}'`,
    `UPDATE care_backup.restore_operations SET snapshot_id = '${foreign.completedId}' WHERE id = '${mine.restores.queued}'`,
    `UPDATE care_backup.restore_operations SET rollback_snapshot_id = '${foreign.completedId}' WHERE id = '${mine.restores.queued}'`,
    `UPDATE care_backup.backup_snapshots SET organization_id = '${foreign.organizationId}', snapshot_number = 'x' WHERE id = '${mine.queuedId}'`,
  ];
  for (const statement of statements)
    await expect(database.pool.query(statement)).rejects.toMatchObject({ code: '23503' });
});
