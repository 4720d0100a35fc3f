/**
 * Backup and restore against `pg_dump | zstd | age` and `age -d | zstd -d | pg_restore`, on one server, one data set,
 * alternating, medians. `--rows N` visits (1,000,000), `--runs N` (5), `--skip-restore`, `--json`: one JSON object as
 * the last line. Needs a PostgreSQL server with its tools, `zstd` and `age` (Debian: postgresql zstd age).
 */

import { execFile, spawn } from 'node:child_process';
import { rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import pg from 'pg';
import { createSchema, generatePlatform } from '../examples/care-platform/generate.ts';
import { createKeyringFile } from '../src/index.ts';
import type { WorkerOrder, WorkerReport } from './backup-worker.ts';
import { median } from './median.ts';
import { type BenchServer, startBenchServer } from './server.ts';

const { values: options } = parseArgs({
  options: {
    rows: { type: 'string', default: '1000000' },
    runs: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
    'skip-restore': { type: 'boolean', default: false },
  },
});
const rows = Number(options.rows);
const runs = Number(options.runs);
const round = (value: number): number => Math.round(value * 1000) / 1000;
const seconds = (milliseconds: number): string => `${(milliseconds / 1000).toFixed(2)} s`;
const say = (text: string): void => void process.stderr.write(`${text}\n`);

const server = await startBenchServer();
try {
  await benchmark(server);
} finally {
  await server.stop();
}

async function benchmark(own: BenchServer): Promise<void> {
  say(`${own.version}, ${rows} visits, medians of ${runs}`);
  await prepare(own);
  const { recipient, identity } = await ageKey(own);
  const keyring = join(own.folder, 'keyring.json');
  await createKeyringFile(keyring);
  const storage = join(own.folder, 'storage');
  const dump = join(own.folder, 'dump.age');
  const url = `postgresql://postgres@127.0.0.1:${own.port}/platform`;
  const order = { port: own.port, storage, keyring, integrityCheck: false, validate: true };
  const times = {
    theirs: [],
    trusted: [],
    checked: [],
    floor: [],
    theirRestore: [],
    restore: [],
    loadOnly: [],
  } as Record<string, number[]>;
  const note = (name: keyof typeof times, milliseconds: number): void => {
    times[name]?.push(milliseconds);
    say(`  ${name} ${(milliseconds / 1000).toFixed(2)} s`);
  };
  let rss = 0;
  let last: WorkerReport | undefined;
  for (let run = 0; run < runs; run += 1) {
    await settle(own);
    note(
      'theirs',
      await shell(`${own.tool('pg_dump')} -Fc -Z0 ${url} | zstd -3 -T0 -q | age -r ${recipient} > ${dump}`),
    );
    for (const integrityCheck of [false, true]) {
      await rm(storage, { recursive: true, force: true });
      await settle(own);
      last = await worker({ ...order, action: 'BACKUP', integrityCheck });
      rss = Math.max(rss, last.rssMb);
      note(integrityCheck ? 'checked' : 'trusted', last.milliseconds);
    }
    await settle(own);
    note(
      'floor',
      await shell(
        `${own.tool('psql')} -qAt -v ON_ERROR_STOP=1 ${url} -f ${join(own.folder, 'floor.sql')} > /dev/null`,
      ),
    );
  }
  const stored = last?.storedBytes ?? 0;
  const theirSize = (await stat(dump)).size;
  for (let run = 0; run < runs && !options['skip-restore']; run += 1) {
    await recreate(own, 'theirs');
    await settle(own);
    const target = `postgresql://postgres@127.0.0.1:${own.port}/theirs`;
    note(
      'theirRestore',
      await shell(`age -d -i ${identity} ${dump} | zstd -dq | ${own.tool('pg_restore')} -d ${target}`),
    );
    await recreate(own, 'theirs');
    for (const validate of [true, false]) {
      await query(own, 'platform', 'DROP SCHEMA IF EXISTS restored CASCADE');
      await settle(own);
      const report = await worker({
        ...order,
        action: 'RESTORE',
        validate,
        snapshotId: last?.snapshotId ?? '',
      });
      rss = Math.max(rss, report.rssMb);
      note(validate ? 'restore' : 'loadOnly', report.milliseconds);
    }
  }
  const at = (name: string): number => median(times[name] ?? []);
  const ratio = (ours: string, theirs: string): number | null =>
    at(theirs) > 0 ? round(at(ours) / at(theirs)) : null;
  const result = {
    rows,
    backupRatio: ratio('trusted', 'theirs'),
    backupCheckedRatio: ratio('checked', 'theirs'),
    restoreRatio: ratio('restore', 'theirRestore'),
    restoreUnvalidatedRatio: ratio('loadOnly', 'theirRestore'),
    floorRatio: ratio('trusted', 'floor'),
    sizeRatio: round(stored / theirSize),
    rssMb: Math.round(rss),
    incrementalRatio: null,
  };
  table([
    ['rows in all', String(last?.rows ?? 0)],
    ['raw', `${((last?.rawBytes ?? 0) / 1e6).toFixed(0)} MB`],
    [
      'stored, ours / theirs',
      `${(stored / 1e6).toFixed(0)} / ${(theirSize / 1e6).toFixed(0)} MB (${result.sizeRatio})`,
    ],
    ['pg_dump | zstd | age', seconds(at('theirs'))],
    ['backup, check off', `${seconds(at('trusted'))} (${result.backupRatio})`],
    ['backup, check on', `${seconds(at('checked'))} (${result.backupCheckedRatio})`],
    ['COPY of every table to /dev/null', `${seconds(at('floor'))} (${result.floorRatio})`],
    ['rows per second, check off', String(Math.round(((last?.rows ?? 0) * 1000) / at('trusted')))],
    ['age | zstd | pg_restore', seconds(at('theirRestore'))],
    ['restore, validated', `${seconds(at('restore'))} (${result.restoreRatio})`],
    ['restore, counts only', `${seconds(at('loadOnly'))} (${result.restoreUnvalidatedRatio})`],
    ['restore into existing tables', 'comes with a later version'],
    ['peak RSS of the worker', `${result.rssMb} MB`],
  ]);
  if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
}

async function prepare(own: BenchServer): Promise<void> {
  await query(own, 'postgres', 'CREATE DATABASE platform');
  await query(own, 'postgres', 'CREATE DATABASE metadata');
  const connection = { host: '127.0.0.1', port: own.port, user: 'postgres', database: 'platform' };
  const client = new pg.Client(connection);
  await client.connect();
  await createSchema(client);
  say('Generating the platform');
  await generatePlatform(connection, { seed: 1, organizations: 1, visits: rows });
  await client.query('VACUUM ANALYZE');
  const tables = await client.query<{ name: string }>(
    `SELECT c.oid::regclass::text AS name FROM pg_class c
      WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'`,
  );
  await client.end();
  await writeFile(
    join(own.folder, 'floor.sql'),
    tables.rows.map(({ name }) => `COPY ${name} TO STDOUT;\n`).join(''),
  );
}

async function ageKey(own: BenchServer): Promise<{ recipient: string; identity: string }> {
  const identity = join(own.folder, 'age.txt');
  await promisify(execFile)('age-keygen', ['-o', identity]);
  const { stdout } = await promisify(execFile)('age-keygen', ['-y', identity]);
  return { identity, recipient: stdout.trim() };
}

/** Nobody pays for what another's run left to be written. */
async function settle(own: BenchServer): Promise<void> {
  await query(own, 'postgres', 'CHECKPOINT');
  await promisify(execFile)('sync');
}

async function recreate(own: BenchServer, database: string): Promise<void> {
  await query(own, 'postgres', `DROP DATABASE IF EXISTS ${database}`);
  await query(own, 'postgres', `CREATE DATABASE ${database}`);
}

async function query(own: BenchServer, database: string, sql: string): Promise<void> {
  const client = new pg.Client({ host: '127.0.0.1', port: own.port, user: 'postgres', database });
  await client.connect();
  await client.query(sql).finally(() => client.end());
}

function shell(command: string): Promise<number> {
  const began = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn('bash', ['-o', 'pipefail', '-c', command], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    child.on('error', reject);
    child.on('exit', (code) =>
      code === 0 ? resolve(performance.now() - began) : reject(new Error(`${command} ended with ${code}`)),
    );
  });
}

async function worker(order: WorkerOrder): Promise<WorkerReport> {
  const file = join(import.meta.dirname, 'backup-worker.ts');
  const { stdout } = await promisify(execFile)(process.execPath, [file, JSON.stringify(order)]);
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as WorkerReport;
}

function table(lines: readonly (readonly [string, string])[]): void {
  for (const [name, value] of lines) process.stdout.write(`${name.padEnd(36)} ${value}\n`);
}
