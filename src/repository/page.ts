import type { ListInput, Page } from '../types/backup.ts';
import { ValidationError } from '../types/errors.ts';
import { isUuid } from '../utils/uuid.ts';
import type { RawRow } from './database.ts';
import type { Parameters } from './row-mapping.ts';
import { type BoundScope, scoped } from './scope.ts';

const DEFAULT_LIMIT = 50;
const MAX_LIMIT = 1000;

/** The tables that are listed newest first, by `ordinal`. */
type ListedTable = 'backup_configurations' | 'backup_snapshots' | 'restore_operations' | 'restore_conflicts';

interface PageQuery<T> {
  readonly table: ListedTable;
  readonly selectList: string;
  /** The condition on alias `t`; it adds its parameters. */
  readonly where: (into: Parameters) => string;
  readonly decode: (row: RawRow) => T & { readonly id: string };
}

/**
 * One page, newest first. Rows that exist when the first page is read come exactly once, whatever is inserted
 * meanwhile. Throws VALIDATION_FAILED for a limit outside 1 to 1000 and for a cursor that is not one of this list's.
 */
export async function readPage<T>(
  scope: BoundScope,
  input: ListInput,
  query: PageQuery<T>,
): Promise<Page<T>> {
  const limit = input.limit ?? DEFAULT_LIMIT;
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    refuse('limit', 'Is not between 1 and 1000.', 'Write a whole number from 1 to 1000.');
  }
  const into = scoped(scope);
  const after = input.cursor === undefined ? undefined : await ordinalOf(scope, query.table, input.cursor);
  const conditions = [query.where(into)];
  if (after !== undefined) conditions.push(`t.ordinal < ${into.add(after, 'bigint')}`);
  const rows = await scope.db.query(
    `SELECT ${query.selectList} FROM ${scope.db.table(query.table)} t
      WHERE ${conditions.join(' AND ')} ORDER BY t.ordinal DESC LIMIT ${into.add(limit + 1, 'bigint')}`,
    into.values,
  );
  const items = rows.slice(0, limit).map(query.decode);
  const last = items.at(-1);
  return { items, nextCursor: rows.length > limit && last ? encodeCursor(query.table, last.id) : null };
}

function encodeCursor(table: ListedTable, id: string): string {
  return Buffer.from(`${table}:${id}`).toString('base64url');
}

/** The cursor names the last row of the page before; the ordinal itself, which spans organizations, stays inside. */
async function ordinalOf(scope: BoundScope, table: ListedTable, cursor: string): Promise<string> {
  const [name, id, ...rest] = Buffer.from(cursor, 'base64url').toString().split(':');
  if (name === table && id !== undefined && isUuid(id) && rest.length === 0) {
    const rows = await scope.db.query(
      `SELECT ordinal::text AS ordinal FROM ${scope.db.table(table)} WHERE organization_id = $1 AND id = $2`,
      [scope.organizationId, id],
    );
    const ordinal = rows[0]?.ordinal;
    if (ordinal) return ordinal;
  }
  return refuse(
    'cursor',
    'Is not a cursor of this list.',
    'Give the `nextCursor` of the page before, unchanged.',
  );
}

function refuse(path: string, message: string, remedy: string): never {
  throw new ValidationError('The paging of a list', [{ path, message, remedy }]);
}
