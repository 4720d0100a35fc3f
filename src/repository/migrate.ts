import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { databaseError, sqlState } from '../postgres/errors.ts';
import { DataProtectionError } from '../types/errors.ts';
import {
  LEDGER_TABLE,
  migrationNames,
  type Queryable,
  readSchemaState,
  refuseNewer,
} from './migration-ledger.ts';
import { checkSchemaName, DEFAULT_SCHEMA } from './schema-name.ts';

/** The same depth below the package from `src/` and from `dist/`. */
const MIGRATIONS = fileURLToPath(new URL('../../migrations', import.meta.url));

/** Known to every process that migrates; one migration at a time per database. */
const LOCK = 4_216_007_331;

/** Settings of the migration's transaction that a host's role, database or server may have otherwise. */
const SETTINGS: Readonly<Record<string, string>> = {
  statement_timeout: '0',
  lock_timeout: '0',
  transaction_timeout: '0',
  idle_in_transaction_session_timeout: '0',
  standard_conforming_strings: 'on',
  check_function_bodies: 'on',
  row_security: 'on',
  // The ledger orders by a timestamp without zone.
  TimeZone: 'UTC',
};

export interface MigrateOptions {
  /** Connection string, client configuration, or a pool, of which one connection is used and closed. */
  readonly connection: string | pg.ClientConfig | pg.Pool;
  /** `care_backup` when left out. Made when it does not exist. */
  readonly schema?: string;
  /** Where the numbered SQL files are; the library's own when left out. */
  readonly directory?: string;
}

/**
 * Brings the library's schema to this version: everything or, on failure, nothing. Runs of several processes wait
 * for each other; a repeated run does nothing. Needs CREATE on the database, or on a schema made beforehand.
 * Resolves with the names of the migrations that it ran.
 *
 * Throws SCHEMA_NEWER, MIGRATION_FAILED, DATABASE_UNAVAILABLE, CONFIGURATION_INVALID.
 */
export function migrate(options: MigrateOptions): Promise<readonly string[]> {
  return run(options, 'up');
}

/**
 * Takes all migrations back: every table of the library goes, **with what it holds**. The schema and its empty ledger
 * stay. Throws as `migrate`.
 */
export function migrateDown(options: MigrateOptions): Promise<readonly string[]> {
  return run(options, 'down');
}

/**
 * Resolves where the schema is exactly this version's. Throws SCHEMA_MISSING (absent or older), SCHEMA_NEWER,
 * DATABASE_UNAVAILABLE.
 */
export async function assertMigrated(options: {
  readonly connection: Queryable;
  readonly schema?: string;
}): Promise<void> {
  const schema = checkSchemaName(options.schema ?? DEFAULT_SCHEMA);
  const known = await migrationNames(MIGRATIONS);
  const state = await readSchemaState(options.connection, schema, known).catch((error: unknown) => {
    throw databaseError(error, 'Reading the state of the schema');
  });
  refuseNewer(state, schema);
  if (state.pending.length > 0) {
    throw new DataProtectionError(
      `The schema ${schema} is missing ${state.pending.join(', ')}: run migrate()`,
      'SCHEMA_MISSING',
    );
  }
}

async function run(options: MigrateOptions, direction: 'up' | 'down'): Promise<readonly string[]> {
  const schema = checkSchemaName(options.schema ?? DEFAULT_SCHEMA);
  const directory = options.directory ?? MIGRATIONS;
  try {
    return await withClient(options.connection, (client) => runOn(client, { schema, directory, direction }));
  } catch (error) {
    throw toMigrationError(error);
  }
}

/**
 * One transaction from the creation of the schema to the last ledger entry. The runner's own BEGIN inside it is a
 * warning of PostgreSQL and nothing else; its COMMIT or ROLLBACK ends all of it. The lock belongs to the transaction
 * and not to the session, so that it also holds, and is given back, behind a transaction-pooling proxy.
 */
async function runOn(
  client: pg.ClientBase,
  options: { readonly schema: string; readonly directory: string; readonly direction: 'up' | 'down' },
): Promise<readonly string[]> {
  const { schema, directory, direction } = options;
  await client.query('BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE');
  try {
    await client.query(
      `SELECT pg_catalog.set_config(name, $1::jsonb ->> name, true) FROM pg_catalog.pg_settings
        WHERE name IN (SELECT pg_catalog.jsonb_object_keys($1::jsonb))`,
      [JSON.stringify({ ...SETTINGS, search_path: `${pg.escapeIdentifier(schema)}, pg_temp` })],
    );
    await client.query('SELECT pg_catalog.pg_advisory_xact_lock($1)', [LOCK]);
    const known = await migrationNames(directory);
    const state = await readSchemaState(client, schema, known);
    refuseNewer(state, schema);
    if ((direction === 'up' ? state.pending : state.applied).length === 0) {
      await client.query('ROLLBACK');
      return [];
    }
    if (!state.schemaExists) await client.query(`CREATE SCHEMA ${pg.escapeIdentifier(schema)}`);
    const { runner } = await import('node-pg-migrate');
    const ran = await runner({
      dbClient: client,
      dir: directory,
      ignorePattern: '(?!\\d+_.*\\.sql$).*',
      migrationsSchema: schema,
      migrationsTable: LEDGER_TABLE,
      direction,
      count: Number.POSITIVE_INFINITY,
      singleTransaction: true,
      noLock: true,
      logger: { debug: ignore, info: ignore, warn: ignore, error: ignore },
    });
    return ran.map((migration) => migration.name);
  } catch (error) {
    await client.query('ROLLBACK').catch(ignore);
    throw error;
  }
}

/** The connection is closed afterwards, a pool's too: its session may carry what a migration has set. */
async function withClient<T>(
  connection: MigrateOptions['connection'],
  work: (client: pg.ClientBase) => Promise<T>,
): Promise<T> {
  if (isPool(connection)) {
    const client = await connection.connect();
    client.on('error', ignore);
    try {
      return await work(client);
    } finally {
      client.release(true);
    }
  }
  const client = new pg.Client(connection);
  client.on('error', ignore);
  try {
    await client.connect();
    return await work(client);
  } finally {
    await client.end().catch(ignore);
  }
}

/** Not by `instanceof`: the host may have a copy of pg of its own. */
function isPool(connection: MigrateOptions['connection']): connection is pg.Pool {
  return typeof connection === 'object' && 'totalCount' in connection && 'connect' in connection;
}

function toMigrationError(error: unknown): DataProtectionError {
  if (error instanceof DataProtectionError) return error;
  const mapped = databaseError(error, 'Migrating');
  if (mapped.code === 'DATABASE_UNAVAILABLE') return mapped;
  const state = sqlState(error);
  const reason = state ? `PostgreSQL answered SQLSTATE ${state}` : firstLine(error);
  return new DataProtectionError(
    `Migrating the library’s schema failed, nothing was changed: ${reason}`,
    'MIGRATION_FAILED',
    {
      cause: error,
    },
  );
}

/** The runner puts stack traces into its messages. */
function firstLine(error: unknown): string {
  return error instanceof Error ? (error.message.split('\n')[0] ?? '') : 'unknown';
}

const ignore = (): void => {};
