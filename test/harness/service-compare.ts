import type pg from 'pg';
import { entities } from '../../examples/care-platform/entities.ts';

/** Which rows of a table are an organization's, `t` being the table and $1 the organization. */
function ofOrganization(table: string): string {
  if (table === 'service_codes') return 'true';
  if (table === 'organizations') return 't.id = $1::uuid';
  if (table === 'tasks') {
    return 'EXISTS (SELECT 1 FROM public.care_plans o WHERE o.id = t.care_plan_id AND o.organization_id = $1::uuid)';
  }
  return 't.organization_id = $1::uuid';
}

const tableOf = (type: string): string => entities.find((entity) => entity.type === type)?.table ?? type;

export interface Comparison {
  readonly organization: string;
  /** The schema that was restored. */
  readonly schema: string;
  /** Entity types; all when left out. */
  readonly types?: readonly string[];
  /** Narrows the original rows further, by table: a condition on `t`. */
  readonly only?: Readonly<Record<string, string>>;
}

/**
 * Tables whose restored rows are not exactly the original ones, with both counts and the number of rows that differ:
 * joined by primary key and compared with `*=`, every byte of every column. Types of the platform, which a restore makes
 * anew, are compared as text.
 */
export async function differingTables(pool: pg.Pool, comparison: Comparison): Promise<string[]> {
  const found: string[] = [];
  for (const type of comparison.types ?? entities.map((entity) => entity.type)) {
    const table = tableOf(type);
    const verdict = await compareTable(pool, table, comparison);
    if (verdict !== undefined) found.push(verdict);
  }
  return found;
}

async function compareTable(
  pool: pg.Pool,
  table: string,
  { organization, schema, only = {} }: Comparison,
): Promise<string | undefined> {
  const columns = await pool.query<{ name: string; own: boolean; key: boolean }>(
    `SELECT quote_ident(a.attname) AS name, coalesce(e.typnamespace, t.typnamespace) <> 'pg_catalog'::regnamespace AS own,
            a.attnum = ANY (i.indkey) AS key
       FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
       LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
       JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
      WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`,
    [`public.${table}`],
  );
  const row = (alias: string): string =>
    `ROW(${columns.rows.map(({ name, own }) => `${alias}.${name}${own ? '::text' : ''}`).join(', ')})::record`;
  const on = columns.rows
    .filter(({ key }) => key)
    .map(({ name }) => `l.${name} = r.${name}`)
    .join(' AND ');
  const { rows } = await pool.query<{ here: string; there: string; differing: string }>(
    `SELECT count(l.tableoid) AS here, count(r.tableoid) AS there,
            count(*) FILTER (WHERE l.tableoid IS NULL OR r.tableoid IS NULL OR NOT (${row('l')} *= ${row('r')})) AS differing
       FROM (SELECT t.tableoid, t.* FROM public.${table} t
              WHERE $1::uuid IS NOT NULL AND ${ofOrganization(table)} AND ${only[table] ?? 'true'}) l
       FULL JOIN (SELECT t.tableoid, t.* FROM "${schema}".${table} t) r ON ${on}`,
    [organization],
  );
  const [counts] = rows;
  if (counts === undefined) return `${table}: not compared`;
  if (counts.differing === '0' && counts.here === counts.there) return undefined;
  return `${table}: ${counts.here} rows, restored ${counts.there}, ${counts.differing} differ`;
}

/** The schemas that restores left hidden. */
export async function hiddenSchemas(pool: pg.Pool): Promise<string[]> {
  const { rows } = await pool.query<{ name: string }>(
    "SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'care_backup_restoring_%'",
  );
  return rows.map((row) => row.name);
}

export async function schemaThere(pool: pg.Pool, name: string): Promise<boolean> {
  const { rowCount } = await pool.query('SELECT 1 FROM pg_namespace WHERE nspname = $1', [name]);
  return (rowCount ?? 0) > 0;
}
