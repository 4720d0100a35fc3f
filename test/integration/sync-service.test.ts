import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { OfflineSyncService } from '../../src/service/offline-sync-service.ts';
import {
  ALICE,
  BRANCH_A,
  createSyncBench,
  Device,
  MANAGER,
  ORGANIZATION,
  type SyncBench,
} from '../harness/sync-bench.ts';

let bench: SyncBench;
let alice: OfflineSyncService;
let manager: OfflineSyncService;
beforeAll(async () => {
  bench = await createSyncBench({
    syncOptions: {
      entities: [
        { type: 'VISIT', requiresApproval: ({ payload }) => payload.amount !== undefined },
        { type: 'EVV_RECORD', requiresApproval: () => true },
        {
          type: 'NOTE',
          schemaVersion: 2,
          upcasters: { 1: ({ text, ...row }) => ({ ...row, body: text ?? '' }) },
        },
      ],
    },
  });
  alice = bench.as(ALICE);
  manager = bench.as(MANAGER, { permissions: ['sync:admin'] });
});
afterAll(() => bench[Symbol.asyncDispose]());

const stateOf = async (operationId: string) => (await manager.getOperation(operationId)).status;
const base = async (id: string) => {
  const [entity] = await manager.readForOffline('VISIT', [id]);
  return { version: entity?.version ?? 0, data: entity?.data ?? {}, signature: entity?.signature ?? '' };
};
const aChange = async (device: Device, payload: Record<string, string | number>) => {
  const id = await bench.aVisit({ minutes: 1 });
  const previousVersion = await base(id);
  return {
    id,
    operation: device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: id,
      payload,
      previousVersion,
    }),
  };
};

describe('approval', () => {
  test('by a second person, on what he saw', async () => {
    const device = new Device();
    const { id, operation } = await aChange(device, { amount: '12.50' });
    const { operationId } = operation;
    await alice.queueOperation(operation);
    await alice.processPendingOperations(device.deviceId);
    expect(await stateOf(operationId)).toBe('WAITING_APPROVAL');
    const herself = bench.as(ALICE, { permissions: ['sync:admin'] });
    await expect(herself.approveOperation(operationId)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    const seen = (await base(id)).version;
    await bench.sql('UPDATE visits SET minutes = 2 WHERE id = $1', [id]);
    await expect(manager.approveOperation(operationId, { seenVersion: seen })).rejects.toMatchObject({
      code: 'CONFLICT_STALE',
    });
    const approved = await manager.approveOperation(operationId, { seenVersion: (await base(id)).version });
    expect(approved).toMatchObject({ status: 'COMPLETED', outcome: 'MERGED' });
    expect(await bench.visit(id)).toMatchObject({ amount: '12.50', minutes: 2 });
  });

  test('can be refused', async () => {
    const { operation } = await aChange(new Device(), { amount: '1' });
    await alice.queueOperation(operation);
    expect(await manager.refuseOperation(operation.operationId)).toMatchObject({
      status: 'FAILED',
      outcome: 'REJECTED',
      reason: 'APPROVAL_REFUSED',
    });
  });

  test('does not hold up what is critical, which is looked at afterwards', async () => {
    const visit = await bench.aVisit();
    const id = randomUUID();
    const device = new Device();
    const operation = device.does({
      operation: 'CREATE',
      entityType: 'EVV_RECORD',
      entityId: id,
      payload: { id, branch_id: BRANCH_A, visit_id: visit, kind: 'CLOCK_IN', at: '2026-05-01T10:00:00Z' },
    });
    await alice.queueOperation(operation);
    await alice.processPendingOperations(device.deviceId);
    expect(await manager.getOperation(operation.operationId)).toMatchObject({
      status: 'COMPLETED',
      reviewRequired: true,
    });
    const { items } = await manager.getSyncEvents({ operationId: operation.operationId });
    expect(items.map(({ type }) => type).sort()).toEqual(['APPLIED', 'REVIEW_REQUIRED']);
    await expect(
      alice.queueOperation(
        device.does({ operation: 'UPDATE', entityType: 'EVV_RECORD', entityId: id, payload: { kind: 'X' } }),
      ),
    ).rejects.toMatchObject({ code: 'APPEND_ONLY', operationId: expect.any(String) });
  });
});

describe('operations in somebody’s hands', () => {
  test('are paused and resumed, edited, cancelled and tried again', async () => {
    const device = new Device();
    const { id, operation } = await aChange(device, { minutes: 5 });
    const { operationId } = operation;
    await alice.queueOperation(operation);
    expect(await alice.pauseOperation(operationId)).toMatchObject({ status: 'PAUSED' });
    expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({
      processed: 0,
      remaining: 1,
    });
    expect(await alice.editOperation(operationId, { payload: { minutes: 6 } })).toMatchObject({
      status: 'PAUSED',
    });
    expect(await alice.resumeOperation(operationId)).toMatchObject({ status: 'PENDING' });
    await alice.processPendingOperations(device.deviceId);
    expect(await bench.visit(id)).toMatchObject({ minutes: 6 });
    expect(await manager.getOperation(operationId)).toMatchObject({
      originalPayload: { minutes: 5 },
      payload: { minutes: 6 },
    });
    await expect(alice.cancelOperation(operationId)).rejects.toMatchObject({ code: 'INVALID_STATE' });
    // Sent again as it was, it is still the same.
    expect(await alice.queueOperation(operation)).toMatchObject({ status: 'DUPLICATE' });
  });

  test('that are cancelled hold up what builds on them, visibly', async () => {
    const device = new Device();
    const { id, operation } = await aChange(device, { minutes: 5 });
    const next = device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: id,
      payload: { minutes: 6 },
    });
    await alice.queueOperations([operation, next]);
    await alice.cancelOperation(operation.operationId);
    await alice.processPendingOperations(device.deviceId);
    expect(await manager.getOperation(next.operationId)).toMatchObject({
      status: 'BLOCKED',
      statusReason: 'PREDECESSOR_FAILED',
    });
    expect(await manager.getDeviceHealth(device.deviceId)).toMatchObject({
      state: 'NEEDS_ATTENTION',
      attention: 1,
    });
    expect(await alice.cancelOperation(next.operationId)).toMatchObject({ status: 'CANCELLED' });
  });

  test('of an older schema are brought up to date, of a newer one are held', async () => {
    const device = new Device();
    const [old, future] = [randomUUID(), randomUUID()];
    const operations = [
      device.does({
        operation: 'CREATE',
        entityType: 'NOTE',
        entityId: old,
        schemaVersion: 1,
        payload: { id: old, branch_id: BRANCH_A, text: 'from an old app' },
      }),
      device.does({
        operation: 'CREATE',
        entityType: 'NOTE',
        entityId: future,
        schemaVersion: 3,
        payload: { id: future, lines: [] },
      }),
      device.does({
        operation: 'CREATE',
        entityType: 'MEDICATION',
        entityId: randomUUID(),
        payload: { name: 'x' },
      }),
    ];
    expect((await alice.queueOperations(operations)).map(({ status }) => status)).toEqual([
      'ACCEPTED',
      'ACCEPTED',
      'ACCEPTED',
    ]);
    await alice.processPendingOperations(device.deviceId);
    const standing = await bench.standing();
    expect(operations.map(({ operationId }) => standing[operationId])).toEqual([
      'COMPLETED APPLIED',
      'PARKED SCHEMA_UNKNOWN',
      'PARKED ENTITY_UNKNOWN',
    ]);
    const [note] = await bench.sql<{ body: string }>('SELECT body FROM notes WHERE id = $1', [old]);
    expect(note?.body).toBe('from an old app');
  });

  test('that are too old are parked', async () => {
    const { operation } = await aChange(new Device(), { minutes: 9 });
    await alice.queueOperation({ ...operation, occurredAt: '2019-01-01T00:00:00Z' });
    expect(await manager.getOperation(operation.operationId)).toMatchObject({
      status: 'PARKED',
      statusReason: 'TOO_OLD',
    });
  });
});

