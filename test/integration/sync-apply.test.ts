import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { OfflineSyncService } from '../../src/service/offline-sync-service.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  BRANCH_B,
  createSyncBench,
  Device,
  MANAGER,
  ORGANIZATION,
  OTHER_ORGANIZATION,
  type SyncBench,
  shown,
} from '../harness/sync-bench.ts';

let bench: SyncBench;
let alice: OfflineSyncService;
let bob: OfflineSyncService;
let manager: OfflineSyncService;

beforeAll(async () => {
  bench = await createSyncBench();
  alice = bench.as(ALICE);
  bob = bench.as(BOB);
  manager = bench.as(MANAGER, { permissions: ['sync:read', 'sync:resolve'] });
});
afterAll(() => bench[Symbol.asyncDispose]());

const readOne = async (service: OfflineSyncService, id: string) => {
  const [entity] = await service.readForOffline('Visit', [id]);
  if (entity === undefined) throw new Error('not there');
  return {
    version: entity.version,
    data: entity.data,
    ...(entity.signature ? { signature: entity.signature } : {}),
  };
};
const stateOf = async (service: OfflineSyncService, operationId: string) => {
  const [state] = await service.getOperationStates([operationId]);
  return state;
};

test('transactions of a turn that go on side by side keep the order of each entity', async () => {
  await using own = await createSyncBench({ syncOptions: { limits: { operationsPerTransaction: 2 } } });
  const device = new Device();
  const visits = await Promise.all(Array.from({ length: 9 }, () => own.aVisit({ minutes: 0 })));
  const before = await own.as(ALICE).readForOffline('Visit', visits);
  const baseOf = (id: string) => {
    const { version, data, signature = '' } = before.find(({ entityId }) => entityId === id) ?? { data: {} };
    return { ...(version === undefined ? {} : { version }), data, signature };
  };
  // 900 is refused by the table; what follows it on that visit waits.
  const operations = Array.from({ length: 45 }, (_, n) => {
    const [id = '', round] = [visits[n % 9], Math.floor(n / 9)];
    const minutes = n % 9 === 4 && round === 2 ? 9_000 : 10 * round + (n % 9);
    const change = { operation: 'UPDATE', entityType: 'Visit', entityId: id, payload: { minutes } } as const;
    return device.does(round === 0 ? { ...change, previousVersion: baseOf(id) } : change);
  });
  await own.as(ALICE).queueOperations(operations);
  const done = await own.as(ALICE).processPendingOperations(device.deviceId);
  expect(done).toMatchObject({ applied: 42 });
  for (const [n, id] of visits.entries())
    expect(await own.visit(id)).toMatchObject({ minutes: n === 4 ? 14 : 40 + n });
  const events = await own.sql<{ entity_id: string; version: string }>(
    `SELECT entity_id, version::text AS version FROM care_backup.sync_events WHERE type IN ('APPLIED', 'MERGED') ORDER BY id`,
  );
  for (const id of visits) {
    const versions = events.filter((event) => event.entity_id === id).map(({ version }) => Number(version));
    expect(versions).toEqual(versions.map((_, n) => (versions[0] ?? 0) + n));
  }
});

