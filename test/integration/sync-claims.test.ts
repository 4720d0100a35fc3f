import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { createDatabase } from '../../src/repository/database.ts';
import { type SyncSweep, syncSweep } from '../../src/repository/sync-sweep.ts';
import type { QueueOperationInput, SyncPriority } from '../../src/types/offline-sync.ts';
import { ALICE, BOB, BRANCH_A, createSyncBench, Device, type SyncBench } from '../harness/sync-bench.ts';
import { alicesVisit, type Operation, statuses, visitBench } from '../harness/sync-visit.ts';

const aNote = (device: Device, over: Partial<QueueOperationInput> = {}): Operation => {
  const id = randomUUID();
  const payload = { id, branch_id: BRANCH_A, body: 'Slept well' };
  return device.does({ operation: 'CREATE', entityType: 'NOTE', entityId: id, payload, ...over });
};

/** The operations in the order in which they were applied. */
const applied = async (bench: SyncBench): Promise<readonly string[]> =>
  (
    await bench.sql<{ id: string }>(
      `SELECT operation_id::text AS id FROM care_backup.sync_events WHERE type = 'APPLIED' ORDER BY care_backup.sync_events.id`,
    )
  ).map(({ id }) => id);

const sweepIn = (bench: SyncBench, aheadMs = 0): SyncSweep =>
  syncSweep(
    createDatabase({
      pool: bench.database.pool,
      clock: { now: () => new Date(Date.now() + aheadMs) },
    }),
  );

/** Removes what has ended, as if all of it were old. */
const forget = (bench: SyncBench): Promise<number> =>
  sweepIn(bench).removeEnded(new Date(Date.now() + 60_000).toISOString());

const DISJOINT = { disjointProceed: true, strategies: ['CLIENT_WINS'] } as const;

test.each(['TOGETHER', 'LATER'] as const)(
  'what was passed stays ahead of what follows, handed in %s',
  async (when) => {
    await using bench = await visitBench(DISJOINT);
    const { alice, id, update, process } = await alicesVisit(bench);
    const [one, two, three] = [update({ notes: 'one' }), update({ minutes: 2 }), update({ notes: 'three' })];
    await alice.queueOperations(when === 'TOGETHER' ? [one, two, three] : [one, two]);
    await alice.pauseOperation(one.operationId);
    await process();
    if (when === 'LATER') await alice.queueOperations([three]);
    await process();
    expect(await statuses(bench, one, two, three)).toEqual(['PAUSED', 'COMPLETED', 'PENDING']);
    expect(await bench.visit(id)).toMatchObject({ notes: 'a', minutes: 2 });

    await alice.resumeOperation(one.operationId);
    await process();
    expect(await statuses(bench, one, two, three)).toEqual(Array(3).fill('COMPLETED'));
    expect(await bench.visit(id)).toMatchObject({ notes: 'three', minutes: 2 });
  },
);

test('several pass one after another, each by its own columns', async () => {
  await using bench = await visitBench(DISJOINT);
  const { alice, id, update, process } = await alicesVisit(bench);
  const one = update({ notes: 'one' });
  const passing = [
    update({ minutes: 2 }),
    update({ amount: '3.00' }),
    update({ minutes: 4 }),
    update({ amount: '5.00' }),
  ];
  await alice.queueOperations([one, ...passing]);
  await alice.pauseOperation(one.operationId);
  await process();
  expect(await statuses(bench, ...passing)).toEqual(Array(4).fill('COMPLETED'));
  const whole = update({ status: 'DONE', notes: 'last' });
  const more = update({ status: 'LATE' });
  await alice.queueOperations([whole, more]);
  await process();
  // The second follows what may not pass.
  expect(await statuses(bench, whole, more)).toEqual(['PENDING', 'PENDING']);
  await alice.resumeOperation(one.operationId);
  await process();
  expect(await bench.visit(id)).toMatchObject({ notes: 'last', status: 'LATE', minutes: 4, amount: '5.00' });
});

test('neither an atomic batch nor a whole row goes past what another has passed', async () => {
  await using bench = await visitBench(DISJOINT);
  const { device, alice, id, update, process } = await alicesVisit(bench);
  const [one, two] = [update({ notes: 'one' }), update({ minutes: 2 })];
  const batch = { batchId: randomUUID(), batchSize: 2 };
  const inBatch = [update({ status: 'DONE' }, batch), aNote(device, batch)];
  await alice.queueOperations([one, two, ...inBatch]);
  await alice.pauseOperation(one.operationId);
  await process();
  expect(await statuses(bench, two, ...inBatch)).toEqual(['COMPLETED', 'PENDING', 'PENDING']);
  const gone = device.does({ operation: 'DELETE', entityType: 'VISIT', entityId: id });
  await alice.queueOperations([gone]);
  await process();
  expect(await statuses(bench, gone)).toEqual(['PENDING']);
  await alice.resumeOperation(one.operationId);
  await process();
  expect(await statuses(bench, one, ...inBatch, gone)).toEqual(Array(4).fill('COMPLETED'));
});

