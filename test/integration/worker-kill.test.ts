import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DataProtection } from '../../src/compose.ts';
import { migrate } from '../../src/repository/migrate.ts';
import type { BackupService } from '../../src/service/backup-service.ts';
import { endPool } from '../harness/end-pool.ts';
import { startPostgres } from '../harness/postgres.ts';
import { type RedisServer, startRedis } from '../harness/redis.ts';
import { actorOf, benchOn, createBench, type ServiceBench } from '../harness/service-bench.ts';
import { TINY_ORGANIZATION, tinyData } from '../harness/service-tiny.ts';
import {
  expectAllEnded,
  Fleet,
  type FleetPlace,
  numbersFrom,
  unended,
  untilTrue,
} from '../harness/worker-fleet.ts';

const SOAK = process.env.CARE_SOAK === '1';
const LIMIT_MS = SOAK ? 3_600_000 : 240_000;
const MINUTE_MS = 60_000;
/** Clocks that differ by more than a silent run is left alone: the lock decides who runs, not they. */
const SKEWS_MS = [0, 7 * MINUTE_MS, -7 * MINUTE_MS];
/** What does not depend on the queue is proven with one of them, and in a soak with both. */
const WITHOUT_QUEUE: readonly string[] = SOAK ? ['redis', 'postgres'] : ['postgres'];
const QUEUE_SCHEMA = 'care_backup_queue';

/** Where backups are asked for: a bench, or the like on a server of the test's own. */
interface Office {
  readonly place: FleetPlace;
  readonly backups: BackupService;
  open(over: { readonly execution: 'inline' }): Promise<DataProtection>;
  configure: ServiceBench['configure'];
}

/** Configurations with a queued backup each, and some with a verification of an earlier one. */
async function queueWork(office: Office, backups: number, verifications: number): Promise<string[]> {
  const configurations: string[] = [];
  const add = async (): Promise<string> => {
    const { id } = await office.configure();
    configurations.push(id);
    return id;
  };
  await using inline = await office.open({ execution: 'inline' });
  const service = inline.backups(actorOf(TINY_ORGANIZATION));
  for (let made = 0; made < verifications; made += 1) {
    const { id } = await service.createSnapshot({ configurationId: await add() }, { wait: true });
    await office.backups.startVerification(id);
  }
  for (let made = 0; made < backups; made += 1)
    await office.backups.createSnapshot({ configurationId: await add() });
  return configurations;
}

/** Configurations that were due yesterday and the days before; the next start is hours away. */
async function queueMissed(office: Office, count: number): Promise<string[]> {
  const startTime = new Date(Date.now() - 12 * 60 * MINUTE_MS).toISOString().slice(11, 16);
  const configurations: string[] = [];
  for (let made = 0; made < count; made += 1) {
    const { id } = await office.configure({ schedule: { frequency: 'DAILY', startTime, timezone: 'UTC' } });
    configurations.push(id);
  }
  await office.place.pool.query(
    `UPDATE care_backup.backup_configurations SET next_scheduled_backup_at = next_scheduled_backup_at - interval '4 days'
      WHERE id = ANY ($1)`,
    [configurations],
  );
  return configurations;
}

async function expectAllWell(office: Office, configurations: readonly string[], fleet: Fleet): Promise<void> {
  const { pool } = office.place;
  const limit = SOAK ? LIMIT_MS : 120_000;
  await untilTrue('everything has ended', async () => (await unended(pool, configurations)) === 0, limit);
  expect(fleet.crashes).toEqual([]);
  const where = { ...office.place, backups: office.backups, organization: TINY_ORGANIZATION };
  const { completed, failed } = await expectAllEnded(where, configurations);
  expect(completed).toBeGreaterThan(failed * 4);
}

