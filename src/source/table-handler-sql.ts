import { hash } from 'node:crypto';
import { qualified, quoteIdent } from '../postgres/quote.ts';
import type { ResolvedEntity, ResolvedOwner } from './entity-catalog.ts';
import { type HandledColumn, touchedColumn } from './table-handler-columns.ts';

/** A statement with the name under which sessions may keep its plan: another text has another name. */
export interface Statement {
  readonly text: string;
  readonly name: string;
  /** Whether it takes the keys a second time, as an array after the rows. */
  readonly keyed: boolean;
}

/** How the row of an id that was deleted comes back. */
export interface Return {
  /** Columns that become NULL. */
  readonly cleared: readonly string[];
  /** Of the columns that nothing is said of. */
  readonly rest: 'KEPT' | 'DEFAULT';
}

/**
 * The statements of one table. $1: the organization, $2: the branches or NULL for all. Loads: an array per column of the
 * key. Writes: $3 rows as JSON. All give `care_id`, the key as the row shows it, and `care_row`, JSON as text, so that no
 * type parser of the host's gets hold of it. Names are PostgreSQL's own, whatever the session's `search_path`.
 */
export interface Statements {
  readonly load: Statement;
  readonly loadLocked: Statement;
  readonly insert: (columns: readonly string[], ifDeleted: Return) => Statement;
  readonly update: (columns: readonly string[]) => Statement;
  readonly remove: Statement;
}

const EQUALS = 'OPERATOR(pg_catalog.=)';
const NOW = 'pg_catalog.now()';
const asText = (expression: string): string => `${expression}::pg_catalog.text`;

