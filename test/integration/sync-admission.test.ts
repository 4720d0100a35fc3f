import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createDatabase } from '../../src/repository/database.ts';
import { syncSweep } from '../../src/repository/sync-sweep.ts';
import type { ClientStamp, QueueOperationInput } from '../../src/types/offline-sync.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  BRANCH_B,
  createSyncBench,
  Device,
  MANAGER,
  ORGANIZATION,
  type SyncBench,
  syncActor,
} from '../harness/sync-bench.ts';

type Operation = QueueOperationInput & { readonly operationId: string };

const HOUR = 3_600_000;

let bench: SyncBench;
beforeAll(async () => {
  bench = await createSyncBench({
    syncOptions: {
      entities: [
        {
          type: 'VISIT',
          strategies: ['NEWEST_WINS'],
          requiresApproval: ({ payload }) => 'amount' in payload,
        },
        { type: 'EVV_RECORD' },
        { type: 'NOTE', strategies: ['CLIENT_WINS'] },
      ],
      limits: { maxOfflineMs: 12 * HOUR },
    },
  });
});
afterAll(() => bench[Symbol.asyncDispose]());

const alice = () => bench.as(ALICE);
const bob = () => bench.as(BOB);

async function baseOf(entityType: string, id: string) {
  const [base] = await bench.as(MANAGER).readForOffline(entityType, [id]);
  if (base === undefined) throw new Error('not readable');
  const { version, data, signature } = base;
  return { version, data, ...(signature === undefined ? {} : { signature }) };
}

async function aNote(body = 'a'): Promise<string> {
  const id = randomUUID();
  await bench.sql('INSERT INTO notes (id, organization_id, branch_id, body) VALUES ($1, $2, $3, $4)', [
    id,
    ORGANIZATION,
    BRANCH_A,
    body,
  ]);
  return id;
}

async function bodyOf(id: string): Promise<string | undefined> {
  const [row] = await bench.sql<{ body: string }>('SELECT body FROM notes WHERE id = $1', [id]);
  return row?.body;
}

/** An operation of a client that says neither number nor predecessor. */
const bare = (deviceId: string, over: Partial<QueueOperationInput> = {}): Operation => {
  const id = over.entityId ?? randomUUID();
  return {
    operationId: randomUUID(),
    deviceId,
    operation: 'UPSERT',
    entityType: 'NOTE',
    entityId: id,
    payload: { id, branch_id: BRANCH_A, body: 'Slept well' },
    ...over,
  };
};

/** Whom operations follow, by their operation ids. */
async function edges(...operations: readonly Operation[]): Promise<(string | undefined)[]> {
  const rows = await bench.sql<{ id: string; predecessor: string }>(
    `SELECT q.operation_id::text AS id, p.predecessor::text FROM care_backup.sync_predecessors p
       JOIN care_backup.offline_sync_queue q ON q.id = p.successor_id WHERE p.kind <> 'DEPENDS_ON'`,
  );
  const found = new Map(rows.map(({ id, predecessor }) => [id, predecessor]));
  return operations.map(({ operationId }) => found.get(operationId));
}

const standings = async (...operations: readonly Operation[]): Promise<(string | undefined)[]> => {
  const all = await bench.standing();
  return operations.map(({ operationId }) => all[operationId]);
};

const codes = (answers: readonly { status: string; code?: string }[]): string[] =>
  answers.map((answer) => answer.code ?? answer.status);

