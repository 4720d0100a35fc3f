import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { SyncStep } from '../../src/service/sync-context.ts';
import type { QueueOperationInput } from '../../src/types/offline-sync.ts';
import { ALICE, BRANCH_A, createSyncBench, Device, type SyncBench } from '../harness/sync-bench.ts';
import type { SyncOrder } from '../harness/sync-child.ts';
import { numbersFrom, untilTrue } from '../harness/worker-fleet.ts';

const SOAK = process.env.CARE_SOAK === '1';
const SCRIPT = fileURLToPath(new URL('../harness/sync-child.ts', import.meta.url));

let bench: SyncBench;
beforeEach(async () => {
  bench = await createSyncBench({ syncOptions: { limits: { leaseMs: 300 } } });
  // Every write of a visit leaves a line, in its own transaction.
  await bench.sql(`
    CREATE FUNCTION note_effect() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.effects (operation_id, entity_id) VALUES (gen_random_uuid(), NEW.id); RETURN NEW; END $$`);
  await bench.sql(
    'CREATE TRIGGER effect AFTER INSERT OR UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION note_effect()',
  );
});
afterEach(() => bench[Symbol.asyncDispose]());

interface Child {
  readonly end: Promise<NodeJS.Signals | null>;
  kill(): void;
}

function start(order: Omit<SyncOrder, 'url'>): Child {
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', SCRIPT, JSON.stringify({ url: bench.database.url, ...order })],
    { stdio: ['pipe', 'ignore', 'inherit'] },
  );
  return {
    end: new Promise((resolve) => child.on('close', (_code, signal) => resolve(signal))),
    kill: () => void child.kill('SIGKILL'),
  };
}

/** Visits that are made, changed three times and, some, deleted; and an atomic batch. Gives the writes of each. */
function aShift(device: Device): {
  readonly operations: QueueOperationInput[];
  readonly writes: ReadonlyMap<string, number>;
} {
  const operations: QueueOperationInput[] = [];
  const writes = new Map<string, number>();
  const add = (operation: Omit<QueueOperationInput, 'deviceId' | 'sequenceNumber' | 'entityType'>): void => {
    operations.push(device.does({ ...operation, entityType: 'VISIT' }));
    writes.set(operation.entityId, (writes.get(operation.entityId) ?? 0) + 1);
  };
  for (let n = 0; n < 6; n += 1) {
    const entityId = randomUUID();
    add({ operation: 'CREATE', entityId, payload: { id: entityId, branch_id: BRANCH_A, minutes: 0 } });
    for (const minutes of [1, 2, 3]) add({ operation: 'UPDATE', entityId, payload: { minutes } });
    if (n % 2 === 0) add({ operation: 'DELETE', entityId });
  }
  const batchId = randomUUID();
  for (let n = 0; n < 3; n += 1) {
    const entityId = randomUUID();
    add({
      operation: 'CREATE',
      entityId,
      payload: { id: entityId, branch_id: BRANCH_A },
      batchId,
      batchSize: 3,
    });
  }
  return { operations, writes };
}

async function expectOnce(
  writes: ReadonlyMap<string, number>,
  operations: readonly QueueOperationInput[],
): Promise<void> {
  const standing = await bench.standing();
  for (const { operationId } of operations) expect(standing[operationId ?? '']).toBe('COMPLETED APPLIED');
  const effects = await bench.sql<{ id: string; n: number }>(
    'SELECT entity_id AS id, count(*)::int AS n FROM effects GROUP BY entity_id',
  );
  expect(new Map(effects.map(({ id, n }) => [id, n]))).toEqual(writes);
  const versions = await bench.sql<{ id: string; version: number }>(
    'SELECT entity_id AS id, version::int AS version FROM care_backup.sync_entity_state',
  );
  expect(new Map(versions.map(({ id, version }) => [id, version]))).toEqual(writes);
}

const ended = async (): Promise<boolean> => {
  const [row] = await bench.sql<{ n: number }>(
    'SELECT count(*)::int AS n FROM care_backup.offline_sync_queue WHERE runnable',
  );
  return row?.n === 0;
};