describe('operations that nobody disputes', () => {
  test('create, change and delete what they say, in one shift', async () => {
    const device = new Device();
    const id = randomUUID();
    const operations = [
      device.does({
        operation: 'CREATE',
        entityType: 'Visit',
        entityId: id,
        payload: { id, branch_id: BRANCH_A, notes: 'arrived', amount: '12.50', vitals: { pulse: 70 } },
      }),
      device.does({
        operation: 'PATCH',
        entityType: 'Visit',
        entityId: id,
        payload: { vitals: { mood: 'good' } },
      }),
      device.does({
        operation: 'UPDATE',
        entityType: 'Visit',
        entityId: id,
        payload: { status: 'DONE', minutes: 45 },
      }),
    ];
    const answers = await alice.queueOperations(operations);
    expect(answers.map(({ status }) => status)).toEqual(['ACCEPTED', 'ACCEPTED', 'ACCEPTED']);
    const summary = await alice.processPendingOperations(device.deviceId);
    expect(summary).toMatchObject({ processed: 3, applied: 3, remaining: 0 });
    expect(await bench.visit(id)).toMatchObject({
      organization_id: ORGANIZATION,
      notes: 'arrived',
      status: 'DONE',
      minutes: 45,
      amount: '12.50',
      vitals: { pulse: 70, mood: 'good' },
    });
    await alice.queueOperation(device.does({ operation: 'DELETE', entityType: 'Visit', entityId: id }));
    await alice.processPendingOperations(device.deviceId);
    expect((await bench.visit(id))?.deleted_at).not.toBeNull();
  });

  test('a change of other columns than the server’s is merged', async () => {
    const device = new Device();
    const id = await bench.aVisit({ notes: 'first', minutes: 10 });
    const base = await readOne(alice, id);
    await bench.sql('UPDATE visits SET minutes = 20 WHERE id = $1', [id]);
    const operation = device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: id,
      payload: { notes: 'second' },
      previousVersion: base,
    });
    await alice.queueOperation(operation);
    expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({ merged: 1 });
    expect(await bench.visit(id)).toMatchObject({ notes: 'second', minutes: 20 });
    expect(await stateOf(alice, operation.operationId)).toMatchObject({
      status: 'COMPLETED',
      outcome: 'MERGED',
    });
  });

  test('is handed in twice and takes effect once; another content under its id is told apart', async () => {
    const device = new Device();
    const id = await bench.aVisit({ minutes: 1 });
    const operation = device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: id,
      payload: { minutes: 2 },
      previousVersion: await readOne(alice, id),
    });
    await alice.queueOperation(operation);
    await alice.processPendingOperations(device.deviceId);
    const [again, other] = await alice.queueOperations([
      operation,
      { ...operation, payload: { minutes: 3 } },
    ]);
    expect(again).toMatchObject({ status: 'DUPLICATE', state: { status: 'COMPLETED', outcome: 'APPLIED' } });
    expect(other).toMatchObject({
      status: 'REJECTED',
      code: 'IDEMPOTENCY_MISMATCH',
      state: { outcome: 'APPLIED' },
    });
    const [foreign] = await bob.queueOperations([{ ...operation, deviceId: 'bobs', sequenceNumber: 1 }]);
    expect(foreign).toMatchObject({ status: 'REJECTED', code: 'IDEMPOTENCY_MISMATCH' });
    expect(foreign).not.toHaveProperty('state');
    expect(await bench.visit(id)).toMatchObject({ minutes: 2 });
  });
});

