import type pg from 'pg';
import { quoteLiteral } from '../postgres/quote.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { restoreError } from './errors.ts';
import { execute } from './execute.ts';
import type { LiveColumn } from './live-tables.ts';
import type { RestoreRecords } from './restore.ts';
import { type StagedEntity, sameKey, unqualified } from './staged-entity.ts';

/**
 * A value as the server writes it; NULL stays NULL. Unlike a cast to text it is never shortened. IS NOT NULL would be false of a
 * composite one of whose fields is NULL.
 */
const written = (column: LiveColumn, alias: string): string =>
  `CASE WHEN ${alias}.${column.sql} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', ${alias}.${column.sql}) END`;

const array = (columns: readonly LiveColumn[], alias: string): string =>
  `ARRAY[${columns.map((column) => written(column, alias)).join(', ')}]::text[]`;

/** All columns that a row is made of: also those that the archive does not hold. */
const storedColumns = (one: StagedEntity): LiveColumn[] =>
  [...one.table.columns.values()].filter((column) => column.generated === null);

const beforeTable = (one: StagedEntity): string => `${one.changes.slice(0, -1)}_before"`;

/** Notes the rows as they stand, before anything is written. */
export async function keepBefore(client: pg.Client, one: StagedEntity): Promise<void> {
  const key = one.key.map(({ sql }) => `c.${sql}`).join(', ');
  await execute(client, {
    doing: `Noting the rows of ${one.entity.type} as they are`,
    sql:
      `CREATE TEMPORARY TABLE ${unqualified(beforeTable(one))} ON COMMIT DROP AS SELECT ${key}, ${array(storedColumns(one), 't')} AS care_before ` +
      `FROM ${one.changes} c JOIN ${one.table.name} t ON ${sameKey(one, 't', 'c')} WHERE c.care_op IN ('UPDATE', 'DELETE')`,
  });
}

/**
 * Stores what each row that is to be changed was, and the version that it will have: that of this transaction. Rows that a
 * trigger writes in a transaction within it get another, and are then taken for written by somebody else.
 */
export async function storeImages(
  client: pg.Client,
  { id, organizationId }: { readonly id: UUID; readonly organizationId: UUID },
  records: RestoreRecords,
  staged: readonly StagedEntity[],
): Promise<void> {
  for (const one of staged) {
    const columns = storedColumns(one);
    const names = columns.map(({ name }) => quoteLiteral(name)).join(', ');
    const key = one.key.map(({ name }) => quoteLiteral(name)).join(', ');
    const { entity } = one;
    const of = [entity.table.schema, entity.table.name];
    try {
      await client.query(
        `INSERT INTO ${records.tables} (organization_id, restore_id, position, entity_type, schema_name, table_name, columns, key)
         SELECT $5, $1, (SELECT count(*) FROM ${records.tables} WHERE restore_id = $1), $4, $2, $3, ARRAY[${names}]::text[], ARRAY[${key}]::text[]
         ON CONFLICT (restore_id, schema_name, table_name) DO NOTHING`,
        [id, ...of, entity.type, organizationId],
      );
      await requireSameColumns(client, id, records, one, names);
      await client.query(
        `INSERT INTO ${records.images} (organization_id, restore_id, position, key, before, version)
         SELECT $4, $1, (SELECT position FROM ${records.tables} WHERE restore_id = $1 AND schema_name = $2 AND table_name = $3),
                ${array(one.key, 'c')}, b.care_before, CASE WHEN c.care_op <> 'DELETE' THEN pg_catalog.pg_current_xact_id()::xid::text::bigint END
           FROM ${one.changes} c LEFT JOIN ${beforeTable(one)} b ON ${sameKey(one, 'b', 'c')}
          WHERE c.care_op IN ('INSERT', 'UPDATE', 'DELETE')
         ON CONFLICT (restore_id, position, key) DO UPDATE SET version = EXCLUDED.version`,
        [id, ...of, organizationId],
      );
    } catch (error) {
      throw restoreError(error, `Storing what the rows of ${entity.type} were`);
    }
  }
}

/** What a decision changes is kept beside what the restore has kept, column by column. */
async function requireSameColumns(
  client: pg.Client,
  restoreId: UUID,
  records: RestoreRecords,
  { entity }: StagedEntity,
  names: string,
): Promise<void> {
  const { rows } = await client.query(
    `SELECT FROM ${records.tables} WHERE restore_id = $1 AND schema_name = $2 AND table_name = $3 AND columns = ARRAY[${names}]::text[]`,
    [restoreId, entity.table.schema, entity.table.name],
  );
  if (rows.length > 0) return;
  throw new DataProtectionError(
    `The columns of ${entity.type} have changed since the restore: restore the row anew`,
    'RESTORE_TARGET_INCOMPATIBLE',
  );
}

/** How many conflicts a restore may leave to people. */
const MOST_CONFLICTS = 10_000;

/** Stores the conflicts with both rows as text. `RESTORE_TOO_MANY_CONFLICTS`. */
export async function storeConflicts(
  client: pg.Client,
  restore: { readonly id: UUID; readonly organizationId: UUID; readonly detectedAt: string },
  records: RestoreRecords,
  staged: readonly StagedEntity[],
): Promise<number> {
  let stored = 0;
  for (const one of staged) {
    const { entity, table, stage, changes, columns } = one;
    const names = `ARRAY[${columns.map(({ name }) => quoteLiteral(name)).join(', ')}]::text[]`;
    const { rowCount } = await client
      .query(
        `INSERT INTO ${records.conflicts} (organization_id, restore_id, entity_type, record_id, kind, fields, detail, columns, backup, existing, version, status, detected_at)
         SELECT $1, $2, $3, ${recordId(one, 'c')}, c.care_conflict, COALESCE(c.care_fields, '{}'), c.care_detail, ${names},
                CASE WHEN s.${one.key[0]?.sql} IS NOT NULL THEN ${array(columns, 's')} END,
                CASE WHEN t.${one.key[0]?.sql} IS NOT NULL AND c.care_conflict <> 'OUT_OF_SCOPE' THEN ${array(columns, 't')} END,
                t.xmin::text::bigint, 'PENDING', $4
           FROM ${changes} c LEFT JOIN ${stage} s ON ${sameKey(one, 's', 'c')} LEFT JOIN ${table.name} t ON ${sameKey(one, 't', 'c')}
          WHERE c.care_conflict IS NOT NULL LIMIT ${MOST_CONFLICTS + 1}`,
        [restore.organizationId, restore.id, entity.type, restore.detectedAt],
      )
      .catch((error: unknown) => {
        throw restoreError(error, `Storing the conflicts of ${entity.type}`);
      });
    stored += rowCount ?? 0;
    if (stored > MOST_CONFLICTS) {
      throw new DataProtectionError(
        `More than ${MOST_CONFLICTS} rows are in conflict: choose another strategy, or restore less at a time`,
        'RESTORE_TOO_MANY_CONFLICTS',
      );
    }
  }
  return stored;
}

/** The id under which people and devices know a row: the key's text, or a JSON array of texts for a composite one. */
function recordId({ key }: Pick<StagedEntity, 'key'>, alias: string): string {
  const [only] = key;
  if (key.length === 1 && only !== undefined) return written(only, alias);
  return `pg_catalog.array_to_json(${array(key, alias)})::text`;
}