describe('what was handed in before', () => {
  test('is a duplicate, also without numbers and predecessors, whatever comes with it', async () => {
    const deviceId = randomUUID();
    const entityId = randomUUID();
    const payload = { id: entityId, branch_id: BRANCH_A, body: 'a' };
    const [one, two, three] = ['a', 'b', 'c'].map((body) =>
      bare(deviceId, { entityId, payload: { ...payload, body } }),
    );
    if (one === undefined || two === undefined || three === undefined) throw new Error('none');
    expect(codes(await alice().queueOperations([one, two]))).toEqual(['ACCEPTED', 'ACCEPTED']);
    expect(codes(await alice().queueOperations([one, two]))).toEqual(['DUPLICATE', 'DUPLICATE']);
    expect(codes(await alice().queueOperations([one]))).toEqual(['DUPLICATE']);
    expect(codes(await alice().queueOperations([one, three]))).toEqual(['DUPLICATE', 'ACCEPTED']);
    expect(await edges(one, two, three)).toEqual([undefined, one.operationId, two.operationId]);
    await alice().processPendingOperations(deviceId);
    expect(await standings(one, two, three)).toEqual(Array(3).fill('COMPLETED APPLIED'));
    const again = await alice().queueOperations([one, two, three]);
    expect(again).toMatchObject(Array(3).fill({ status: 'DUPLICATE', state: { outcome: 'APPLIED' } }));
    const other = { ...one, payload: { ...payload, body: 'other' } };
    expect(codes(await alice().queueOperations([other]))).toEqual(['IDEMPOTENCY_MISMATCH']);
    expect(codes(await bob().queueOperations([one]))).toEqual(['IDEMPOTENCY_MISMATCH']);
  });

  test('may stand twice in a call', async () => {
    const [one, two] = [bare('twice'), bare('twice')];
    const other = { ...one, entityId: randomUUID() };
    const answers = await alice().queueOperations([one, two, one, other]);
    expect(codes(answers)).toEqual(['ACCEPTED', 'ACCEPTED', 'DUPLICATE', 'IDEMPOTENCY_MISMATCH']);
    const wrong = { ...bare('twice'), sequenceNumber: 7 };
    expect(codes(await alice().queueOperations([wrong, wrong]))).toEqual([
      'VALIDATION_FAILED',
      'VALIDATION_FAILED',
    ]);
  });

  test('takes no number of the server', async () => {
    const deviceId = randomUUID();
    const [one, two] = [bare(deviceId), bare(deviceId)];
    await alice().queueOperations([one]);
    expect(await alice().queueOperations([one, two])).toMatchObject([
      { status: 'DUPLICATE' },
      { status: 'ACCEPTED', sequenceNumber: 2 },
    ]);
  });

  test('stays what it was where the rules or the rights have changed since', async () => {
    const device = new Device();
    const entityId = await bench.aVisit();
    const previousVersion = await baseOf('VISIT', entityId);
    const one = device.does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId,
      payload: { notes: 'x' },
      previousVersion,
      branchId: BRANCH_A,
    });
    await alice().queueOperations([one]);
    await alice().processPendingOperations(device.deviceId);
    const stricter = await bench.open({
      sync: {
        entities: [{ type: 'VISIT', schema: z.strictObject({ minutes: z.number() }) }, { type: 'NOTE' }],
      },
    });
    const applied = { status: 'DUPLICATE', state: { status: 'COMPLETED', outcome: 'APPLIED' } };
    const service = stricter.sync(syncActor(ALICE));
    expect(await service.queueOperations([one])).toMatchObject([applied]);
    expect(codes(await service.queueOperations([{ ...one, operationId: randomUUID() }]))).toEqual([
      'VALIDATION_FAILED',
    ]);
    const elsewhere = bench.as(ALICE, { branchIds: [BRANCH_B] });
    expect(await elsewhere.queueOperations([one])).toMatchObject([applied]);
    expect(codes(await elsewhere.queueOperations([{ ...one, operationId: randomUUID() }]))).toEqual([
      'FORBIDDEN',
    ]);
    // Nothing is told to somebody else.
    const [foreign] = await bench.as(BOB, { branchIds: [BRANCH_B] }).queueOperations([one]);
    expect(foreign).toMatchObject({ status: 'REJECTED', code: 'FORBIDDEN' });
    expect(foreign).not.toHaveProperty('state');
  });
});

