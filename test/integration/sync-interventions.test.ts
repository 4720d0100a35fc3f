import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createDatabase } from '../../src/repository/database.ts';
import { type SyncSweep, syncSweep } from '../../src/repository/sync-sweep.ts';
import type { OfflineSyncService } from '../../src/service/offline-sync-service.ts';
import type { EntityRow, QueueOperationInput } from '../../src/types/offline-sync.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  BRANCH_B,
  createSyncBench,
  Device,
  MANAGER,
  ORGANIZATION,
  SYNC_ENTITIES,
  type SyncBench,
  shown,
} from '../harness/sync-bench.ts';

const DAY_MS = 86_400_000;

let bench: SyncBench;
let device: Device;
beforeEach(async () => {
  device = new Device();
  bench = await createSyncBench({
    syncOptions: {
      limits: { predecessorWaitMs: 1 },
      entities: SYNC_ENTITIES.map((entity) => ({
        ...entity,
        requiresApproval: ({ payload }) => 'amount' in payload,
      })),
    },
  });
});
afterEach(() => bench[Symbol.asyncDispose]());

const alice = (): OfflineSyncService => bench.as(ALICE);
const manager = (): OfflineSyncService => bench.as(MANAGER, { permissions: ['sync:admin'] });
const sweepIn = (aheadMs = 0): SyncSweep =>
  syncSweep(
    createDatabase({ pool: bench.database.pool, clock: { now: () => new Date(Date.now() + aheadMs) } }),
  );

const baseOf = async (type: string, id: string) => {
  const [entity] = await manager().readForOffline(type, [id]);
  return {
    version: entity?.version ?? 0,
    data: entity?.data ?? {},
    ...(entity?.signature === undefined ? {} : { signature: entity.signature }),
  };
};
const changes = async (id: string, payload: EntityRow, more: Partial<QueueOperationInput> = {}) =>
  device.does({
    operation: 'UPDATE',
    entityType: 'VISIT',
    entityId: id,
    payload,
    previousVersion: await baseOf('VISIT', id),
    ...more,
  });
const handIn = async (...operations: readonly QueueOperationInput[]): Promise<void> => {
  const answers = await alice().queueOperations(operations);
  expect(answers.map(({ status }) => status)).toEqual(operations.map(() => 'ACCEPTED'));
};
const process = () => alice().processPendingOperations(device.deviceId);
const standings = async (...operations: readonly { operationId: string }[]) => {
  const all = await bench.standing();
  return operations.map(({ operationId }) => all[operationId]);
};
const conflictOf = async ({ entityId }: { entityId: string }) => {
  const { items } = await manager().listConflicts({ entityId });
  const [conflict] = items;
  if (conflict === undefined) throw new Error('no conflict');
  return conflict;
};
const INVALID_STATE = { code: 'INVALID_STATE' };
const STALE = { code: 'CONFLICT_STALE' };

