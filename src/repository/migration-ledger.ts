import { readdir } from 'node:fs/promises';
import { DataProtectionError } from '../types/errors.ts';
import { qualify } from './schema-name.ts';

/** The table in the library's schema that holds the names of the migrations that have run. */
export const LEDGER_TABLE = 'migrations';

/** Anything that runs SQL: a pool or a connected client of pg. */
export interface Queryable {
  query(
    text: string,
    values?: readonly unknown[],
  ): Promise<{ readonly rows: readonly Record<string, unknown>[] }>;
}

/** How the database stands against the migrations of this version. */
export interface SchemaState {
  readonly schemaExists: boolean;
  /** In the order in which they must run. */
  readonly pending: readonly string[];
  /** In the ledger, but not among this version's: made by a newer one. */
  readonly unknown: readonly string[];
  readonly applied: readonly string[];
}

/** The names of the migrations in a directory, in order. */
export async function migrationNames(directory: string): Promise<readonly string[]> {
  const files = await readdir(directory);
  return files
    .filter((file) => /^\d+_.*\.sql$/.test(file))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}

export async function readSchemaState(
  connection: Queryable,
  schema: string,
  known: readonly string[],
): Promise<SchemaState> {
  const found = await connection.query(
    `SELECT (SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = $1)::text AS schemas,
            (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r')::text AS ledgers`,
    [schema, LEDGER_TABLE],
  );
  const schemaExists = found.rows[0]?.schemas === '1';
  const applied = found.rows[0]?.ledgers === '1' ? await readLedger(connection, schema) : [];
  return {
    schemaExists,
    applied,
    pending: known.filter((name) => !applied.includes(name)),
    unknown: applied.filter((name) => !known.includes(name)),
  };
}

/** Throws SCHEMA_NEWER where the ledger holds migrations that this version does not know. */
export function refuseNewer(state: SchemaState, schema: string): void {
  if (state.unknown.length === 0) return;
  throw new DataProtectionError(
    `The schema ${schema} was made by a newer version of the library (${state.unknown.join(', ')})`,
    'SCHEMA_NEWER',
  );
}

async function readLedger(connection: Queryable, schema: string): Promise<string[]> {
  const { rows } = await connection.query(
    `SELECT name::text AS name FROM ${qualify(schema, LEDGER_TABLE)} ORDER BY id`,
  );
  return rows.map((row) => String(row.name));
}
