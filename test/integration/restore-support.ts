import type pg from 'pg';
import { createRestoreTarget } from '../../src/restore/apply.ts';
import type {
  RestorableSegment,
  RestorableSnapshot,
  RestoreTarget,
  RestoreToSchemaRequest,
} from '../../src/restore/restore.ts';
import { createPostgresSource } from '../../src/source/postgres-source.ts';
import type { RowSink } from '../../src/source/source.ts';
import type { EntityDefinition } from '../../src/types/entity.ts';
import type { Logger } from '../../src/types/logger.ts';

export const silent: Logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

export const targetOn = (url: string, logger: Logger = silent): RestoreTarget =>
  createRestoreTarget({
    connection: { connectionString: url },
    lockWaitMs: 30_000,
    clock: { now: () => new Date() },
    logger,
  });

export const ORGANIZATION = '00000000-0000-4000-8000-000000000001';

/** Keeps every segment in memory; `segmentBytes` small makes rows span segments and tables span jobs. */
export async function takeSnapshot(
  url: string,
  entities: readonly EntityDefinition[],
  options: { readonly segmentBytes?: number; readonly maxConcurrency?: number } = {},
): Promise<RestorableSnapshot> {
  const source = createPostgresSource({ connection: { connectionString: url }, entities });
  const snapshot = await source.open({
    organizationId: ORGANIZATION,
    branchIds: null,
    scope: {},
    maxConcurrency: options.maxConcurrency ?? 2,
    maxSnapshotAgeMs: 600_000,
    signal: new AbortController().signal,
  });
  const stored: { segment: RestorableSegment; bytes: Buffer }[] = [];
  const ordinals = new Map<number, number>();
  const sink: RowSink = {
    acquire: async () => Buffer.alloc(options.segmentBytes ?? 4 * 1024 * 1024),
    release: () => {},
    add: ({ part, run, buffer, length, rows, continues }) => {
      const ordinal = ordinals.get(run) ?? 0;
      ordinals.set(run, ordinal + 1);
      stored.push({
        segment: { part, run, ordinal, rawLength: length, rows, continues },
        bytes: Buffer.from(buffer.subarray(0, length)),
      });
    },
  };
  const contents = await snapshot.extract(sink, () => {});
  return {
    contents,
    segments: stored.map(({ segment }) => segment),
    read: async (index) => {
      const bytes = stored[index]?.bytes;
      if (bytes === undefined) throw new Error(`no segment ${index}`);
      return bytes;
    },
  };
}

let made = 0;
export const newId = (): string => {
  made += 1;
  return `01890000-0000-7000-8000-${(process.pid * 10_000 + made).toString(16).padStart(12, '0')}`;
};

export function request(
  snapshot: RestorableSnapshot,
  options: Partial<RestoreToSchemaRequest> = {},
): RestoreToSchemaRequest {
  return {
    restoreId: newId(),
    snapshot,
    targetSchema: 'restored',
    maxConcurrency: 2,
    validation: 'FULL',
    signal: new AbortController().signal,
    onProgress: () => {},
    ...options,
  };
}

/**
 * Rows of a table in two schemas that differ, compared by key with `*=`: every byte of every column, as stored.
 * Domains made anew are other types to `*=`, so they are compared as text.
 */
export async function differences(
  pool: pg.Pool,
  table: string,
  [here, there]: readonly [string, string],
  key: readonly string[],
): Promise<number> {
  const columns = await pool.query<{ column: string }>(
    `SELECT quote_ident(a.attname) || CASE WHEN t.typtype = 'd' THEN '::text' ELSE '' END AS column
       FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`,
    [`${here}.${table}`],
  );
  const row = (alias: string): string =>
    `ROW(${columns.rows.map(({ column }) => `${alias}.${column}`).join(', ')})::record`;
  const on = key.map((column) => `l."${column}" = r."${column}"`).join(' AND ');
  const { rows } = await pool.query<{ n: string }>(
    `SELECT count(*) AS n FROM ${here}.${table} l FULL JOIN ${there}.${table} r ON ${on} WHERE NOT (${row('l')} *= ${row('r')})`,
  );
  return Number(rows[0]?.n);
}

/** Schemas that restores left hidden. */
export async function hiddenSchemas(pool: pg.Pool): Promise<string[]> {
  const { rows } = await pool.query<{ nspname: string }>(
    "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'care_backup_restoring_%'",
  );
  return rows.map((row) => row.nspname);
}

export async function schemaExists(pool: pg.Pool, name: string): Promise<boolean> {
  return ((await pool.query('SELECT 1 FROM pg_namespace WHERE nspname = $1', [name])).rowCount ?? 0) > 0;
}
