import type pg from 'pg';
import { quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { RestoreCascade } from '../types/backup.ts';
import { restoreError } from './errors.ts';
import type { ForeignKey, UniqueRule } from './live-tables.ts';
import { type StagedEntity, sameKey } from './staged-entity.ts';

const WRITTEN = "('INSERT', 'UPDATE')";
const REPLACED = "('UPDATE', 'DELETE')";

/**
 * Turns what the database would refuse into conflicts, row by row, so that the rest goes through: keys that another row
 * holds, references to rows that are no more, deletes of rows that others refer to. What stays behind may stand in the way
 * of others, so it is looked at until nothing changes. The database still enforces every rule.
 */
export async function markObstacles(
  client: pg.Client,
  staged: readonly StagedEntity[],
  keys: readonly ForeignKey[],
  deletes: 'CASCADES' | 'NEVER_CASCADES',
): Promise<void> {
  for (let marked = -1; marked !== 0; ) {
    marked = 0;
    for (const one of staged) {
      for (const rule of one.table.uniques) marked += await markTaken(client, one, rule);
    }
    for (const key of keys.filter(({ enforced }) => enforced)) {
      const from = staged.find(({ table }) => table.oid === key.from);
      const to = staged.find(({ table }) => table.oid === key.to);
      if (from !== undefined) marked += await markOrphans(client, from, to, key);
      const restricts = key.onDelete === 'NO ACTION' || key.onDelete === 'RESTRICT';
      if (to !== undefined && (restricts || deletes === 'NEVER_CASCADES')) {
        marked += await markReferenced(client, to, from, key);
      }
    }
  }
}

/** A row whose unique values another row holds, one that the restore leaves as it is. */
async function markTaken(client: pg.Client, one: StagedEntity, rule: UniqueRule): Promise<number> {
  if (!rule.reads.every((column) => one.columns.some(({ name }) => name === column))) return 0;
  return mark(
    client,
    one,
    { op: 'CONFLICT', conflict: 'UNIQUE_TAKEN', detail: rule.name },
    `c.care_op IN ${WRITTEN} AND EXISTS (SELECT FROM ${heldBy(one, rule, one.desired)} n JOIN ${heldBy(one, rule, one.table.name)} t ON ${sameValues(rule, 'n', 't')} ` +
      `WHERE ${sameKey(one, 'n', 'c')} AND NOT (${sameKey(one, 't', 'c')}) ` +
      `AND NOT EXISTS (SELECT FROM ${one.changes} o WHERE ${sameKey(one, 'o', 't')} AND o.care_op IN ${REPLACED}))`,
  );
}

/** The keys of a table's rows with the values that a rule is about. */
export function heldBy(one: StagedEntity, rule: UniqueRule, from: string): string {
  const values = rule.expressions.map((expression, i) => `${expression} AS care_e${i}`);
  const where = rule.predicate === null ? '' : ` WHERE ${rule.predicate}`;
  return `(SELECT ${[...one.key.map(({ sql }) => sql), ...values].join(', ')} FROM ${from}${where})`;
}

export const sameValues = (rule: UniqueRule, a: string, b: string): string =>
  rule.operators
    .map((operator, i) => {
      const same = `${a}.care_e${i} ${operator} ${b}.care_e${i}`;
      return rule.nullsEqual ? `(${same} OR (${a}.care_e${i} IS NULL AND ${b}.care_e${i} IS NULL))` : same;
    })
    .join(' AND ');

/** That the row of `to` is the one that the row of `from` refers to. */
export const refers = (key: ForeignKey, to: string, from: string): string =>
  key.columns
    .map((column, i) => `${to}.${key.referenced[i]} ${key.operators[i]} ${from}.${column}`)
    .join(' AND ');

/** A row that refers to a row which neither stands nor is restored. */
async function markOrphans(
  client: pg.Client,
  one: StagedEntity,
  parents: StagedEntity | undefined,
  key: ForeignKey,
): Promise<number> {
  if (!key.columns.every((column) => one.columns.some(({ sql }) => sql === column))) return 0;
  const given = key.columns.map((column) => `d.${column} IS NOT NULL`).join(' AND ');
  const gone =
    parents === undefined
      ? ''
      : ` AND NOT EXISTS (SELECT FROM ${parents.changes} o WHERE ${sameKey(parents, 'o', 'p')} AND o.care_op = 'DELETE')`;
  const restored =
    parents === undefined ||
    !key.referenced.every((column) => parents.columns.some(({ sql }) => sql === column))
      ? 'false'
      : `EXISTS (SELECT FROM ${parents.desired} p JOIN ${parents.changes} o ON ${sameKey(parents, 'o', 'p')} ` +
        `WHERE ${refers(key, 'p', 'd')} AND o.care_op IN ${WRITTEN})`;
  return mark(
    client,
    one,
    { op: 'CONFLICT', conflict: 'MISSING_REFERENCE', detail: key.name },
    `c.care_op IN ${WRITTEN} AND EXISTS (SELECT FROM ${one.desired} d WHERE ${sameKey(one, 'd', 'c')} AND ${given} ` +
      `AND NOT EXISTS (SELECT FROM ${key.toName} p WHERE ${refers(key, 'p', 'd')}${gone}) AND NOT ${restored})`,
  );
}

/** A row that is to be deleted and that another refers to, which stays. */
async function markReferenced(
  client: pg.Client,
  one: StagedEntity,
  children: StagedEntity | undefined,
  key: ForeignKey,
): Promise<number> {
  const leaves =
    children === undefined
      ? ''
      : ` AND NOT EXISTS (SELECT FROM ${children.changes} o WHERE ${sameKey(children, 'o', 'r')} AND (o.care_op = 'DELETE' ` +
        `OR o.care_op = 'UPDATE' AND NOT EXISTS (SELECT FROM ${children.desired} d WHERE ${sameKey(children, 'd', 'o')} ` +
        `AND ${key.columns.every((column) => children.columns.some(({ sql }) => sql === column)) ? refers(key, 't', 'd') : 'true'})))`;
  return mark(
    client,
    one,
    { op: 'CONFLICT', conflict: 'REFERENCED', detail: key.name },
    `c.care_op = 'DELETE' AND EXISTS (SELECT FROM ${one.table.name} t JOIN ${key.fromName} r ON ${refers(key, 't', 'r')} ` +
      `WHERE ${sameKey(one, 't', 'c')}${leaves})`,
  );
}

async function mark(
  client: pg.Client,
  one: StagedEntity,
  to: { readonly op: string; readonly conflict: string; readonly detail: string },
  where: string,
): Promise<number> {
  const { rowCount } = await client
    .query(
      `UPDATE ${one.changes} c SET care_op = ${quoteLiteral(to.op)}, care_conflict = ${quoteLiteral(to.conflict)}, ` +
        `care_detail = ${quoteLiteral(to.detail)} WHERE ${where}`,
    )
    .catch((error: unknown) => {
      throw restoreError(error, `Looking for what stands in the way of ${one.entity.type}`);
    });
  return rowCount ?? 0;
}

/** The rows that deletes reach through foreign keys, in a temporary table; empty where nothing is deleted. */
export const CASCADED = 'pg_temp.care_cascaded';

export const createCascaded = `CREATE TEMPORARY TABLE care_cascaded
  (care_relation oid NOT NULL, care_table oid NOT NULL, care_row tid NOT NULL, care_constraint text, care_action text NOT NULL,
   care_own boolean NOT NULL)`;

/** Follows deletes through the foreign keys that cascade, until nothing more is reached. */
export async function followCascades(
  client: pg.Client,
  staged: readonly StagedEntity[],
  keys: readonly ForeignKey[],
): Promise<readonly RestoreCascade[]> {
  await client.query(`TRUNCATE ${CASCADED}`);
  for (const one of staged) {
    await client.query(
      `INSERT INTO ${CASCADED} SELECT ${one.table.oid}, c.care_table, c.care_row, NULL, 'DELETE', true FROM ${one.changes} c WHERE c.care_op = 'DELETE'`,
    );
  }
  const reaching = keys.filter(
    ({ onDelete, enforced }) => enforced && onDelete !== 'NO ACTION' && onDelete !== 'RESTRICT',
  );
  for (let reached = -1; reached !== 0; ) {
    reached = 0;
    for (const key of reaching) {
      const action = key.onDelete === 'CASCADE' ? 'DELETE' : key.onDelete;
      const { rowCount } = await client.query(
        `INSERT INTO ${CASCADED} SELECT DISTINCT ${key.from}::oid, r.tableoid, r.ctid, ${quoteLiteral(key.name)}, ${quoteLiteral(action)}, false
           FROM ${CASCADED} d JOIN ${key.toName} t ON t.tableoid = d.care_table AND t.ctid = d.care_row
           JOIN ${key.fromName} r ON ${refers(key, 't', 'r')}
          WHERE d.care_relation = ${key.to} AND d.care_action = 'DELETE' AND NOT EXISTS (
            SELECT FROM ${CASCADED} o WHERE o.care_table = r.tableoid AND o.care_row = r.ctid AND o.care_action IN ('DELETE', ${quoteLiteral(action)}))`,
      );
      reached += rowCount ?? 0;
    }
  }
  // A row that is deleted is not changed before.
  await client.query(
    `DELETE FROM ${CASCADED} c WHERE c.care_action <> 'DELETE' AND EXISTS (
       SELECT FROM ${CASCADED} o WHERE o.care_table = c.care_table AND o.care_row = c.care_row AND o.care_action = 'DELETE')`,
  );
  return selectRows<RestoreCascade>(
    client,
    `SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(r.relname) AS table, c.care_constraint AS constraint,
            c.care_action AS action, count(*)::int AS rows
       FROM ${CASCADED} c JOIN pg_catalog.pg_class r ON r.oid = c.care_relation JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
      WHERE NOT c.care_own GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`,
  );
}
