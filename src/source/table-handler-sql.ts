import { qualified, quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import type { ResolvedEntity, ResolvedOwner } from './entity-catalog.ts';
import type { HandledColumn } from './table-handler-columns.ts';

/**
 * The statements of one table. $1: the organization, $2: the branches or NULL for all. Loads: $3 the ids, then an array
 * per column of the key. Writes: $3 rows as JSON, each with `care_id`. All give `care_id` and `care_row`, JSON as text,
 * so that no type parser of the host's gets hold of it.
 */
export interface Statements {
  /** Statements of one table have one, so that sessions may keep their plans. */
  readonly name: string;
  /** Whether `care_id` is the key's text; otherwise it is what the caller gave. */
  readonly byKey: boolean;
  readonly load: string;
  readonly loadLocked: string;
  readonly insert: (columns: readonly string[]) => string;
  readonly update: (columns: readonly string[]) => string;
  readonly remove: string;
}

export function statementsFor(
  entity: ResolvedEntity,
  columns: ReadonlyMap<string, HandledColumn>,
): Statements {
  const table = qualified(entity.table.root);
  const row = `json_build_object(${[...columns.values()]
    .flatMap((column) => [quoteLiteral(column.name), readAs(column)])
    .join(', ')})::text`;
  const visible = `(${ownerCondition('t', entity.organization, 'o.id = $1::uuid', 1)}) AND (${branchCondition(entity)})`;
  const branch =
    entity.branch?.kind === 'COLUMN' ? `t.${quoteIdent(entity.branch.column)}::text` : 'NULL::text';
  const deleted = entity.deletedAt === null ? 'false' : `t.${quoteIdent(entity.deletedAt)} IS NOT NULL`;
  const updated = entity.definition.updatedAt ?? (columns.has('updated_at') ? 'updated_at' : undefined);
  const updatedAt =
    updated === undefined ? 'NULL::text' : instant(`t.${quoteIdent(updated)}::timestamptz`, 'MS');
  const keys = entity.key.map((name) => `t.${quoteIdent(name)}`);
  const [single] = keys.length === 1 ? keys : [];
  const byKey = single !== undefined && isPlainKey(columns.get(entity.key[0] ?? ''));
  const keyType = columns.get(entity.key[0] ?? '')?.baseType ?? 'text';
  const shownRow = `${row} AS care_row, (${visible})::text AS care_visible, (${deleted})::text AS care_deleted,
           ${branch} AS care_branch, ${updatedAt} AS care_updated_at`;
  const load = byKey
    ? `SELECT ${single}::text AS care_id, ${shownRow} FROM ${table} t WHERE ${single} = ANY ($3::${keyType}[]) ORDER BY ${single}`
    : `SELECT w.id AS care_id, ${shownRow}
      FROM unnest($3::text[], ${entity.key.map((name, i) => `$${i + 4}::${arrayOf(columns.get(name))}`).join(', ')})
        AS w(id, ${entity.key.map((_, i) => `k${i}`).join(', ')})
      JOIN ${table} t ON ${keys.map((key, i) => `${key} = w.k${i}`).join(' AND ')}
     ORDER BY ${keys.join(', ')}`;

  const touched = updated !== undefined && columns.get(updated)?.writable === true ? updated : undefined;
  const input = byKey
    ? `(SELECT r.*, r.${quoteIdent(entity.key[0] ?? '')}::text AS care_id FROM jsonb_populate_recordset(NULL::${table}, $3::jsonb) r)`
    : `(SELECT r.*, j.care_id FROM ROWS FROM (jsonb_populate_recordset(NULL::${table}, $3::jsonb)) WITH ORDINALITY AS r
      JOIN (SELECT e.value ->> 'care_id' AS care_id, e.ordinality AS care_place FROM jsonb_array_elements($3::jsonb) WITH ORDINALITY e) j
        ON j.care_place = r.ordinality)`;
  // By the index, however many rows the planner expects.
  const near = byKey ? ` AND ${single} = ANY ($4::${keyType}[])` : '';
  const match = `${entity.key.map((name) => `t.${quoteIdent(name)} = i.${quoteIdent(name)}`).join(' AND ')}${near}`;
  const set = (names: readonly string[]): string =>
    [
      ...names.map((name) => `${quoteIdent(name)} = i.${quoteIdent(name)}`),
      ...(touched === undefined || names.includes(touched) ? [] : [`${quoteIdent(touched)} = now()`]),
    ].join(', ');
  const shown = `${row} AS care_row, (${visible}) AS care_visible`;
  /** A row that would be no longer the actor's is not given: the caller counts. */
  const given = (statement: string): string => `
    WITH written AS (${statement})
    SELECT care_id, care_row FROM written WHERE care_visible`;
  const change = (sets: string): string =>
    given(
      `UPDATE ${table} AS t SET ${sets} FROM ${input} i WHERE ${match} AND (${visible}) RETURNING i.care_id, ${shown}`,
    );
  const undelete = (names: readonly string[]): string => {
    if (entity.deletedAt === null) return '';
    const sets = [
      ...names
        .filter((name) => !entity.key.includes(name))
        .map((name) => `${quoteIdent(name)} = excluded.${quoteIdent(name)}`),
      `${quoteIdent(entity.deletedAt)} = NULL`,
    ];
    return `ON CONFLICT (${entity.key.map(quoteIdent).join(', ')}) DO UPDATE SET ${sets.join(', ')} WHERE ${deleted} AND (${visible})`;
  };

  return {
    name: `care-${entity.table.root.oid}`,
    byKey,
    load,
    loadLocked: `${load} FOR UPDATE OF t`,
    insert: (names) => `
    WITH i AS MATERIALIZED (SELECT * FROM ${input} given), written AS (
      INSERT INTO ${table} AS t (${names.map(quoteIdent).join(', ')})
      SELECT ${names.map((name) => `i.${quoteIdent(name)}`).join(', ')} FROM i ${undelete(names)}
      RETURNING ${entity.key.map((name, n) => `t.${quoteIdent(name)} AS k${n}`).join(', ')}, ${shown}
    )
    SELECT i.care_id, w.care_row FROM written w
      JOIN i ON ${entity.key.map((name, n) => `i.${quoteIdent(name)} = w.k${n}`).join(' AND ')} WHERE w.care_visible`,
    update: (names) => change(set(names)),
    remove:
      entity.deletedAt === null
        ? given(
            `DELETE FROM ${table} AS t USING ${input} i WHERE ${match} AND (${visible}) RETURNING i.care_id, ${shown}`,
          )
        : change(
            `${quoteIdent(entity.deletedAt)} = now()${touched === undefined ? '' : `, ${quoteIdent(touched)} = now()`}`,
          ),
  };
}

/** Whether the actor's branches allow the row; an entity that says nothing of branches is for those who may see all. */
function branchCondition({ branch }: ResolvedEntity): string {
  if (branch === null) return '$2::uuid[] IS NULL';
  return `$2::uuid[] IS NULL OR ${ownerCondition('t', branch, 'o.id = ANY ($2::uuid[])', 1, 'branch')}`;
}

/** A condition on who owns the row under `alias`: `test` is about `o.id`. */
function ownerCondition(
  alias: string,
  owner: ResolvedOwner,
  test: string,
  depth: number,
  what: 'organization' | 'branch' = 'organization',
): string {
  if (owner.kind === 'SHARED') return 'true';
  if (owner.kind === 'COLUMN') return test.replaceAll('o.id', `${alias}.${quoteIdent(owner.column)}`);
  const next = `p${depth}`;
  const parent = owner.entity;
  const keys = parent.key.map(
    (name, i) => `${next}.${quoteIdent(name)} = ${alias}.${quoteIdent(owner.columns[i] ?? '')}`,
  );
  const of = what === 'branch' ? parent.branch : parent.organization;
  const rest = of === null ? 'false' : ownerCondition(next, of, test, depth + 1, what);
  return `EXISTS (SELECT FROM ${qualified(parent.table.root)} ${next} WHERE ${keys.join(' AND ')} AND (${rest}))`;
}

function readAs({ name, form }: HandledColumn): string {
  const column = `t.${quoteIdent(name)}`;
  switch (form) {
    case 'JSON':
      return column;
    case 'INSTANT':
      return instant(column, 'US');
    default:
      return `${column}::text`;
  }
}

/** ISO 8601 in UTC; what has no such form (infinity, years before Christ) as PostgreSQL writes it. */
function instant(column: string, digits: 'MS' | 'US'): string {
  return `CASE WHEN isfinite(${column}) AND extract(year FROM ${column} AT TIME ZONE 'UTC') BETWEEN 1 AND 9999
    THEN to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.${digits}"Z"') ELSE ${column}::text END`;
}

/** Keys whose text is the same however a client writes it, but for the case of a UUID. */
const isPlainKey = (column: HandledColumn | undefined): boolean =>
  ['uuid', 'text', 'smallint', 'integer', 'bigint'].includes(column?.baseType ?? '');

const arrayOf = (column: HandledColumn | undefined): string => `${column?.baseType ?? 'text'}[]`;