describe('order', () => {
  test('is kept behind the number 0, and behind the nearest of the smaller numbers', async () => {
    const deviceId = randomUUID();
    const entityId = randomUUID();
    const [zero, one, two, three] = [0, 1, 2, 3].map((sequenceNumber) =>
      bare(deviceId, { entityId, sequenceNumber }),
    );
    if (zero === undefined || one === undefined || two === undefined || three === undefined)
      throw new Error('none');
    for (const operation of [zero, two, one, three]) await alice().queueOperations([operation]);
    expect(await edges(zero, one, two, three)).toEqual([
      undefined,
      zero.operationId,
      zero.operationId,
      two.operationId,
    ]);
    const another = bare(deviceId, { sequenceNumber: 2 });
    expect(codes(await alice().queueOperations([another]))).toEqual(['SEQUENCE_CONFLICT']);
  });

  test('holds for what starts from something else while an earlier one is open', async () => {
    const device = new Device();
    const id = await aNote();
    const previousVersion = await baseOf('NOTE', id);
    const update = (body: string): Operation => ({
      ...device.does({
        operation: 'UPDATE',
        entityType: 'NOTE',
        entityId: id,
        payload: { body },
        previousVersion,
      }),
      previousOperationId: null,
    });
    const [one, two] = [update('one'), update('two')];
    await alice().queueOperations([one]);
    await bench.sql(
      `UPDATE care_backup.offline_sync_queue SET next_retry_at = now() + interval '1 hour' WHERE operation_id = $1`,
      [one.operationId],
    );
    await alice().queueOperations([two]);
    await alice().processPendingOperations(device.deviceId);
    expect(await standings(one, two)).toEqual(['PENDING', 'PENDING']);
    expect(await alice().getOperation(two.operationId)).toMatchObject({ previousOperationId: null });
    await bench.sql(
      'UPDATE care_backup.offline_sync_queue SET next_retry_at = NULL WHERE operation_id = $1',
      [one.operationId],
    );
    await alice().processPendingOperations(device.deviceId);
    expect(await standings(one, two)).toEqual(['COMPLETED APPLIED', 'COMPLETED APPLIED']);
    expect(await bodyOf(id)).toBe('two');
    const three = update('three');
    await alice().queueOperations([three]);
    expect(await edges(one, two, three)).toEqual([undefined, one.operationId, undefined]);
  });

  test('holds among what is handed in together', async () => {
    const device = new Device();
    const id = await aNote();
    const update = (body: string): Operation => ({
      ...device.does({ operation: 'UPDATE', entityType: 'NOTE', entityId: id, payload: { body } }),
      previousOperationId: null,
    });
    const [one, two] = [update('one'), update('two')];
    await alice().queueOperations([one, two]);
    expect(await edges(one, two)).toEqual([undefined, one.operationId]);
  });

  test('begins anew behind what was cancelled', async () => {
    const deviceId = randomUUID();
    const entityId = randomUUID();
    const [one, two] = [bare(deviceId, { entityId }), bare(deviceId, { entityId })];
    await alice().queueOperations([one]);
    await alice().cancelOperation(one.operationId);
    await alice().queueOperations([two]);
    expect(await edges(two)).toEqual([undefined]);
    await alice().processPendingOperations(deviceId);
    expect(await standings(one, two)).toEqual(['CANCELLED CANCELLED', 'COMPLETED APPLIED']);
  });
});

