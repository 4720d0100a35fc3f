import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { ALICE, BOB, MANAGER, shown, syncActor } from '../harness/sync-bench.ts';
import { alicesVisit, statuses, visitBench } from '../harness/sync-visit.ts';

const DISJOINT = { disjointProceed: true, strategies: ['CLIENT_WINS'] } as const;

test('what already waited for a late one does not overtake what that has passed', async () => {
  await using bench = await visitBench(DISJOINT);
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two, three] = [update({ notes: 'one' }), update({ minutes: 2 }), update({ notes: 'three' })];
  await alice.queueOperations([one]);
  await alice.pauseOperation(one.operationId);
  await alice.queueOperations([three]);
  await process();
  await alice.queueOperations([two]);
  await process();
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
  await alice.resumeOperation(one.operationId);
  await process();
  expect(await statuses(bench, one, two, three)).toEqual(Array(3).fill('COMPLETED'));
  expect(await bench.visit(id)).toMatchObject({ notes: 'three', minutes: 2 });
});

test('what builds on nothing does not overtake what is open behind one that was cancelled', async () => {
  await using bench = await visitBench({ strategies: ['CLIENT_WINS'] });
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two, three] = [
    update({ notes: 'one' }),
    update({ notes: 'two' }),
    { ...update({ notes: 'three' }), previousOperationId: null },
  ];
  await alice.queueOperations([one, two, three]);
  await alice.pauseOperation(one.operationId);
  await process();
  expect(await statuses(bench, one, two, three)).toEqual(['PAUSED', 'PENDING', 'PENDING']);
  await alice.cancelOperation(two.operationId);
  await process();
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
  await alice.resumeOperation(one.operationId);
  await process();
  await process();
  expect(await statuses(bench, one, three)).toEqual(['COMPLETED', 'COMPLETED']);
  expect(await bench.visit(id)).toMatchObject({ notes: 'three' });
});

test('nor behind one that has expired', async () => {
  await using bench = await visitBench({
    strategies: ['CLIENT_WINS'],
    requiresApproval: ({ payload }) => payload.notes === 'one',
  });
  const { alice, id, update, process } = await alicesVisit(bench);
  const [one, two, three] = [
    update({ notes: 'one' }),
    update({ notes: 'two' }, { expiresAt: new Date(Date.now() + 1500).toISOString() }),
    { ...update({ notes: 'three' }), previousOperationId: null },
  ];
  await alice.queueOperations([one, two, three]);
  await process();
  expect(await statuses(bench, one, two, three)).toEqual(['WAITING_APPROVAL', 'PENDING', 'PENDING']);
  await sleep(1_600);
  await process();
  await process();
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
  await bench.as(BOB, { permissions: ['sync:admin'] }).approveOperation(one.operationId);
  await process();
  await process();
  expect(await statuses(bench, one, three)).toEqual(['COMPLETED', 'COMPLETED']);
  expect(await bench.visit(id)).toMatchObject({ notes: 'three' });
});

test.each([
  ['built on nothing', { previousOperationId: null }, false],
  ['was a dependency too', {}, true],
])('nor where somebody lets go of one that %s', async (_, second, depends) => {
  await using bench = await visitBench({ strategies: ['CLIENT_WINS'] });
  const { alice, update, process } = await alicesVisit(bench);
  const [one, two] = [update({ notes: 'one' }), { ...update({ notes: 'two' }), ...second }];
  const three = update({ notes: 'three' }, depends ? { dependsOn: [two.operationId] } : {});
  await alice.queueOperations([one, two, three]);
  await alice.pauseOperation(one.operationId);
  await alice.cancelOperation(two.operationId);
  expect(await statuses(bench, three)).toEqual(['BLOCKED']);
  await alice.resumeOperation(three.operationId);
  await process();
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
});

test('nor behind so many that none may pass', async () => {
  await using bench = await visitBench(DISJOINT);
  const { alice, update, process } = await alicesVisit(bench);
  const one = update({ notes: 'one' });
  const many = Array.from({ length: 64 }, (_, n) => update({ minutes: n }));
  const nope = update({ status: 'X' });
  const last = update({ notes: 'last' });
  await alice.queueOperations([one, ...many, nope, last]);
  await alice.pauseOperation(one.operationId);
  await process();
  await alice.cancelOperation(nope.operationId);
  await alice.resumeOperation(last.operationId);
  await process();
  expect(await statuses(bench, last)).not.toEqual(['COMPLETED']);
});

test('nor once passing is switched off, with its predecessor in the same call again', async () => {
  await using bench = await visitBench(DISJOINT);
  const { device, alice, update, process } = await alicesVisit(bench);
  const [one, two, three] = [update({ notes: 'one' }), update({ minutes: 2 }), update({ notes: 'three' })];
  await alice.queueOperations([one, two]);
  await alice.pauseOperation(one.operationId);
  await process();
  const off = await bench.open({
    sync: {
      entities: [{ type: 'VISIT', strategies: ['CLIENT_WINS'] }, { type: 'EVV_RECORD' }, { type: 'NOTE' }],
    },
  });
  const there = off.sync(syncActor(ALICE));
  await there.queueOperations([two, three]);
  await there.processPendingOperations(device.deviceId);
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
});

test('nor where somebody decides to go on without one that is missing', async () => {
  await using bench = await visitBench({ strategies: ['CLIENT_WINS'] }, { limits: { predecessorWaitMs: 1 } });
  const { alice, update, process } = await alicesVisit(bench);
  const [one, , three] = [update({ notes: 'one' }), update({ notes: 'two' }), update({ notes: 'three' })];
  await alice.queueOperations([one]);
  await alice.pauseOperation(one.operationId);
  await alice.queueOperations([three]);
  await sleep(50);
  await process();
  await process();
  const manager = bench.as(MANAGER, { permissions: ['sync:admin'] });
  const { items } = await manager.listConflicts({});
  await manager.resolveConflict({ ...shown(items[0]), strategy: 'CLIENT_WINS' });
  await process();
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
});

test('nor in one call, where what comes earlier waits for what comes later', async () => {
  await using bench = await visitBench(DISJOINT);
  const { alice, update, process } = await alicesVisit(bench);
  const one = update({ notes: 'one' });
  const four = randomUUID();
  const three = update({ notes: 'three' }, { previousOperationId: four });
  const fourth = update({ minutes: 4 }, { operationId: four, previousOperationId: one.operationId });
  await alice.queueOperations([one]);
  await alice.pauseOperation(one.operationId);
  await alice.queueOperations([three, fourth]);
  await process();
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
});

test('nor where what its predecessor passed was a dependency of that', async () => {
  await using bench = await visitBench(DISJOINT);
  const { alice, id, update, process } = await alicesVisit(bench);
  const one = update({ notes: 'one' }, { occurredAt: '2020-01-01T00:00:00.000Z' });
  const two = update({ minutes: 2 }, { dependsOn: [one.operationId] });
  const three = update({ notes: 'three' });
  await alice.queueOperations([one]);
  await alice.queueOperations([two]);
  await process();
  await process();
  await alice.queueOperations([three]);
  await process();
  expect(await statuses(bench, three)).not.toEqual(['COMPLETED']);
  await alice.redriveOperation(one.operationId);
  await process();
  expect(await bench.visit(id)).not.toMatchObject({ notes: 'one' });
});
