import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import * as z from 'zod';
import { createDatabase } from '../../src/repository/database.ts';
import { syncSweep } from '../../src/repository/sync-sweep.ts';
import type { QueueOperationInput, ResolveConflictInput } from '../../src/types/offline-sync.ts';
import type { EntityHandler, SyncOptions } from '../../src/types/sync-handler.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  BRANCH_B,
  baseOf,
  createSyncBench,
  Device,
  MANAGER,
  managerOf,
  SYNC_ENTITIES,
  type SyncBench,
  shown,
  syncActor,
} from '../harness/sync-bench.ts';

const ENTITIES: SyncOptions['entities'] = [
  {
    type: 'VISIT',
    schemaVersion: 2,
    upcasters: { 1: ({ sum, ...row }) => (sum === undefined ? row : { ...row, amount: sum }) },
    requiresApproval: ({ payload }) => payload.amount !== undefined,
  },
  { type: 'EVV_RECORD' },
  { type: 'NOTE' },
];
const standing = async (bench: SyncBench, { operationId }: { operationId: string }) =>
  (await bench.standing())[operationId];
const sweepOf = (bench: SyncBench, aheadMs = 0) =>
  syncSweep(
    createDatabase({
      pool: bench.database.pool,
      clock: { now: () => new Date(Date.now() + aheadMs) },
    }),
  );

describe('an approval is asked for', () => {
  test('by what an operation of an older version becomes', async () => {
    await using bench = await createSyncBench({ syncOptions: { entities: ENTITIES } });
    const [device, id] = [new Device(), await bench.aVisit()];
    const previousVersion = await baseOf(bench, id);
    const edit = { operation: 'UPDATE', entityType: 'VISIT', entityId: id, schemaVersion: 1 } as const;
    const operation = device.does({ ...edit, payload: { sum: '99.00' }, previousVersion });
    await bench.as(ALICE).queueOperation(operation);
    await bench.as(ALICE).processPendingOperations(device.deviceId);
    expect(await standing(bench, operation)).toBe('WAITING_APPROVAL APPROVAL');
  });

  test('also of what was handed in before its type was known; and what takes new records only takes no other', async () => {
    await using bench = await createSyncBench({ syncOptions: { entities: [{ type: 'NOTE' }] } });
    const [device, id, record] = [new Device(), await bench.aVisit(), randomUUID()];
    await bench.sql(
      `INSERT INTO evv_records (id, organization_id, branch_id, visit_id, kind, at)
       SELECT $1, organization_id, branch_id, id, 'IN', now() FROM visits WHERE id = $2`,
      [record, id],
    );
    const does = (entityType: string, entityId: string, payload: Record<string, string>) =>
      device.does({ operation: 'UPDATE', entityType, entityId, payload });
    const [paid, forged] = [
      does('VISIT', id, { amount: '77.00' }),
      does('EVV_RECORD', record, { kind: 'OUT' }),
    ];
    await bench.as(ALICE).queueOperations([paid, forged]);
    expect(await standing(bench, paid)).toBe('PARKED ENTITY_UNKNOWN');
    const later = await bench.open({
      sync: { entities: [{ ...ENTITIES[0], type: 'VISIT', schemaVersion: 1 }, ...ENTITIES.slice(1)] },
    });
    await using _worker = await later.startWorker({ pollMs: 50 });
    await expect.poll(() => standing(bench, paid)).toBe('WAITING_APPROVAL APPROVAL');
    await expect.poll(() => standing(bench, forged)).toBe('FAILED REJECTED APPEND_ONLY');
    expect(await bench.sql('SELECT kind FROM evv_records')).toEqual([{ kind: 'IN' }]);
    expect((await bench.visit(id))?.amount).toBeNull();
  });

  test('of what somebody would write by deciding a conflict of his own', async () => {
    await using bench = await createSyncBench({ syncOptions: { entities: ENTITIES } });
    const [device, id] = [new Device(), await bench.aVisit({ minutes: 1 })];
    const edit = { operation: 'UPDATE', entityType: 'VISIT', entityId: id, schemaVersion: 2 } as const;
    const operation = device.does({ ...edit, payload: { minutes: 2 } });
    const alice = bench.as(ALICE, { permissions: ['sync:write', 'sync:read', 'sync:resolve'] });
    await alice.queueOperation(operation);
    await alice.processPendingOperations(device.deviceId);
    const [conflict] = (await alice.listConflicts({})).items;
    const decision = { ...shown(conflict), strategy: 'MANUAL' } as const;
    await expect(alice.resolveConflict({ ...decision, data: { amount: '9999.00' } })).rejects.toMatchObject({
      code: 'FORBIDDEN',
    });
    await alice.resolveConflict({ ...decision, data: { minutes: 3 } });
    expect(await bench.visit(id)).toMatchObject({ minutes: 3, amount: null });
  });
});