describe('conflicts', () => {
  test('two people’s edits of one field wait for a person, who decides on what he saw', async () => {
    const id = await bench.aVisit({ notes: 'base' });
    const [phone, tablet] = [new Device(), new Device()];
    const base = await readOne(alice, id);
    const edit = (device: Device, notes: string) =>
      device.does({
        operation: 'UPDATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { notes },
        previousVersion: base,
      });
    await alice.queueOperation(edit(phone, 'hers'));
    const his = edit(tablet, 'his');
    await bob.queueOperation(his);
    await alice.processPendingOperations(phone.deviceId);
    expect(await bob.processPendingOperations(tablet.deviceId)).toMatchObject({ conflicts: 1, remaining: 1 });
    const { items } = await manager.listConflicts({ entityType: 'VISIT', entityId: id });
    expect(items).toHaveLength(1);
    const [conflict] = items;
    expect(conflict).toMatchObject({
      conflictType: 'UPDATE_UPDATE',
      status: 'PENDING_MANUAL',
      conflictingFields: [{ path: '/notes', baseValue: 'base', clientValue: 'his', serverValue: 'hers' }],
    });
    expect(conflict?.conflictNumber).toMatch(/^CNF-\d{4}-\d{6}$/);
    // Somebody is there in between.
    await bench.sql(`UPDATE visits SET notes = 'hers, corrected' WHERE id = $1`, [id]);
    await expect(
      manager.resolveConflict({ ...shown(conflict), strategy: 'CLIENT_WINS' }),
    ).rejects.toMatchObject({
      code: 'CONFLICT_STALE',
    });
    expect(await bench.visit(id)).toMatchObject({ notes: 'hers, corrected' });
    const again = await manager.getConflict(conflict?.id ?? '');
    expect(again).toMatchObject({
      status: 'PENDING_MANUAL',
      serverVersion: { notes: 'hers, corrected' },
      redetections: 1,
    });
    const resolved = await manager.resolveConflict({
      ...shown(again),
      strategy: 'MANUAL',
      data: { notes: 'both' },
      notes: 'by phone',
    });
    expect(resolved).toMatchObject({
      status: 'RESOLVED',
      resolution: { resolvedBy: MANAGER, notes: 'by phone' },
    });
    expect(await bench.visit(id)).toMatchObject({ notes: 'both' });
    expect(await stateOf(bob, his.operationId)).toMatchObject({ status: 'COMPLETED' });
  });

  test('a merged predecessor does not undo itself through its successor', async () => {
    const id = await bench.aVisit({ notes: 'base', minutes: 1 });
    const device = new Device();
    const base = await readOne(alice, id);
    await alice.queueOperations([
      device.does({
        operation: 'UPDATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { notes: 'mine' },
        previousVersion: base,
      }),
    ]);
    await bench.sql('UPDATE visits SET minutes = 99 WHERE id = $1', [id]);
    await alice.processPendingOperations(device.deviceId);
    // The device knows nothing of the 99: its image has 1, and it changes the status only.
    await alice.queueOperation(
      device.does({
        operation: 'UPDATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { ...base.data, notes: 'mine', status: 'DONE' },
        previousVersion: base,
      }),
    );
    expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({ merged: 1, conflicts: 0 });
    expect(await bench.visit(id)).toMatchObject({ notes: 'mine', minutes: 99, status: 'DONE' });
  });

  test('without a base that is the server’s nothing is merged in silence', async () => {
    const id = await bench.aVisit({ notes: 'base', minutes: 1 });
    const device = new Device();
    const base = await readOne(alice, id);
    await bench.sql(`UPDATE visits SET notes = 'theirs' WHERE id = $1`, [id]);
    const forged = {
      version: base.version,
      data: { ...base.data, notes: 'theirs' },
      signature: base.signature ?? '',
    };
    await alice.queueOperation(
      device.does({
        operation: 'UPDATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { notes: 'mine' },
        previousVersion: forged,
      }),
    );
    expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({ conflicts: 1 });
    expect(await bench.visit(id)).toMatchObject({ notes: 'theirs' });
  });

  test.each([
    ['UPDATE', 'UPDATE_DELETE'],
    ['PATCH', 'UPDATE_DELETE'],
    ['MERGE', 'UPDATE_DELETE'],
  ] as const)('%s of what was deleted: %s', async (operation, conflictType) => {
    const id = await bench.aVisit({ notes: 'base' });
    const device = new Device();
    const previousVersion = await readOne(alice, id);
    await bench.sql('UPDATE visits SET deleted_at = now() WHERE id = $1', [id]);
    await alice.queueOperation(
      device.does({
        operation,
        entityType: 'VISIT',
        entityId: id,
        payload: { notes: 'mine' },
        previousVersion,
      }),
    );
    await alice.processPendingOperations(device.deviceId);
    const { items } = await manager.listConflicts({ entityType: 'VISIT', entityId: id });
    expect(items).toMatchObject([{ conflictType, serverVersion: null }]);
    const resolved = await manager.resolveConflict({
      ...shown(items[0]),
      strategy: 'CLIENT_WINS',
    });
    expect(resolved.status).toBe('RESOLVED');
    expect(await bench.visit(id)).toMatchObject({ notes: 'mine', deleted_at: null });
  });

  test('a change of what has never been there waits, and goes on by itself when it comes', async () => {
    const id = randomUUID();
    const [first, second] = [new Device(), new Device()];
    await bob.queueOperation(
      first.does({ operation: 'PATCH', entityType: 'VISIT', entityId: id, payload: { minutes: 7 } }),
    );
    expect(await bob.processPendingOperations(first.deviceId)).toMatchObject({ conflicts: 1 });
    await alice.queueOperation(
      second.does({
        operation: 'CREATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { id, branch_id: BRANCH_A },
      }),
    );
    await alice.processPendingOperations(second.deviceId);
    await bob.processPendingOperations(first.deviceId);
    // It has no base, so it is shown again, now with what is there.
    const { items } = await manager.listConflicts({
      entityType: 'VISIT',
      entityId: id,
      status: ['PENDING_MANUAL'],
    });
    expect(items).toMatchObject([{ conflictType: 'FIELD_LEVEL' }]);
  });
});

