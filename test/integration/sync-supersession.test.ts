import { afterEach, expect, test } from 'vitest';
import { createDatabase } from '../../src/repository/database.ts';
import { syncSweep } from '../../src/repository/sync-sweep.ts';
import type { EntityRow, QueueOperationInput } from '../../src/types/offline-sync.ts';
import type { SyncEntityOptions } from '../../src/types/sync-handler.ts';
import {
  ALICE,
  BOB,
  createSyncBench,
  Device,
  MANAGER,
  type SyncBench,
  shown,
} from '../harness/sync-bench.ts';

/** What an author is told of what he wrote, where a conflict was decided against it after it had been applied. */

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

let bench: SyncBench;
afterEach(() => bench[Symbol.asyncDispose]());
const open = async (visit: Omit<SyncEntityOptions, 'type'> = {}): Promise<void> => {
  bench = await createSyncBench({ syncOptions: { entities: [{ type: 'VISIT', ...visit }] } });
};
const manager = () => bench.as(MANAGER, { permissions: ['sync:admin'] });
const baseOf = async (id: string) => {
  const [entity] = await manager().readForOffline('VISIT', [id]);
  return { version: entity?.version ?? 0, data: entity?.data ?? {}, signature: entity?.signature ?? '' };
};

/** On a phone that knows the visit as it is now: what is done there without a network. */
async function phoneOf(userId: string, id: string) {
  const device = new Device();
  const previousVersion = await baseOf(id);
  return async (payload: EntityRow | 'DELETE', more: Partial<QueueOperationInput> = {}, sentAt = at(0)) => {
    const entity = { entityType: 'VISIT', entityId: id, previousVersion } as const;
    const done = device.does(
      payload === 'DELETE' ? { operation: 'DELETE', ...entity } : { operation: 'PATCH', ...entity, payload },
    );
    const operation = { ...done, ...more };
    await bench.as(userId).queueOperations([operation], { sentAt });
    await bench.as(userId).processPendingOperations(device.deviceId);
    return operation;
  };
}
const at = (hoursAgo: number) => ({
  bootId: 'b',
  monotonicMs: (10 - hoursAgo) * HOUR_MS,
  wallTime: new Date(Date.now() - hoursAgo * HOUR_MS).toISOString(),
  counter: 1,
});

const stateOf = async (userId: string, { operationId }: { operationId: string }) =>
  (await bench.as(userId).getOperationStates([operationId]))[0];
/** What the author finds of it. */
async function toldTo(userId: string, operation: QueueOperationInput & { operationId: string }) {
  const { items } = await bench.as(userId).getSyncEvents({
    type: ['SUPERSEDED'],
    operationId: operation.operationId,
  });
  const [answer] = await bench.as(userId).queueOperations([operation]);
  return { events: items, superseded: answer?.status === 'DUPLICATE' ? answer.state.superseded : answer };
}

const STRATEGIES: readonly (readonly [string, Omit<SyncEntityOptions, 'type'>])[] = [
  ['CLIENT_WINS', { strategies: ['CLIENT_WINS'] }],
  ['NEWEST_WINS', { strategies: ['NEWEST_WINS'] }],
  ['that of a field', { fieldStrategies: { '/notes': 'CLIENT_WINS', '/status': 'SERVER_WINS' } }],
  ['that of a person', {}],
];

test.each(STRATEGIES)('where the strategy is %s', async (name, options) => {
  await open(options);
  const id = await bench.aVisit({ notes: 'base', minutes: 1 });
  const [alice, bob] = [await phoneOf(ALICE, id), await phoneOf(BOB, id)];
  const hers = await alice({ notes: 'hers', minutes: 2 }, { stamp: at(3) });
  const his = await bob({ notes: 'his', amount: '3.00' }, { stamp: at(1) });
  if (name === 'that of a person') {
    const [conflict] = (await manager().listConflicts({})).items;
    expect((await stateOf(ALICE, hers))?.superseded).toEqual([]);
    await manager().resolveConflict({ ...shown(conflict), strategy: 'CLIENT_WINS' });
  }
  expect(await bench.visit(id)).toMatchObject({ notes: 'his', minutes: 2, amount: '3.00' });
  // What it came to stays; what stands no more is told with it.
  expect(await stateOf(ALICE, hers)).toMatchObject({
    status: 'COMPLETED',
    outcome: 'APPLIED',
    superseded: ['/notes'],
  });
  expect(await manager().getOperation(hers.operationId)).toMatchObject({ superseded: ['/notes'] });
  const { conflictId, appliedVersion } = (await stateOf(BOB, his)) ?? {};
  expect(await toldTo(ALICE, hers)).toMatchObject({
    superseded: ['/notes'],
    events: [{ userId: ALICE, version: appliedVersion, details: { superseded: 1, conflictId } }],
  });
  expect(await toldTo(BOB, his)).toEqual({ superseded: [], events: [] });
});

