/**
 * What offline sync costs against the same writes by hand with `pg` (operation, version, event, outcome, entity), one
 * run alternating with its floor; how fast an operation is applied; and whether a CRITICAL one waits behind a backlog.
 * `--rounds N` (5), `--operations N` per round (5,000), `--backlog N` (100,000) of `--devices N` (200), `--history N`
 * finished operations (1,000,000), `--json`: one JSON object as the last line. Needs Debian's PostgreSQL.
 */
import { fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { createDataProtection, type DataProtection } from '../src/compose.ts';
import { createKeyringFile, localKeyring } from '../src/keys/local-keyring.ts';
import type { QueueOperationInput } from '../src/types/offline-sync.ts';
import { ORGANIZATION, SYNC_SCHEMA, syncActor, syncTables } from '../test/harness/sync-bench.ts';
import { median } from './median.ts';
import { startBenchServer } from './server.ts';
import { admitByHand, applyByHand, FLOOR_SCHEMA, type FloorOperation } from './sync-floor.ts';
import type { SyncWorkerOrder, SyncWorkerReport } from './sync-worker.ts';

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    operations: { type: 'string', default: '5000' },
    backlog: { type: 'string', default: '100000' },
    devices: { type: 'string', default: '200' },
    history: { type: 'string', default: '1000000' },
    json: { type: 'boolean', default: false },
  },
});
const rounds = Number(flags.rounds);
const perRound = Number(flags.operations);
const say = (text: string): void => void process.stderr.write(`${text}\n`);
const round = (value: number, digits = 3): number => Math.round(value * 10 ** digits) / 10 ** digits;
const CALL = 500;
const USER = '00000000-0000-4000-8000-0000000000a1';

