import type pg from 'pg';
import { qualified, quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { BackupWarning } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { DescribedRelation } from './describe.ts';
import type { ResolvedEntity } from './entity-catalog.ts';
import { ROW_ALIAS, type ScopePlan } from './scope.ts';

/**
 * Makes sure that the role sees every row: no row-level security that filters, SELECT on every table and partition,
 * which reading them one by one and locking them needs. Throws `SOURCE_FILTERED` or `SOURCE_PRIVILEGE_MISSING` with
 * every table. The sessions pin `row_security = off` besides, so that PostgreSQL itself refuses a query that a policy
 * would filter.
 */
export async function refuseFiltered(client: pg.ClientBase, plan: ScopePlan): Promise<void> {
  const nodes = plan.read.flatMap(({ table }) => table.nodes);
  const rows = await selectRows<TableAccess>(
    client,
    `SELECT n.nspname || '.' || c.relname AS name, pg_catalog.row_security_active(c.oid) AS filtered,
            pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS reachable,
            pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
            ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                     AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT') ORDER BY a.attnum) AS columns
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid = ANY($1::oid[]) ORDER BY 1`,
    [nodes.map((node) => node.oid)],
  );
  const filtered = rows.filter((row) => row.filtered).map((row) => row.name);
  if (filtered.length > 0) {
    throw new DataProtectionError(
      `Row-level security filters what the backup role sees of ${filtered.join(', ')}. Give the role BYPASSRLS, or ownership without FORCE`,
      'SOURCE_FILTERED',
    );
  }
  refuse([
    ...rows.filter((row) => row.reachable === false).map((row) => `USAGE on the schema of ${row.name}`),
    ...rows.filter((row) => row.readable === false).map(selectOn),
  ]);
}

/** Makes sure that the values of the sequences can be read at the end of the run. `SOURCE_PRIVILEGE_MISSING`. */
export async function refuseHiddenSequences(
  client: pg.ClientBase,
  sequences: readonly { readonly schema: string; readonly name: string }[],
): Promise<void> {
  const rows = await selectRows<{ name: string; reachable: boolean }>(
    client,
    `SELECT n.nspname || '.' || c.relname AS name, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS reachable
       FROM unnest($1::text[], $2::text[]) AS s(schema, name)
       JOIN pg_catalog.pg_namespace n ON n.nspname = s.schema
       JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.name AND c.relkind = 'S'
      WHERE NOT pg_catalog.has_sequence_privilege(c.oid, 'SELECT') OR NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
      ORDER BY 1`,
    [sequences.map(({ schema }) => schema), sequences.map(({ name }) => name)],
  );
  refuse(
    rows.map(({ name, reachable }) =>
      reachable ? `SELECT on the sequence ${name}` : `USAGE on the schema of the sequence ${name}`,
    ),
  );
}

interface TableAccess {
  readonly name: string;
  readonly filtered: boolean;
  /** null: dropped since the snapshot. The locks bring it to light. */
  readonly reachable: boolean | null;
  readonly readable: boolean | null;
  readonly columns: readonly string[];
}

const selectOn = ({ name, columns }: TableAccess): string =>
  columns.length === 0
    ? `SELECT on ${name}`
    : `SELECT on ${name} as a whole (it may read the columns ${columns.join(', ')} alone)`;

function refuse(missing: readonly string[]): void {
  if (missing.length === 0) return;
  throw new DataProtectionError(
    `The backup role lacks ${missing.join('; ')}. Partitions need a grant of their own`,
    'SOURCE_PRIVILEGE_MISSING',
  );
}

/** Refuses columns whose values are oids of large objects: the rows would be saved and the contents lost. */
export async function refuseLargeObjects(
  client: pg.ClientBase,
  relations: readonly DescribedRelation[],
): Promise<void> {
  const [any] = await selectRows<{ found: boolean }>(
    client,
    'SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_largeobject_metadata) AS found',
  );
  if (any?.found !== true) return;
  const found: string[] = [];
  for (const { record, oidColumns } of relations) {
    if (record.kind !== 'TABLE') continue;
    for (const name of oidColumns) {
      const [row] = await selectRows<{ found: boolean }>(
        client,
        `SELECT EXISTS (SELECT 1 FROM ONLY ${qualified(record)} t JOIN pg_catalog.pg_largeobject_metadata m ON m.oid = t.${quoteIdent(name)}::oid) AS found`,
      );
      if (row?.found === true) found.push(`${record.schema}.${record.name}.${name}`);
    }
  }
  if (found.length > 0) {
    throw new DataProtectionError(
      `${found.join(', ')} refer${found.length === 1 ? 's' : ''} to large objects, whose contents a backup of rows does not hold. Move them into bytea columns, or leave the entity out`,
      'SOURCE_UNSUPPORTED',
    );
  }
}

/**
 * Rows that no organization owns belong to no organization's backup: they are counted nowhere, so they are named here.
 * Foreign keys are not relied upon: they can be switched off.
 */
export async function warnOfOwnerless(client: pg.ClientBase, plan: ScopePlan): Promise<BackupWarning[]> {
  const warnings: BackupWarning[] = [];
  for (const { entity, owned } of plan.tables) {
    if (owned === null) continue;
    for (const leaf of entity.table.leaves) {
      const [row] = await selectRows<{ found: boolean }>(
        client,
        `SELECT EXISTS (SELECT 1 FROM ONLY ${qualified(leaf)} ${ROW_ALIAS} WHERE NOT (${owned})) AS found`,
      );
      if (row?.found !== true) continue;
      warnings.push({
        code: 'ROWS_WITHOUT_ORGANIZATION',
        message: `${leaf.schema}.${leaf.name} holds rows whose ${ownerOf(entity)}; they belong to no organization and are in no backup`,
      });
    }
  }
  return warnings;
}

function ownerOf({ organization }: ResolvedEntity): string {
  if (organization.kind === 'COLUMN') return `${organization.column} is NULL`;
  return organization.kind === 'THROUGH'
    ? `${organization.columns.join(', ')} leads to no ${organization.entity.definition.type} of an organization`
    : 'organization is unknown';
}