describe("another author's critical operation waives no approval", () => {
  /** An edit of Alice's that needs an approval, and a clock-in of somebody that waits for it. */
  async function waited(bench: SyncBench) {
    const [device, other, id] = [new Device(), new Device(), await bench.aVisit()];
    const edit = { operation: 'UPDATE', entityType: 'VISIT', entityId: id, schemaVersion: 2 } as const;
    const previousVersion = await baseOf(bench, id);
    const elsewhere = await bench.aVisit();
    const first = device.does({
      ...{ ...edit, entityId: elsewhere, payload: { notes: 'x' } },
      previousVersion: await baseOf(bench, elsewhere),
    });
    const dependsOn = [first.operationId];
    const paid = device.does({ ...edit, payload: { amount: '99.00' }, previousVersion, dependsOn });
    const clockIn = (of: Device, over: Partial<QueueOperationInput> = {}) => {
      const record = randomUUID();
      const at = new Date().toISOString();
      const payload = { id: record, branch_id: BRANCH_A, visit_id: id, kind: 'IN', at };
      const create = { operation: 'CREATE', entityType: 'EVV_RECORD', entityId: record, payload } as const;
      return of.does({ ...create, dependsOn: [paid.operationId], ...over });
    };
    const process = async () => {
      await bench.as(ALICE).processPendingOperations(device.deviceId);
      await bench.as(BOB).processPendingOperations(other.deviceId);
    };
    const lane = async ({ operationId }: { operationId: string }) =>
      (await managerOf(bench).getOperation(operationId)).lane;
    return { device, other, id, first, paid, clockIn, process, lane };
  }

  test.each(['BEFORE', 'AFTER'] as const)('which comes %s it', async (when) => {
    await using bench = await createSyncBench({ syncOptions: { entities: ENTITIES } });
    const { other, id, first, paid, clockIn, process, lane } = await waited(bench);
    const critical = clockIn(other);
    const alices = () => bench.as(ALICE).queueOperations([first, paid]);
    if (when === 'AFTER') await alices();
    await bench.as(BOB).queueOperation(critical);
    if (when === 'BEFORE') await alices();
    await sweepOf(bench).raiseLanes();
    await bench.as(ALICE).pauseOperation(first.operationId);
    await process();
    expect(await standing(bench, paid)).toBe('WAITING_APPROVAL APPROVAL');
    expect(await lane(paid)).toBe('NORMAL');
    expect(await lane(first), 'which needs none').toBe('CRITICAL');
    await managerOf(bench).approveOperation(paid.operationId);
    expect((await sweepOf(bench).raiseLanes()).map(({ operationId }) => operationId)).toEqual([
      paid.operationId,
    ]);
    await bench.as(ALICE).resumeOperation(first.operationId);
    await process();
    expect([await standing(bench, paid), await standing(bench, critical)]).toEqual([
      'COMPLETED APPLIED',
      'COMPLETED APPLIED',
    ]);
    expect(await managerOf(bench).getOperation(paid.operationId)).toMatchObject({
      approvedBy: MANAGER,
      reviewRequired: false,
    });
    expect(await bench.visit(id)).toMatchObject({ amount: '99.00' });
  });

  test('nor does it once that has been raised', async () => {
    await using bench = await createSyncBench({ syncOptions: { entities: ENTITIES } });
    const { other, first, clockIn, process, lane } = await waited(bench);
    await bench.as(ALICE).queueOperation(first);
    await bench.as(BOB).queueOperation(clockIn(other, { dependsOn: [first.operationId] }));
    expect(await lane(first)).toBe('CRITICAL');
    await bench.as(ALICE).editOperation(first.operationId, { payload: { amount: '99.00' } });
    await sweepOf(bench).raiseLanes();
    await process();
    expect(await standing(bench, first)).toBe('WAITING_APPROVAL APPROVAL');
  });

  test('nor of what was handed in before its type was known', async () => {
    await using bench = await createSyncBench({
      syncOptions: { entities: [{ type: 'NOTE' }, { type: 'EVV_RECORD' }] },
    });
    const [device, other, id] = [new Device(), new Device(), await bench.aVisit()];
    const payload = { amount: '77.00' };
    const paid = device.does({ operation: 'UPDATE', entityType: 'VISIT', entityId: id, payload });
    const clockIn = { operation: 'CREATE', entityType: 'EVV_RECORD', entityId: randomUUID() } as const;
    await bench.as(ALICE).queueOperation(paid);
    const critical = other.does({ ...clockIn, payload: {}, dependsOn: [paid.operationId] });
    await bench.as(BOB).queueOperation(critical);
    const later = await bench.open({
      sync: { entities: [{ ...ENTITIES[0], type: 'VISIT', schemaVersion: 1 }, ...ENTITIES.slice(1)] },
    });
    await using _worker = await later.startWorker({ pollMs: 50 });
    await expect.poll(() => standing(bench, paid)).toBe('WAITING_APPROVAL APPROVAL');
    await sweepOf(bench).raiseLanes();
    expect(await standing(bench, paid)).toBe('WAITING_APPROVAL APPROVAL');
  });

  test('her own does, through what somebody else did', async () => {
    await using bench = await createSyncBench({ syncOptions: { entities: ENTITIES } });
    const { device, other, paid, clockIn, first, process } = await waited(bench);
    const note = { operation: 'CREATE', entityType: 'NOTE', entityId: randomUUID() } as const;
    const payload = { id: note.entityId, branch_id: BRANCH_A, body: 'x' };
    const between = other.does({ ...note, payload, dependsOn: [paid.operationId] });
    await bench.as(ALICE).queueOperations([first, paid]);
    await bench.as(BOB).queueOperation(between);
    expect(await standing(bench, paid)).toBe('WAITING_APPROVAL APPROVAL');
    await bench.as(ALICE).queueOperation(clockIn(device, { dependsOn: [between.operationId] }));
    await process();
    expect(await standing(bench, paid)).toBe('COMPLETED APPLIED');
    expect(await managerOf(bench).getOperation(paid.operationId)).toMatchObject({ reviewRequired: true });
  });
});