const server = await startBenchServer();
const url = `postgresql://postgres@127.0.0.1:${server.port}/postgres`;
const opened: DataProtection[] = [];
try {
  const pool = new pg.Pool({ connectionString: url, max: 4 });
  const client = await pool.connect();
  // When something fails the server is stopped under it.
  pool.on('error', () => undefined);
  client.on('error', () => undefined);
  await client.query(SYNC_SCHEMA);
  await client.query(FLOOR_SCHEMA);
  const visits = await makeVisits(client, perRound);
  /** The floor's own, so that neither changes what the other started from. */
  const others = await makeVisits(client, perRound);
  const keyring = join(server.folder, 'keyring.json');
  await createKeyringFile(keyring);
  const open = async (limits: object = {}, more: object = {}): Promise<DataProtection> => {
    const protection = await createDataProtection({
      database: url,
      entities: syncTables(),
      keys: localKeyring({ file: keyring }),
      sync: { entities: [{ type: 'VISIT' }, { type: 'EVV_RECORD' }, { type: 'NOTE' }], limits },
      ...more,
    });
    opened.push(protection);
    return protection;
  };
  const many = await open();
  await many.migrate();
  const single = await open({ operationsPerTransaction: 1 });
  const actor = syncActor(USER);
  say(`${server.version}; ${rounds} rounds of ${perRound} operations`);

  /** Every visit changed once, from what the server has. */
  const changes = async (protection: DataProtection, device: string): Promise<QueueOperationInput[]> => {
    const operations: QueueOperationInput[] = [];
    const sync = protection.sync(actor);
    for (let i = 0; i < visits.length; i += CALL) {
      const ids = visits.slice(i, i + CALL);
      for (const { entityId, version, data, signature } of await sync.readForOffline('VISIT', ids)) {
        operations.push({
          deviceId: device,
          operationId: randomUUID(),
          sequenceNumber: operations.length + 1,
          operation: 'UPDATE',
          entityType: 'VISIT',
          entityId,
          payload: {
            notes: `Assisted with bathing, ${randomUUID()}`,
            minutes: 1 + Math.floor(Math.random() * 200),
          },
          previousVersion: { version, data, ...(signature === undefined ? {} : { signature }) },
        });
      }
    }
    return operations;
  };
  const byHand = async (): Promise<FloorOperation[]> => {
    const { rows } = await client.query<{ id: string; row: object }>(
      'SELECT id, to_jsonb(t) AS row FROM visits t WHERE id = ANY ($1)',
      [others],
    );
    return rows.map(({ id: entityId, row }) => ({
      operationId: randomUUID(),
      entityId,
      payload: {
        notes: `Assisted with bathing, ${randomUUID()}`,
        minutes: 1 + Math.floor(Math.random() * 200),
      },
      previousVersion: { version: 1, data: row, signature: randomUUID() },
    }));
  };
  const admit = async (
    protection: DataProtection,
    operations: readonly QueueOperationInput[],
  ): Promise<void> => {
    const sync = protection.sync(actor);
    for (let i = 0; i < operations.length; i += CALL) {
      const answers = await sync.queueOperations(operations.slice(i, i + CALL));
      if (answers.some(({ status }) => status !== 'ACCEPTED')) throw new Error('not accepted');
    }
  };
  const apply = async (protection: DataProtection, device: string, expected: number): Promise<void> => {
    const done = await protection.sync(actor).processPendingOperations(device);
    if (done.applied !== expected) throw new Error(`applied ${done.applied} of ${expected}`);
  };

  const measure = async () => {
    const rates = { admit: [] as number[], single: [] as number[], batched: [] as number[] };
    const floors = { admit: [] as number[], single: [] as number[], batched: [] as number[] };
    for (let n = 0; n <= rounds; n += 1) {
      const took: Record<string, number> = {};
      const timed = async (name: string, work: () => Promise<void>): Promise<void> => {
        const started = performance.now();
        await work();
        took[name] = (1000 * perRound) / (performance.now() - started);
      };
      const hands = [await byHand(), await byHand()] as const;
      await timed('floorAdmit', async () => {
        for (let i = 0; i < perRound; i += CALL) await admitByHand(client, hands[0].slice(i, i + CALL));
      });
      const [a, b] = [randomUUID(), randomUUID()];
      const batched = await changes(many, a);
      await timed('admit', () => admit(many, batched));
      await timed('floorBatched', () => applyByHand(client, hands[0], 50));
      await timed('batched', () => apply(many, a, perRound));
      const singles = await changes(single, b);
      await admit(single, singles);
      for (let i = 0; i < perRound; i += CALL) await admitByHand(client, hands[1].slice(i, i + CALL));
      await timed('floorSingle', () => applyByHand(client, hands[1], 1));
      await timed('single', () => apply(single, b, perRound));
      say(
        `round ${n}: ${Object.entries(took)
          .map(([name, rate]) => `${name} ${rate.toFixed(0)}/s`)
          .join(', ')}`,
      );
      // The first warms up.
      if (n === 0) continue;
      for (const name of ['admit', 'single', 'batched'] as const) {
        rates[name].push(took[name] ?? 0);
        floors[name].push(took[`floor${name[0]?.toUpperCase()}${name.slice(1)}`] ?? 1);
      }
    }
    const ratio = (name: keyof typeof rates): number => round(median(rates[name]) / median(floors[name]));
    return { rates, ratios: { admit: ratio('admit'), single: ratio('single'), batched: ratio('batched') } };
  };

  const empty = await measure();
  const { p95, p50 } = await latency(many);
  say(`accepted -> applied, unloaded: p50 ${p50.toFixed(1)} ms, p95 ${p95.toFixed(1)} ms`);
  const drained = await backlog();
  say(`backlog: ${drained.perSecond.toFixed(0)}/s, CRITICAL p95 ${drained.criticalP95.toFixed(0)} ms`);
  say(`filling ${flags.history} finished operations`);
  await fillHistory(client, Number(flags.history));
  const full = await measure();
  const historyRatio = round(median(full.rates.batched) / median(empty.rates.batched));
  const result = {
    admitRatio: empty.ratios.admit,
    singleRatio: empty.ratios.single,
    batchedRatio: empty.ratios.batched,
    historyRatio,
    p95Ms: round(p95, 1),
    criticalP95Ms: round(drained.criticalP95, 1),
    drainPerSecond: Math.round(drained.perSecond),
    rssMb: Math.round(drained.rssMb),
    admitPerSecond: Math.round(median(empty.rates.admit)),
    singlePerSecond: Math.round(median(empty.rates.single)),
    batchedPerSecond: Math.round(median(empty.rates.batched)),
  };
  for (const [name, value] of Object.entries(result)) console.log(`${name.padEnd(20)} ${value}`);
  client.release();
  await pool.end();
  if (flags.json) process.stdout.write(`${JSON.stringify(result)}\n`);

  /** One operation at a time, with a worker that is woken by the queue. */
  async function latency(protection: DataProtection) {
    const device = randomUUID();
    const operations = (await changes(protection, device)).slice(0, 300);
    const worker = await open();
    await using _worker = await worker.startWorker({ pollMs: 60_000 });
    const times = await appliedTimes(worker, operations, async (operation) => {
      await worker.sync(actor).queueOperation(operation);
      await sleep(20);
    });
    return { p50: percentile(times, 0.5), p95: percentile(times, 0.95) };
  }

  /** A backlog of many devices drains while one clocks in every 100 ms. */
  async function backlog() {
    const devices = Array.from({ length: Number(flags.devices) }, () => randomUUID());
    const each = Math.floor(Number(flags.backlog) / devices.length);
    const handing = await open({}, { execution: 'worker' });
    const sync = handing.sync(actor);
    for (const device of devices) {
      const operations = Array.from({ length: each }, (_, i): QueueOperationInput => {
        const id = randomUUID();
        return {
          deviceId: device,
          operationId: randomUUID(),
          sequenceNumber: i + 1,
          operation: 'CREATE',
          entityType: 'NOTE',
          entityId: id,
          payload: { id, branch_id: ORGANIZATION, body: `Visit note ${i} of a caregiver in the field` },
        };
      });
      for (let i = 0; i < operations.length; i += CALL)
        await sync.queueOperations(operations.slice(i, i + CALL));
    }
    const total = each * devices.length;
    const visit = visits[0] ?? '';
    const probe = randomUUID();
    let sequence = 0;
    const probes = Array.from({ length: 100 }, (): QueueOperationInput => {
      const id = randomUUID();
      sequence += 1;
      return {
        deviceId: probe,
        operationId: randomUUID(),
        sequenceNumber: sequence,
        operation: 'CREATE',
        entityType: 'EVV_RECORD',
        entityId: id,
        payload: {
          id,
          branch_id: ORGANIZATION,
          visit_id: visit,
          kind: 'CLOCK_IN',
          at: new Date().toISOString(),
        },
      };
    });
    const child = startWorker();
    await child.said('READY');
    const started = performance.now();
    const handed = new Map<string, number>();
    for (const operation of probes) {
      handed.set(operation.operationId ?? '', Date.now());
      await sync.queueOperation(operation);
      await sleep(100);
    }
    for (;;) {
      const { rows } = await pool.query<{ n: string }>(
        `SELECT count(*) AS n FROM care_backup.offline_sync_queue WHERE runnable`,
      );
      if (Number(rows[0]?.n) === 0) break;
      await sleep(200);
    }
    const perSecond = (1000 * total) / (performance.now() - started);
    const rssMb = await child.stop();
    const times = [...handed].map(([id, at]) => (child.applied.get(id) ?? Number.POSITIVE_INFINITY) - at);
    return { perSecond, criticalP95: percentile(times, 0.95), rssMb };
  }

  function startWorker() {
    const order: SyncWorkerOrder = { url, keyring };
    const child = fork(new URL('./sync-worker.ts', import.meta.url), [JSON.stringify(order)]);
    const applied = new Map<string, number>();
    let rssMb = Number.NaN;
    const said = (kind: SyncWorkerReport['kind']): Promise<void> =>
      new Promise((resolve, reject) => {
        child.on('message', (report: SyncWorkerReport) => {
          if (report.kind === kind) resolve();
        });
        child.once('exit', () => reject(new Error('The worker has ended')));
      });
    child.on('message', (report: SyncWorkerReport) => {
      if (report.kind === 'APPLIED') applied.set(report.operationId, report.at);
      if (report.kind === 'STOPPED') rssMb = report.rssMb;
    });
    return {
      applied,
      said,
      async stop(): Promise<number> {
        const stopped = said('STOPPED');
        child.send('STOP');
        await stopped;
        return rssMb;
      },
    };
  }

  async function appliedTimes(
    protection: DataProtection,
    operations: readonly QueueOperationInput[],
    handIn: (operation: QueueOperationInput) => Promise<void>,
  ): Promise<number[]> {
    const applied = new Map<string, number>();
    const end = protection.on('sync.operation', ({ operationId, status }) => {
      if (status === 'COMPLETED') applied.set(operationId, performance.now());
    });
    const times: number[] = [];
    const handed = new Map<string, number>();
    for (const operation of operations) {
      handed.set(operation.operationId ?? '', performance.now());
      await handIn(operation);
    }
    const deadline = performance.now() + 60_000;
    while (applied.size < operations.length && performance.now() < deadline) await sleep(20);
    end();
    for (const [id, at] of handed) times.push((applied.get(id) ?? Number.POSITIVE_INFINITY) - at);
    return times;
  }
} finally {
  for (const protection of opened) await protection.close().catch(() => undefined);
  await server.stop();
  await rm(server.folder, { recursive: true, force: true });
}

