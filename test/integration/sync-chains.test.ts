import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { EntityRow } from '../../src/types/offline-sync.ts';
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

const LIMIT_MS = 30_000;

const standings = async (bench: SyncBench, ...operations: readonly { operationId: string }[]) => {
  const all = await bench.standing();
  return operations.map(({ operationId }) => all[operationId]);
};
/** Updates of one visit, one after another; the first from what the server had handed out. */
async function updates(bench: SyncBench, device: Device, payloads: readonly EntityRow[], id?: string) {
  const entityId = id ?? (await bench.aVisit({ minutes: 1, notes: 'start' }));
  const previousVersion = await baseOf(bench, entityId);
  const operations = payloads.map((payload, i) =>
    device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId,
      payload,
      ...(i === 0 ? { previousVersion } : {}),
    }),
  );
  return { id: entityId, operations, first: operations[0] ?? { operationId: '' } };
}

describe('nothing of a chain overtakes what has failed before it', () => {
  test('whichever halves it is tried in', async () => {
    await using bench = await createSyncBench();
    for (const length of [2, 3, 5]) {
      for (let bad = 0; bad < length; bad += 1) {
        const device = new Device();
        const payloads = Array.from({ length }, (_, i) =>
          i === bad ? { minutes: 5_000 } : { notes: `${i}` },
        );
        const { operations, id } = await updates(bench, device, payloads);
        await bench.as(ALICE).queueOperations(operations);
        await bench.as(ALICE).processPendingOperations(device.deviceId);
        expect(await standings(bench, ...operations)).toEqual(
          operations.map((_, i) =>
            i < bad
              ? 'COMPLETED APPLIED'
              : i === bad
                ? 'FAILED REJECTED CONSTRAINT_VIOLATED'
                : 'BLOCKED PREDECESSOR_FAILED',
          ),
        );
        expect((await bench.visit(id))?.notes).toBe(bad === 0 ? 'start' : `${bad - 1}`);
      }
    }
  });

  test('also what cannot even be prepared', async () => {
    await using bench = await createSyncBench({
      syncOptions: {
        resolveActor: ({ userId, occurredAt }) =>
          Promise.resolve(occurredAt.startsWith('2026-10-01') ? undefined : syncActor(userId)),
      },
    });
    const device = new Device();
    const { operations } = await updates(bench, device, [
      { minutes: 5 },
      { notes: 'two' },
      { status: 'three' },
    ]);
    const dated = operations.map((one, i) => ({
      ...one,
      occurredAt: `2026-10-0${i + 1}T00:00:00Z`,
    }));
    await bench.as(ALICE).queueOperations(dated);
    await bench.as(ALICE).processPendingOperations(device.deviceId);
    expect(await standings(bench, ...operations)).toEqual([
      'PARKED ACTOR_UNKNOWN',
      'BLOCKED PREDECESSOR_FAILED',
      'BLOCKED PREDECESSOR_FAILED',
    ]);
  });

  test('and a failure that passes leaves no trace in what comes of it', async () => {
    await using bench = await createSyncBench();
    await bench.sql(`
      CREATE TABLE failures (left_over integer NOT NULL);
      INSERT INTO failures VALUES (0);
      CREATE FUNCTION fail_a_while() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        IF NEW.minutes = 7 AND nextval('tries') <= 4 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF;
        RETURN NEW;
      END $$;
      CREATE SEQUENCE tries;
      CREATE TRIGGER fail BEFORE UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION fail_a_while()`);
    const device = new Device();
    const { operations, id } = await updates(bench, device, [
      { minutes: 7 },
      { notes: 'two' },
      { notes: 'three' },
      { notes: 'four' },
    ]);
    await bench.as(ALICE).queueOperations(operations);
    for (let i = 0; i < 8; i += 1) {
      await bench.as(ALICE).processPendingOperations(device.deviceId);
      await bench.sql('UPDATE care_backup.offline_sync_queue SET next_retry_at = NULL');
    }
    expect(await standings(bench, ...operations)).toEqual(Array(4).fill('COMPLETED APPLIED'));
    expect(await bench.visit(id)).toMatchObject({ minutes: 7, notes: 'four' });
  });
});

