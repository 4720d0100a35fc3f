import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createDatabase } from '../../src/repository/database.ts';
import { type SyncSweep, syncSweep } from '../../src/repository/sync-sweep.ts';
import type { QueueOperationInput } from '../../src/types/offline-sync.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  createSyncBench,
  Device,
  MANAGER,
  SYNC_ENTITIES,
  type SyncBench,
  syncActor,
} from '../harness/sync-bench.ts';
import { untilTrue } from '../harness/worker-fleet.ts';

const DAY_MS = 86_400_000;

let bench: SyncBench;
beforeEach(async () => {
  bench = await createSyncBench({
    execution: 'worker',
    syncOptions: { limits: { predecessorWaitMs: 1, alarmMs: { normal: 400 } } },
  });
});
afterEach(() => bench[Symbol.asyncDispose]());

/** The sweeper's steps as a worker whose clock is ahead would see them. */
const sweepIn = (aheadMs = 0): SyncSweep =>
  syncSweep(
    createDatabase({
      pool: bench.database.pool,
      clock: { now: () => new Date(Date.now() + aheadMs) },
    }),
  );

function aNote(device: Device, more: Partial<QueueOperationInput> = {}) {
  const id = randomUUID();
  const payload = { id, branch_id: BRANCH_A, body: 'a note' };
  return device.does({ operation: 'CREATE', entityType: 'NOTE', entityId: id, payload, ...more });
}
const handIn = async (userId: string, ...operations: readonly QueueOperationInput[]): Promise<void> => {
  const answers = await bench.as(userId).queueOperations(operations);
  expect(answers.map(({ status }) => status)).toEqual(operations.map(() => 'ACCEPTED'));
};
const standings = async (
  ...operations: readonly { operationId: string }[]
): Promise<(string | undefined)[]> => {
  const all = await bench.standing();
  return operations.map(({ operationId }) => all[operationId]);
};
const idsOf = (swept: readonly { operationId: string }[]): string[] =>
  swept.map(({ operationId }) => operationId).sort();

test('what waits too long for another is shown as a conflict, and goes on by itself when that comes', async () => {
  await using _worker = await bench.protection.startWorker({ pollMs: 50 });
  const [first, second] = [new Device(), new Device()];
  const missing = aNote(first);
  const waiting = aNote(second, { dependsOn: [missing.operationId] });
  const behind = aNote(second, { dependsOn: [waiting.operationId] });
  await handIn(BOB, waiting, behind);
  await untilTrue('a conflict', async () => (await standings(waiting))[0] === 'CONFLICT PREDECESSOR_MISSING');
  expect(await standings(behind)).toEqual(['BLOCKED PREDECESSOR_CONFLICT']);
  const manager = bench.as(MANAGER, { permissions: ['sync:admin'] });
  const conflicts = async () => (await manager.listConflicts({})).items;
  await untilTrue('its number', async () => (await conflicts())[0]?.conflictNumber !== null);
  expect(await conflicts()).toMatchObject([
    { operationId: waiting.operationId, conflictType: 'DEPENDENCY', status: 'PENDING_MANUAL' },
  ]);
  expect(await manager.getOperation(waiting.operationId)).toMatchObject({
    conflictId: (await conflicts())[0]?.id,
  });

  await handIn(ALICE, missing);
  await untilTrue('both have been applied', async () =>
    (await standings(waiting, behind)).every((standing) => standing === 'COMPLETED APPLIED'),
  );
  expect(await conflicts()).toMatchObject([{ status: 'CANCELLED' }]);
  expect((await manager.getOperation(waiting.operationId)).conflictId).toBeNull();
});

test('one of two that are missing is not enough', async () => {
  const [first, second] = [new Device(), new Device()];
  const [here, missing] = [aNote(first), aNote(first)];
  const waiting = aNote(second, { dependsOn: [here.operationId, missing.operationId] });
  await handIn(BOB, waiting);
  expect(idsOf(await sweepIn(DAY_MS).missingPredecessors(1))).toEqual([waiting.operationId]);
  await handIn(ALICE, here);
  expect(await sweepIn().predecessorsArrived()).toEqual([]);
  await handIn(ALICE, missing);
  expect(idsOf(await sweepIn().predecessorsArrived())).toEqual([waiting.operationId]);
  expect(await standings(waiting)).toEqual(['PENDING']);
});