test.each(['CANCELLED', 'FAILED'])('nothing is raised beyond what has been %s', async (how) => {
  await using bench = await createSyncBench({ syncOptions: { entities: ENTITIES } });
  const [device, other, id] = [new Device(), new Device(), await bench.aVisit()];
  const edit = { operation: 'UPDATE', entityType: 'VISIT', entityId: id, schemaVersion: 2 } as const;
  const [before, over] = [
    device.does({ ...edit, payload: { notes: 'x' } }),
    device.does({ ...edit, payload: { minutes: 1 } }),
  ];
  const record = { operation: 'CREATE', entityType: 'EVV_RECORD', entityId: randomUUID() } as const;
  await bench.as(ALICE).queueOperations([before, over]);
  await bench.sql(
    `UPDATE care_backup.offline_sync_queue SET status = $2, outcome = CASE $2 WHEN 'FAILED' THEN 'REJECTED' END WHERE operation_id = $1`,
    [over.operationId, how],
  );
  await bench.as(BOB).queueOperation(other.does({ ...record, payload: {}, dependsOn: [over.operationId] }));
  expect(await sweepOf(bench).raiseLanes()).toEqual([]);
});

test('the host’s schema is asked about what was handed in before its type or version was known', async () => {
  await using bench = await createSyncBench({ syncOptions: { entities: [{ type: 'VISIT' }] } });
  const [device, other, id] = [new Device(), new Device(), await bench.aVisit({ minutes: 1 })];
  const noteId = randomUUID();
  const note = device.does({
    operation: 'CREATE',
    entityType: 'NOTE',
    entityId: noteId,
    payload: { id: noteId, branch_id: BRANCH_A, body: 'x' },
  });
  const visit = other.does({
    operation: 'UPDATE',
    entityType: 'VISIT',
    entityId: id,
    schemaVersion: 2,
    payload: { minutes: 700 },
    previousVersion: await baseOf(bench, id),
  });
  const alice = bench.as(ALICE);
  await alice.queueOperations([note, visit]);
  expect(await standing(bench, note)).toBe('PARKED ENTITY_UNKNOWN');
  expect(await standing(bench, visit)).toBe('PARKED SCHEMA_UNKNOWN');
  // Nor is it known when it is edited.
  await alice.editOperation(visit.operationId, { payload: { minutes: 800 } });
  const later = await bench.open({
    sync: {
      entities: [
        { type: 'VISIT', schemaVersion: 2, schema: z.looseObject({ minutes: z.int().max(600) }) },
        { type: 'NOTE', schema: z.looseObject({ body: z.string().min(2) }) },
      ],
    },
  });
  const now = later.sync(syncActor(ALICE));
  await now.redriveOperation(visit.operationId);
  await now.processPendingOperations(other.deviceId);
  await using _worker = await later.startWorker({ pollMs: 50 });
  await expect.poll(() => standing(bench, note)).toBe('FAILED REJECTED VALIDATION_FAILED');
  expect(await standing(bench, visit)).toBe('FAILED REJECTED VALIDATION_FAILED');
  const errorsOf = async (of: { operationId: string }) =>
    (await now.getOperation(of.operationId)).validationErrors;
  expect(await errorsOf(note)).toEqual([{ path: 'body', message: expect.any(String) }]);
  expect(await errorsOf(visit)).toEqual([{ path: 'minutes', message: expect.any(String) }]);
  expect(await bench.visit(id)).toMatchObject({ minutes: 1 });
  expect(await bench.sql('SELECT id FROM notes')).toEqual([]);

  await now.editOperation(visit.operationId, { payload: { minutes: 500 } });
  await now.redriveOperation(visit.operationId);
  await expect.poll(() => standing(bench, visit)).toBe('COMPLETED APPLIED');
});