async function makeVisits(client: pg.ClientBase, count: number): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `INSERT INTO visits (id, organization_id, branch_id, notes, minutes)
     SELECT gen_random_uuid(), $1, $1, 'Scheduled visit ' || n, n % 60 FROM generate_series(1, $2) n RETURNING id`,
    [ORGANIZATION, count],
  );
  return rows.map(({ id }) => id);
}

/** Finished operations with their ids and events, as a year would leave them. */
async function fillHistory(client: pg.ClientBase, count: number): Promise<void> {
  await client.query(
    `INSERT INTO care_backup.sync_streams (id, organization_id, user_id, device_id, installation_id, epoch, numbered_by, last_seen_at, created_at)
     SELECT gen_random_uuid(), $1, $2, 'old-' || n, 'old-' || n, 1, 'CLIENT', now(), now() FROM generate_series(1, 200) n`,
    [ORGANIZATION, USER],
  );
  const step = 100_000;
  for (let from = 0; from < count; from += step) {
    await client.query(
      `WITH stream AS (SELECT id, row_number() OVER () AS n FROM care_backup.sync_streams WHERE device_id LIKE 'old-%'),
       made AS (
         SELECT gen_random_uuid() AS id, gen_random_uuid() AS operation_id, g AS n, s.id AS stream_id, gen_random_uuid() AS entity_id
           FROM generate_series($3::int + 1, $3::int + $4::int) g JOIN stream s ON s.n = 1 + g % 200
       ), ids AS (
         INSERT INTO care_backup.sync_operation_ids (organization_id, operation_id, stream_id, sequence_number, queue_id, payload_hash)
         SELECT $1::uuid, operation_id, stream_id, n, id, sha256(operation_id::text::bytea) FROM made
       ), events AS (
         INSERT INTO care_backup.sync_events (id, organization_id, type, queue_id, operation_id, user_id, device_id, entity_type, entity_id, version, occurred_at)
         SELECT gen_random_uuid(), $1::uuid, 'APPLIED', id, operation_id, $2::uuid, 'old', 'VISIT', entity_id::text, 1, now() FROM made
       ), states AS (
         INSERT INTO care_backup.sync_entity_state (organization_id, entity_type, entity_id, version, row_hash, updated_at)
         SELECT $1::uuid, 'VISIT', entity_id::text, 1, sha256(entity_id::text::bytea), now() FROM made
       )
       INSERT INTO care_backup.offline_sync_queue (id, organization_id, user_id, device_id, stream_id, operation_id, sequence_number, operation,
              entity_type, entity_id, schema_version, payload, fields, client_image, occurred_at, queued_at, synced_at, status, outcome, applied_version,
              priority, lane, due_at, max_retries, actor, created_at, updated_at)
       SELECT id, $1::uuid, $2::uuid, 'old', stream_id, operation_id, n, 'UPDATE', 'VISIT', entity_id::text, 1,
              '{"notes": "Assisted with bathing", "minutes": 30}', '{notes,minutes}', '{"notes": "Assisted with bathing", "minutes": 30, "status": "DONE"}',
              now(), now(), now(), 'COMPLETED', 'APPLIED', 1, 'HIGH', 'NORMAL', now(), 5, '{}', now(), now() FROM made`,
      [ORGANIZATION, USER, from, step],
    );
  }
  await client.query('VACUUM ANALYZE');
}

function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}