describe('edits', () => {
  test('one that is BLOCKED goes on with what it says now, once what it waits for is done', async () => {
    const id = await bench.aVisit({ minutes: 1 });
    const first = await changes(id, { minutes: 5000 });
    const second = await changes(id, { notes: 'typo' });
    await handIn(first, second);
    await process();
    expect(await standings(first, second)).toEqual([
      'FAILED REJECTED CONSTRAINT_VIOLATED',
      'BLOCKED PREDECESSOR_FAILED',
    ]);
    await alice().editOperation(second.operationId, { payload: { notes: 'right' } });
    expect(await standings(second)).toEqual(['BLOCKED PREDECESSOR_FAILED']);
    await alice().editOperation(first.operationId, { payload: { minutes: 50 } });
    await alice().redriveOperation(first.operationId);
    await process();
    expect(await standings(first, second)).toEqual(['COMPLETED APPLIED', 'COMPLETED MERGED']);
    expect(await bench.visit(id)).toMatchObject({ minutes: 50, notes: 'right' });
  });

  test('one that was parked for its schema is taken up when that is known', async () => {
    const id = await bench.aVisit();
    const one = await changes(id, { notes: 'x' }, { schemaVersion: 2 });
    await handIn(one);
    expect(await standings(one)).toEqual(['PARKED SCHEMA_UNKNOWN']);
    await alice().editOperation(one.operationId, { payload: { notes: 'y' } });
    expect(await standings(one)).toEqual(['PARKED SCHEMA_UNKNOWN']);
    await alice().editOperation(one.operationId, { payload: { notes: 'z' }, schemaVersion: 1 });
    await process();
    expect(await standings(one)).toEqual(['COMPLETED APPLIED']);
    expect(await bench.visit(id)).toMatchObject({ notes: 'z' });
  });

  test('what needs no approval does when it is edited to what does', async () => {
    const id = await bench.aVisit();
    const one = await changes(id, { minutes: 5 });
    const critical = await changes(id, { minutes: 6 }, { previousOperationId: null });
    await handIn(one, critical);
    await bench.sql(
      `UPDATE care_backup.offline_sync_queue SET priority = 'CRITICAL', lane = 'CRITICAL', approval_waived = true WHERE operation_id = $1`,
      [critical.operationId],
    );
    expect(await alice().editOperation(one.operationId, { payload: { amount: '99.00' } })).toMatchObject({
      status: 'WAITING_APPROVAL',
      reason: 'APPROVAL',
    });
    await alice().editOperation(critical.operationId, { payload: { amount: '1.00' } });
    expect(await manager().getOperation(critical.operationId)).toMatchObject({
      status: 'PENDING',
      requiresApproval: true,
      reviewRequired: true,
    });
    await alice().editOperation(one.operationId, { payload: { minutes: 7 } });
    expect(await standings(one), 'nor does another edit spare it').toEqual(['WAITING_APPROVAL APPROVAL']);
    await manager().cancelOperation(critical.operationId);
    await manager().approveOperation(one.operationId);
    expect(await bench.visit(id)).toMatchObject({ minutes: 7, amount: null });
  });
});