describe('what the host cannot reach', () => {
  const down = (): Error => Object.assign(new Error('down'), { code: 'ECONNREFUSED' });

  test('is tried again without an end, with pauses, and holds up nothing else', {
    timeout: LIMIT_MS,
  }, async () => {
    let tries = 0;
    let reachable = false;
    const handler: EntityHandler = {
      load: () => Promise.resolve(new Map()),
      apply: ({ after }) => {
        if (after?.remote !== true) return Promise.resolve(after);
        tries += 1;
        return reachable ? Promise.resolve(after) : Promise.reject(down());
      },
    };
    await using bench = await createSyncBench({
      syncOptions: { entities: [...SYNC_ENTITIES, { type: 'ORDER', handler }] },
    });
    const device = new Device();
    const create = (entityId: string, remote: boolean) =>
      device.does({ operation: 'CREATE', entityType: 'ORDER', entityId, payload: { remote }, maxRetries: 1 });
    const [bad, good] = [create('a', true), create('b', false)];
    await bench.as(ALICE).queueOperations([bad, good]);
    for (let i = 1; i <= 4; i += 1) {
      const before = tries;
      await bench.as(ALICE).processPendingOperations(device.deviceId);
      expect(tries - before).toBeLessThanOrEqual(2);
      expect(await standings(bench, bad, good)).toEqual(['PENDING RETRY', 'COMPLETED APPLIED']);
      await bench.sql('UPDATE care_backup.offline_sync_queue SET next_retry_at = NULL');
    }
    reachable = true;
    await bench.as(ALICE).processPendingOperations(device.deviceId);
    expect(await standings(bench, bad)).toEqual(['COMPLETED APPLIED']);
  });

  test('does not count where it is asked who somebody is', async () => {
    let reachable = false;
    await using bench = await createSyncBench({
      syncOptions: {
        resolveActor: ({ userId }) =>
          reachable ? Promise.resolve(syncActor(userId)) : Promise.reject(down()),
      },
    });
    const device = new Device();
    const { operations } = await updates(bench, device, [{ minutes: 5 }]);
    await bench.as(ALICE).queueOperations(operations.map((one) => ({ ...one, maxRetries: 1 })));
    for (let i = 0; i < 4; i += 1) {
      await bench.as(ALICE).processPendingOperations(device.deviceId);
      expect(await standings(bench, ...operations)).toEqual(['PENDING RETRY']);
      await bench.sql('UPDATE care_backup.offline_sync_queue SET next_retry_at = NULL');
    }
    reachable = true;
    await bench.as(ALICE).processPendingOperations(device.deviceId);
    expect(await standings(bench, ...operations)).toEqual(['COMPLETED APPLIED']);
  });
});

test('a correction of an operation is not undone by what its author did afterwards', async () => {
  await using bench = await createSyncBench();
  const device = new Device();
  const { operations, id, first } = await updates(bench, device, [
    { minutes: 5 },
    { minutes: 5, notes: 'x' },
    { minutes: 8 },
  ]);
  const [one, two, three] = operations;
  await bench.as(ALICE).queueOperations([one, two] as never);
  await managerOf(bench).editOperation(first.operationId, { payload: { minutes: 6 } });
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  expect(await bench.visit(id)).toMatchObject({ minutes: 6, notes: 'x' });
  // What he changes himself is another matter: two have set the same.
  await bench.as(ALICE).queueOperations([three] as never);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  expect((await standings(bench, three as never))[0]).toBe('CONFLICT CONFLICT');
});

describe('what an author may not see any more', () => {
  test('is not deleted by him, and not told done', async () => {
    await using bench = await createSyncBench();
    const id = await bench.aVisit();
    const previousVersion = await baseOf(bench, id);
    await bench.sql('UPDATE visits SET branch_id = $2 WHERE id = $1', [id, BRANCH_B]);
    const alice = bench.as(ALICE, { branchIds: [BRANCH_A] });
    const device = new Device();
    const operation = device.does({
      operation: 'DELETE',
      entityType: 'VISIT',
      entityId: id,
      previousVersion,
    });
    await alice.queueOperation(operation);
    await alice.processPendingOperations(device.deviceId);
    expect(await standings(bench, operation)).toEqual(['CONFLICT NOT_FOUND']);
    const [conflict] = (await alice.listConflicts({})).items;
    expect(conflict).toMatchObject({
      conflictType: 'DEPENDENCY',
      serverVersion: null,
      serverVersionNumber: 0,
    });
    const decision = { ...shown(conflict), strategy: 'CLIENT_WINS' } as const;
    await expect(managerOf(bench).resolveConflict(decision)).rejects.toMatchObject({
      code: 'VALIDATION_FAILED',
    });
    await managerOf(bench).resolveConflict({ ...decision, strategy: 'SERVER_WINS' });
    expect(await standings(bench, operation)).toEqual(['COMPLETED SUPERSEDED']);
    expect((await bench.visit(id))?.deleted_at).toBeNull();
  });

  test('looks like what was never there', async () => {
    await using bench = await createSyncBench();
    const hidden = await bench.aVisit({ branch_id: BRANCH_B });
    await baseOf(bench, hidden);
    const alice = bench.as(ALICE, { branchIds: [BRANCH_A], permissions: ['sync:write', 'sync:read'] });
    for (const operation of ['DELETE', 'UPDATE'] as const) {
      const told: unknown[] = [];
      for (const entityId of [hidden, randomUUID()]) {
        const device = new Device();
        const payload = operation === 'UPDATE' ? { payload: { notes: 'x' } } : {};
        const one = device.does({ operation, entityType: 'VISIT', entityId, ...payload });
        await alice.queueOperation(one);
        await alice.processPendingOperations(device.deviceId);
        const { status, statusReason, outcome, appliedVersion, lastAttemptStatusCode } =
          await alice.getOperation(one.operationId);
        const { items } = await alice.listConflicts({ entityId });
        const conflicts = items.map(
          ({ conflictType, serverVersionNumber, serverVersion, autoResolutionFailureReason }) => ({
            ...{ conflictType, serverVersionNumber, serverVersion, autoResolutionFailureReason },
          }),
        );
        told.push({ status, statusReason, outcome, appliedVersion, lastAttemptStatusCode, conflicts });
      }
      expect(told[0]).toEqual(told[1]);
    }
  });
});