test('by a row that a person writes, each author is told of his own', async () => {
  await open();
  const id = await bench.aVisit({ notes: 'base', minutes: 1, status: 'S' });
  const carol = await phoneOf(MANAGER, id);
  const [one, other] = [
    await (await phoneOf(ALICE, id))({ notes: 'hers' }),
    await (await phoneOf(BOB, id))({ minutes: 2, status: 'DONE' }),
  ];
  await carol({ notes: 'third', minutes: 3 });
  const [conflict] = (await manager().listConflicts({})).items;
  const data = { notes: 'both', minutes: 2, status: 'S' };
  await manager().resolveConflict({ ...shown(conflict), strategy: 'MANUAL', data });
  expect((await toldTo(ALICE, one)).superseded).toEqual(['/notes']);
  expect((await toldTo(BOB, other)).superseded).toEqual(['/status']);
});

test('where the row is deleted, or comes back', async () => {
  await open({ strategies: ['CLIENT_WINS'] });
  const id = await bench.aVisit({ notes: 'base', minutes: 1 });
  const [alice, bob, again] = [await phoneOf(ALICE, id), await phoneOf(BOB, id), await phoneOf(ALICE, id)];
  const hers = await alice({ notes: 'hers' });
  const his = await bob('DELETE');
  expect((await bench.visit(id))?.deleted_at).not.toBeNull();
  expect((await toldTo(ALICE, hers)).superseded).toEqual(['/notes']);
  await again({ minutes: 9 });
  expect(await bench.visit(id)).toMatchObject({ minutes: 9, deleted_at: null });
  expect((await toldTo(BOB, his)).superseded).toEqual(['']);
});

test('also where the host has written elsewhere in between, and of what has been removed since', async () => {
  await open({ strategies: ['CLIENT_WINS'] });
  const id = await bench.aVisit({ notes: 'base', minutes: 1 });
  const [alice, bob] = [await phoneOf(ALICE, id), await phoneOf(BOB, id)];
  const hers = await alice({ notes: 'hers' });
  const clock = { now: () => new Date(Date.now() + DAY_MS) };
  const sweep = syncSweep(createDatabase({ pool: bench.database.pool, clock }));
  expect(await sweep.removeEnded(new Date(Date.now() + DAY_MS).toISOString())).toBe(1);
  await bench.sql('UPDATE visits SET minutes = 5 WHERE id = $1', [id]);
  await bob({ notes: 'his' });
  expect(await bench.visit(id)).toMatchObject({ notes: 'his', minutes: 5 });
  expect(await stateOf(ALICE, hers)).toMatchObject({ outcome: 'APPLIED', superseded: ['/notes'] });
  const { superseded, events } = await toldTo(ALICE, hers);
  expect(superseded).toEqual(['/notes']);
  expect(events).toMatchObject([
    { userId: ALICE, deviceId: hers.deviceId, entityType: 'VISIT', entityId: id, details: { superseded: 1 } },
  ]);
});

test('nobody is told of what he wrote over himself on the same device, nor of what was merged or only asked about', async () => {
  await open({ strategies: ['CLIENT_WINS'], mergeDisjoint: false });
  const id = await bench.aVisit({ notes: 'base', minutes: 1 });
  const [alice, bob] = [await phoneOf(ALICE, id), await phoneOf(BOB, id)];
  const first = await alice({ notes: 'first' });
  const second = await alice({ notes: 'second' }, { previousOperationId: null });
  // Other columns: a conflict all the same, in which nothing is lost.
  const his = await bob({ minutes: 2 });
  expect(await bench.visit(id)).toMatchObject({ notes: 'second', minutes: 2 });
  expect((await manager().listConflicts({})).items).toHaveLength(2);
  for (const [userId, one] of [
    [ALICE, first],
    [ALICE, second],
    [BOB, his],
  ] as const)
    expect(await toldTo(userId, one)).toEqual({ superseded: [], events: [] });
  const again = await (await phoneOf(ALICE, id))({ minutes: 2 });
  expect((await stateOf(ALICE, again))?.superseded).toEqual([]);
});

test('what has passed an operation of the same device is told where that is decided against it', async () => {
  await open({ disjointProceed: true });
  const id = await bench.aVisit({ notes: 'base', status: 'S' });
  const alice = await phoneOf(ALICE, id);
  await bench.sql(`UPDATE visits SET status = 'T', notes = 'host' WHERE id = $1`, [id]);
  await alice({ status: 'U' });
  const later = await alice({ minutes: 7 });
  expect(await bench.visit(id)).toMatchObject({ status: 'T', minutes: 7 });
  const [conflict] = (await manager().listConflicts({})).items;
  const decision = { ...shown(conflict), strategy: 'MANUAL', data: { status: 'U', minutes: 8 } } as const;
  // He has to look at what has passed first.
  await expect(manager().resolveConflict(decision)).rejects.toMatchObject({ code: 'CONFLICT_STALE' });
  const [again] = (await manager().listConflicts({})).items;
  await manager().resolveConflict({ ...decision, ...shown(again) });
  expect(await bench.visit(id)).toMatchObject({ status: 'U', minutes: 8 });
  expect((await toldTo(ALICE, later)).superseded).toEqual(['/minutes']);
});
