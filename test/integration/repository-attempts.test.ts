import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Database } from '../../src/repository/database.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';
import {
  aDatabase,
  aFailure,
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
const clock = manualClock();
beforeAll(async () => {
  database = await createTestDatabase();
  db = aDatabase(database.pool, clock);
});
afterAll(() => database[Symbol.asyncDispose]());

test('an attempt begins RUNNING, one at a time for a configuration', async () => {
  const organizationId = randomUUID();
  const repository = ofOrganization(db, organizationId);
  const { configuration, snapshot, attemptId } = await aRunningSnapshot(repository);
  expect(await repository.findAttemptById(attemptId)).toEqual({
    id: attemptId,
    organizationId,
    configurationId: configuration.id,
    snapshotId: snapshot.id,
    storagePrefix: `backups/${snapshot.snapshotNumber}/${attemptId}`,
    state: 'RUNNING',
    worker: 'test',
    heartbeatAt: START,
    cancelRequestedAt: null,
    destination: null,
    sweptAt: null,
    createdAt: START,
  });
  const second = present(await repository.insertSnapshot(aSnapshot(configuration.id)));
  const attempts = [snapshot.id, second.id].map((snapshotId) => ({
    id: randomUUID(),
    snapshotId,
    storagePrefix: 'p',
    worker: 'w',
  }));
  for (const attempt of attempts) {
    await expect(repository.createAttempt(attempt)).rejects.toMatchObject({ code: 'BACKUP_ALREADY_RUNNING' });
  }
  await repository.claimAttempt(attemptId, aFailure());
  expect(await repository.createAttempt(present(attempts[1]))).toMatchObject({ state: 'RUNNING' });
});

test('an attempt at a snapshot that has ended, or is not there, does not begin', async () => {
  const repository = ofOrganization(db, randomUUID());
  const { snapshot, attemptId } = await aRunningSnapshot(repository);
  await repository.failSnapshot({ snapshotId: snapshot.id, attemptId }, aFailure());
  const attempt = { id: randomUUID(), storagePrefix: 'p', worker: 'w' };
  expect(await repository.createAttempt({ ...attempt, snapshotId: snapshot.id })).toBeUndefined();
  expect(await repository.createAttempt({ ...attempt, snapshotId: randomUUID() })).toBeUndefined();
});

test('of 10 workers that begin at the same time, one runs', async () => {
  const repository = ofOrganization(db, randomUUID());
  const { configuration, attemptId } = await aRunningSnapshot(repository);
  await repository.claimAttempt(attemptId, aFailure());
  const snapshot = present(await repository.insertSnapshot(aSnapshot(configuration.id)));
  const begun = await Promise.allSettled(
    Array.from({ length: 10 }, () =>
      repository.createAttempt({
        id: randomUUID(),
        snapshotId: snapshot.id,
        storagePrefix: 'p',
        worker: 'w',
      }),
    ),
  );
  expect(begun.filter((one) => one.status === 'fulfilled')).toHaveLength(1);
  for (const one of begun) {
    if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'BACKUP_ALREADY_RUNNING' });
  }
  expect(await repository.findUnfinishedAttempts(configuration.id)).toHaveLength(1);
});

test('a new attempt and the claim of the old one at the same time do not wait for each other', async () => {
  const repository = ofOrganization(db, randomUUID());
  for (let round = 0; round < 20; round += 1) {
    const { snapshot, attemptId } = await aRunningSnapshot(repository);
    const next = { id: randomUUID(), snapshotId: snapshot.id, storagePrefix: 'p', worker: 'w' };
    const [claimed, begun] = await Promise.allSettled([
      repository.claimAttempt(attemptId, aFailure()),
      repository.createAttempt(next),
    ]);
    expect(claimed).toEqual({ status: 'fulfilled', value: true });
    if (begun.status === 'fulfilled') expect(begun.value).toBeUndefined();
    else expect(begun.reason).toMatchObject({ code: 'BACKUP_ALREADY_RUNNING' });
  }
});

test('the heartbeat moves on, tells of a cancellation and of the loss of the attempt', async () => {
  const repository = ofOrganization(db, randomUUID());
  const { snapshot, attemptId } = await aRunningSnapshot(repository);
  clock.set(LATER);
  expect(await repository.heartbeat(attemptId)).toEqual({ cancelRequested: false });
  expect(await repository.findAttemptById(attemptId)).toMatchObject({ heartbeatAt: LATER });
  clock.set(START);
  expect(await repository.requestCancel(snapshot.id)).toBe(true);
  expect(await repository.heartbeat(attemptId)).toEqual({ cancelRequested: true });
  expect(await repository.findAttemptById(attemptId)).toMatchObject({
    heartbeatAt: LATER,
    cancelRequestedAt: START,
  });
  await repository.claimAttempt(attemptId, aFailure());
  expect(await repository.heartbeat(attemptId)).toBeUndefined();
  expect(await repository.requestCancel(snapshot.id)).toBe(false);
  expect(await repository.heartbeat(randomUUID())).toBeUndefined();
});

test('claiming and sealing happen once', async () => {
  const repository = ofOrganization(db, randomUUID());
  const claimed = await aRunningSnapshot(repository);
  const claims = await Promise.all(
    Array.from({ length: 5 }, () => repository.claimAttempt(claimed.attemptId, aFailure())),
  );
  expect(claims.filter(Boolean)).toHaveLength(1);
  expect(await repository.sealAttempt(claimed.attemptId)).toBe(false);
  const sealed = await aRunningSnapshot(repository);
  expect(await repository.sealAttempt(sealed.attemptId)).toBe(true);
  expect(await repository.claimAttempt(sealed.attemptId, aFailure())).toBe(false);
  expect(await repository.findSnapshotById(sealed.snapshot.id)).toMatchObject({ status: 'QUEUED' });
  const done = await aRunningSnapshot(repository);
  await repository.finalizeSnapshot({ snapshotId: done.snapshot.id, attemptId: done.attemptId }, aResult());
  expect(await repository.claimAttempt(done.attemptId, aFailure())).toBe(false);
  expect(await repository.findSnapshotById(done.snapshot.id)).toMatchObject({ status: 'COMPLETED' });
});

test('claimed attempts are found until they are swept, and young ones also afterwards', async () => {
  const repository = ofOrganization(db, randomUUID());
  const { configuration, attemptId } = await aRunningSnapshot(repository);
  const ids = async (since: string) =>
    (await repository.findClaimedAttempts(configuration.id, since)).map((one) => one.id);
  expect(await ids(START)).toEqual([]);
  expect(await repository.markSwept(attemptId)).toBe(false);
  await repository.claimAttempt(attemptId, aFailure());
  expect(await repository.findUnfinishedAttempts(configuration.id)).toEqual([]);
  expect(await ids(LATER)).toEqual([attemptId]);
  expect(await repository.markSwept(attemptId)).toBe(true);
  expect(await ids(LATER)).toEqual([]);
  expect(await ids(START)).toEqual([attemptId]);
  expect(await repository.markSwept(attemptId)).toBe(true);
});
