import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { inject } from 'vitest';
import { databaseUrl, quoteIdentifier } from './database-url.ts';
import { type EmbeddedPostgresServer, startEmbeddedPostgres } from './embedded-postgres.ts';

declare module 'vitest' {
  interface ProvidedContext {
    postgres: { readonly url: string; readonly template: string; readonly prefix: string };
  }
}

/** A database for one file or test. */
export interface TestDatabase extends AsyncDisposable {
  readonly url: string;
  readonly name: string;
  /** Superuser (or the role of TEST_DATABASE_URL), up to 20 connections; ended with the database. */
  readonly pool: pg.Pool;
}

/** Serialises `CREATE DATABASE ... TEMPLATE` over all test processes. */
const CLONE_LOCK = 7_331_204;
let made = 0;

/**
 * Makes a database of its own on the run's server: a clone of the migrated template (schema `care_backup`), or an
 * empty one with `{ migrated: false }`. Dropped on disposal.
 *
 * @example
 * await using database = await createTestDatabase();
 * await database.pool.query('SELECT 1');
 */
export async function createTestDatabase(
  options: { readonly migrated?: boolean } = {},
): Promise<TestDatabase> {
  const { url: serverUrl, template, prefix } = inject('postgres');
  made += 1;
  const name = `${prefix}${process.pid}_${made}`;
  const source = (options.migrated ?? true) ? template : 'template0';
  await onServer(serverUrl, async (client) => {
    await client.query('SELECT pg_advisory_lock($1)', [CLONE_LOCK]);
    await client.query(`CREATE DATABASE ${quoteIdentifier(name)} TEMPLATE ${quoteIdentifier(source)}`);
  });
  const url = databaseUrl(serverUrl, name);
  const pool = new pg.Pool({ connectionString: url, max: 20 });
  pool.on('error', () => {});
  return {
    url,
    name,
    pool,
    [Symbol.asyncDispose]: async () => {
      await pool.end();
      await onServer(serverUrl, async (client) => {
        await othersGone(client, name);
        await client.query(`DROP DATABASE IF EXISTS ${quoteIdentifier(name)} WITH (FORCE)`);
      });
    },
  };
}

/**
 * Starts a further, private server for a test that kills or misconfigures it. `settings` are server settings,
 * such as `{ wal_level: 'logical' }`. Stopped on disposal.
 */
export async function startPostgres(
  options: { readonly settings?: Readonly<Record<string, string>> } = {},
): Promise<EmbeddedPostgresServer> {
  return startEmbeddedPostgres(options);
}

/** A connection that was ended takes a moment to go; one that is cut off meanwhile makes an error nobody listens to. */
async function othersGone(client: pg.Client, database: string): Promise<void> {
  for (let tries = 0; tries < 50; tries += 1) {
    const { rowCount } = await client.query('SELECT FROM pg_stat_activity WHERE datname = $1', [database]);
    if (rowCount === 0) return;
    await sleep(20);
  }
}

async function onServer(url: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