describe('what an actor may not see', () => {
  test('is neither changed, shown nor given away', async () => {
    const foreign = await bench.aVisit({ organization_id: OTHER_ORGANIZATION, notes: 'secret' });
    const elsewhere = await bench.aVisit({ branch_id: BRANCH_B, notes: 'secret' });
    const limited = bench.as(ALICE, { branchIds: [BRANCH_A] });
    expect(await limited.readForOffline('VISIT', [foreign, elsewhere])).toEqual([]);
    const device = new Device();
    const operations = [
      device.does({
        operation: 'UPDATE',
        entityType: 'VISIT',
        entityId: foreign,
        payload: { notes: 'mine' },
      }),
      device.does({ operation: 'DELETE', entityType: 'VISIT', entityId: elsewhere }),
    ];
    const creation = new Device();
    const made = creation.does({
      operation: 'CREATE',
      entityType: 'VISIT',
      entityId: elsewhere,
      payload: { id: elsewhere, branch_id: BRANCH_A },
    });
    await limited.queueOperations([...operations, made]);
    await limited.processPendingOperations(device.deviceId);
    await limited.processPendingOperations(creation.deviceId);
    expect(await stateOf(limited, made.operationId)).toMatchObject({
      status: 'FAILED',
      reason: 'ENTITY_ID_TAKEN',
    });
    expect(await bench.visit(foreign)).toMatchObject({ notes: 'secret' });
    expect(await bench.visit(elsewhere)).toMatchObject({ notes: 'secret', deleted_at: null });
    const stored = await bench.sql<{ text: string }>(
      `SELECT c::text AS text FROM care_backup.sync_conflicts c WHERE c.entity_id = ANY ($1)`,
      [[foreign, elsewhere]],
    );
    for (const { text } of stored) expect(text).not.toContain('secret');
  });
});

describe('a bad operation', () => {
  test('of 500 does not touch the others', async () => {
    const device = new Device();
    const ids = Array.from({ length: 500 }, () => randomUUID());
    const operations = ids.map((id, i) =>
      device.does({
        operation: 'CREATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { id, branch_id: BRANCH_A, minutes: i === 333 ? 100_000 : 5 },
      }),
    );
    await alice.queueOperations(operations);
    expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({
      applied: 499,
      rejected: 1,
    });
    const rejected = operations[333]?.operationId ?? '';
    expect(await stateOf(alice, rejected)).toMatchObject({
      status: 'FAILED',
      outcome: 'REJECTED',
      reason: 'CONSTRAINT_VIOLATED',
    });
    await alice.editOperation(rejected, { payload: { id: ids[333] ?? '', branch_id: BRANCH_A, minutes: 6 } });
    await alice.redriveOperation(rejected);
    await alice.processPendingOperations(device.deviceId);
    expect(await stateOf(alice, rejected)).toMatchObject({ status: 'COMPLETED', outcome: 'APPLIED' });
  });

  test('of an atomic batch keeps all of it from happening', async () => {
    const device = new Device();
    const [batchId, ids] = [randomUUID(), [randomUUID(), randomUUID(), randomUUID()]];
    const operations = ids.map((id, i) =>
      device.does({
        operation: 'CREATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { id, branch_id: BRANCH_A, minutes: i === 2 ? -1 : 5 },
        batchId,
        batchSize: 3,
      }),
    );
    await alice.queueOperations(operations.slice(0, 2));
    expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({
      processed: 0,
      remaining: 2,
    });
    await alice.queueOperations(operations.slice(2));
    expect(await alice.processPendingOperations(device.deviceId)).toMatchObject({
      rejected: 3,
      remaining: 0,
    });
    for (const id of ids) expect(await bench.visit(id)).toBeUndefined();
  });
});
