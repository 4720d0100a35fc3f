import type pg from 'pg';

/** Values as the server writes them: whatever type parsers the host has set in `pg.types` are passed by. */
const AS_SENT: pg.CustomTypesConfig = { getTypeParser: () => (value: string | Buffer) => String(value) };

/**
 * Rows of a catalog query as plain JSON values, whatever type parsers the host has set in `pg.types`.
 * `T` is the shape that the statement spells out: int, text, bool, null, arrays of them; bigints are cast to text.
 */
export async function selectRows<T>(
  client: pg.ClientBase,
  sql: string,
  values: readonly unknown[] = [],
): Promise<T[]> {
  const rows = await selectText(client, `SELECT pg_catalog.to_json(q)::text FROM (${sql}) AS q`, values);
  return rows.map((row) => JSON.parse(row) as T);
}

/** The only column of a statement's rows, as text. */
export async function selectText(
  client: pg.ClientBase,
  text: string,
  values: readonly unknown[] = [],
): Promise<string[]> {
  const result = await client.query<[string]>({
    text,
    values: [...values],
    rowMode: 'array',
    types: AS_SENT,
  });
  return result.rows.map(([value]) => value);
}