describe('approvals', () => {
  test('one counts for the operation that was seen', async () => {
    const id = await bench.aVisit();
    const one = await changes(id, { amount: '1.00' });
    await handIn(one);
    const seen = await manager().getOperation(one.operationId);
    const seenVersion = (await baseOf('VISIT', id)).version;
    await alice().editOperation(one.operationId, { payload: { amount: '9999.00' } });
    const approve = (seenUpdatedAt: string) =>
      manager().approveOperation(one.operationId, { seenVersion, seenUpdatedAt });
    await expect(approve(seen.updatedAt)).rejects.toMatchObject(STALE);
    expect(await standings(one)).toEqual(['WAITING_APPROVAL APPROVAL']);
    const now = await manager().getOperation(one.operationId);
    expect(await approve(now.updatedAt)).toMatchObject({ status: 'COMPLETED' });
    expect(await bench.visit(id)).toMatchObject({ amount: '9999.00' });
    await expect(approve(now.updatedAt)).rejects.toMatchObject(INVALID_STATE);
  });

  test('an edit between the look and the approval is never missed', async () => {
    const written: unknown[] = [];
    for (let round = 0; round < 8; round += 1) {
      const id = await bench.aVisit();
      const one = await changes(id, { amount: '1.00' });
      await handIn(one);
      const { updatedAt } = await manager().getOperation(one.operationId);
      await Promise.allSettled([
        alice().editOperation(one.operationId, { payload: { amount: '9999.00' } }),
        manager().approveOperation(one.operationId, { seenUpdatedAt: updatedAt }),
      ]);
      written.push((await bench.visit(id))?.amount);
    }
    expect(written).not.toContain('9999.00');
  });

  test('one of an operation on what was deleted counts for that', async () => {
    const id = await bench.aVisit({ minutes: 1 });
    const one = await changes(id, { amount: '5.00' });
    const { version } = await baseOf('VISIT', id);
    await bench.sql('UPDATE visits SET deleted_at = now() WHERE id = $1', [id]);
    await handIn(one);
    const approve = (seenVersion?: number) =>
      manager().approveOperation(one.operationId, seenVersion === undefined ? {} : { seenVersion });
    await expect(approve(version)).rejects.toMatchObject(STALE);
    expect(await approve()).toMatchObject({ status: 'CONFLICT' });
    expect(await conflictOf(one)).toMatchObject({ conflictType: 'UPDATE_DELETE' });
  });

  test('of an atomic batch each counts, though they change one entity', async () => {
    const id = await bench.aVisit();
    const batch = { batchId: randomUUID(), batchSize: 3 };
    const members = [
      await changes(id, { minutes: 5 }, batch),
      await changes(id, { amount: '1.00' }, batch),
      await changes(id, { amount: '2.00' }, batch),
    ];
    await handIn(...members);
    const [, first, second] = members.map(({ operationId }) => operationId);
    await manager().approveOperation(first ?? '');
    await bench.sql(`UPDATE visits SET notes = 'moved'`);
    await expect(manager().approveOperation(second ?? '')).resolves.toMatchObject({ status: 'BLOCKED' });
    expect(await standings(...members), 'what moved meanwhile is looked at again').toEqual([
      'BLOCKED GROUP_FAILED',
      'WAITING_APPROVAL APPROVAL',
      'BLOCKED GROUP_FAILED',
    ]);
    await manager().approveOperation(first ?? '');
    expect(await standings(...members)).toEqual(Array(3).fill('COMPLETED MERGED'));
    expect(await bench.visit(id)).toMatchObject({ minutes: 5, amount: '2.00', notes: 'moved' });
  });

  test.each(['APPROVER', 'AUTHOR'])('one counts though the row is hidden from the %s', async (who) => {
    const id = await bench.aVisit({ branch_id: who === 'APPROVER' ? BRANCH_A : BRANCH_B });
    const { version } = await baseOf('VISIT', id);
    const author = bench.as(ALICE, { branchIds: who === 'APPROVER' ? [BRANCH_A, BRANCH_B] : [BRANCH_A] });
    const approver =
      who === 'AUTHOR'
        ? manager()
        : bench.as(MANAGER, { permissions: ['sync:admin'], branchIds: [BRANCH_B] });
    const one = await changes(id, { amount: '5.00' }, { branchId: who === 'APPROVER' ? BRANCH_B : BRANCH_A });
    await author.queueOperation(one);
    if (who === 'APPROVER') {
      const told = approver.approveOperation(one.operationId, { seenVersion: version });
      await expect(told, 'he has seen none').rejects.toMatchObject(STALE);
    }
    const seenVersion = who === 'APPROVER' ? 0 : version;
    const { status } = await approver.approveOperation(one.operationId, { seenVersion });
    expect(status).toBe(who === 'APPROVER' ? 'COMPLETED' : 'CONFLICT');
  });

  test('whoever decides a conflict approves of it, but for its author', async () => {
    const [byManager, byAuthor] = [await bench.aVisit(), await bench.aVisit()];
    const [one, other] = [
      await changes(byManager, { amount: '5.00' }),
      await changes(byAuthor, { amount: '5.00' }),
    ];
    await bench.sql(`UPDATE visits SET amount = 1`);
    await handIn(one, other);
    for (const { operationId } of [one, other])
      expect(await manager().approveOperation(operationId)).toMatchObject({ status: 'CONFLICT' });
    const decide = async (by: OfflineSyncService, of: { entityId: string }) =>
      by.resolveConflict({ ...shown(await conflictOf(of)), strategy: 'CLIENT_WINS' });
    const started = performance.now();
    expect(await decide(manager(), one)).toMatchObject({ status: 'RESOLVED' });
    expect(await bench.visit(byManager)).toMatchObject({ amount: '5.00' });
    expect(await manager().getOperation(one.operationId)).toMatchObject({ approvedBy: MANAGER });

    const author = bench.as(ALICE, { permissions: ['sync:write', 'sync:resolve'] });
    expect(await decide(author, other)).toMatchObject({ status: 'RESOLVING' });
    expect(performance.now() - started, 'nobody waits for an approval').toBeLessThan(4_000);
    expect(await standings(other)).toEqual(['WAITING_APPROVAL APPROVAL']);
    expect(await manager().approveOperation(other.operationId)).toMatchObject({ status: 'COMPLETED' });
    expect(await conflictOf(other)).toMatchObject({ status: 'RESOLVED' });
    expect(await bench.visit(byAuthor)).toMatchObject({ amount: '5.00' });
  });

  test('whoever edited it last does not approve of it, nor by a decision', async () => {
    const id = await bench.aVisit();
    const one = await changes(id, { amount: '5.00' });
    await handIn(one);
    const other = bench.as(BOB, { permissions: ['sync:resolve'] });
    const state = () => manager().getOperation(one.operationId);
    await manager().editOperation(one.operationId, { payload: { amount: '9999.00' } });
    expect(await state()).toMatchObject({ editedBy: MANAGER });
    await expect(manager().approveOperation(one.operationId)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(manager().refuseOperation(one.operationId)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(
      bench.sql('UPDATE care_backup.offline_sync_queue SET approved_by = $1', [MANAGER]),
    ).rejects.toMatchObject({ constraint: 'offline_sync_queue_not_its_editor' });
    await bench.sql('UPDATE visits SET amount = 1');
    expect(await other.approveOperation(one.operationId)).toMatchObject({ status: 'CONFLICT' });
    await manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' });
    expect(await state()).toMatchObject({ status: 'WAITING_APPROVAL', approvedBy: null });
    expect(await other.approveOperation(one.operationId)).toMatchObject({ status: 'COMPLETED' });
    expect(await bench.visit(id)).toMatchObject({ amount: '9999.00' });
  });

  test('a refusal ends the conflict too', async () => {
    const id = await bench.aVisit();
    const one = await changes(id, { amount: '5.00' });
    await bench.sql('UPDATE visits SET amount = 1');
    await handIn(one);
    await manager().approveOperation(one.operationId);
    const author = bench.as(ALICE, { permissions: ['sync:write', 'sync:resolve'] });
    await author.resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' });
    await manager().refuseOperation(one.operationId);
    expect(await standings(one)).toEqual(['FAILED REJECTED APPROVAL_REFUSED']);
    expect(await conflictOf(one)).toMatchObject({ status: 'CANCELLED' });
    await alice().redriveOperation(one.operationId);
    await process();
    expect(await standings(one), 'what was decided has gone with it').toEqual(['WAITING_APPROVAL APPROVAL']);
    expect(await manager().approveOperation(one.operationId)).toMatchObject({ status: 'CONFLICT' });
    expect(await conflictOf(one)).toMatchObject({ status: 'PENDING_MANUAL' });
  });

  test('a decision on what has moved since is no approval', async () => {
    const id = await bench.aVisit();
    const one = await changes(id, { amount: '5.00' });
    await bench.sql('UPDATE visits SET amount = 1');
    await handIn(one);
    await manager().approveOperation(one.operationId);
    await bench.sql('UPDATE visits SET amount = 2');
    const decide = async () =>
      manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' });
    await expect(decide()).rejects.toMatchObject(STALE);
    expect(await bench.visit(id)).toMatchObject({ amount: '2.00' });
    expect(await standings(one), 'detected again').toEqual(['CONFLICT CONFLICT']);
    expect(await conflictOf(one)).toMatchObject({
      status: 'PENDING_MANUAL',
      serverVersion: { amount: '2.00' },
    });
    expect(await manager().getOperation(one.operationId)).toMatchObject({ approvedBy: null });
    expect(await decide()).toMatchObject({ status: 'RESOLVED' });
    expect(await bench.visit(id)).toMatchObject({ amount: '5.00' });
  });

  test.each(['ALONE', 'IN A BATCH'])('nor where there is no conflict any more: %s', async (how) => {
    const id = await bench.aVisit();
    const batch = { batchId: randomUUID(), batchSize: 1 };
    const one = await changes(id, { amount: '5.00' }, how === 'ALONE' ? {} : batch);
    await bench.sql('UPDATE visits SET amount = 1');
    await handIn(one);
    await manager().approveOperation(one.operationId);
    const seen = shown(await conflictOf(one));
    await bench.sql('UPDATE visits SET amount = NULL');
    const decide = () => manager().resolveConflict({ ...seen, strategy: 'CLIENT_WINS' });
    expect(await decide()).toMatchObject({ status: 'CANCELLED' });
    expect(await standings(one)).toEqual(['WAITING_APPROVAL APPROVAL']);
    expect(await bench.visit(id)).toMatchObject({ amount: null });
    await expect(decide()).rejects.toMatchObject(INVALID_STATE);
    expect(await manager().approveOperation(one.operationId)).toMatchObject({ status: 'COMPLETED' });
    expect(await bench.visit(id)).toMatchObject({ amount: '5.00' });
  });
});

describe('what has expired', () => {
  test('whoever redrives it has it applied nevertheless', async () => {
    const id = await bench.aVisit();
    const one = await changes(id, { minutes: 5 }, { expiresAt: new Date(Date.now() - 1_000).toISOString() });
    const soon = new Date(Date.now() + DAY_MS).toISOString();
    const failed = await changes(await bench.aVisit(), { minutes: 5000 }, { expiresAt: soon });
    await handIn(one, failed);
    await process();
    expect(await standings(one, failed), 'without a worker').toEqual([
      'EXPIRED EXPIRED',
      'FAILED REJECTED CONSTRAINT_VIOLATED',
    ]);
    await alice().redriveOperation(one.operationId);
    await alice().redriveOperation(failed.operationId);
    expect(await manager().getOperation(failed.operationId)).toMatchObject({ expiresAt: soon });
    await process();
    expect(await standings(one)).toEqual(['COMPLETED APPLIED']);
  });

  test('its conflict has too', async () => {
    const id = await bench.aVisit();
    const expiresAt = new Date(Date.now() + DAY_MS).toISOString();
    const one = await changes(id, { amount: '5.00' }, { expiresAt });
    await bench.sql('UPDATE visits SET amount = 1');
    await handIn(one);
    await manager().approveOperation(one.operationId);
    const author = bench.as(ALICE, { permissions: ['sync:write', 'sync:resolve'] });
    await author.resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' });
    await author.editOperation(one.operationId, { payload: { amount: '6.00' } });
    expect((await conflictOf(one)).status).toBe('PENDING_MANUAL');
    expect(await sweepIn(2 * DAY_MS).expireOverdue()).toHaveLength(1);
    expect(await standings(one)).toEqual(['EXPIRED EXPIRED']);
    expect(await conflictOf(one)).toMatchObject({ status: 'EXPIRED', resolvedAt: expect.any(String) });
  });

  test('a conflict is decided after its time', async () => {
    const id = await bench.aVisit({ minutes: 1 });
    const one = await changes(id, { minutes: 5 }, { expiresAt: new Date(Date.now() + DAY_MS).toISOString() });
    await bench.sql('UPDATE visits SET minutes = 2');
    await handIn(one);
    await process();
    await bench.sql(`UPDATE care_backup.offline_sync_queue SET expires_at = now() - interval '1 second'`);
    expect(
      await manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' }),
    ).toMatchObject({
      status: 'RESOLVED',
    });
    expect(await bench.visit(id)).toMatchObject({ minutes: 5 });
  });
});

describe('decisions that cannot be carried out', () => {
  const aNote = async (more: Partial<QueueOperationInput> = {}) => {
    const id = randomUUID();
    await bench.sql(
      `INSERT INTO notes (id, organization_id, branch_id, body) VALUES ($1, $2, $3, 'before')`,
      [id, ORGANIZATION, BRANCH_A],
    );
    const previousVersion = await baseOf('NOTE', id);
    await bench.sql(`UPDATE notes SET body = 'server' WHERE id = $1`, [id]);
    const one = device.does({
      operation: 'UPDATE',
      entityType: 'NOTE',
      entityId: id,
      payload: { body: 'client' },
      previousVersion,
      ...more,
    });
    await handIn(one);
    await process();
    expect(await standings(one)).toEqual(['CONFLICT CONFLICT']);
    return one;
  };
  const bodyOf = async (id: string) =>
    (await bench.sql<{ body: string }>('SELECT body FROM notes WHERE id = $1', [id]))[0]?.body;

  test('another one takes their place', async () => {
    const one = await aNote({ maxRetries: 0 });
    const dangling = { body: 'decided', visit_id: randomUUID() };
    await expect(
      manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'MANUAL', data: dangling }),
    ).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
      message: expect.stringContaining('PARENT_MISSING'),
    });
    expect(await standings(one)).toEqual(['CONFLICT PARENT_MISSING']);
    expect(
      await manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' }),
    ).toMatchObject({
      status: 'RESOLVED',
    });
    expect(await bodyOf(one.entityId)).toBe('client');
  });

  test('an edit takes their place', async () => {
    const one = await aNote();
    const visit = randomUUID();
    const resolved = manager().resolveConflict({
      ...shown(await conflictOf(one)),
      strategy: 'MANUAL',
      data: { body: 'decided', visit_id: visit },
    });
    expect(await resolved, 'it is tried again').toMatchObject({ status: 'RESOLVING' });
    expect(await standings(one)).toEqual(['PENDING PARENT_MISSING']);
    await alice().editOperation(one.operationId, { payload: { body: 'edited' } });
    expect(await conflictOf(one)).toMatchObject({ status: 'PENDING_MANUAL' });
    await bench.aVisit({ id: visit });
    await bench.sql('UPDATE care_backup.offline_sync_queue SET next_retry_at = NULL');
    await process();
    expect(await standings(one), 'what was edited conflicts too').toEqual(['CONFLICT CONFLICT']);
    expect(await bodyOf(one.entityId)).toBe('server');
    expect(
      await manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' }),
    ).toMatchObject({
      status: 'RESOLVED',
    });
    expect(await bodyOf(one.entityId)).toBe('edited');
  }, 20_000);

  test('so it does where workers die over them', async () => {
    const one = await aNote();
    await bench.sql(
      `UPDATE care_backup.offline_sync_queue SET status = 'PENDING', status_reason = NULL, conflict_resolution = '{}'`,
    );
    await bench.sql(
      `UPDATE care_backup.offline_sync_queue SET status = 'IN_PROGRESS', claim_token = gen_random_uuid(), claims = 3,
              lease_expires_at = now() - interval '1 second'`,
    );
    await bench.sql(`UPDATE care_backup.sync_conflicts SET status = 'RESOLVING'`);
    await process();
    expect(await standings(one)).toEqual(['CONFLICT POISONED']);
    expect(
      await manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'CLIENT_WINS' }),
    ).toMatchObject({
      status: 'RESOLVED',
    });
  });
});