test('what has come too late to be of use expires, but for what is critical or decided', async () => {
  const device = new Device();
  const expiresAt = new Date(Date.now() + 1_000).toISOString();
  const late = aNote(device, { expiresAt });
  const critical = aNote(device, { expiresAt, entityType: 'EVV_RECORD' });
  const unlimited = aNote(device);
  const decided = aNote(device, { expiresAt });
  await handIn(ALICE, late, critical, unlimited, decided);
  await bench.sql(
    `UPDATE care_backup.offline_sync_queue SET conflict_resolution = '{}' WHERE operation_id = $1`,
    [decided.operationId],
  );
  expect(await sweepIn(-DAY_MS).expireOverdue()).toEqual([]);
  expect(idsOf(await sweepIn(DAY_MS).expireOverdue())).toEqual([late.operationId]);
  expect(await standings(late, critical, unlimited, decided)).toEqual([
    'EXPIRED EXPIRED',
    'PENDING',
    'PENDING',
    'PENDING',
  ]);
});

test('a circle over three streams is opened at its last operation', async () => {
  const devices = [new Device(), new Device(), new Device()];
  const [a, b, c] = devices.map((device) => aNote(device)) as [
    ReturnType<typeof aNote>,
    ...ReturnType<typeof aNote>[],
  ];
  if (b === undefined || c === undefined) throw new Error('three operations');
  await handIn(ALICE, a, { ...b, dependsOn: [a.operationId] }, { ...c, dependsOn: [b.operationId] });
  // As admissions that did not see each other would leave it.
  await bench.sql(
    `WITH closed AS (UPDATE care_backup.offline_sync_queue SET depends_on = ARRAY[$2::uuid] WHERE operation_id = $1 RETURNING id, organization_id)
     INSERT INTO care_backup.sync_predecessors (successor_id, organization_id, predecessor, kind)
     SELECT id, organization_id, $2::uuid, 'DEPENDS_ON' FROM closed`,
    [a.operationId, c.operationId],
  );
  expect(await sweepIn().breakCycles(), 'admissions have a minute').toEqual([]);
  expect(idsOf(await sweepIn(DAY_MS).breakCycles())).toEqual([c.operationId]);
  expect(await standings(a, b, c)).toEqual(['PENDING', 'PENDING', 'FAILED REJECTED DEPENDENCY_CYCLE']);
  expect(await sweepIn(DAY_MS).breakCycles()).toEqual([]);
});

test('a circle through an atomic batch is opened', async () => {
  const [first, second] = [new Device(), new Device()];
  const batch = { batchId: randomUUID(), batchSize: 2 };
  const [one, two] = [aNote(first, batch), aNote(first, batch)];
  const outside = { ...aNote(second), dependsOn: [two.operationId] };
  await handIn(ALICE, one, two);
  await handIn(ALICE, outside);
  expect(await sweepIn(DAY_MS).breakCycles()).toEqual([]);
  await bench.sql(
    `INSERT INTO care_backup.sync_predecessors (successor_id, organization_id, predecessor, kind)
     SELECT id, organization_id, $2::uuid, 'DEPENDS_ON' FROM care_backup.offline_sync_queue WHERE operation_id = $1`,
    [one.operationId, outside.operationId],
  );
  expect(idsOf(await sweepIn(DAY_MS).breakCycles())).toEqual([outside.operationId]);
  expect(await sweepIn(DAY_MS).breakCycles()).toEqual([]);
});

test('of a circle that enters a batch by one member and leaves it by another one operation is rejected', async () => {
  const [first, second] = [new Device(), new Device()];
  const batch = { batchId: randomUUID(), batchSize: 2 };
  const [one, two] = [aNote(first, batch), aNote(first, batch)];
  const outside = { ...aNote(second), dependsOn: [one.operationId] };
  await handIn(ALICE, one);
  await handIn(ALICE, outside);
  await handIn(ALICE, two);
  await bench.sql(
    `INSERT INTO care_backup.sync_predecessors (successor_id, organization_id, predecessor, kind)
     SELECT id, organization_id, $2::uuid, 'DEPENDS_ON' FROM care_backup.offline_sync_queue WHERE operation_id = $1`,
    [two.operationId, outside.operationId],
  );
  expect(idsOf(await sweepIn(DAY_MS).breakCycles())).toEqual([two.operationId]);
});

test('what a critical operation waits for goes with it, over streams', async () => {
  const [first, second] = [new Device(), new Device()];
  const [root, aside] = [aNote(first), aNote(first)];
  const middle = aNote(first, { dependsOn: [root.operationId] });
  const critical = aNote(second, { dependsOn: [middle.operationId], entityType: 'EVV_RECORD' });
  // The predecessors come last: admission could not raise them.
  await handIn(BOB, critical);
  await handIn(ALICE, root, aside, middle);
  await bench.sql(`UPDATE care_backup.offline_sync_queue SET lane = 'NORMAL' WHERE priority <> 'CRITICAL'`);
  expect(idsOf(await sweepIn().raiseLanes())).toEqual([root.operationId, middle.operationId].sort());
  expect(await sweepIn().raiseLanes()).toEqual([]);
});