test('a decision without the version that was seen decides nothing', async () => {
  await using bench = await createSyncBench();
  const [device, id] = [new Device(), await bench.aVisit({ minutes: 1 })];
  const payload = { minutes: 2 };
  const operation = device.does({ operation: 'UPDATE', entityType: 'VISIT', entityId: id, payload });
  await bench.as(ALICE).queueOperation(operation);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  const manager = managerOf(bench);
  const [conflict] = (await manager.listConflicts({})).items;
  const { seenVersion, ...unseen } = { ...shown(conflict), strategy: 'CLIENT_WINS' } as const;
  const invalid = {
    code: 'VALIDATION_FAILED',
    issues: [{ path: 'seenVersion', remedy: expect.stringContaining('serverVersionNumber') }],
  };
  // As a caller without types would.
  const untyped = unseen as ResolveConflictInput;
  await expect(manager.resolveConflict(untyped)).rejects.toMatchObject(invalid);
  const several = await manager.resolveConflicts([untyped, { ...unseen, seenVersion }]);
  expect(several).toMatchObject([{ error: invalid }, { conflict: { status: 'RESOLVED' } }]);
});

test('a decision on what its author may not see leaves the conflict open for another', async () => {
  await using bench = await createSyncBench();
  const [device, id] = [new Device(), await bench.aVisit({ branch_id: BRANCH_B })];
  const alice = bench.as(ALICE, { branchIds: [BRANCH_A] });
  const payload = { notes: 'x' };
  const operation = device.does({ operation: 'UPDATE', entityType: 'VISIT', entityId: id, payload });
  await alice.queueOperation(operation);
  await alice.processPendingOperations(device.deviceId);
  const [conflict] = (await managerOf(bench).listConflicts({})).items;
  const decision = { ...shown(conflict), strategy: 'CLIENT_WINS' } as const;
  await expect(managerOf(bench).resolveConflict(decision)).rejects.toThrow();
  expect(await standing(bench, operation)).toMatch(/^CONFLICT/);
  await managerOf(bench).resolveConflict({ ...decision, strategy: 'SERVER_WINS' });
  expect(await standing(bench, operation)).toBe('COMPLETED SUPERSEDED');
  expect((await bench.visit(id))?.notes).toBeNull();
});

