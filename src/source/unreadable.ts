import type pg from 'pg';
import { CopyInterrupted, copyOut } from '../postgres/copy-out.ts';
import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { ResolvedEntity } from './entity-catalog.ts';
import type { ExtractionRun } from './runs.ts';
import { ROW_ALIAS } from './scope.ts';

/**
 * Finds the row that a COPY stopped at: the one behind the last row that arrived, by the same plan under the same
 * snapshot, if it fails by itself too. Named by its key, or by its place where the key itself is protected data.
 * `client` is a fresh session with the snapshot imported. The error is returned; rejects where there is no such row.
 */
export async function nameUnreadableRow(
  client: pg.Client,
  run: ExtractionRun,
  entity: ResolvedEntity,
  rowsRead: number,
  cause: unknown,
): Promise<DataProtectionError> {
  // Without it the planner prefers plans that give the first rows early, in another order than the COPY's.
  await client.query('SET LOCAL cursor_tuple_fraction = 1');
  await client.query(
    `DECLARE unreadable NO SCROLL CURSOR FOR SELECT ${ROW_ALIAS}.tableoid, ${ROW_ALIAS}.ctid ${run.from}`,
  );
  await client.query(`MOVE ${rowsRead} IN unreadable`);
  const { rows } = await client.query<[string, string]>({
    text: 'FETCH 1 FROM unreadable',
    rowMode: 'array',
    types: { getTypeParser: () => String },
  });
  const [relation, ctid] = rows[0] ?? [];
  if (relation === undefined || ctid === undefined) throw new Error('No row follows');
  const [place] = await selectRows<{ name: string }>(client, 'SELECT $1::oid::regclass::text AS name', [
    relation,
  ]);
  const row = `FROM ONLY ${place?.name} ${ROW_ALIAS} WHERE ${ROW_ALIAS}.ctid = ${quoteLiteral(ctid)}::tid`;
  const key = await keyOf(client, row, entity);
  const stored = `stored at ${place?.name} ${ctid}`;
  if (await exports(client, `COPY (SELECT ${run.columns} ${row}) TO STDOUT`))
    throw new Error('The row is well');
  return new DataProtectionError(
    `PostgreSQL cannot export a row of ${tableOf(entity)}: ${key === null ? stored : `key ${key}, ${stored}`}`,
    'SOURCE_ROW_UNREADABLE',
    { cause },
  );
}

/** Where the row itself could not be found. */
export const unreadableRow = (
  entity: ResolvedEntity,
  rowsRead: number,
  cause: unknown,
): DataProtectionError =>
  new DataProtectionError(
    `PostgreSQL cannot export a row of ${tableOf(entity)}, after ${rowsRead} others of its range`,
    'SOURCE_ROW_UNREADABLE',
    { cause },
  );

/** Types of keys that say nothing about a person by themselves. */
const ARTIFICIAL = new Set(['uuid', 'smallint', 'integer', 'bigint']);

/** null where the key is protected data, or cannot be read itself. */
async function keyOf(client: pg.ClientBase, row: string, entity: ResolvedEntity): Promise<string | null> {
  const classes = entity.definition.classification?.columns ?? {};
  const { phi, pii } = entity.definition.classification ?? {};
  const told = entity.key.every((column) => {
    const own = classes[column];
    if (own?.phi === true || own?.pii === true) return false;
    const natural = !ARTIFICIAL.has(entity.table.columns.get(column)?.type ?? '');
    return !(natural && (phi === true || pii === true));
  });
  if (!told) return null;
  const parts = entity.key.map(
    (column) =>
      `${quoteLiteral(`${quoteIdent(column)} `)} || pg_catalog.quote_nullable(${ROW_ALIAS}.${quoteIdent(column)}::text)`,
  );
  if (parts.length === 0) return null;
  await client.query('SAVEPOINT key');
  try {
    const [found] = await selectRows<{ key: string }>(
      client,
      `SELECT ${parts.join(` || ', ' || `)} AS key ${row}`,
    );
    return found?.key ?? null;
  } catch {
    await client.query('ROLLBACK TO SAVEPOINT key');
    return null;
  }
}

async function exports(client: pg.Client, sql: string): Promise<boolean> {
  const buffer = Buffer.alloc(1024 * 1024);
  try {
    await copyOut(client, sql, {
      acquire: () => Promise.resolve(buffer),
      release: () => undefined,
      add: () => undefined,
    });
    return true;
  } catch (error) {
    if (error instanceof CopyInterrupted && error.by === 'SERVER') return false;
    throw error;
  }
}

const tableOf = ({ table }: ResolvedEntity): string => `${table.root.schema}.${table.root.name}`;
