import type pg from 'pg';
import { selectRows } from '../postgres/rows.ts';

/** What the meaning of COPY's output hangs on and no lock on the tables holds. */
export interface Unlocked {
  /** `pg_type` oids of the columns. */
  readonly types: readonly number[];
  /** Schemas by whose names the tables are reached. */
  readonly schemas: readonly string[];
}

/**
 * The row versions of the catalog behind the types and names, one per line: equal in two snapshots exactly if nobody
 * altered one in between, not even there and back. COPY writes types by the newest catalog (ALTER TYPE ... RENAME
 * VALUE changes its output in mid-transaction) and finds tables by it (after ALTER SCHEMA ... RENAME another table may
 * stand under the name). Types are followed into everything that they are made of, row types of tables included.
 */
export async function catalogVersions(
  client: pg.ClientBase,
  { types, schemas }: Unlocked,
): Promise<readonly string[]> {
  const rows = await selectRows<{ version: string }>(client, VERSIONS, [[...types], [...schemas]]);
  return rows.map((row) => row.version);
}

/** Oids below 16384 (FirstNormalObjectId) are PostgreSQL's own. */
const VERSIONS = `
  WITH RECURSIVE used(oid) AS (
    SELECT unnest($1::oid[])
    UNION
    SELECT p.oid FROM used u CROSS JOIN LATERAL (
      SELECT t.typelem AS oid FROM pg_catalog.pg_type t WHERE t.oid = u.oid
      UNION ALL SELECT t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = u.oid
      UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE u.oid IN (r.rngtypid, r.rngmultitypid)
      UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = u.oid
      UNION ALL SELECT a.atttypid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid
                 WHERE t.oid = u.oid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) p WHERE p.oid <> 0
  ), own AS (
    SELECT t.oid, t.xmin, t.typrelid, n.nspname || '.' || t.typname AS name
      FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     WHERE t.oid >= 16384
  ), versions(kind, name, part, xmin) AS (
    SELECT 'type', name, oid::text, xmin FROM own
    UNION ALL SELECT 'type', o.name, 'value ' || e.oid, e.xmin FROM own o JOIN pg_catalog.pg_enum e ON e.enumtypid = o.oid
    UNION ALL SELECT 'type', o.name, 'constraint ' || c.oid, c.xmin FROM own o JOIN pg_catalog.pg_constraint c ON c.contypid = o.oid
    UNION ALL SELECT 'type', o.name, 'range', r.xmin FROM own o JOIN pg_catalog.pg_range r ON r.rngtypid = o.oid
    UNION ALL SELECT 'type', o.name, 'attribute ' || a.attnum, a.xmin
                FROM own o JOIN pg_catalog.pg_attribute a ON a.attrelid = o.typrelid AND a.attnum > 0 WHERE o.typrelid <> 0
    UNION ALL SELECT 'schema', n.nspname, n.oid::text, n.xmin FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY($2::text[])
  )
  SELECT kind || ' ' || name || ': ' || part || ' ' || xmin AS version FROM versions ORDER BY 1`;

/** Which types and schemas differ between two readings, for a message. */
export function alteredBetween(before: readonly string[], after: readonly string[]): string[] {
  const one = new Set(before);
  const other = new Set(after);
  const differing = [...before.filter((line) => !other.has(line)), ...after.filter((line) => !one.has(line))];
  return [...new Set(differing.map((line) => line.slice(0, line.lastIndexOf(': '))))];
}