describe.each(['redis', 'postgres'] as const)('with the queue in %s', (backend) => {
  let redis: RedisServer | undefined;
  let bench: ServiceBench;
  let office: Office;

  beforeAll(async () => {
    redis = backend === 'redis' ? await startRedis({ control: 'needed' }) : undefined;
    const queue = redis === undefined ? {} : { redis: redis.url };
    bench = await createBench(tinyData, { execution: 'worker', ...queue });
    const place = { url: bench.database.url, folder: bench.folder, pool: bench.database.pool, ...queue };
    office = { place, backups: bench.backups, open: bench.open, configure: bench.configure };
  });
  afterAll(async () => {
    await bench[Symbol.asyncDispose]();
    await redis?.stop();
  });

  const sql = (text: string, values: readonly unknown[] = []) => bench.database.pool.query(text, [...values]);

  test(
    'workers killed at random moments lose nothing, and start each missed schedule once',
    async () => {
      const random = numbersFrom(7_001);
      const asked = await queueWork(office, SOAK ? 400 : 6, SOAK ? 40 : 1);
      const missed = await queueMissed(office, SOAK ? 60 : 4);
      const configurations = [...asked, ...missed];
      await using fleet = new Fleet(office.place);
      fleet.hasten();
      for (const skewMs of SKEWS_MS) fleet.start({ skewMs });
      const kills = SOAK ? 120 : 2;
      for (let killed = 0; killed < kills; killed += 1) {
        await sleep(400 + random() * 1_000);
        const victim = fleet.alive[Math.floor(random() * fleet.alive.length)];
        if (victim !== undefined) await fleet.kill(victim);
        fleet.start({ skewMs: SKEWS_MS[Math.floor(random() * SKEWS_MS.length)] ?? 0 });
      }
      await untilTrue('every schedule has started', async () => {
        const { rows } = await sql(
          `SELECT DISTINCT configuration_id FROM care_backup.backup_snapshots WHERE configuration_id = ANY ($1)`,
          [missed],
        );
        return rows.length === missed.length;
      });
      await expectAllWell(office, configurations, fleet);
      const { rows } = await sql(
        `SELECT count(*)::int AS runs FROM care_backup.backup_snapshots
        WHERE configuration_id = ANY ($1) GROUP BY configuration_id`,
        [missed],
      );
      expect(rows).toEqual(missed.map(() => ({ runs: 1 })));
    },
    LIMIT_MS,
  );

  /** What may happen to the queue, each followed by a while in which work goes on. */
  const losses: readonly (() => Promise<unknown>)[] =
    backend === 'redis'
      ? [
          async () => redis?.flush(),
          async () => {
            redis?.pause();
            await sleep(1_500);
            redis?.resume();
          },
          async () => redis?.flush(),
          async () => {
            await redis?.kill();
            await sleep(500);
            await redis?.restart();
          },
        ]
      : [
          () => truncateQueue(bench.database.pool),
          () => sql(`DROP SCHEMA IF EXISTS ${QUEUE_SCHEMA} CASCADE`),
          () => truncateQueue(bench.database.pool),
        ];

  test(
    'a queue that is wiped, hangs, dies or is dropped in mid-run loses nothing',
    async () => {
      const random = numbersFrom(7_002);
      const configurations = await queueWork(office, SOAK ? 200 : 5, SOAK ? 20 : 1);
      await using fleet = new Fleet(office.place);
      const settings = { pollMs: 500, slowMs: 50 };
      await Promise.all([fleet.start(settings).said('READY'), fleet.start(settings).said('READY')]);
      for (let round = 0; round < (SOAK ? 20 : 1); round += 1) {
        for (const lose of losses) {
          const { id: configurationId } = await bench.configure();
          configurations.push(configurationId);
          const losing = lose();
          // Asked for while the queue is away.
          await bench.backups.createSnapshot({ configurationId });
          await losing;
          await sleep(random() * 300);
        }
        // A dropped schema is made anew by whoever comes.
        await fleet.start(settings).said('READY');
      }
      await expectAllWell(office, configurations, fleet);
      // And the queue still wakes workers that look for themselves only once an hour.
      await using patient = new Fleet(office.place);
      for (const worker of fleet.alive) await fleet.kill(worker);
      await patient.start({ pollMs: 60 * MINUTE_MS }).said('READY');
      const { id: configurationId } = await bench.configure();
      const done = await bench.backups.createSnapshot({ configurationId }, { wait: true });
      expect(done.status).toBe('COMPLETED');
    },
    LIMIT_MS,
  );

  test(
    'a worker that is told to end lets what runs finish, and ends well',
    async () => {
      const { id: configurationId } = await bench.configure();
      await using fleet = new Fleet(office.place);
      const worker = fleet.start({ slowMs: 300 });
      await worker.said('READY');
      const { id } = await bench.backups.createSnapshot({ configurationId });
      await worker.said('PUT ');
      worker.process.kill('SIGTERM');
      expect(await worker.end).toEqual({ code: 0, signal: null });
      expect(worker.output()).toContain('CLOSED');
      expect(await bench.backups.getSnapshot(id)).toMatchObject({ status: 'COMPLETED', errors: [] });
    },
    LIMIT_MS,
  );

  if (WITHOUT_QUEUE.includes(backend))
    test(
      'what workers could not finish before they had to end is done by others, at once, however often',
      async () => {
        const { id: configurationId } = await bench.configure();
        const { id } = await bench.backups.createSnapshot({ configurationId });
        await using fleet = new Fleet(office.place);
        const stops = SOAK ? 10 : 2;
        const slow = Array.from({ length: stops }, () => fleet.start({ slowMs: 10 * MINUTE_MS, graceMs: 0 }));
        await Promise.all(
          slow.map(async (worker) => {
            await worker.said('PUT ');
            worker.process.kill('SIGTERM');
            expect(await worker.end, worker.output()).toEqual({ code: 0, signal: null });
          }),
        );
        fleet.start();
        await untilTrue(
          'the backup',
          async () => (await bench.backups.getSnapshot(id)).status === 'COMPLETED',
        );
        const { errors } = await bench.backups.getSnapshot(id);
        expect(errors.map(({ code }) => code)).toEqual(Array(stops).fill('BACKUP_INTERRUPTED'));
      },
      LIMIT_MS,
    );

  if (WITHOUT_QUEUE.includes(backend))
    test(
      'a backup that kills every worker is given up after three; others are done',
      async () => {
        const [poisoned, sound] = [await bench.configure(), await bench.configure()];
        const { id } = await bench.backups.createSnapshot({ configurationId: poisoned.id });
        await using fleet = new Fleet(office.place);
        fleet.hasten();
        for (let workers = 0; workers < 4; workers += 1) fleet.start({ poison: poisoned.id });
        await untilTrue('three deaths', async () => fleet.alive.length === 1);
        await bench.backups.createSnapshot({ configurationId: sound.id }, { wait: true });
        await untilTrue('its end', async () => (await bench.backups.getSnapshot(id)).status === 'FAILED');
        const { errors } = await bench.backups.getSnapshot(id);
        expect(errors.map(({ code }) => code)).toEqual(Array(3).fill('BACKUP_INTERRUPTED'));
        expect(fleet.alive).toHaveLength(1);
        expect(fleet.crashes).toEqual([]);
        expect(
          await expectAllEnded({ ...office.place, backups: bench.backups, organization: TINY_ORGANIZATION }, [
            poisoned.id,
            sound.id,
          ]),
        ).toEqual({ completed: 1, failed: 1 });
      },
      LIMIT_MS,
    );

  if (backend === 'redis')
    test(
      'a backup can be asked for while Redis hangs, and is done',
      async () => {
        const { id: configurationId } = await bench.configure();
        await using fleet = new Fleet(office.place);
        await fleet.start().said('READY');
        redis?.pause();
        try {
          const asked = bench.backups.createSnapshot({ configurationId });
          const queued = await Promise.race([asked, sleep(10_000)]);
          expect(queued?.status).toBe('QUEUED');
          const { id } = await asked;
          await untilTrue(
            'the backup',
            async () => (await bench.backups.getSnapshot(id)).status === 'COMPLETED',
          );
          // A worker that begins meanwhile works too.
          await fleet.start().said('READY');
        } finally {
          redis?.resume();
        }
      },
      LIMIT_MS,
    );
});

