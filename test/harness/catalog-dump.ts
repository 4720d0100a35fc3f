import type pg from 'pg';

/** Everything that makes up a schema, one object per line, without oids and without the schema's own name. */
const DUMP = `
WITH s AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)
SELECT line FROM (
  SELECT format('relation %s %s %s', c.relname, c.relkind, c.relpersistence) AS line
    FROM pg_catalog.pg_class c WHERE c.relnamespace = (SELECT oid FROM s)
  UNION ALL
  SELECT format('column %s.%s %s %s %s %s %s', c.relname, a.attnum, a.attname,
           pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
           pg_catalog.pg_get_expr(d.adbin, d.adrelid))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
   WHERE c.relnamespace = (SELECT oid FROM s) AND NOT a.attisdropped
  UNION ALL
  SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_catalog.pg_get_constraintdef(oid))
    FROM pg_catalog.pg_constraint WHERE connamespace = (SELECT oid FROM s)
  UNION ALL
  SELECT format('index %s', pg_catalog.pg_get_indexdef(c.oid))
    FROM pg_catalog.pg_class c WHERE c.relnamespace = (SELECT oid FROM s) AND c.relkind = 'i'
  UNION ALL
  SELECT format('trigger %s %s', pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled)
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
   WHERE c.relnamespace = (SELECT oid FROM s) AND NOT t.tgisinternal
  UNION ALL
  SELECT format('function %s', pg_catalog.pg_get_functiondef(p.oid))
    FROM pg_catalog.pg_proc p WHERE p.pronamespace = (SELECT oid FROM s)
) AS lines ORDER BY line COLLATE "C"`;

/** The catalog of a schema in a form that two schemas, or two moments, can be compared by. */
export async function catalogDump(pool: pg.Pool, schema: string): Promise<string[]> {
  const { rows } = await pool.query<{ line: string }>(DUMP, [schema]);
  return rows.map((row) => row.line.replaceAll(new RegExp(`"?\\b${schema}\\b"?`, 'g'), '<schema>'));
}