const STEPS: readonly SyncStep[] = [
  'BEFORE_CLAIM',
  'CLAIMED',
  'BEFORE_APPLY',
  'APPLIED',
  'COMPLETED',
  'COMMITTED',
];

describe.each(STEPS)('a worker that dies at %s', (dieAt) => {
  test('leaves nothing undone and nothing done twice', { timeout: 60_000 }, async () => {
    const device = new Device();
    const { operations, writes } = aShift(device);
    await bench.as(ALICE).queueOperations(operations);
    const child = start({ dieAt, nth: 2 });
    expect(await child.end).toBe('SIGKILL');
    await using _worker = await bench.protection.startWorker({ pollMs: 100 });
    await untilTrue('everything has ended', ended, 30_000);
    await expectOnce(writes, operations);
  });
});

test('a process that dies after it has admitted has admitted; what is sent again is known', async () => {
  const device = new Device();
  const { operations, writes } = aShift(device);
  const child = start({ dieAt: 'ADMITTED', admit: { userId: ALICE, operations } });
  expect(await child.end).toBe('SIGKILL');
  const answers = await bench.as(ALICE).queueOperations(operations);
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set(['DUPLICATE']));
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  await expectOnce(writes, operations);
});

test('an operation that kills every worker is parked after three; the others are applied', {
  timeout: 90_000,
}, async () => {
  const device = new Device();
  const ids = Array.from({ length: 10 }, () => randomUUID());
  const operations = ids.map((entityId) =>
    device.does({
      operation: 'CREATE',
      entityType: 'VISIT',
      entityId,
      payload: { id: entityId, branch_id: BRANCH_A },
    }),
  );
  await bench.as(ALICE).queueOperations(operations);
  const poison = ids[4] ?? '';
  for (let deaths = 0; deaths < 3; deaths += 1) expect(await start({ poison }).end).toBe('SIGKILL');
  const last = start({ poison });
  await untilTrue('everything has ended', ended, 30_000);
  last.kill();
  const standing = Object.values(await bench.standing()).sort();
  expect(standing).toEqual([...Array(9).fill('COMPLETED APPLIED'), 'PARKED POISONED']);
});

test('a worker that is slower than its lease is undone where another was there', {
  timeout: 60_000,
}, async () => {
  const device = new Device();
  const entityId = randomUUID();
  await bench.as(ALICE).queueOperation(
    device.does({
      operation: 'CREATE',
      entityType: 'VISIT',
      entityId,
      payload: { id: entityId, branch_id: BRANCH_A },
    }),
  );
  let slow = true;
  const other = await bench.open({
    hooks: {
      onSyncStep: async (step) => {
        if (step !== 'BEFORE_APPLY' || !slow) return;
        slow = false;
        await sleep(1_000);
      },
    },
  });
  const { syncActor } = await import('../harness/sync-bench.ts');
  const lagging = other.sync(syncActor(ALICE)).processPendingOperations(device.deviceId);
  await sleep(500);
  await bench.as(ALICE).processPendingOperations(device.deviceId);
  await lagging;
  const [effects] = await bench.sql<{ n: number }>('SELECT count(*)::int AS n FROM effects');
  expect(effects?.n).toBe(1);
  expect(Object.values(await bench.standing())).toEqual(['COMPLETED APPLIED']);
});

test('workers killed at random moments lose nothing and do nothing twice', {
  timeout: SOAK ? 3_600_000 : 90_000,
}, async () => {
  const random = numbersFrom(4_711);
  const shifts = Array.from({ length: SOAK ? 200 : 6 }, () => aShift(new Device()));
  const children = [start({}), start({})];
  const kills = SOAK ? 300 : 4;
  for (let n = 0; n < Math.max(kills, shifts.length); n += 1) {
    const shift = shifts[n];
    if (shift !== undefined) await bench.as(ALICE).queueOperations(shift.operations);
    await sleep(random() * 500);
    if (n >= kills) continue;
    children.shift()?.kill();
    children.push(start({}));
  }
  await untilTrue('everything has ended', ended, SOAK ? 600_000 : 60_000);
  for (const child of children) child.kill();
  const writes = new Map(shifts.flatMap((shift) => [...shift.writes]));
  await expectOnce(
    writes,
    shifts.flatMap(({ operations }) => operations),
  );
});