export function statementsFor(
  entity: ResolvedEntity,
  columns: ReadonlyMap<string, HandledColumn>,
): Statements {
  const table = qualified(entity.table.root);
  const fields = [...columns.values()].map((column) => `${readAs(column)} AS ${quoteIdent(column.name)}`);
  // A function that takes names and values takes no more than 50 of them.
  const row = `(SELECT ${asText('pg_catalog.row_to_json(x.*)')} FROM (SELECT ${fields.join(', ')}) x)`;
  const visible = `(${organizationCondition(entity)}) AND (${branchCondition(entity)})`;
  const branch = entity.branch?.kind === 'COLUMN' ? asText(`t.${quoteIdent(entity.branch.column)}`) : 'NULL';
  const deleted = entity.deletedAt === null ? 'false' : `t.${quoteIdent(entity.deletedAt)} IS NOT NULL`;
  const touched = touchedColumn(entity, columns);
  const updatedAt =
    touched?.isTime === true ? `t.${quoteIdent(touched.name)}::pg_catalog.timestamptz` : undefined;
  const keys = entity.key.map((name) => `t.${quoteIdent(name)}`);
  const keyTypes = entity.key.map((name) => `${columns.get(name)?.castType ?? 'pg_catalog.text'}[]`);
  const parts = entity.key.map((name) => keyPart(columns.get(name), name));
  const id = parts.length === 1 ? parts[0] : asText(`pg_catalog.json_build_array(${parts.join(', ')})`);
  const single = keys.length === 1;
  const from = single
    ? `${table} t WHERE ${keys[0]} ${EQUALS} ANY ($3::${keyTypes[0]})`
    : `ROWS FROM (${keyTypes.map((type, i) => `pg_catalog.unnest($${i + 3}::${type})`).join(', ')})
        AS w(${keys.map((_, i) => `k${i}`).join(', ')}) JOIN ${table} t ON ${keys.map((key, i) => `${key} ${EQUALS} w.k${i}`).join(' AND ')}`;
  const load = `SELECT ${id} AS care_id, ${row} AS care_row, ${asText(`(${visible})`)} AS care_visible,
           ${asText(`(${deleted})`)} AS care_deleted, ${branch} AS care_branch,
           ${updatedAt === undefined ? 'NULL' : `CASE WHEN ${isCommon(updatedAt)} THEN ${instantText(updatedAt, 'MS')} END`} AS care_updated_at
      FROM ${from} ORDER BY ${keys.join(', ')}`;

  const touch =
    touched?.isTime === true && columns.get(touched.name)?.writable === true
      ? [{ name: touched.name, value: NOW }]
      : [];
  /** The rows that are given, with nothing but these columns: a domain that is NOT NULL holds for what is written. */
  const input = (names: readonly string[]): string => {
    const typed = [...new Set([...entity.key, ...names])].map(
      (name) => `${quoteIdent(name)} ${inputType(columns.get(name))}`,
    );
    return `pg_catalog.json_to_recordset($3::pg_catalog.json) AS i(${typed.join(', ')})`;
  };
  // By the index, however many rows the planner expects.
  const near = single ? ` AND ${keys[0]} ${EQUALS} ANY ($4::${keyTypes[0]})` : '';
  const match = `${entity.key.map((name, i) => `${keys[i]} ${EQUALS} i.${quoteIdent(name)}`).join(' AND ')}${near}`;
  const shown = `${id} AS care_id, ${row} AS care_row, (${visible}) AS care_visible, (${deleted}) AS care_deleted`;
  /** A row that would be no longer the actor's is not given: the caller looks for it. */
  const given = (name: string): string =>
    `SELECT care_id, care_row, ${asText('care_deleted')} AS care_deleted FROM ${name} WHERE care_visible`;
  const writing = (statement: string, keyed = single): Statement =>
    named(`WITH written AS (${statement} RETURNING ${shown}) ${given('written')}`, keyed);
  const ofInput = (name: string) => ({ name, value: `i.${quoteIdent(name)}` });
  const sets = (values: readonly { readonly name: string; readonly value: string }[]): string =>
    values.map(({ name, value }) => `${quoteIdent(name)} = ${value}`).join(', ');
  const insertion = (names: readonly string[]): string => {
    const values = [...names.map(ofInput), ...touch];
    return `INSERT INTO ${table} AS t (${values.map(({ name }) => quoteIdent(name)).join(', ')})
      SELECT ${values.map(({ value }) => value).join(', ')} FROM ${input(names)}`;
  };
  const insert = (names: readonly string[], { cleared, rest }: Return): Statement => {
    const { deletedAt } = entity;
    if (deletedAt === null) return writing(insertion(names), false);
    const said = new Set([...names, ...cleared, ...touch.map(({ name }) => name), deletedAt, ...entity.key]);
    const unsaid =
      rest === 'KEPT' ? [] : [...columns.values()].filter((c) => c.writable && !said.has(c.name));
    const back = sets([
      ...names.filter((name) => !entity.key.includes(name)).map(ofInput),
      ...cleared.map((name) => ({ name, value: 'NULL' })),
      ...unsaid.map(({ name }) => ({ name, value: 'DEFAULT' })),
      { name: deletedAt, value: 'NULL' },
      ...touch,
    ]);
    const raw = keys.map((key, i) => `${key} AS k${i}`).join(', ');
    // Not ON CONFLICT: what has come meanwhile, or is somebody else's, is a unique violation, and is looked at again.
    return named(
      `WITH back AS (UPDATE ${table} AS t SET ${back} FROM ${input(names)} WHERE ${match} AND ${deleted} AND (${visible})
          RETURNING ${raw}, ${shown}),
        made AS (${insertion(names)} WHERE NOT EXISTS (
          SELECT FROM back b WHERE ${entity.key.map((name, i) => `b.k${i} ${EQUALS} i.${quoteIdent(name)}`).join(' AND ')}) RETURNING ${shown})
       ${given('back')} UNION ALL ${given('made')}`,
      single,
    );
  };
  const change = (
    names: readonly string[],
    own: readonly { readonly name: string; readonly value: string }[],
  ) =>
    writing(
      `UPDATE ${table} AS t SET ${sets([...names.map(ofInput), ...own])} FROM ${input(names)} WHERE ${match} AND (${visible})`,
    );

  return {
    load: named(load, false),
    loadLocked: named(`${load} FOR UPDATE OF t`, false),
    insert,
    update: (names) => change(names, touch),
    remove:
      entity.deletedAt === null
        ? writing(`DELETE FROM ${table} AS t USING ${input([])} WHERE ${match} AND (${visible})`)
        : change([], [{ name: entity.deletedAt, value: NOW }, ...touch]),
  };
}