test('a conflict on what its author may see no more can still be given up', async () => {
  await using bench = await createSyncBench();
  const [device, id] = [new Device(), await bench.aVisit({ notes: 'a' })];
  const alice = bench.as(ALICE, { branchIds: [BRANCH_A] });
  const payload = { id, branch_id: BRANCH_A, notes: 'x' };
  const operation = device.does({ operation: 'CREATE', entityType: 'VISIT', entityId: id, payload });
  await alice.queueOperation(operation);
  await alice.processPendingOperations(device.deviceId);
  const [conflict] = (await managerOf(bench).listConflicts({})).items;
  await bench.sql('UPDATE visits SET branch_id = $1', [BRANCH_B]);
  const decision = { ...shown(conflict), strategy: 'CLIENT_WINS' } as const;
  await expect(managerOf(bench).resolveConflict(decision)).rejects.toThrow();
  expect(await standing(bench, operation)).toMatch(/^CONFLICT/);
  await managerOf(bench).resolveConflict({ ...decision, strategy: 'SERVER_WINS' });
  expect(await standing(bench, operation)).toBe('COMPLETED SUPERSEDED');
  expect(await bench.visit(id)).toMatchObject({ notes: 'a' });
});

test('what a critical operation waits for does not expire', async () => {
  await using bench = await createSyncBench();
  const [device, other, id, record] = [new Device(), new Device(), await bench.aVisit(), randomUUID()];
  const expiresAt = new Date(Date.now() + 200).toISOString();
  const edit = { operation: 'UPDATE', entityType: 'VISIT', entityId: id, payload: { notes: 'x' } } as const;
  const visit = device.does({ ...edit, previousVersion: await baseOf(bench, id), expiresAt });
  const payload = { id: record, branch_id: BRANCH_A, visit_id: id, kind: 'IN', at: new Date().toISOString() };
  const clockIn = { operation: 'CREATE', entityType: 'EVV_RECORD', entityId: record, payload } as const;
  const critical = other.does({ ...clockIn, dependsOn: [visit.operationId] });
  await bench.as(ALICE).queueOperation(visit);
  await bench.as(BOB).queueOperation(critical);
  expect(await sweepOf(bench, 3_600_000).expireOverdue()).toEqual([]);
  await expect.poll(() => Date.now() > Date.parse(expiresAt)).toBe(true);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  await bench.as(BOB).processPendingOperations(other.deviceId);
  expect([await standing(bench, visit), await standing(bench, critical)]).toEqual([
    'COMPLETED APPLIED',
    'COMPLETED APPLIED',
  ]);
});

test('a deletion behind what never arrives makes nothing', async () => {
  await using bench = await createSyncBench({ syncOptions: { limits: { predecessorWaitMs: 1 } } });
  const [device, id] = [new Device(), randomUUID()];
  const operation = device.does({
    operation: 'DELETE',
    entityType: 'NOTE',
    entityId: id,
    previousOperationId: randomUUID(),
  });
  await bench.as(ALICE).queueOperation(operation);
  await expect
    .poll(async () => {
      await bench.as(ALICE).processPendingOperations(device.deviceId);
      return standing(bench, operation);
    })
    .toBe('CONFLICT PREDECESSOR_MISSING');
  const [conflict] = (await managerOf(bench).listConflicts({})).items;
  expect(conflict).toMatchObject({ clientVersion: null });
  await managerOf(bench).resolveConflict({ ...shown(conflict), strategy: 'CLIENT_WINS' });
  expect(await standing(bench, operation)).toMatch(/^COMPLETED/);
  expect(await bench.sql('SELECT id FROM notes')).toEqual([]);
});