async function truncateQueue(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query<{ name: string }>(
    `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
      WHERE schemaname = '${QUEUE_SCHEMA}' AND tablename <> 'migration'`,
  );
  if (rows.length === 0) return;
  // The workers lock the same tables in an order of their own: one of both may have to give way.
  for (let tries = 1; ; tries += 1) {
    try {
      await pool.query(`TRUNCATE ${rows.map(({ name }) => name).join(', ')} CASCADE`);
      return;
    } catch (error) {
      const deadlock = error instanceof Error && 'code' in error && error.code === '40P01';
      if (!deadlock || tries === 20) throw error;
    }
  }
}

test(
  'PostgreSQL that cuts connections and crashes in mid-run loses nothing',
  async () => {
    const random = numbersFrom(7_003);
    await using server = await startPostgres();
    await migrate({ connection: server.url, schema: 'care_backup' });
    const own = new pg.Pool({ connectionString: server.url });
    // Connections that break with the server.
    own.on('error', () => undefined);
    const database = {
      url: server.url,
      name: 'postgres',
      pool: own,
      [Symbol.asyncDispose]: () => endPool(own),
    };
    await using bench = await benchOn(database, tinyData, { execution: 'worker' });
    const { pool } = bench.database;
    const office: Office = {
      place: { url: server.url, folder: bench.folder, pool },
      backups: bench.backups,
      open: bench.open,
      configure: bench.configure,
    };
    const configurations = await queueWork(office, SOAK ? 200 : 5, SOAK ? 20 : 1);
    await using fleet = new Fleet(office.place);
    fleet.hasten();
    const settings = { slowMs: 50 };
    await Promise.all([fleet.start(settings).said('READY'), fleet.start(settings).said('READY')]);
    for (let cuts = 0; cuts < (SOAK ? 100 : 2); cuts += 1) {
      await pool.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.3
          AND application_name LIKE 'care-backup%'`,
      );
      await sleep(random() * 400);
    }
    for (let crashes = 0; crashes < (SOAK ? 10 : 1); crashes += 1) {
      await server.crash();
      await sleep(random() * 1_000);
      await server.restart();
      await sleep(random() * 1_000);
      while (fleet.alive.length < 2) fleet.start(settings);
    }
    await expectAllWell(office, configurations, fleet);
  },
  LIMIT_MS,
);