test('an explicit dependency on what has passed something keeps the order of the entity', async () => {
  await using bench = await visitBench(DISJOINT);
  const { device, alice, update, process } = await alicesVisit(bench);
  const [one, two] = [update({ notes: 'one' }), update({ minutes: 2 })];
  const three = update({ notes: 'three' }, { dependsOn: [two.operationId] });
  const elsewhere = aNote(device, { dependsOn: [two.operationId] });
  await alice.queueOperations([one, two, three, elsewhere]);
  await alice.pauseOperation(one.operationId);
  await process();
  // Of another entity, it waits for what it names and for nothing else.
  expect(await statuses(bench, two, three, elsewhere)).toEqual(['COMPLETED', 'PENDING', 'COMPLETED']);
});

test('what was passed and then cancelled holds nobody up', async () => {
  await using bench = await visitBench(DISJOINT);
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two, three] = [update({ notes: 'one' }), update({ minutes: 2 }), update({ notes: 'three' })];
  await alice.queueOperations([one, two, three]);
  await alice.pauseOperation(one.operationId);
  await process();
  await alice.cancelOperation(one.operationId);
  await process();
  expect((await statuses(bench, three))[0]).toMatch('COMPLETED');
  expect(await bench.visit(id)).toMatchObject({ notes: 'three' });
});

test('an operation that has passed something is kept as long as that is open', async () => {
  await using bench = await visitBench(DISJOINT);
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two] = [update({ notes: 'one' }), update({ minutes: 2 })];
  await alice.queueOperations([one, two]);
  await alice.pauseOperation(one.operationId);
  await process();
  await forget(bench);
  const three = update({ notes: 'three' });
  await alice.queueOperations([three]);
  await process();
  expect(await statuses(bench, two, three)).toEqual(['COMPLETED', 'PENDING']);
  await alice.resumeOperation(one.operationId);
  await process();
  expect(await bench.visit(id)).toMatchObject({ notes: 'three' });
  await forget(bench);
  expect(await statuses(bench, one, two, three)).toEqual(Array(3).fill('not there'));
});

test.each(['REFUSED', 'CANCELLED'] as const)('what was passed and then %s holds nobody up', async (how) => {
  await using bench = await visitBench({
    ...DISJOINT,
    requiresApproval: ({ payload }) => payload.notes === 'one',
  });
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two, three] = [update({ notes: 'one' }), update({ minutes: 2 }), update({ notes: 'three' })];
  await alice.queueOperations([one, two, three]);
  await process();
  expect(await statuses(bench, one, two, three)).toEqual(['WAITING_APPROVAL', 'COMPLETED', 'PENDING']);
  if (how === 'CANCELLED') await alice.cancelOperation(one.operationId);
  else await bench.as(BOB, { permissions: ['sync:admin'] }).refuseOperation(one.operationId);
  await process();
  expect(await statuses(bench, three)).toEqual(['COMPLETED']);
  expect(await bench.visit(id)).toMatchObject({ notes: 'three', minutes: 2 });
});

test('past a conflict goes what is disjoint from it and from all that it holds up; the rest shows as BLOCKED', async () => {
  await using bench = await visitBench({ disjointProceed: true, strategies: ['MANUAL'] });
  const { alice, id, update, process } = await alicesVisit(bench);
  await bench.sql(`UPDATE visits SET notes = 'of the office' WHERE id = $1`, [id]);
  const [one, same] = [update({ notes: 'one' }), update({ notes: 'same', status: 'DONE' })];
  const [also, other] = [update({ status: 'LATE' }), update({ minutes: 2 })];
  await alice.queueOperations([one]);
  await process();
  expect(await statuses(bench, one)).toEqual(['CONFLICT']);
  await alice.queueOperations([same, also, other]);
  await process();
  await process();
  expect(await statuses(bench, same, also, other)).toEqual(['BLOCKED', 'BLOCKED', 'COMPLETED']);
  expect(await bench.visit(id)).toMatchObject({ notes: 'of the office', minutes: 2 });
});

test('whoever lets go of what was cancelled does not overtake what that waited for', async () => {
  await using bench = await visitBench({ strategies: ['CLIENT_WINS'] });
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two, three, four] = [1, 2, 3, 4].map((minutes) => update({ minutes })) as [
    Operation,
    Operation,
    Operation,
    Operation,
  ];
  await alice.queueOperations([one, two, three, four]);
  await alice.pauseOperation(one.operationId);
  await alice.cancelOperation(two.operationId);
  await alice.cancelOperation(three.operationId);
  expect(await statuses(bench, four)).toEqual(['BLOCKED']);
  await alice.resumeOperation(four.operationId);
  await process();
  expect(await statuses(bench, one, four)).toEqual(['PAUSED', 'PENDING']);
  await alice.resumeOperation(one.operationId);
  await process();
  expect(await statuses(bench, one, four)).toEqual(['COMPLETED', 'COMPLETED']);
  expect(await bench.visit(id)).toMatchObject({ minutes: 4 });
});