test('a worker gets past a long row of operations that are not ready', { timeout: 60_000 }, async () => {
  await using bench = await createSyncBench({
    execution: 'worker',
    syncOptions: {
      entities: SYNC_ENTITIES.map((one) =>
        one.type === 'VISIT'
          ? { ...one, requiresApproval: ({ payload }) => payload.amount !== undefined }
          : one,
      ),
    },
  });
  const [device, id, noteId] = [new Device(), await bench.aVisit(), randomUUID()];
  const edit = (payload: Record<string, string | number>) =>
    device.does({ operation: 'UPDATE', entityType: 'VISIT', entityId: id, payload });
  const waiting = [
    edit({ amount: '1.00' }),
    ...Array.from({ length: 1_999 }, (_, i) => edit({ minutes: i % 100 })),
  ];
  const note = { id: noteId, branch_id: BRANCH_A, body: 'ready' };
  const ready = device.does({ operation: 'CREATE', entityType: 'NOTE', entityId: noteId, payload: note });
  for (let i = 0; i < 2_000; i += 500) await bench.as(ALICE).queueOperations(waiting.slice(i, i + 500));
  await bench.as(ALICE).queueOperation(ready);
  await using _worker = await bench.protection.startWorker({ pollMs: 200 });
  await expect.poll(() => standing(bench, ready), { timeout: 40_000 }).toBe('COMPLETED APPLIED');
});

test('what needed an approval only once its type was known is reviewed where it does not wait for one', async () => {
  await using bench = await createSyncBench({
    syncOptions: { entities: [{ type: 'VISIT' }, { type: 'NOTE' }] },
  });
  const [device, visit, id] = [new Device(), await bench.aVisit(), randomUUID()];
  const payload = { id, branch_id: BRANCH_A, visit_id: visit, kind: 'IN', at: '2026-01-01T00:00:00Z' };
  const clockIn = device.does({ operation: 'CREATE', entityType: 'EVV_RECORD', entityId: id, payload });
  await bench.as(ALICE).queueOperations([clockIn]);
  const later = await bench.open({
    sync: {
      entities: [{ type: 'EVV_RECORD', requiresApproval: () => true }, { type: 'VISIT' }, { type: 'NOTE' }],
    },
  });
  const alice = later.sync(syncActor(ALICE));
  await alice.processPendingOperations(device.deviceId);
  await alice.processPendingOperations(device.deviceId);
  expect(await alice.getOperation(clockIn.operationId)).toMatchObject({
    status: 'COMPLETED',
    reviewRequired: true,
  });
});

test('what the host’s own reading fails with is what counts, whatever was asked beside it', async () => {
  let asked: string = randomUUID();
  const handler: EntityHandler = {
    async load(_ids, { tx }) {
      await tx.query('SELECT $1::uuid', [asked]);
      return new Map();
    },
    apply: ({ after }) => Promise.resolve(after),
  };
  await using bench = await createSyncBench({ syncOptions: { entities: [{ type: 'ORDER', handler }] } });
  const device = new Device();
  const ended: string[] = [];
  for (let n = 0; n < 5; n += 1) {
    const of = { entityType: 'ORDER', entityId: `order ${n}` } as const;
    const alice = bench.as(ALICE);
    for (const id of [randomUUID(), 'no id']) {
      asked = id;
      const one = device.does({ ...of, operation: id === 'no id' ? 'PATCH' : 'CREATE', payload: { n } });
      await alice.queueOperations([one]);
      await alice.processPendingOperations(device.deviceId);
      ended.push((await standing(bench, one)) ?? '');
    }
  }
  expect(ended).toEqual(Array(5).fill(['COMPLETED APPLIED', 'FAILED REJECTED CONSTRAINT_VIOLATED']).flat());
});