describe('an operation that names the one before it', () => {
  const refused = [
    { status: 'REJECTED', code: 'VALIDATION_FAILED', issues: [{ path: 'previousOperationId' }] },
  ];

  test('names one of its own installation and entity', async () => {
    const [device, entityId] = [randomUUID(), randomUUID()];
    const one = bare(device, { entityId });
    await alice().queueOperations([one]);
    const next = { entityId, previousOperationId: one.operationId };
    expect(await bob().queueOperations([bare(device, next)])).toMatchObject(refused);
    expect(await alice().queueOperations([bare(randomUUID(), next)])).toMatchObject(refused);
    const elsewhere = bare(device, { previousOperationId: one.operationId });
    expect(await alice().queueOperations([elsewhere])).toMatchObject(refused);
    const [first, second] = [bare(device), bare(device)];
    const together = await alice().queueOperations([
      first,
      { ...second, previousOperationId: first.operationId },
    ]);
    expect(codes(together)).toEqual(['ACCEPTED', 'VALIDATION_FAILED']);
    // An outbox that begins anew goes on from the old one.
    const anew = bare(device, { ...next, epoch: 2 });
    expect(codes(await alice().queueOperations([anew]))).toEqual(['ACCEPTED']);
    expect(await edges(anew)).toEqual([one.operationId]);
  });

  test('may name one that has not arrived: of two that name each other one is refused', async () => {
    const other = await bench.open();
    const services = [alice(), other.sync(syncActor(BOB))] as const;
    for (let round = 0; round < 10; round += 1) {
      const entityId = randomUUID();
      const [x, y] = [bare(randomUUID(), { entityId }), bare(randomUUID(), { entityId })];
      const answers = await Promise.all([
        services[0].queueOperations([{ ...x, previousOperationId: y.operationId }]),
        services[1].queueOperations([{ ...y, previousOperationId: x.operationId }]),
      ]);
      expect(codes(answers.flat()).sort()).toEqual(['ACCEPTED', 'VALIDATION_FAILED']);
    }
  });

  test('waits for what arrives under that id elsewhere as for any other', async () => {
    const entityId = await aNote();
    const previousVersion = await baseOf('NOTE', entityId);
    const [x, y] = [
      bare(randomUUID(), { operation: 'UPDATE', entityId, payload: { body: 'x' }, previousVersion }),
      bare(randomUUID(), { operation: 'UPDATE', entityId, payload: { body: 'y' }, previousVersion }),
    ];
    await alice().queueOperations([{ ...x, previousOperationId: y.operationId }]);
    await bob().queueOperations([y]);
    await alice().processPendingOperations(x.deviceId ?? '');
    expect(await standings(x, y)).toEqual(['PENDING', 'PENDING']);
    await bob().processPendingOperations(y.deviceId ?? '');
    await alice().processPendingOperations(x.deviceId ?? '');
    expect(await standings(x, y)).toEqual(['COMPLETED APPLIED', 'COMPLETED APPLIED']);
  });

  test('is rejected later where a circle over streams has slipped through', async () => {
    const entityId = randomUUID();
    const [x, y] = [bare(randomUUID(), { entityId }), bare(randomUUID(), { entityId })];
    await alice().queueOperations([x]);
    await bob().queueOperations([y]);
    for (const [successor, predecessor] of [
      [x, y],
      [y, x],
    ] as const) {
      await bench.sql(
        `WITH q AS (UPDATE care_backup.offline_sync_queue SET previous_operation_id = $2 WHERE operation_id = $1 RETURNING *)
         INSERT INTO care_backup.sync_predecessors SELECT id, organization_id, $2, 'PREVIOUS' FROM q`,
        [successor.operationId, predecessor.operationId],
      );
    }
    const clock = { now: () => new Date(Date.now() + HOUR) };
    const sweep = syncSweep(createDatabase({ pool: bench.database.pool, clock }));
    const broken = (await sweep.breakCycles()).map(({ operationId }) => operationId);
    expect(broken).toHaveLength(1);
    expect([x.operationId, y.operationId]).toContain(broken[0]);
    expect(await sweep.breakCycles()).toEqual([]);
  });
});