test('what builds on nothing is held up by what is before it, but not by its rejection', async () => {
  await using bench = await visitBench({ strategies: ['CLIENT_WINS'] });
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two] = [update({ notes: 'one' }), update({ notes: 'two' })];
  await alice.queueOperations([one, { ...two, previousOperationId: null }]);
  await alice.pauseOperation(one.operationId);
  await process();
  expect(await statuses(bench, one, two)).toEqual(['PAUSED', 'PENDING']);
  await alice.cancelOperation(one.operationId);
  expect(await statuses(bench, two)).toEqual(['PENDING']);
  await process();
  expect(await statuses(bench, two)).toEqual(['COMPLETED']);
  expect(await bench.visit(id)).toMatchObject({ notes: 'two' });
});

test('of a long row some pass, and none goes where something unknown is ahead', async () => {
  await using bench = await visitBench(DISJOINT);
  const { device, alice, id, update, process } = await alicesVisit(bench);
  const one = update({ notes: 'one' });
  const passing = Array.from({ length: 100 }, (_, n) =>
    update(n % 2 === 0 ? { minutes: n } : { status: `${n}` }),
  );
  const last = update({ notes: 'last' });
  await alice.queueOperations([one, ...passing, last]);
  await alice.pauseOperation(one.operationId);
  await process();
  const after = await statuses(bench, ...passing, last);
  expect(after.filter((status) => status === 'COMPLETED').length).toBeGreaterThan(60);
  expect(after.at(-1)).toBe('PENDING');
  await alice.resumeOperation(one.operationId);
  await process();
  expect(await bench.visit(id)).toMatchObject({ notes: 'last', minutes: 98, status: '99' });

  const missing = device.does({
    operation: 'UPDATE',
    entityType: 'VISIT',
    entityId: id,
    payload: { notes: 'm' },
  });
  const late = update({ amount: '2.00' }, { previousOperationId: missing.operationId });
  const next = update({ minutes: 7 }, { previousOperationId: late.operationId });
  await alice.queueOperations([late, next]);
  await process();
  expect(await statuses(bench, late, next)).toEqual(['PENDING', 'PENDING']);
  await alice.queueOperations([missing]);
  await alice.pauseOperation(missing.operationId);
  await process();
  expect(await statuses(bench, missing, late, next)).toEqual(['PAUSED', 'PENDING', 'PENDING']);
  await alice.resumeOperation(missing.operationId);
  await process();
  expect(await statuses(bench, missing, late, next)).toEqual(Array(3).fill('COMPLETED'));
  expect(await bench.visit(id)).toMatchObject({ notes: 'm', amount: '2.00', minutes: 7 });
});

const BATCH: readonly SyncPriority[] = ['HIGH', 'BACKGROUND'];
test.each(BATCH)('an atomic batch takes its turn among single operations: %s', async (priority) => {
  await using bench = await createSyncBench();
  const device = new Device();
  const alice = bench.as(ALICE);
  const others: SyncPriority = priority === 'HIGH' ? 'BACKGROUND' : 'HIGH';
  const singles = Array.from({ length: 60 }, () => aNote(device, { priority: others }));
  const batchId = randomUUID();
  const batch = [0, 1].map(() => aNote(device, { priority, batchId, batchSize: 2 }));
  await alice.queueOperations(priority === 'HIGH' ? [...singles, ...batch] : [...batch, ...singles]);
  expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({ applied: 62, remaining: 0 });
  const order = await applied(bench);
  const places = batch.map(({ operationId }) => order.indexOf(operationId));
  expect(places.sort((a, b) => a - b)).toEqual(priority === 'HIGH' ? [0, 1] : [60, 61]);
});

test('atomic batches that are not ready hold up nothing, and go when they are', async () => {
  await using bench = await createSyncBench();
  const device = new Device();
  const alice = bench.as(ALICE);
  const before = aNote(device, { priority: 'HIGH' });
  // More than are looked at in one claim.
  const waiting = Array.from({ length: 70 }, () =>
    aNote(device, { priority: 'HIGH', batchId: randomUUID(), batchSize: 2 }),
  );
  const last = { priority: 'HIGH' as const, batchId: randomUUID(), batchSize: 2 };
  const whole = [aNote(device, last), aNote(device, last)];
  const after = aNote(device, { priority: 'LOW' });
  await alice.queueOperations([before, ...waiting, ...whole, after]);
  expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({ applied: 4, remaining: 70 });
  const order = await applied(bench);
  expect(
    order.map((id) => [before, ...whole, after].findIndex(({ operationId }) => operationId === id)),
  ).toEqual([0, 1, 2, 3]);
  const [first] = waiting;
  const mate = aNote(device, { priority: 'HIGH', batchId: first?.batchId ?? '', batchSize: 2 });
  await alice.queueOperations([mate]);
  expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({ applied: 2, remaining: 69 });
});

