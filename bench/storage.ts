/**
 * What a far storage costs a backup, and what the library's storages cost against the providers' own clients.
 * `--rows N` visits (500,000), `--runs N` (3), `--latency N` milliseconds per call (50), `--objects N` of 8 MiB per
 * provider (16), `--skip-backup`, `--skip-providers`, `--json`: one JSON object as the last line. Needs a PostgreSQL
 * server with its tools; the providers are fakes, emulators and an sshd on this machine.
 */

import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import pg from 'pg';
import { createSchema, generatePlatform } from '../examples/care-platform/generate.ts';
import { createKeyringFile } from '../src/index.ts';
import { median } from './median.ts';
import { type BenchServer, startBenchServer } from './server.ts';
import { CONTESTS } from './storage-raw.ts';
import type { StorageWorkerOrder, StorageWorkerReport } from './storage-worker.ts';

const freshKey = (): string => `bench/${randomUUID()}`;

const { values: options } = parseArgs({
  options: {
    rows: { type: 'string', default: '500000' },
    runs: { type: 'string', default: '3' },
    latency: { type: 'string', default: '50' },
    objects: { type: 'string', default: '16' },
    json: { type: 'boolean', default: false },
    'skip-backup': { type: 'boolean', default: false },
    'skip-providers': { type: 'boolean', default: false },
  },
});
const runs = Number(options.runs);
const round = (value: number): number => Math.round(value * 1000) / 1000;
const say = (text: string): void => void process.stderr.write(`${text}\n`);

const OBJECT_BYTES = 8 * 1024 * 1024;
/** Objects on their way at a time, as in a backup. */
const PARALLEL = 2;

const latency = options['skip-backup'] ? null : await farBackup();
const providers = options['skip-providers'] ? null : await throughput();