describe('what builds on something that is over', () => {
  test('what comes late shows that it is held up, and goes on when somebody says so, as a conflict', async () => {
    const id = await bench.aVisit({ minutes: 1 });
    const first = await changes(id, { minutes: 5 });
    const second = await changes(id, { notes: 'second' });
    const third = await changes(id, { notes: 'third' });
    await handIn(first);
    await alice().cancelOperation(first.operationId);
    await handIn(second);
    await process();
    expect(await standings(second)).toEqual(['BLOCKED PREDECESSOR_FAILED']);
    await handIn(third);
    await process();
    expect(await standings(third), 'behind what is held up itself').toEqual(['BLOCKED PREDECESSOR_FAILED']);
    await expect(alice().resumeOperation(third.operationId)).rejects.toMatchObject(INVALID_STATE);
    await expect(bench.as(BOB).resumeOperation(second.operationId)).rejects.toMatchObject({
      code: 'FORBIDDEN',
    });
    expect(await alice().resumeOperation(second.operationId)).toMatchObject({ status: 'PENDING' });
    await process();
    expect(await standings(second, third)).toEqual(['CONFLICT CONFLICT', 'BLOCKED PREDECESSOR_CONFLICT']);
    await manager().resolveConflict({ ...shown(await conflictOf(second)), strategy: 'CLIENT_WINS' });
    await process();
    expect(await standings(second, third)).toEqual(['COMPLETED APPLIED', 'COMPLETED MERGED']);
    expect(await bench.visit(id)).toMatchObject({ minutes: 1, notes: 'third' });
  });

  test('what waits for more than that goes on waiting', async () => {
    const [a, b] = [await bench.aVisit(), await bench.aVisit()];
    const [rejected, paused] = [await changes(a, { minutes: 5000 }), await changes(b, { minutes: 5 })];
    const both = await changes(
      await bench.aVisit(),
      { notes: 'x' },
      {
        dependsOn: [rejected.operationId, paused.operationId],
      },
    );
    await handIn(rejected, paused, both);
    await alice().pauseOperation(paused.operationId);
    await process();
    expect(await standings(both)).toEqual(['BLOCKED PREDECESSOR_FAILED']);
    await alice().resumeOperation(both.operationId);
    await process();
    expect(await standings(both)).toEqual(['PENDING']);
    await alice().resumeOperation(paused.operationId);
    await process();
    expect(await standings(both)).toEqual(['COMPLETED APPLIED']);
  });

  test('resuming what was paused lets nothing overtake', async () => {
    const id = await bench.aVisit();
    const missing = await changes(id, { minutes: 5 });
    const cancelled = await changes(await bench.aVisit(), { minutes: 5 });
    const one = await changes(id, { notes: 'x' }, { dependsOn: [cancelled.operationId] });
    await handIn(cancelled, one);
    await alice().pauseOperation(one.operationId);
    await alice().cancelOperation(cancelled.operationId);
    await alice().resumeOperation(one.operationId);
    const edges = await bench.sql('SELECT FROM care_backup.sync_predecessors');
    expect(edges).toHaveLength(2);
    expect((await bench.visit(id))?.notes).toBeNull();
    await handIn(missing);
  });

  test('where not even that is left of it, it is a conflict', async () => {
    const id = await bench.aVisit({ minutes: 1 });
    const first = await changes(id, { minutes: 5000 });
    await handIn(first);
    await process();
    const future = new Date(Date.now() + DAY_MS).toISOString();
    expect(await sweepIn(2 * DAY_MS).removeEnded(future)).toBe(1);
    const second = await changes(id, { notes: 'x' });
    await handIn(second);
    await process();
    await process();
    expect(await standings(second)).toEqual(['CONFLICT PREDECESSOR_MISSING']);
    expect(await conflictOf(second)).toMatchObject({ conflictType: 'DEPENDENCY', status: 'PENDING_MANUAL' });
    expect(await sweepIn().predecessorsArrived()).toEqual([]);
    await expect(
      manager().resolveConflict({ ...shown(await conflictOf(second)), strategy: 'CLIENT_WINS' }),
      'nobody has seen the row yet',
    ).rejects.toMatchObject(STALE);
    await manager().resolveConflict({ ...shown(await conflictOf(second)), strategy: 'CLIENT_WINS' });
    expect(await bench.visit(id)).toMatchObject({ minutes: 1, notes: 'x' });
  });
});