const REQUIRED = { requiresApproval: () => true } as const;
const clockIn = (device: Device, visit: string, over: Partial<QueueOperationInput> = {}): Operation => {
  const id = randomUUID();
  const payload = { id, branch_id: BRANCH_A, visit_id: visit, kind: 'IN', at: '2026-01-01T00:00:00Z' };
  return device.does({ operation: 'CREATE', entityType: 'EVV_RECORD', entityId: id, payload, ...over });
};

test.each(['TOGETHER', 'BEFORE', 'AFTER'] as const)(
  'a CRITICAL operation does not wait for the approval of what it builds on, which comes %s',
  async (when) => {
    await using bench = await visitBench(REQUIRED);
    const { device, alice, id, update, process } = await alicesVisit(bench);
    const [first, second] = [update({ notes: 'x' }), update({ notes: 'y' })];
    const evv = clockIn(device, id, { dependsOn: [second.operationId] });
    if (when === 'TOGETHER') await alice.queueOperations([first, second, evv]);
    else if (when === 'BEFORE') {
      await alice.queueOperations([first, second]);
      expect(await statuses(bench, first)).toEqual(['WAITING_APPROVAL']);
      await alice.queueOperations([evv]);
    } else {
      await alice.queueOperations([evv]);
      await alice.queueOperations([first, second]);
    }
    await process();
    expect(await statuses(bench, first, second, evv)).toEqual(Array(3).fill('COMPLETED'));
    for (const { operationId } of [first, second])
      expect(await alice.getOperation(operationId)).toMatchObject({ reviewRequired: true, approvedBy: null });
    expect(await alice.getOperation(evv.operationId)).toMatchObject({ reviewRequired: false });
    const events = await bench.sql<{ n: string }>(
      `SELECT count(*) AS n FROM care_backup.sync_events WHERE type = 'REVIEW_REQUIRED'`,
    );
    expect(events).toEqual([{ n: '2' }]);
  },
);

test('what shares an atomic batch with a CRITICAL operation does not wait for approval either', async () => {
  await using bench = await visitBench(REQUIRED);
  const { device, alice, id, update, process } = await alicesVisit(bench);
  const batch = { batchId: randomUUID(), batchSize: 2 };
  const visit = update({ notes: 'x' }, batch);
  await alice.queueOperations([visit]);
  expect(await statuses(bench, visit)).toEqual(['WAITING_APPROVAL']);
  const evv = clockIn(device, id, batch);
  await alice.queueOperations([evv]);
  await process();
  expect(await statuses(bench, visit, evv)).toEqual(Array(2).fill('COMPLETED'));
  expect(await alice.getOperation(visit.operationId)).toMatchObject({ reviewRequired: true });
});

test('the sweeper lets go what a CRITICAL operation waits for once more', async () => {
  await using bench = await visitBench(REQUIRED);
  const { device, alice, id, update, process } = await alicesVisit(bench);
  const visit = update({ notes: 'x' });
  await alice.queueOperations([visit]);
  await alice.pauseOperation(visit.operationId);
  const evv = clockIn(device, id, { dependsOn: [visit.operationId] });
  await alice.queueOperations([evv]);
  await process();
  expect(await statuses(bench, visit, evv)).toEqual(['PAUSED', 'PENDING']);
  await alice.resumeOperation(visit.operationId);
  await sweepIn(bench).raiseLanes();
  await process();
  expect(await statuses(bench, visit, evv)).toEqual(Array(2).fill('COMPLETED'));
  expect(await alice.getOperation(visit.operationId)).toMatchObject({ reviewRequired: true });
});

test('what nothing CRITICAL waits for still waits for its approval', async () => {
  await using bench = await visitBench(REQUIRED);
  const { device, alice, id, update, process } = await alicesVisit(bench);
  const visit = update({ notes: 'x' });
  await alice.queueOperations([visit, clockIn(device, id)]);
  await sweepIn(bench).raiseLanes();
  await process();
  expect(await statuses(bench, visit)).toEqual(['WAITING_APPROVAL']);
  await bench.as(BOB, { permissions: ['sync:admin'] }).approveOperation(visit.operationId);
  expect(await alice.getOperation(visit.operationId)).toMatchObject({
    status: 'COMPLETED',
    reviewRequired: false,
  });
});
