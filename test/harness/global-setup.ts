import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { migrate } from '../../src/repository/migrate.ts';
import { databaseUrl, quoteIdentifier } from './database-url.ts';
import { startEmbeddedPostgres } from './embedded-postgres.ts';

const log = (line: string): void => console.log(line);

/**
 * One PostgreSQL for the whole run, with a migrated template database: the server that TEST_DATABASE_URL names
 * (its role needs CREATEDB), else an embedded one. Test databases that were left behind are dropped at the end.
 */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  await using undo = new AsyncDisposableStack();
  undo.defer(await shareCompiledCode());
  const given = process.env.TEST_DATABASE_URL;
  const server = given ? undefined : await startEmbeddedPostgres({ log });
  const url = given ?? server?.url ?? '';
  const run = randomBytes(4).toString('hex');
  const names = { template: given ? `care_template_${run}` : 'care_template', prefix: `care_test_${run}_` };
  if (given) log('postgres: using the server that TEST_DATABASE_URL names');

  undo.defer(async () => {
    if (server) await server.stop();
    else await dropDatabases(url, names);
  });
  await administer(url, (client) => client.query(`CREATE DATABASE ${quoteIdentifier(names.template)}`));
  await migrate({ connection: databaseUrl(url, names.template), schema: 'care_backup' });
  log(`postgres: migrated the template database ${names.template}`);
  project.provide('postgres', { url, template: names.template, prefix: names.prefix });
  const done = undo.move();
  return () => done.disposeAsync();
}

/**
 * Lets the processes that tests start share the code that Node has compiled, the types stripped from it: starting one
 * takes less than half as long. A child that is killed writes nothing unless it has called `flushCompileCache`.
 */
async function shareCompiledCode(): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), 'care-compiled-'));
  process.env.NODE_COMPILE_CACHE = folder;
  return async () => {
    delete process.env.NODE_COMPILE_CACHE;
    // Vitest's workers end meanwhile, and each writes what it has compiled.
    await rm(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  };
}

async function administer<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

async function dropDatabases(url: string, names: { template: string; prefix: string }): Promise<void> {
  await administer(url, async (client) => {
    const { rows } = await client.query<{ datname: string }>(
      'SELECT datname FROM pg_database WHERE datname = $1 OR starts_with(datname, $2)',
      [names.template, names.prefix],
    );
    for (const { datname } of rows) {
      await client.query(`DROP DATABASE IF EXISTS ${quoteIdentifier(datname)} WITH (FORCE)`);
    }
    log(`postgres: dropped ${rows.length} test databases`);
  });
}