test('a conflict is read where its row is now', async () => {
  await using bench = await createSyncBench();
  const device = new Device();
  const { operations, id } = await updates(bench, device, [{ notes: 'hers' }]);
  await bench.sql(`UPDATE visits SET notes = 'his' WHERE id = $1`, [id]);
  await bench.as(ALICE).queueOperations(operations);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  const inA = bench.as(BOB, { permissions: ['sync:resolve', 'sync:read'], branchIds: [BRANCH_A] });
  const [conflict] = (await inA.listConflicts({})).items;
  await bench.sql(`UPDATE visits SET branch_id = $2, notes = 'of another branch' WHERE id = $1`, [
    id,
    BRANCH_B,
  ]);
  const decision = { ...shown(conflict), strategy: 'CLIENT_WINS' } as const;
  await expect(inA.resolveConflict(decision)).rejects.toMatchObject({ code: 'CONFLICT_STALE' });
  expect((await inA.listConflicts({})).items).toEqual([]);
  expect((await managerOf(bench).listConflicts({})).items).toMatchObject([{ branchId: BRANCH_B }]);
});

test('a dependency that comes while a person’s decision is carried out leaves an open conflict', async () => {
  await using bench = await createSyncBench();
  const [device, other] = [new Device(), new Device()];
  const id = randomUUID();
  const payload = { id, branch_id: BRANCH_A, body: 'alice' };
  const operation = device.does({ operation: 'UPDATE', entityType: 'NOTE', entityId: id, payload });
  await bench.as(ALICE).queueOperation(operation);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  const [conflict] = (await managerOf(bench).listConflicts({})).items;
  let come = false;
  const later = await bench.open({
    hooks: {
      onSyncStep: async (step) => {
        if (step !== 'BEFORE_APPLY' || come) return;
        come = true;
        const theirs = { ...payload, body: 'bob' };
        const creation = other.does({
          operation: 'CREATE',
          entityType: 'NOTE',
          entityId: id,
          payload: theirs,
        });
        await bench.as(BOB).queueOperation(creation);
        await bench.as(BOB).processPendingOperations(other.deviceId);
      },
    },
  });
  const manager = later.sync(syncActor(MANAGER, { permissions: ['sync:admin'] }));
  await manager.resolveConflict({ ...shown(conflict), strategy: 'CLIENT_WINS' }).catch(() => undefined);
  expect(come).toBe(true);
  expect((await standings(bench, operation))[0]).toMatch(/^CONFLICT/);
  const open = (await manager.listConflicts({ status: ['PENDING_MANUAL'] })).items;
  expect(open).toMatchObject([{ operationId: operation.operationId }]);
  expect((await manager.getOperation(operation.operationId)).conflictId).toBe(open[0]?.id);
  await manager.resolveConflict({ ...shown(open[0]), strategy: 'CLIENT_WINS' });
  expect(await standings(bench, operation)).toEqual(['COMPLETED APPLIED']);
  expect(await bench.sql('SELECT body FROM notes')).toEqual([{ body: 'alice' }]);
});

const HOUR_MS = 3_600_000;