describe('atomic batches', () => {
  const aBatch = async (size: number, payloads: readonly EntityRow[]) => {
    const batchId = randomUUID();
    const members = [];
    for (const payload of payloads)
      members.push(await changes(await bench.aVisit(), payload, { batchId, batchSize: size }));
    return members as [Awaited<ReturnType<typeof changes>>, ...Awaited<ReturnType<typeof changes>>[]];
  };
  const minutesOf = async (...of: readonly { entityId: string }[]) =>
    Promise.all(of.map(async ({ entityId }) => (await bench.visit(entityId))?.minutes));

  test('one that does not arrive whole is one conflict, and goes on when the rest comes', async () => {
    const [late, ...rest] = await aBatch(3, [{ minutes: 1 }, { minutes: 2 }, { minutes: 3 }]);
    await handIn(...rest);
    await process();
    await process();
    expect(await standings(...rest)).toEqual(['CONFLICT PREDECESSOR_MISSING', 'BLOCKED GROUP_FAILED']);
    await handIn(late);
    await process();
    expect(await standings(late, ...rest)).toEqual(Array(3).fill('COMPLETED APPLIED'));
    expect(await minutesOf(late, ...rest)).toEqual([1, 2, 3]);
    expect((await conflictOf(rest[0] ?? late)).status).toBe('CANCELLED');
  });

  test('a person lets it go on without the rest', async () => {
    const [late, ...rest] = await aBatch(3, [{ minutes: 1 }, { minutes: 2 }, { minutes: 3 }]);
    await handIn(...rest);
    await process();
    await process();
    await manager()
      .resolveConflict({ ...shown(await conflictOf(rest[0] ?? late)), strategy: 'CLIENT_WINS' })
      .catch((error: unknown) => expect(error).toMatchObject(STALE));
    await process();
    expect(await standings(...rest)).toEqual(['COMPLETED APPLIED', 'COMPLETED APPLIED']);
    expect(await minutesOf(...rest)).toEqual([2, 3]);
    expect(await alice().queueOperations([late])).toMatchObject([{ status: 'REJECTED' }]);
  });

  test('a person gives up what waits for the rest, whatever has become of the entity', async () => {
    const [late, one] = await aBatch(2, [{ minutes: 1 }, { amount: '2.00' }]);
    if (one === undefined) throw new Error('two');
    await handIn(one);
    await manager().approveOperation(one.operationId);
    await process();
    await process();
    await expect(
      manager().resolveConflict({
        ...shown(await conflictOf(one)),
        strategy: 'MANUAL',
        data: { minutes: 9 },
      }),
    ).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
    expect(
      await manager().resolveConflict({ ...shown(await conflictOf(one)), strategy: 'SERVER_WINS' }),
    ).toMatchObject({
      status: 'RESOLVED',
    });
    expect(await standings(one)).toEqual(['COMPLETED SUPERSEDED']);
    expect(await bench.visit(one.entityId)).toMatchObject({ amount: null });
    expect(await standings(late)).toEqual([undefined]);
  });

  test.each(['CANCELLED', 'EXPIRED'])('where one is %s, the others show it', async (how) => {
    const [first, second] = await aBatch(2, [{ minutes: 1 }, { minutes: 2 }]);
    if (second === undefined) throw new Error('two');
    const behind = await changes(second.entityId, { notes: 'x' });
    await handIn(first, second, behind);
    if (how === 'EXPIRED') {
      await bench.sql(
        `UPDATE care_backup.offline_sync_queue SET expires_at = now() WHERE operation_id = $1`,
        [first.operationId],
      );
      await process();
    } else await alice().cancelOperation(first.operationId);
    expect(await standings(second, behind)).toEqual(['BLOCKED GROUP_FAILED', 'BLOCKED PREDECESSOR_FAILED']);
    if (how === 'EXPIRED') await alice().redriveOperation(first.operationId);
    else await alice().resumeOperation(second.operationId);
    await process();
    expect(await standings(second, behind)).toEqual(['COMPLETED APPLIED', 'COMPLETED APPLIED']);
    expect(await minutesOf(first, second)).toEqual([how === 'EXPIRED' ? 1 : null, 2]);
  });

  test('it goes on whole when the entity comes that one of it missed', async () => {
    const id = randomUUID();
    const batchId = randomUUID();
    const note = device.does({
      operation: 'UPDATE',
      entityType: 'NOTE',
      entityId: id,
      payload: { body: 'b' },
      batchId,
      batchSize: 2,
    });
    const visit = await changes(await bench.aVisit(), { minutes: 7 }, { batchId, batchSize: 2 });
    await handIn(note, visit);
    await process();
    expect(await standings(note, visit)).toEqual(['CONFLICT NOT_FOUND', 'BLOCKED GROUP_FAILED']);
    const other = new Device();
    const created = other.does({
      operation: 'CREATE',
      entityType: 'NOTE',
      entityId: id,
      payload: { id, branch_id: BRANCH_A, body: 'x' },
    });
    await bench.as(BOB).queueOperations([created]);
    await bench.as(BOB).processPendingOperations(other.deviceId);
    await process();
    expect(await standings(note, visit)).toEqual(['CONFLICT CONFLICT', 'BLOCKED GROUP_FAILED']);
    await manager().resolveConflict({ ...shown(await conflictOf(note)), strategy: 'CLIENT_WINS' });
    expect(await standings(note, visit)).toEqual(['COMPLETED APPLIED', 'COMPLETED APPLIED']);
  });
});

