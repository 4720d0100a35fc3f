import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { SyncStep } from '../../src/service/sync-context.ts';
import { ALICE, BRANCH_A, createSyncBench, Device, type SyncBench } from '../harness/sync-bench.ts';
import type { SyncOrder } from '../harness/sync-child.ts';
import { allEnded, aShift, expectOnce, recordWrites } from '../harness/sync-shift.ts';
import { numbersFrom } from '../harness/worker-fleet.ts';

const SOAK = process.env.CARE_SOAK === '1';
const SCRIPT = fileURLToPath(new URL('../harness/sync-child.ts', import.meta.url));

let bench: SyncBench;
beforeEach(async () => {
  bench = await createSyncBench({ syncOptions: { limits: { leaseMs: 1_000 } } });
  await recordWrites(bench);
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
    await allEnded(bench, 30_000);
    await expectOnce(bench, writes, operations);
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
  await expectOnce(bench, writes, operations);
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
  await allEnded(bench, 30_000);
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
        await sleep(3_000);
      },
    },
  });
  const { syncActor } = await import('../harness/sync-bench.ts');
  const lagging = other.sync(syncActor(ALICE)).processPendingOperations(device.deviceId);
  await sleep(1_500);
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
  await allEnded(bench, SOAK ? 600_000 : 60_000);
  for (const child of children) child.kill();
  const writes = new Map(shifts.flatMap((shift) => [...shift.writes]));
  await expectOnce(
    bench,
    writes,
    shifts.flatMap(({ operations }) => operations),
  );
});