/** Hands in and applies edits of one visit, each from its first version and done some hours ago by its device's clock. */
async function editsOf(bench: SyncBench) {
  const now = Date.now();
  const at = (hoursAgo: number) => ({
    bootId: 'b',
    monotonicMs: (10 - hoursAgo) * HOUR_MS,
    wallTime: new Date(now - hoursAgo * HOUR_MS).toISOString(),
    counter: 1,
  });
  const id = await bench.aVisit({ status: 'S', updated_at: at(9).wallTime });
  const previousVersion = await baseOf(bench, id);
  const does = async (userId: string, payload: EntityRow, hoursAgo: number) => {
    const device = new Device();
    const stamp = at(hoursAgo);
    const edit = { operation: 'UPDATE', entityType: 'VISIT', entityId: id, payload } as const;
    const operation = device.does({ ...edit, previousVersion, stamp });
    await bench.as(userId).queueOperations([operation], { sentAt: at(0) });
    await bench.as(userId).processPendingOperations(device.deviceId);
    return operation;
  };
  return { id, does };
}

test('the newest of a field wins, whatever else of its row was changed when', async () => {
  const entities: SyncOptions['entities'] = [{ type: 'VISIT', strategies: ['NEWEST_WINS'] }];
  await using bench = await createSyncBench({ syncOptions: { entities } });
  const { id, does } = await editsOf(bench);
  await does(BOB, { status: 'Bob, an hour ago' }, 1);
  await does(BOB, { notes: 'five hours ago' }, 5);
  const older = await does(ALICE, { status: 'Alice, three hours ago', minutes: 3 }, 3);
  expect(await bench.visit(id)).toMatchObject({
    status: 'Bob, an hour ago',
    notes: 'five hours ago',
    minutes: 3,
  });
  expect((await bench.as(ALICE).getOperationStates([older.operationId]))[0]).toMatchObject({
    outcome: 'MERGED',
    superseded: ['/status'],
  });
  await does(ALICE, { notes: 'Alice, four hours ago' }, 4);
  expect(await bench.visit(id)).toMatchObject({ notes: 'Alice, four hours ago' });
});

test.each([
  ['MANUAL', 'decided'],
  ['CLIENT_WINS', 'Bob, five hours ago'],
] as const)('what a person decided (%s) is newer than what was done before', async (strategy, notes) => {
  const fieldStrategies = { '/notes': 'NEWEST_WINS' } as const;
  const entities: SyncOptions['entities'] = [{ type: 'VISIT', fieldStrategies }];
  await using bench = await createSyncBench({ syncOptions: { entities } });
  const { id, does } = await editsOf(bench);
  await bench.sql(`UPDATE visits SET notes = 'server', status = 'server' WHERE id = $1`, [id]);
  const bobs = await does(BOB, { notes: 'Bob, five hours ago', status: 'Bob' }, 5);
  expect(await standings(bench, bobs)).toEqual(['CONFLICT CONFLICT']);
  const [conflict] = (await managerOf(bench).listConflicts({})).items;
  const data = strategy === 'MANUAL' ? { data: { notes: 'decided', status: 'decided' } } : {};
  await managerOf(bench).resolveConflict({ ...shown(conflict), strategy, ...data });
  expect(await bench.visit(id)).toMatchObject({ notes });
  const older = await does(ALICE, { notes: 'Alice, three hours ago' }, 3);
  expect(await standings(bench, older)).toEqual(['COMPLETED SUPERSEDED']);
  expect(await bench.visit(id)).toMatchObject({ notes });
});

test('a merge that the host refuses is left to a person, where each side by itself would stand', async () => {
  const rowSchema = {
    '~standard': {
      version: 1 as const,
      vendor: 'test',
      validate: (value: unknown) => {
        const { status, minutes } = value as { status?: unknown; minutes?: unknown };
        const fits = status !== 'CANCELLED' || minutes === null;
        return fits ? { value } : { issues: [{ message: 'Has minutes.', path: ['minutes'] }] };
      },
    },
  };
  await using bench = await createSyncBench({ syncOptions: { entities: [{ type: 'VISIT', rowSchema }] } });
  const device = new Device();
  const id = await bench.aVisit();
  const { operations } = await updates(bench, device, [{ minutes: 30 }], id);
  await bench.sql(`UPDATE visits SET status = 'CANCELLED' WHERE id = $1`, [id]);
  await bench.as(ALICE).queueOperations(operations);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  expect(await standings(bench, ...operations)).toEqual(['CONFLICT CONFLICT']);
  expect((await managerOf(bench).listConflicts({})).items).toMatchObject([
    { status: 'PENDING_MANUAL', autoResolutionFailureReason: 'The merged row is refused.' },
  ]);
  const wrong = await updates(bench, new Device(), [{ status: 'CANCELLED', minutes: 5 }]);
  await bench.sql(`UPDATE visits SET notes = 'else' WHERE id = $1`, [wrong.id]);
  await bench.as(ALICE).queueOperations(wrong.operations);
  await bench.as(ALICE).processPendingOperations((wrong.operations[0] as { deviceId: string }).deviceId);
  expect(await standings(bench, ...wrong.operations)).toEqual(['FAILED REJECTED VALIDATION_FAILED']);
});