test('a time offline counts its operations', async () => {
  const device = new Device();
  const session = await alice.startOfflineSession(ALICE, device.deviceId, ORGANIZATION, {
    deviceInfo: { model: 'phone' },
  });
  expect(session).toMatchObject({
    status: 'ACTIVE',
    operationCount: 0,
    sessionNumber: expect.stringMatching(/^OFF-\d{4}-\d{6}$/),
  });
  expect((await alice.startOfflineSession(ALICE, device.deviceId, ORGANIZATION)).id).toBe(session.id);
  const good = await aChange(device, { minutes: 5 });
  const bad = await aChange(device, { minutes: 5_000 });
  await alice.queueOperations([good.operation, bad.operation]);
  await alice.updateNetworkStatus(session.id, { online: true, connectionType: 'wifi' });
  await alice.processPendingOperations(device.deviceId);
  expect(await alice.endOfflineSession(session.id)).toMatchObject({
    status: 'PARTIAL',
    operationCount: 2,
    updateCount: 2,
    syncedOperations: 1,
    failedOperations: 1,
    pendingOperations: 0,
  });
  await expect(alice.endOfflineSession(session.id)).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('statistics tell how operations stand', async () => {
  const statistics = await manager.getSyncStatistics();
  const [row] = await bench.sql<{ n: number }>(
    'SELECT count(*)::int AS n FROM care_backup.offline_sync_queue',
  );
  expect(statistics.total).toBe(row?.n);
  expect(Object.values(statistics.byStatus).reduce((sum, n) => sum + n, 0)).toBe(statistics.total);
  expect(statistics.byOutcome.APPLIED).toBeGreaterThan(0);
  expect(statistics.latencyMs?.p95).toBeGreaterThanOrEqual(
    statistics.latencyMs?.p50 ?? Number.POSITIVE_INFINITY,
  );
});

describe('a conflict that somebody decides', () => {
  let operationId: string;
  let conflictId: string;
  let seenVersion: number;
  let deviceId: string;
  beforeAll(async () => {
    const id = await bench.aVisit({ branch_id: BRANCH_A, notes: 'secret base' });
    const device = new Device();
    deviceId = device.deviceId;
    const operation = device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: id,
      payload: { notes: 'secret mine' },
    });
    operationId = operation.operationId;
    await alice.queueOperation({ ...operation, branchId: BRANCH_A });
    await alice.processPendingOperations(deviceId);
    conflictId = (await manager.getOperation(operationId)).conflictId ?? '';
    seenVersion = (await manager.getConflict(conflictId)).serverVersionNumber;
  });

  test('every action is in the audit log, without what a row holds', async () => {
    await manager.resolveConflict({ conflictId, seenVersion, strategy: 'SERVER_WINS', notes: 'as on paper' });
    const entries = await bench.sql<{ action: string; details: string }>(
      `SELECT action, details::text AS details FROM care_backup.audit_log WHERE action LIKE 'sync.%'`,
    );
    const actions = new Set(entries.map(({ action }) => action));
    for (const action of [
      'sync.operation.pause',
      'sync.operation.approve',
      'sync.operation.cancel',
      'sync.conflict.resolved',
    ])
      expect(actions).toContain(action);
    const events = await bench.sql<{ details: string }>(
      'SELECT details::text AS details FROM care_backup.sync_events',
    );
    for (const { details } of [...entries, ...events]) expect(details).not.toContain('secret');
  });
});