describe('time', () => {
  const NOW = Date.now();
  /** Of a device that booted a hundred hours ago. */
  const stamp = (hoursAgo: number): ClientStamp => ({
    bootId: 'boot',
    monotonicMs: (100 - hoursAgo) * HOUR,
    wallTime: new Date(NOW - hoursAgo * HOUR).toISOString(),
    counter: 1,
  });
  const sentAt = stamp(0);
  const hoursAgo = async (operation: Operation): Promise<number | undefined> => {
    const { effectiveAt } = await bench.as(MANAGER).getOperation(operation.operationId);
    return effectiveAt === null ? undefined : Math.round((NOW - Date.parse(effectiveAt)) / HOUR);
  };

  test('of what arrives late is its own: a newer change of somebody else stays', async () => {
    const id = await bench.aVisit({ status: 'S0', updated_at: new Date(NOW - 9 * HOUR).toISOString() });
    const previousVersion = await baseOf('VISIT', id);
    const update = (device: Device, status: string, ago: number): Operation =>
      device.does({
        operation: 'UPDATE',
        entityType: 'VISIT',
        entityId: id,
        payload: { status },
        previousVersion,
        stamp: stamp(ago),
      });
    const [mine, other] = [new Device(), new Device()];
    const late = update(mine, 'ALICE', 6);
    const note = randomUUID();
    const first = mine.does({
      operation: 'CREATE',
      entityType: 'NOTE',
      entityId: note,
      payload: { id: note, branch_id: BRANCH_A, body: 'b' },
      stamp: stamp(1),
    });
    const newer = update(other, 'BOB', 2);
    await alice().queueOperations([first], { sentAt });
    await bob().queueOperations([newer], { sentAt });
    await bob().processPendingOperations(other.deviceId);
    await alice().queueOperations([late], { sentAt });
    await alice().processPendingOperations(mine.deviceId);
    expect(await hoursAgo(late)).toBe(6);
    expect(await bench.visit(id)).toMatchObject({ status: 'BOB' });
  });

  test('follows the numbers, in whatever order they arrive', async () => {
    const deviceId = randomUUID();
    const done = (sequenceNumber: number, ago: number): Operation =>
      bare(deviceId, { sequenceNumber, stamp: stamp(ago) });
    const [one, two, three, four, five] = [done(1, 5), done(2, 9), done(3, 1), done(4, 3), done(5, 4)];
    await alice().queueOperations([one, four], { sentAt });
    await alice().queueOperations([two, three], { sentAt });
    await alice().queueOperations([five], { sentAt });
    expect(await Promise.all([one, two, three, four, five].map(hoursAgo))).toEqual([5, 5, 3, 3, 3]);
  });

  test('that lies too far back is told by the clock alone', async () => {
    const deviceId = randomUUID();
    const recent = bare(deviceId, { stamp: stamp(0.1) });
    const old = bare(deviceId, { stamp: stamp(50) });
    // A wall clock that has lost its time tells nothing.
    const lost = bare(deviceId, { stamp: { ...stamp(0.1), wallTime: '1970-01-01T00:00:00.000Z' } });
    await alice().queueOperations([recent], { sentAt });
    await alice().queueOperations([old, lost], { sentAt });
    expect(await standings(recent, old, lost)).toEqual(['PENDING', 'PARKED TOO_OLD', 'PENDING']);
  });
});

test('CRITICAL is only what the entity is: approval is not passed by', async () => {
  const device = new Device();
  const id = await bench.aVisit({ minutes: 1 });
  const change = device.does({
    operation: 'UPDATE',
    entityType: 'VISIT',
    entityId: id,
    payload: { amount: '77.00' },
    previousVersion: await baseOf('VISIT', id),
    priority: 'CRITICAL',
  });
  const clockIn = device.does({
    operation: 'CREATE',
    entityType: 'EVV_RECORD',
    entityId: randomUUID(),
    payload: {},
    priority: 'CRITICAL',
  });
  await alice().queueOperations([change, clockIn]);
  expect(await alice().getOperation(change.operationId)).toMatchObject({
    priority: 'HIGH',
    lane: 'NORMAL',
    status: 'WAITING_APPROVAL',
  });
  expect(await alice().getOperation(clockIn.operationId)).toMatchObject({
    priority: 'CRITICAL',
    lane: 'CRITICAL',
  });
});

