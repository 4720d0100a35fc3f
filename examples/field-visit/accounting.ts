import type pg from 'pg';
import type { Json, OperationState, SyncConflict } from '../../src/index.ts';
import type { Edit } from './device.ts';

const TABLES: Readonly<Record<string, string>> = {
  Visit: 'visits',
  EVVRecord: 'evv_records',
  Note: 'notes',
};

/** Where edits that the server acknowledged have gone, value by value. */
export interface Account {
  readonly inRow: number;
  readonly inConflict: number;
  readonly superseded: number;
  /** `<entity type>/<column>` of what is nowhere. */
  readonly lost: readonly string[];
}

export async function accountFor(
  database: Pick<pg.Pool, 'query'>,
  edits: readonly (Edit & { readonly state: OperationState | undefined })[],
  conflicts: readonly SyncConflict[],
): Promise<Account> {
  const rows = await rowsOf(database, edits);
  const account = { inRow: 0, inConflict: 0, superseded: 0 };
  const lost: string[] = [];
  for (const { entityType, entityId, payload, state } of edits) {
    for (const [column, value] of Object.entries(payload)) {
      if (same(rows.get(entityId)?.[column], value)) account.inRow += 1;
      else if (isInConflict(conflicts, entityId, column, value)) account.inConflict += 1;
      else if (state?.superseded.includes(`/${column}`)) account.superseded += 1;
      else lost.push(`${entityType}/${column}`);
    }
  }
  return { ...account, lost };
}

async function rowsOf(database: Pick<pg.Pool, 'query'>, edits: readonly Edit[]) {
  const found = new Map<string, { readonly [column: string]: Json }>();
  for (const [type, table] of Object.entries(TABLES)) {
    const ids = edits.filter(({ entityType }) => entityType === type).map(({ entityId }) => entityId);
    const { rows } = await database.query<{ id: string; row: { [column: string]: Json } }>(
      `SELECT id, to_jsonb(t) AS row FROM ${table} t WHERE id = ANY ($1)`,
      [ids],
    );
    for (const { id, row } of rows) found.set(id, row);
  }
  return found;
}

/** Both sides of a conflict are kept: also what the other device had written. */
function isInConflict(
  conflicts: readonly SyncConflict[],
  entityId: string,
  column: string,
  value: Json,
): boolean {
  return conflicts
    .filter((conflict) => conflict.entityId === entityId)
    .flatMap(({ conflictingFields }) => conflictingFields)
    .some(
      ({ path, clientValue, serverValue }) =>
        path === `/${column}` && (same(clientValue, value) || same(serverValue, value)),
    );
}

/** A moment is the same however it is written. */
function same(found: Json | undefined, value: Json): boolean {
  if (found === value) return true;
  const isMoment = typeof value === 'string' && /^\d{4}-\d{2}-\d{2}T/.test(value);
  return isMoment && typeof found === 'string' && Date.parse(found) === Date.parse(value);
}