const named = (text: string, keyed: boolean): Statement => ({
  text,
  keyed,
  name: `care-${hash('md5', text)}`,
});

/** Integers as the widest, lest a column that was widened meanwhile refuses what it can hold. */
function inputType(column: HandledColumn | undefined): string {
  const wide = column?.baseType === 'smallint' || column?.baseType === 'integer';
  return wide ? 'pg_catalog.int8' : (column?.castType ?? 'pg_catalog.text');
}

/** Always about $1: PostgreSQL refuses a parameter that nothing is said of. */
const organizationCondition = (entity: ResolvedEntity): string =>
  `$1::pg_catalog.uuid IS NOT NULL AND ${ownerCondition(entity, entity.organization, 'organization')}`;

/** Whether the actor's branches allow the row; an entity that says nothing of branches is for those who may see all. */
const branchCondition = (entity: ResolvedEntity): string =>
  `$2::pg_catalog.uuid[] IS NULL${entity.branch === null ? '' : ` OR ${ownerCondition(entity, entity.branch, 'branch')}`}`;

/** A condition on who owns the row of the entity under `alias`. */
function ownerCondition(
  { table }: ResolvedEntity,
  owner: ResolvedOwner,
  what: 'organization' | 'branch',
  alias = 't',
  depth = 1,
): string {
  if (owner.kind === 'SHARED') return 'true';
  if (owner.kind === 'COLUMN') {
    const column = `${alias}.${quoteIdent(owner.column)}`;
    const isUuid = table.columns.get(owner.column)?.baseType === 'uuid';
    // Ids are in lower case; a column that is no uuid may hold them in upper case.
    const [value, type] = isUuid
      ? [column, '']
      : [`pg_catalog.lower(${asText(column)})`, '::pg_catalog.text'];
    return what === 'organization'
      ? `${value} ${EQUALS} $1::pg_catalog.uuid${type}`
      : `${value} ${EQUALS} ANY ($2::pg_catalog.uuid[]${type === '' ? '' : `${type}[]`})`;
  }
  const parent = owner.entity;
  const next = `p${depth}`;
  const keys = parent.key.map((name, i) => {
    // An extension's type is compared by its own operator.
    const schema = parent.table.columns.get(name)?.operators ?? 'pg_catalog';
    return `${next}.${quoteIdent(name)} OPERATOR(${quoteIdent(schema)}.=) ${alias}.${quoteIdent(owner.columns[i] ?? '')}`;
  });
  const of = parent[what];
  const rest = of === null ? 'false' : ownerCondition(parent, of, what, next, depth + 1);
  return `EXISTS (SELECT FROM ${qualified(parent.table.root)} ${next} WHERE ${keys.join(' AND ')} AND (${rest}))`;
}

function readAs({ name, form }: HandledColumn): string {
  const column = `t.${quoteIdent(name)}`;
  if (form === 'JSON') return column;
  return form === 'INSTANT' ? instant(column) : asText(column);
}

/** A part of the key as the row shows it. */
function keyPart(column: HandledColumn | undefined, name: string): string {
  return column?.form === 'INSTANT' ? readAs(column) : asText(`t.${quoteIdent(name)}`);
}

/** ISO 8601 in UTC; what has no such form (infinity, years before Christ) as PostgreSQL writes it. */
const instant = (column: string): string =>
  `CASE WHEN ${isCommon(column)} THEN ${instantText(column, 'US')} ELSE ${asText(column)} END`;

/** Years 1 to 9999. */
const isCommon = (column: string): string =>
  `(${column} OPERATOR(pg_catalog.>=) '0001-01-01 00:00:00+00'::pg_catalog.timestamptz AND ${column} OPERATOR(pg_catalog.<) '10000-01-01 00:00:00+00'::pg_catalog.timestamptz)`;

const instantText = (column: string, digits: 'MS' | 'US'): string =>
  `pg_catalog.to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.${digits}"Z"')`;