if (latency !== null) {
  table([
    ['rows in all', String(latency.rows)],
    ['stored', `${(latency.storedBytes / 1e6).toFixed(0)} MB`],
    ['local', `${(latency.nearMs / 1000).toFixed(2)} s`],
    [`${options.latency} ms per call`, `${(latency.farMs / 1000).toFixed(2)} s (${latency.latencyRatio})`],
    ['peak RSS of the worker', `${latency.rssMb} MB`],
  ]);
}
for (const [name, { putMBs, rawPutMBs, getMBs, rawGetMBs }] of Object.entries(providers ?? {})) {
  table([
    [`${name} put, ours / raw client`, `${putMBs} / ${rawPutMBs} MB/s`],
    [`${name} get, ours / raw client`, `${getMBs} / ${rawGetMBs} MB/s`],
  ]);
}
if (options.json) {
  const result = { latencyRatio: latency?.latencyRatio ?? null, rssMb: latency?.rssMb ?? null, providers };
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

async function farBackup() {
  const server = await startBenchServer();
  try {
    say(`${server.version}, ${options.rows} visits, medians of ${runs}`);
    const keyring = await prepare(server);
    const times: Record<'near' | 'far', number[]> = { near: [], far: [] };
    let last: StorageWorkerReport | undefined;
    let rss = 0;
    for (let run = 0; run < runs; run += 1) {
      for (const place of ['near', 'far'] as const) {
        const folder = join(server.folder, 'storage');
        await rm(folder, { recursive: true, force: true });
        await query(server, 'postgres', 'CHECKPOINT');
        await promisify(execFile)('sync');
        const latencyMs = place === 'near' ? 0 : Number(options.latency);
        last = await worker({ port: server.port, folder, keyring, latencyMs });
        rss = Math.max(rss, last.rssMb);
        times[place].push(last.milliseconds);
        say(`  ${place} ${(last.milliseconds / 1000).toFixed(2)} s, ${Math.round(last.rssMb)} MB`);
      }
    }
    const [nearMs, farMs] = [median(times.near), median(times.far)];
    return {
      rows: last?.rows ?? 0,
      storedBytes: last?.storedBytes ?? 0,
      nearMs,
      farMs,
      latencyRatio: round(farMs / nearMs),
      rssMb: Math.round(rss),
    };
  } finally {
    await server.stop();
  }
}

/** Gives the file of the keyring. */
async function prepare(server: BenchServer): Promise<string> {
  await query(server, 'postgres', 'CREATE DATABASE platform');
  await query(server, 'postgres', 'CREATE DATABASE metadata');
  const connection = { host: '127.0.0.1', port: server.port, user: 'postgres', database: 'platform' };
  const client = new pg.Client(connection);
  await client.connect();
  await createSchema(client);
  say('Generating the platform');
  await generatePlatform(connection, { seed: 1, organizations: 1, visits: Number(options.rows) });
  await client.query('VACUUM ANALYZE');
  await client.end();
  const keyring = join(server.folder, 'keyring.json');
  await createKeyringFile(keyring);
  return keyring;
}

async function query(server: BenchServer, database: string, sql: string): Promise<void> {
  const client = new pg.Client({ host: '127.0.0.1', port: server.port, user: 'postgres', database });
  await client.connect();
  await client.query(sql).finally(() => client.end());
}

async function worker(order: StorageWorkerOrder): Promise<StorageWorkerReport> {
  const file = join(import.meta.dirname, 'storage-worker.ts');
  const { stdout } = await promisify(execFile)(process.execPath, [file, JSON.stringify(order)]);
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as StorageWorkerReport;
}

interface Speeds {
  readonly putMBs: number;
  readonly getMBs: number;
  readonly rawPutMBs: number;
  readonly rawGetMBs: number;
}

async function throughput(): Promise<Record<string, Speeds>> {
  const speeds: Record<string, Speeds> = {};
  const count = Number(options.objects);
  for (const [name, open] of Object.entries(CONTESTS)) {
    await using contest = await open();
    const { ours, raw } = contest;
    const body = randomBytes(OBJECT_BYTES);
    const contenders = {
      ours: { put: (key: string) => ours.put(key, [body]), get: (key: string) => ours.get(key) },
      raw: { put: (key: string) => raw.put(key, body), get: (key: string) => raw.get(key) },
    };
    const found = { ours: { put: [], get: [] }, raw: { put: [], get: [] } } as Record<
      'ours' | 'raw',
      Record<'put' | 'get', number[]>
    >;
    // Loads what is loaded once, proves the store, opens the connections.
    for (const { put, get } of Object.values(contenders)) {
      const key = freshKey();
      await put(key);
      await get(key);
    }
    for (let run = 0; run < runs; run += 1) {
      for (const who of ['ours', 'raw'] as const) {
        const keys = Array.from({ length: count }, freshKey);
        for (const what of ['put', 'get'] as const) {
          found[who][what].push(await megabytesPerSecond(keys, contenders[who][what]));
        }
        // The fakes keep everything in memory.
        for (const key of keys) if (who === 'ours') await ours.delete(key);
      }
    }
    raw.close();
    speeds[name] = {
      putMBs: Math.round(median(found.ours.put)),
      getMBs: Math.round(median(found.ours.get)),
      rawPutMBs: Math.round(median(found.raw.put)),
      rawGetMBs: Math.round(median(found.raw.get)),
    };
    say(`  ${name} ${JSON.stringify(speeds[name])}`);
  }
  return speeds;
}

async function megabytesPerSecond(
  keys: readonly string[],
  work: (key: string) => Promise<unknown>,
): Promise<number> {
  const left = [...keys];
  const began = performance.now();
  const lane = async (): Promise<void> => {
    for (let key = left.shift(); key !== undefined; key = left.shift()) await work(key);
  };
  await Promise.all(Array.from({ length: PARALLEL }, lane));
  return (keys.length * OBJECT_BYTES) / 1000 / (performance.now() - began);
}

function table(lines: readonly (readonly [string, string])[]): void {
  for (const [name, value] of lines) process.stdout.write(`${name.padEnd(40)} ${value}\n`);
}
