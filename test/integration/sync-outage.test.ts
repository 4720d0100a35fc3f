import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { expect, test } from 'vitest';
import { migrate } from '../../src/repository/migrate.ts';
import type { AdmissionAnswer } from '../../src/types/offline-sync.ts';
import { startPostgres } from '../harness/postgres.ts';
import { connectionCutter } from '../harness/service-cut.ts';
import { ALICE, createSyncBench, Device, syncBenchOn } from '../harness/sync-bench.ts';
import { allEnded, aShift, expectOnce, recordWrites, type Shift } from '../harness/sync-shift.ts';
import { numbersFrom } from '../harness/worker-fleet.ts';

const SOAK = process.env.CARE_SOAK === '1';
/** Of how many steps one is cut. */
const EVERY = SOAK ? 1 : 12;
const LIMIT_MS = SOAK ? 3_600_000 : 120_000;

const together = (shifts: readonly Shift[]): Shift => ({
  operations: shifts.flatMap(({ operations }) => operations),
  writes: new Map(shifts.flatMap(({ writes }) => [...writes])),
});

test('a connection that is cut at any step of admission or applying changes nothing about what happens', {
  timeout: LIMIT_MS,
}, async () => {
  await using bench = await createSyncBench({ syncOptions: { limits: { leaseMs: 200 } } });
  await recordWrites(bench);
  using cutter = connectionCutter();
  const shifts: Shift[] = [];
  let cuts = 0;
  const codes = new Set<unknown>();
  const noted = (error: unknown): undefined => {
    codes.add((error as { code?: unknown }).code);
  };
  for (let at = 1, going = true; going; at += EVERY) {
    const device = new Device();
    const shift = aShift(device);
    shifts.push(shift);
    cutter.arm(at);
    // As a device does: again, until there is an answer.
    let answers: readonly AdmissionAnswer[] | undefined;
    while (answers === undefined)
      answers = await bench.as(ALICE).queueOperations(shift.operations).catch(noted);
    expect(answers.every(({ status }) => status === 'ACCEPTED' || status === 'DUPLICATE')).toBe(true);
    // What was taken is taken again when its lease is over.
    for (let left = 1; left > 0; await sleep(50)) {
      const summary = await bench.as(ALICE).processPendingOperations(device.deviceId).catch(noted);
      left = summary?.remaining ?? 1;
    }
    going = cutter.cut.length > 0;
    cuts += cutter.cut.length;
  }
  expect(cuts * EVERY).toBeGreaterThan(56);
  expect([...codes]).toEqual(['DATABASE_UNAVAILABLE']);
  const { operations, writes } = together(shifts);
  await expectOnce(bench, writes, operations);
  const [claims] = await bench.sql<{ most: number }>(
    'SELECT max(claims)::int AS most FROM care_backup.offline_sync_queue',
  );
  expect(claims?.most, 'an outage does not count against an operation').toBeLessThan(3);
});

test('a server that crashes again and again, and cuts connections, loses nothing and does nothing twice', {
  timeout: LIMIT_MS,
}, async () => {
  await using server = await startPostgres();
  await migrate({ connection: server.url });
  const pool = new pg.Pool({ connectionString: server.url, max: 5 });
  pool.on('error', () => undefined);
  const database = { url: server.url, name: 'postgres', pool, [Symbol.asyncDispose]: () => pool.end() };
  await using bench = await syncBenchOn(database, {
    execution: 'worker',
    // Longer than an outage.
    syncOptions: { limits: { leaseMs: 5_000 } },
  });
  await recordWrites(bench);
  const random = numbersFrom(1_717);
  await using _worker = await bench.protection.startWorker({ pollMs: 100 });
  const shifts = Array.from({ length: SOAK ? 200 : 5 }, () => aShift(new Device()));
  let done = false;
  const handedIn = (async () => {
    for (const { operations } of shifts) {
      // As a device does: again, until there is an answer.
      for (let answered = false; !answered; await sleep(20)) {
        const answers = await bench
          .as(ALICE)
          .queueOperations(operations)
          .catch(() => undefined);
        answered = answers !== undefined;
        for (const { status } of answers ?? []) expect(['ACCEPTED', 'DUPLICATE']).toContain(status);
      }
    }
    done = true;
  })();
  let crashes = 0;
  while (!done || crashes < 2) {
    await pool
      .query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.3
            AND application_name LIKE 'care-backup%'`,
      )
      .catch(() => undefined);
    await sleep(random() * 150);
    if (random() < 0.4) {
      await server.crash();
      crashes += 1;
      await sleep(random() * 600);
      await server.restart();
    }
  }
  await handedIn;
  await allEnded(bench, 60_000);
  const { operations, writes } = together(shifts);
  await expectOnce(bench, writes, operations);
});
