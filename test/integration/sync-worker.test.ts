import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DataProtectionOptions } from '../../src/compose.ts';
import type { QueueOperationInput } from '../../src/types/offline-sync.ts';
import { type RedisServer, startRedis } from '../harness/redis.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  createSyncBench,
  Device,
  MANAGER,
  type SyncBench,
} from '../harness/sync-bench.ts';
import { untilTrue } from '../harness/worker-fleet.ts';

/** Nothing is found by looking: what is applied was woken by the queue. */
const NEVER_LOOKS = { pollMs: 3_600_000 };
const LIMIT_MS = 20_000;
const SOAK = process.env.CARE_SOAK === '1';
/** Operations of each of four devices that are critical to nobody. */
const BACKLOG = SOAK ? 500 : 300;
const LOST = SOAK ? 300 : 100;
const STREAMS = SOAK ? 30 : 15;

describe.each(['redis', 'postgres'] as const)('with the queue in %s', (backend) => {
  let redis: RedisServer | undefined;
  let bench: SyncBench;
  let queue: Partial<DataProtectionOptions>;

  beforeAll(async () => {
    redis = backend === 'redis' ? await startRedis({ control: 'needed' }) : undefined;
  });
  afterAll(async () => redis?.stop());
  beforeEach(async () => {
    queue = {
      execution: 'worker',
      ...(redis === undefined ? {} : { redis: redis.url, schema: 'care_backup' }),
    };
    bench = await createSyncBench({ ...queue, syncOptions: { limits: { lockTimeoutMs: 300 } } });
  });
  afterEach(() => bench[Symbol.asyncDispose]());

  const notes = (device: Device, count: number): QueueOperationInput[] =>
    Array.from({ length: count }, () => {
      const id = randomUUID();
      return device.does({
        operation: 'CREATE',
        entityType: 'NOTE',
        entityId: id,
        payload: { id, branch_id: BRANCH_A, body: 'a note' },
      });
    });
  const standsAt = (operationId: string | undefined, standing: string, limitMs = LIMIT_MS): Promise<void> =>
    untilTrue(
      standing,
      async () => (await bench.standing())[operationId ?? '']?.startsWith(standing) === true,
      limitMs,
    );
  const allEnded = (): Promise<void> =>
    untilTrue(
      'everything has ended',
      async () => {
        const [row] = await bench.sql<{ n: number }>(
          'SELECT count(*)::int AS n FROM care_backup.offline_sync_queue WHERE runnable',
        );
        return row?.n === 0;
      },
      60_000,
    );

  test('what is handed in wakes a worker', async () => {
    await using _worker = await bench.protection.startWorker(NEVER_LOOKS);
    const [operation] = notes(new Device(), 1);
    await bench.as(ALICE).queueOperations([operation ?? ({} as never)]);
    await standsAt(operation?.operationId, 'COMPLETED');
  });

  test('a failure that passes is tried again by itself', { timeout: 40_000 }, async () => {
    await using _worker = await bench.protection.startWorker(NEVER_LOOKS);
    const id = await bench.aVisit({ minutes: 1 });
    const [entity] = await bench.as(ALICE).readForOffline('VISIT', [id]);
    const client = await bench.database.pool.connect();
    await client.query('BEGIN');
    await client.query('SELECT FROM visits WHERE id = $1 FOR UPDATE', [id]);
    const operation = new Device().does({
      operation: 'UPDATE',
      entityType: 'VISIT',
      entityId: id,
      payload: { minutes: 2 },
      previousVersion: {
        version: entity?.version ?? 0,
        data: entity?.data ?? {},
        signature: entity?.signature ?? '',
      },
    });
    await bench.as(ALICE).queueOperation(operation);
    await standsAt(operation.operationId, 'PENDING RETRY');
    await client.query('COMMIT');
    client.release();
    await standsAt(operation.operationId, 'COMPLETED APPLIED');
    expect(await bench.visit(id)).toMatchObject({ minutes: 2 });
  });

  test('an operation waits for one of another device, and goes on when that comes', async () => {
    await using _worker = await bench.protection.startWorker(NEVER_LOOKS);
    const [first, second] = [new Device(), new Device()];
    const [before] = notes(first, 1);
    const [after] = notes(second, 1);
    await bench
      .as(BOB)
      .queueOperation({ ...after, dependsOn: [before?.operationId ?? ''] } as QueueOperationInput);
    await sleep(500);
    expect((await bench.standing())[after?.operationId ?? '']).toBe('PENDING');
    await bench.as(ALICE).queueOperation(before as QueueOperationInput);
    await standsAt(after?.operationId, 'COMPLETED APPLIED');
  });

  test('two that would wait for each other, handed in at once: one of them is refused', async () => {
    const [one, other] = [notes(new Device(), 1)[0], notes(new Device(), 1)[0]];
    const answers = await Promise.all([
      bench.as(ALICE).queueOperations([{ ...one, dependsOn: [other?.operationId] } as QueueOperationInput]),
      bench.as(BOB).queueOperations([{ ...other, dependsOn: [one?.operationId] } as QueueOperationInput]),
    ]);
    const flat = answers.flat().map((answer) => (answer.status === 'REJECTED' ? answer.code : answer.status));
    expect(flat.sort()).toEqual(['ACCEPTED', 'DEPENDENCY_CYCLE']);
  });

  test('what is critical does not wait behind a backlog', { timeout: 60_000 }, async () => {
    for (let n = 0; n < 4; n += 1) {
      const device = new Device();
      await bench.as(ALICE).queueOperations(notes(device, BACKLOG));
    }
    const visit = await bench.aVisit();
    const id = randomUUID();
    const clockIn = new Device().does({
      operation: 'CREATE',
      entityType: 'EVVRecord',
      entityId: id,
      payload: { id, branch_id: BRANCH_A, visit_id: visit, kind: 'CLOCK_IN', at: new Date().toISOString() },
    });
    await bench.as(BOB).queueOperation(clockIn);
    await using _worker = await bench.protection.startWorker({ pollMs: 1_000 });
    await standsAt(clockIn.operationId, 'COMPLETED');
    const left = Object.values(await bench.standing()).filter((standing) => standing.startsWith('PENDING'));
    expect(left.length).toBeGreaterThan(0);
    await allEnded();
  });

  test('a queue that is emptied or away loses nothing', { timeout: 60_000 }, async () => {
    await using _worker = await bench.protection.startWorker({ pollMs: 500 });
    const losses: readonly (() => Promise<unknown>)[] =
      redis === undefined
        ? [() => bench.sql('DROP SCHEMA IF EXISTS care_backup_queue CASCADE')]
        : [
            async () => redis?.flush(),
            async () => {
              redis?.pause();
              setTimeout(() => redis?.resume(), 1_000);
            },
          ];
    for (const lose of losses) {
      const device = new Device();
      const operations = notes(device, LOST);
      await bench.as(ALICE).queueOperations(operations.slice(0, LOST / 2));
      await lose();
      const answers = await bench.as(ALICE).queueOperations(operations.slice(LOST / 2));
      expect(answers.every(({ status }) => status === 'ACCEPTED')).toBe(true);
    }
    await allEnded();
    const standing = Object.values(await bench.standing());
    expect(new Set(standing)).toEqual(new Set(['COMPLETED APPLIED']));
  });

  test('workers share streams, and stop in order', { timeout: 60_000 }, async () => {
    const second = await bench.open();
    const workers = [
      await bench.protection.startWorker({ pollMs: 500 }),
      await second.startWorker({ pollMs: 500 }),
    ];
    await Promise.all(
      Array.from({ length: STREAMS }, () => bench.as(ALICE).queueOperations(notes(new Device(), 30))),
    );
    await workers[0]?.stop();
    const [claimed] = await bench.sql<{ n: number }>(
      `SELECT count(*)::int AS n FROM care_backup.offline_sync_queue WHERE status = 'IN_PROGRESS' AND lease_expires_at < now()`,
    );
    expect(claimed?.n).toBe(0);
    await allEnded();
    await workers[1]?.stop();
    const [made] = await bench.sql<{ n: number }>('SELECT count(*)::int AS n FROM notes');
    expect(made?.n).toBe(STREAMS * 30);
  });

  test('batches of the same rows in opposite orders do not wait for each other', {
    timeout: 60_000,
  }, async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, () => bench.aVisit({ minutes: 0 })));
    const manager = bench.as(MANAGER, { permissions: ['sync:admin'] });
    const rows = await manager.readForOffline('VISIT', ids);
    const of = (device: Device, order: readonly string[], column: string) =>
      order.map((entityId) => {
        const {
          version = 0,
          data = {},
          signature = '',
        } = rows.find((row) => row.entityId === entityId) ?? {};
        return device.does({
          operation: 'UPDATE',
          entityType: 'VISIT',
          entityId,
          payload: column === 'minutes' ? { minutes: 7 } : { notes: 'seven' },
          previousVersion: { version, data, signature },
        });
      });
    const [a, b] = [new Device(), new Device()];
    await bench.as(ALICE).queueOperations(of(a, ids, 'minutes'));
    await bench.as(BOB).queueOperations(of(b, ids.toReversed(), 'notes'));
    await Promise.all([
      bench.as(ALICE).processPendingOperations(a.deviceId),
      bench.as(BOB).processPendingOperations(b.deviceId),
    ]);
    await using _worker = await bench.protection.startWorker({ pollMs: 200 });
    await allEnded();
    const [both] = await bench.sql<{ n: number }>(
      `SELECT count(*)::int AS n FROM visits WHERE minutes = 7 AND notes = 'seven'`,
    );
    expect(both?.n).toBe(20);
  });
});
