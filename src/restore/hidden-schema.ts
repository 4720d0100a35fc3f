import { createHash } from 'node:crypto';
import type pg from 'pg';
import { sqlState } from '../postgres/errors.ts';
import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { restoreError } from './errors.ts';

/** Where a restore loads before it renames: dead or alive, a restore owns the schema of its id. */
export const hiddenSchema = (restoreId: UUID): string => `care_backup_restoring_${withoutDashes(restoreId)}`;

/** `application_name` of the sessions of a restore, by which those that outlived their process are found. */
export const sessionName = (restoreId: UUID): string => `care-backup-restore-${withoutDashes(restoreId)}`;

/** Key of the session advisory lock that a restore holds from before its schema exists until after the rename. */
export const lockKey = (restoreId: UUID): string =>
  createHash('sha256').update(`care_backup restore ${restoreId}`).digest().readBigInt64BE(0).toString();

/** Comment on the schema of a restore that was renamed: it is done. */
const doneMarker = (restoreId: UUID): string => `care_backup: restored by ${restoreId}`;

const loadingMarker = (restoreId: UUID): string => `care_backup: restore ${restoreId} is not finished`;

const withoutDashes = (id: UUID): string => id.replaceAll('-', '');

// Two statements in one simple query are one transaction: both or neither, also where the process dies in between.

/** Takes the lock of the restore for this session. */
export async function tryLock(client: pg.ClientBase, restoreId: UUID): Promise<boolean> {
  const [row] = await selectRows<{ locked: boolean }>(
    client,
    'SELECT pg_catalog.pg_try_advisory_lock($1) AS locked',
    [lockKey(restoreId)],
  );
  return row?.locked === true;
}

export async function unlock(client: pg.ClientBase, restoreId: UUID): Promise<void> {
  await client.query('SELECT pg_catalog.pg_advisory_unlock($1)', [lockKey(restoreId)]);
}

export async function schemaExists(client: pg.ClientBase, name: string): Promise<boolean> {
  const { rows } = await client.query('SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1', [name]);
  return rows.length > 0;
}

/** The schema that the restore was renamed to, if it got that far. */
export async function findRestored(client: pg.ClientBase, restoreId: UUID): Promise<string | undefined> {
  const [row] = await selectRows<{ name: string }>(
    client,
    `SELECT n.nspname::text AS name FROM pg_catalog.pg_namespace n
      WHERE pg_catalog.obj_description(n.oid, 'pg_namespace') = $1`,
    [doneMarker(restoreId)],
  );
  return row?.name;
}

/** Errors: `RESTORE_TARGET_INCOMPATIBLE` where the role may not create schemas. */
export async function createHiddenSchema(client: pg.ClientBase, restoreId: UUID): Promise<void> {
  const schema = quoteIdent(hiddenSchema(restoreId));
  await client
    .query(
      `CREATE SCHEMA ${schema}; COMMENT ON SCHEMA ${schema} IS ${quoteLiteral(loadingMarker(restoreId))}`,
    )
    .catch((error: unknown) => {
      throw restoreError(error, 'Creating a schema');
    });
}

/**
 * The last act of a restore, in one transaction: what was loaded asynchronously is on disk when it returns.
 * Errors: `RESTORE_TARGET_EXISTS`.
 */
export async function renameHiddenSchema(
  client: pg.ClientBase,
  restoreId: UUID,
  target: string,
): Promise<void> {
  const name = quoteIdent(target);
  await client
    .query(
      `ALTER SCHEMA ${quoteIdent(hiddenSchema(restoreId))} RENAME TO ${name};
       COMMENT ON SCHEMA ${name} IS ${quoteLiteral(doneMarker(restoreId))}`,
    )
    .catch((error: unknown) => {
      // 23505: another restore renamed to it in this very moment.
      if (['42P06', '23505'].includes(sqlState(error) ?? '')) throw targetExists(target);
      throw restoreError(error, `Renaming to schema ${target}`);
    });
}

export const targetExists = (target: string): DataProtectionError =>
  new DataProtectionError(
    `Schema ${target} exists already; nothing was changed in it`,
    'RESTORE_TARGET_EXISTS',
  );

/** A transaction that drops more tables than this may run out of locks (`max_locks_per_transaction`). */
const TABLES_AT_ONCE = 200;

/** Ends what is left of the restore's sessions, then drops its hidden schema, if there is one. */
export async function dropHiddenSchema(client: pg.ClientBase, restoreId: UUID): Promise<void> {
  await endSessions(client, restoreId);
  const schema = hiddenSchema(restoreId);
  if (!(await schemaExists(client, schema))) return;
  try {
    await client.query("SELECT pg_catalog.set_config('lock_timeout', '10s', false)");
    for (;;) {
      const rows = await selectRows<{ name: string }>(
        client,
        `SELECT c.relname::text AS name FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = $1 AND c.relkind = 'r' LIMIT $2`,
        [schema, TABLES_AT_ONCE],
      );
      if (rows.length < TABLES_AT_ONCE) break;
      const tables = rows.map((row) => `${quoteIdent(schema)}.${quoteIdent(row.name)}`);
      await client.query(`DROP TABLE ${tables.join(', ')} CASCADE`);
    }
    await client.query(`DROP SCHEMA IF EXISTS ${quoteIdent(schema)} CASCADE`);
  } catch (error) {
    throw restoreError(error, `Dropping schema ${schema}`);
  }
}

/** A session in the middle of CREATE INDEX does not notice that its client is gone. */
async function endSessions(client: pg.ClientBase, restoreId: UUID): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const { rows } = await client.query(
      `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
        WHERE application_name = $1 AND datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()`,
      [sessionName(restoreId)],
    );
    if (rows.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
