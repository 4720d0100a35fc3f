/**
 * One client's records put back into the tables that everybody works in: how long it takes, and how long writers of
 * another organization wait meanwhile. `--rows N` visits (1,000,000), `--runs N` (5), `--json`: one JSON object as the
 * last line. Needs a PostgreSQL server (Debian: postgresql).
 *
 * Writers time their UPDATE alone, so that a slow disk at COMMIT is not taken for a lock. The tables' `updated_at` triggers
 * stand aside for the restore, which locks the tables for its transaction: the worst case for others.
 */

import { join } from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { entities } from '../examples/care-platform/entities.ts';
import { createSchema, generatePlatform, organizationId } from '../examples/care-platform/generate.ts';
import { createDataProtection, createKeyringFile, defineEntity, localKeyring } from '../src/index.ts';
import { median } from './median.ts';
import { type BenchServer, startBenchServer } from './server.ts';

const { values: options } = parseArgs({
  options: {
    rows: { type: 'string', default: '1000000' },
    runs: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
  },
});
const rows = Number(options.rows);
const runs = Number(options.runs);
const SEED = 23;
const HOME = organizationId(SEED, 1);
const ELSEWHERE = organizationId(SEED + 1, 1);
const TYPES = ['CLIENT', 'VISIT', 'EVV_RECORD', 'NOTE'];
const WRITERS = 2;
const WANTED_ROWS = 200;
const round = (value: number): number => Math.round(value * 100) / 100;
const say = (text: string): void => void process.stderr.write(`${text}\n`);

const server = await startBenchServer();
try {
  await benchmark(server);
} finally {
  await server.stop();
}

async function benchmark(own: BenchServer): Promise<void> {
  say(`${own.version}, ${rows} visits of one organization, ${runs} runs`);
  const url = `postgresql://postgres@127.0.0.1:${own.port}/platform`;
  await prepare(own, url);
  const keyring = join(own.folder, 'keyring.json');
  await createKeyringFile(keyring);
  await using protection = await createDataProtection({
    database: url,
    entities: entities.map((entity) =>
      defineEntity({
        ...entity,
        ...(TYPES.includes(entity.type) ? { restore: { disableTriggers: ['touch_updated_at'] } } : {}),
      }),
    ),
    keys: localKeyring({ file: keyring }),
    storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path: join(own.folder, 'storage') } },
  });
  await protection.migrate();
  const backups = protection.backups({
    userId: '00000000-0000-4000-8000-0000000000aa',
    organizationId: HOME,
    branchIds: 'ALL',
    permissions: ['backup:admin'],
  });
  const { id: configurationId } = await backups.createConfiguration({ name: 'bench' });
  const snapshot = await backups.createSnapshot({ configurationId }, { wait: true });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const clientIds = await someClients(client);

  const taken: number[] = [];
  const blocked: number[] = [];
  const idle: number[] = [];
  let restored = 0;
  for (let run = 0; run < runs; run += 1) {
    await damage(client, clientIds);
    const quiet = startWriters(url);
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    idle.push(await quiet.stop());
    const writers = startWriters(url);
    const started = performance.now();
    const restore = await backups.createRestoreOperation(
      { snapshotId: snapshot.id, scope: { clientIds, includeEntities: TYPES }, requiresApproval: false },
      { wait: true },
    );
    taken.push(performance.now() - started);
    blocked.push(await writers.stop());
    restored = restore.dataMetrics?.totalRecords ?? 0;
    say(
      `  ${round((taken.at(-1) ?? 0) / 1000)} s, ${restored} rows, writers waited ${round(blocked.at(-1) ?? 0)} ms at most (${round(idle.at(-1) ?? 0)} without)`,
    );
  }
  await client.end();
  const result = {
    rows,
    restoredRows: restored,
    selectiveSeconds: round(median(taken) / 1000),
    maxWriterBlockMs: round(Math.max(...blocked)),
    idleWriterMaxMs: round(Math.max(...idle)),
    rssMb: Math.round(process.resourceUsage().maxRSS / 1024),
  };
  console.log(
    Object.entries(result)
      .map(([name, value]) => `${name.padEnd(20)} ${value}`)
      .join('\n'),
  );
  if (options.json) console.log(JSON.stringify(result));
}

async function prepare(own: BenchServer, url: string): Promise<void> {
  const admin = new pg.Client({ connectionString: `postgresql://postgres@127.0.0.1:${own.port}/postgres` });
  await admin.connect();
  await admin.query('CREATE DATABASE platform');
  await admin.end();
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await createSchema(client);
  await client.end();
  await generatePlatform(url, { seed: SEED, organizations: 1, visits: rows });
  // The others are few: what counts is that they go on writing to the same tables.
  await generatePlatform(url, { seed: SEED + 1, organizations: 1, visits: 1_000 });
  const vacuum = new pg.Client({ connectionString: url });
  await vacuum.connect();
  await vacuum.query('VACUUM ANALYZE');
  await vacuum.end();
}

/** As many clients as have the wanted rows together. */
async function someClients(client: pg.Client): Promise<string[]> {
  const { rows: found } = await client.query<{ id: string; visits: number }>(
    `SELECT c.id::text, (SELECT count(*) FROM visits v WHERE v.client_id = c.id)::int AS visits FROM clients c
      WHERE c.organization_id = $1 AND c.deleted_at IS NULL ORDER BY c.id LIMIT 50`,
    [HOME],
  );
  const ids: string[] = [];
  let total = 0;
  for (const { id, visits } of found) {
    if (total >= WANTED_ROWS / 2) break;
    ids.push(id);
    total += visits;
  }
  return ids;
}

async function damage(client: pg.Client, clientIds: readonly string[]): Promise<void> {
  const ids = [clientIds];
  await client.query("UPDATE visits SET notes = 'damaged' WHERE client_id::text = ANY ($1)", ids);
  await client.query('DELETE FROM notes WHERE client_id::text = ANY ($1)', ids);
}

function startWriters(url: string): { stop(): Promise<number> } {
  const end = new AbortController();
  let longest = 0;
  const write = async (writer: number): Promise<void> => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const { rows: own } = await client.query<{ id: string }>(
      'SELECT id::text FROM visits WHERE organization_id = $1 LIMIT 500',
      [ELSEWHERE],
    );
    for (let n = writer; !end.signal.aborted; n += WRITERS) {
      await client.query('BEGIN');
      const started = performance.now();
      await client.query("UPDATE visits SET notes = 'n' WHERE id = $1::uuid", [own[n % own.length]?.id]);
      longest = Math.max(longest, performance.now() - started);
      await client.query('COMMIT');
    }
    await client.end();
  };
  const running = Array.from({ length: WRITERS }, (_, writer) => write(writer));
  return {
    async stop() {
      end.abort();
      await Promise.all(running);
      return longest;
    },
  };
}