test('without a worker too, what workers have died over is parked, and what was left behind goes on', async () => {
  const [poisoned, first, second] = [
    await changes(await bench.aVisit(), { minutes: 1 }),
    await changes(await bench.aVisit(), { minutes: 2 }),
    await changes(await bench.aVisit(), { minutes: 3 }),
  ];
  await handIn(poisoned, first, { ...second, dependsOn: [first.operationId] });
  await bench.sql(
    `UPDATE care_backup.offline_sync_queue SET status = 'IN_PROGRESS', claim_token = gen_random_uuid(), claims = 3,
            lease_expires_at = now() - interval '1 second' WHERE operation_id = $1`,
    [poisoned.operationId],
  );
  await bench.sql(
    `UPDATE care_backup.offline_sync_queue SET status = 'BLOCKED', status_reason = 'PREDECESSOR_FAILED' WHERE operation_id = $1`,
    [second.operationId],
  );
  const others = new Device();
  const foreign = others.does({
    operation: 'CREATE',
    entityType: 'NOTE',
    entityId: randomUUID(),
    payload: {},
  });
  await bench
    .as(BOB)
    .queueOperations([{ ...foreign, expiresAt: new Date(Date.now() - DAY_MS).toISOString() }]);
  expect(await process()).toMatchObject({ applied: 2, remaining: 1 });
  expect(await standings(poisoned, first, second)).toEqual([
    'PARKED POISONED',
    'COMPLETED APPLIED',
    'COMPLETED APPLIED',
  ]);
  expect(await standings(foreign), 'others’ are theirs').toEqual(['PENDING']);
});