test('an alarm tells of what waits too long, at once and again after as long', async () => {
  const told: { lane: string; waited: number; oldestPendingAt: string }[] = [];
  const device = new Device();
  const [paused, waiting] = [aNote(device), aNote(device)];
  await handIn(ALICE, paused, { ...waiting, dependsOn: [paused.operationId] });
  await bench.as(ALICE).pauseOperation(paused.operationId);
  expect(await standings(waiting)).toEqual(['PENDING']);
  const started = Date.now();
  bench.protection.on('sync.delayed', (delay) => void told.push(delay));
  await using _worker = await bench.protection.startWorker({ pollMs: 20 });
  await untilTrue('told twice', () => Promise.resolve(told.length >= 2));
  expect(told.length).toBeLessThanOrEqual(1 + (Date.now() - started) / 400);
  const { queuedAt } = await bench.as(ALICE).getOperation(waiting.operationId);
  expect(told[0]).toMatchObject({ lane: 'NORMAL', oldestPendingAt: queuedAt });
  expect(told[0]?.waited).toBeGreaterThan(400);
});

test('what workers that died have left is put right', async () => {
  const device = new Device();
  const first = aNote(device);
  const [second, third] = [
    aNote(device, { dependsOn: [first.operationId] }),
    aNote(device, { dependsOn: [first.operationId] }),
  ];
  const last = aNote(device, { dependsOn: [second.operationId] });
  await handIn(ALICE, first, second, third, last);
  const taken = (claims: number, ...operations: { operationId: string }[]) =>
    bench.sql(
      `UPDATE care_backup.offline_sync_queue SET status = 'IN_PROGRESS', claim_token = gen_random_uuid(), claims = $1,
              lease_expires_at = now() - interval '1 hour' WHERE operation_id = ANY ($2::uuid[])`,
      [claims, operations.map(({ operationId }) => operationId)],
    );
  await taken(3, first);
  await taken(1, second, third);
  await using _worker = await bench.protection.startWorker({ pollMs: 50 });
  await untilTrue('all shows', async () => (await standings(last))[0]?.startsWith('BLOCKED') === true);
  expect(await standings(first, second, third, last)).toEqual([
    'PARKED POISONED',
    'BLOCKED PREDECESSOR_FAILED',
    'BLOCKED PREDECESSOR_FAILED',
    'BLOCKED PREDECESSOR_FAILED',
  ]);
  await bench.as(MANAGER, { permissions: ['sync:admin'] }).redriveOperation(first.operationId);
  await untilTrue('all are applied', async () =>
    (await standings(first, second, third, last)).every((standing) => standing === 'COMPLETED APPLIED'),
  );
});

test('a step that fails does not keep the others from theirs, and is reported', async () => {
  const steps: unknown[] = [];
  const ignore = (): void => undefined;
  const logger = { debug: ignore, info: ignore, error: ignore, warn: (of: object) => void steps.push(of) };
  const limits = { predecessorWaitMs: 1, maxOfflineMs: 100, historyMs: 200 };
  const later = await bench.open({ logger, sync: { entities: SYNC_ENTITIES, limits } });
  await bench.sql(`
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON care_backup.offline_sync_queue
      FOR EACH ROW WHEN (NEW.status = 'EXPIRED') EXECUTE FUNCTION refuse()`);
  const [device, other] = [new Device(), new Device()];
  const done = aNote(device);
  const overdue = aNote(device, { expiresAt: new Date().toISOString() });
  const waiting = aNote(other, { dependsOn: [randomUUID()] });
  await handIn(ALICE, done, overdue, waiting);
  await using _worker = await later.startWorker({ pollMs: 50 });
  await untilTrue('later steps have their turn', async () => {
    const [first, , last] = await standings(done, overdue, waiting);
    return first === undefined && last === 'CONFLICT PREDECESSOR_MISSING';
  });
  expect(await standings(overdue)).toEqual(['PENDING']);
  expect(steps).toContainEqual({ step: 'expire', error: expect.any(String) });
  await expect(bench.as(ALICE).processPendingOperations(device.deviceId)).rejects.toThrow();
  await bench.sql('DROP TRIGGER refuse ON care_backup.offline_sync_queue');
  await untilTrue('it expires', async () => (await standings(overdue))[0] !== 'PENDING');
});