test('an operation belongs to a session of its own user only', async () => {
  const session = await bob().startOfflineSession(BOB, 'bobs', ORGANIZATION);
  const forbidden = [{ status: 'REJECTED', code: 'FORBIDDEN' }];
  expect(await alice().queueOperations([bare('alices', { sessionId: session.id })])).toMatchObject(forbidden);
  expect(await alice().queueOperations([bare('alices', { sessionId: randomUUID() })])).toMatchObject(
    forbidden,
  );
  const own = bare('bobs-other', { sessionId: session.id });
  expect(codes(await bob().queueOperations([own]))).toEqual(['ACCEPTED']);
  await bob().processPendingOperations('bobs-other');
  expect(await bob().endOfflineSession(session.id)).toMatchObject({ status: 'COMPLETED', operationCount: 1 });
  // What was accepted in a session may be sent again when that is over.
  expect(codes(await bob().queueOperations([own]))).toEqual(['DUPLICATE']);
});

test('the health of a device tells nothing of users that the actor does not see', async () => {
  const deviceId = randomUUID();
  const seen = bare(deviceId, { branchId: BRANCH_A });
  const hidden = bare(deviceId, { branchId: BRANCH_B });
  await alice().queueOperations([seen]);
  await bob().queueOperations([hidden]);
  await bench.sql(
    `UPDATE care_backup.sync_streams SET clock_skew_ms = CASE user_id WHEN $2 THEN 1 ELSE 99 END,
            last_seen_at = CASE user_id WHEN $2 THEN '2026-01-01'::timestamptz ELSE last_seen_at END WHERE device_id = $1`,
    [deviceId, ALICE],
  );
  const reader = bench.as(MANAGER, { branchIds: [BRANCH_A], permissions: ['sync:read'] });
  expect(await reader.getDeviceHealth(deviceId)).toMatchObject({
    userIds: [ALICE],
    clockSkewMs: 1,
    lastSeenAt: '2026-01-01T00:00:00.000Z',
  });
  const nothing = bench.as(MANAGER, { branchIds: [randomUUID()], permissions: ['sync:read'] });
  await expect(nothing.getDeviceHealth(deviceId)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  expect(await bench.as(MANAGER).getDeviceHealth(deviceId)).toMatchObject({ clockSkewMs: 99 });
});

test('a call is limited by what it takes as JSON, all of it', async () => {
  const large = (over: Partial<QueueOperationInput>) => Array.from({ length: 9 }, () => bare('large', over));
  const euros = '€'.repeat(50_000);
  for (const over of [
    { payload: { body: euros } },
    { payload: { body: '\u0001'.repeat(25_000) } },
    { metadata: Object.fromEntries(Array.from({ length: 15 }, (_, i) => [`m${i}`, 'x'.repeat(9_000)])) },
  ])
    await expect(alice().queueOperations(large(over))).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  const many = Array.from({ length: 320 }, () =>
    bare('large', { dependsOn: Array.from({ length: 100 }, () => randomUUID()) }),
  );
  await expect(alice().queueOperations(many)).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
});

test('a UUID in capital letters, as some devices write them, is the same entity', async () => {
  const id = randomUUID();
  const written = id.toUpperCase();
  const device = new Device();
  const creation = device.does({
    operation: 'CREATE',
    entityType: 'VISIT',
    entityId: written,
    payload: { id: written, branch_id: BRANCH_A, minutes: 1 },
  });
  const payload = { minutes: 2 };
  const change = device.does({ operation: 'UPDATE', entityType: 'VISIT', entityId: written, payload });
  await alice().queueOperations([creation, change]);
  const [again] = await alice().queueOperations([{ ...creation, entityId: id }]);
  expect(again).toMatchObject({ status: 'DUPLICATE' });
  await alice().processPendingOperations(device.deviceId);
  expect(await bench.visit(id)).toMatchObject({ minutes: 2 });
  expect((await alice().getOperation(change.operationId)).entityId).toBe(id);
  const [entity] = await alice().readForOffline('VISIT', [written]);
  expect(entity).toMatchObject({ entityId: id, version: 2 });
});