test('a stream is found behind any number of others that wait', { timeout: 60_000 }, async () => {
  const dependsOn = [randomUUID()];
  const waiting = Array.from({ length: 600 }, () => aNote(new Device(), { dependsOn }));
  const ready = aNote(new Device());
  // Without waking anybody.
  const silent = (await bench.open({ execution: 'inline' })).sync(syncActor(ALICE));
  await silent.queueOperations(waiting.slice(300));
  await silent.queueOperations([...waiting.slice(0, 300), ready]);
  const later = await bench.open({ sync: { entities: SYNC_ENTITIES } });
  await using _worker = await later.startWorker({ pollMs: 100 });
  await untilTrue('it is applied', async () => (await standings(ready))[0] === 'COMPLETED APPLIED', 30_000);
});

test('a long chain behind one that was refused is shown, and goes on when that does', async () => {
  const device = new Device();
  const LENGTH = 1_000;
  const first = aNote(device);
  const chain = [first];
  for (let i = 1; i < LENGTH; i += 1)
    chain.push(aNote(device, { dependsOn: [chain.at(-1)?.operationId ?? ''] }));
  const { body: _, ...broken } = first.payload ?? {};
  await handIn(ALICE, { ...first, payload: broken }, ...chain.slice(1, 500));
  await handIn(ALICE, ...chain.slice(500));
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  const counted = async () => {
    const all = new Map<string, number>();
    for (const standing of await standings(...chain))
      all.set(standing ?? '', (all.get(standing ?? '') ?? 0) + 1);
    return Object.fromEntries(all);
  };
  const blocked = { 'BLOCKED PREDECESSOR_FAILED': LENGTH - 1 };
  expect(await counted()).toEqual({ 'FAILED REJECTED CONSTRAINT_VIOLATED': 1, ...blocked });
  expect(await sweepIn().releaseBlocked()).toEqual([]);
  const manager = bench.as(MANAGER, { permissions: ['sync:admin'] });
  await manager.editOperation(first.operationId, { payload: first.payload ?? {} });
  await manager.redriveOperation(first.operationId);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  expect(await counted()).toEqual({ 'COMPLETED APPLIED': LENGTH });
});

describe('forgetting', () => {
  const counts = async () => {
    const [row] = await bench.sql<Record<string, number>>(
      `SELECT (SELECT count(*)::int FROM care_backup.offline_sync_queue) AS operations,
              (SELECT count(*)::int FROM care_backup.sync_predecessors) AS edges,
              (SELECT count(*)::int FROM care_backup.sync_events) AS events,
              (SELECT count(*)::int FROM care_backup.sync_operation_ids) AS ids`,
    );
    return row;
  };

  test('what has ended is removed, what deduplicates it stays, and then goes too', async () => {
    const device = new Device();
    const [done, open] = [aNote(device), aNote(new Device(), { dependsOn: [randomUUID()] })];
    const next = aNote(device, { dependsOn: [done.operationId] });
    await handIn(ALICE, done, next, open);
    await bench.as(ALICE).processPendingOperations(device.deviceId);
    expect(await standings(done, next)).toEqual(['COMPLETED APPLIED', 'COMPLETED APPLIED']);
    const before = await bench.as(ALICE).getOperationStates([done.operationId]);
    const sweep = sweepIn();

    expect(await sweep.removeEnded(new Date(Date.now() - DAY_MS).toISOString())).toBe(0);
    const later = new Date(Date.now() + DAY_MS).toISOString();
    expect(await sweep.removeIds(later), 'ids of what is still there stay').toBe(0);
    expect(await sweep.removeEnded(later)).toBe(2);
    expect(await counts()).toMatchObject({ operations: 1, edges: 1, ids: 3 });
    expect(await bench.as(ALICE).getOperationStates([done.operationId])).toEqual(before);
    const [again] = await bench.as(ALICE).queueOperations([done]);
    expect(again).toMatchObject({ status: 'DUPLICATE' });

    expect(await sweep.removeEvents(new Date(Date.now() - DAY_MS).toISOString())).toBe(0);
    expect(await sweep.removeEvents(later)).toBe(2);
    expect(await sweep.removeIds(later)).toBe(2);
    expect(await counts()).toMatchObject({ operations: 1, events: 0, ids: 1 });
  });

  test('what something waits for is not removed', async () => {
    const device = new Device();
    const [done, waiting] = [aNote(device), aNote(new Device())];
    await handIn(ALICE, done);
    await bench.as(ALICE).processPendingOperations(device.deviceId);
    await handIn(BOB, { ...waiting, dependsOn: [done.operationId, randomUUID()] });
    expect(await sweepIn().removeEnded(new Date(Date.now() + DAY_MS).toISOString())).toBe(0);
  });
});
