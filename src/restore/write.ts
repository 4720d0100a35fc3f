import type pg from 'pg';
import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { asHost } from '../postgres/session.ts';
import { DataProtectionError } from '../types/errors.ts';
import { restoreError } from './errors.ts';
import { execute } from './execute.ts';
import type { ForeignKey, LiveColumn, LiveTrigger, UniqueRule } from './live-tables.ts';
import { heldBy, refers, sameValues } from './obstacles.ts';
import { writeOrder } from './order.ts';
import { differs, type StagedEntity, sameKey } from './staged-entity.ts';

/** Rows moved between the comparison and the lock: everything is looked at again. */
export class RowsMoved extends Error {}

/**
 * Locks the rows that stand and are to be changed, in the order of their keys, and refuses those that are not what was
 * compared. Nobody else waits for anything but these rows.
 */
export async function lockRows(client: pg.Client, staged: readonly StagedEntity[]): Promise<void> {
  for (const one of staged) {
    const order = one.key.map(({ sql }) => `c.${sql}`).join(', ');
    const doing = `Locking the rows of ${one.entity.type}`;
    const rows = await selectRows<{ moved: boolean; count: number }>(
      client,
      `SELECT bool_or(l.moved) AS moved, count(*)::int AS count FROM (
         SELECT (t.tableoid, t.ctid, t.xmin::text) IS DISTINCT FROM (c.care_table, c.care_row, c.care_xmin::text) AS moved
           FROM ${one.changes} c JOIN ${one.table.name} t ON ${sameKey(one, 't', 'c')}
          WHERE c.care_op IN ('INSERT', 'UPDATE', 'DELETE') ORDER BY ${order} FOR UPDATE OF t) l`,
    ).catch((error: unknown) => {
      throw restoreError(error, doing);
    });
    const [expected] = await selectRows<{ count: number }>(
      client,
      `SELECT count(*)::int AS count FROM ${one.changes} WHERE care_op IN ('UPDATE', 'DELETE')`,
    );
    if (rows[0]?.moved === true || rows[0]?.count !== expected?.count) throw new RowsMoved();
  }
}

/** Puts the named triggers aside for the transaction, as each of them stands. The tables' writers wait meanwhile. */
export async function disableTriggers(client: pg.Client, triggers: readonly LiveTrigger[]): Promise<void> {
  for (const { table, name } of triggers) {
    const sql = `ALTER TABLE ONLY ${table} DISABLE TRIGGER ${quoteIdent(name)}`;
    await execute(client, { sql, doing: `Disabling trigger ${name} of ${table}` });
  }
}

const ENABLED: Readonly<Record<string, string>> = { O: 'ENABLE', A: 'ENABLE ALWAYS', R: 'ENABLE REPLICA' };

/** Puts them back exactly as they were. A transaction that ends otherwise never changed them. */
export async function enableTriggers(client: pg.Client, triggers: readonly LiveTrigger[]): Promise<void> {
  for (const { table, name, enabled } of triggers) {
    const sql = `ALTER TABLE ONLY ${table} ${ENABLED[enabled] ?? 'DISABLE'} TRIGGER ${quoteIdent(name)}`;
    await execute(client, { sql, doing: `Enabling trigger ${name} of ${table}` });
  }
}

/**
 * Deletes, inserts and updates, set by set: children are deleted first, parents written first. What is deleted although
 * a row refers to it that is to refer to another goes last. Keys of rings are checked at the end. Throws
 * `RESTORE_VALIDATION_FAILED` where the rows that stand then are not the ones that were to.
 */
export async function writeChanges(
  client: pg.Client,
  staged: readonly StagedEntity[],
  keys: readonly ForeignKey[],
): Promise<void> {
  const { order, rings } = writeOrder(
    staged.map(({ table }) => table.oid),
    keys,
  );
  const ordered = order.flatMap((i) => staged[i] ?? []);
  await markLateDeletes(client, staged, keys);
  await asHost(client, () => writeInOrder(client, ordered, rings));
  for (const one of ordered) await requireExact(client, one);
}

async function writeInOrder(
  client: pg.Client,
  ordered: readonly StagedEntity[],
  rings: readonly ForeignKey[],
): Promise<void> {
  await deferRings(client, rings);
  for (const one of ordered.toReversed()) await deleteRows(client, one, 'care_detail IS NULL');
  for (const one of ordered) {
    const writes = (await frees(client, one)) ? [updateRows, insertRows] : [insertRows, updateRows];
    for (const write of writes) await write(client, one);
    await advanceSequences(client, one);
  }
  for (const one of ordered.toReversed()) await deleteRows(client, one, 'care_detail IS NOT NULL');
  await checkRings(client, rings);
}

/** Deletes of rows that others refer to until these are updated. */
async function markLateDeletes(
  client: pg.Client,
  staged: readonly StagedEntity[],
  keys: readonly ForeignKey[],
): Promise<void> {
  for (let marked = -1; marked !== 0; ) {
    marked = 0;
    for (const key of keys) {
      const to = staged.find(({ table }) => table.oid === key.to);
      const from = staged.find(({ table }) => table.oid === key.from);
      if (to === undefined || from === undefined) continue;
      const { rowCount } = await client.query(
        `UPDATE ${to.changes} c SET care_detail = 'LATE' WHERE c.care_op = 'DELETE' AND c.care_detail IS NULL AND EXISTS (
           SELECT FROM ${to.table.name} t JOIN ${from.table.name} r ON ${refers(key, 't', 'r')} JOIN ${from.changes} o ON ${sameKey(from, 'o', 'r')}
            WHERE ${sameKey(to, 't', 'c')} AND (o.care_op = 'UPDATE' OR o.care_op = 'DELETE' AND o.care_detail IS NOT NULL))`,
      );
      marked += rowCount ?? 0;
    }
  }
}

/** Whether a row that is inserted takes unique values that another one holds until it is updated. */
async function frees(client: pg.Client, one: StagedEntity): Promise<boolean> {
  for (const rule of one.table.uniques) {
    if (!canCheck(one, rule)) continue;
    const [row] = await selectRows<{ found: boolean }>(
      client,
      `SELECT EXISTS (SELECT FROM ${heldBy(one, rule, one.desired)} n JOIN ${one.changes} c ON ${sameKey(one, 'n', 'c')} AND c.care_op = 'INSERT'
         JOIN ${heldBy(one, rule, one.table.name)} t ON ${sameValues(rule, 'n', 't')}
         JOIN ${one.changes} o ON ${sameKey(one, 'o', 't')} AND o.care_op = 'UPDATE') AS found`,
    );
    if (row?.found === true) return true;
  }
  return false;
}

async function deferRings(client: pg.Client, rings: readonly ForeignKey[]): Promise<void> {
  for (const key of rings) {
    if (!key.deferrable) {
      const sql = `ALTER TABLE ${key.fromName} ALTER CONSTRAINT ${quoteIdent(key.name)} DEFERRABLE INITIALLY DEFERRED`;
      await execute(client, { sql, doing: `Deferring foreign key ${key.name}` });
    }
  }
  if (rings.some(({ deferrable }) => deferrable)) await client.query('SET CONSTRAINTS ALL DEFERRED');
}

async function checkRings(client: pg.Client, rings: readonly ForeignKey[]): Promise<void> {
  await execute(client, { sql: 'SET CONSTRAINTS ALL IMMEDIATE', doing: 'Checking the foreign keys' });
  for (const key of rings) {
    if (key.deferrable) continue;
    const sql = `ALTER TABLE ${key.fromName} ALTER CONSTRAINT ${quoteIdent(key.name)} NOT DEFERRABLE`;
    await execute(client, { sql, doing: `Putting back foreign key ${key.name}` });
  }
}

async function deleteRows(client: pg.Client, one: StagedEntity, which: string): Promise<void> {
  const sql = `DELETE FROM ${one.table.name} t USING ${one.changes} c WHERE c.care_op = 'DELETE' AND c.${which} AND ${sameKey(one, 't', 'c')}`;
  await write(client, one, 'DELETE', sql, which);
}

/** Values of identity columns that are ALWAYS generated cannot be changed; equal ones are left. */
const updatable = (one: StagedEntity): readonly LiveColumn[] =>
  one.columns.filter((column) => !one.key.includes(column) && column.identity !== 'ALWAYS');

async function updateRows(client: pg.Client, one: StagedEntity): Promise<void> {
  const set = updatable(one).map(({ sql }) => `${sql} = d.${sql}`);
  if (set.length === 0) return;
  const update = (which: string): Promise<void> =>
    write(
      client,
      one,
      'UPDATE',
      `UPDATE ${one.table.name} t SET ${set.join(', ')} FROM ${one.changes} c JOIN ${one.desired} d ON ${sameKey(one, 'd', 'c')} ` +
        `WHERE c.care_op = 'UPDATE' AND c.${which} AND ${sameKey(one, 't', 'c')}`,
      which,
    );
  const rules = one.table.uniques.filter((rule) => canCheck(one, rule));
  // Uniqueness is looked at row by row: what is still held by a row that is to change is taken once it has.
  for (;;) {
    const { rowCount } = await client.query(
      `UPDATE ${one.changes} c SET care_detail = 'READY' WHERE c.care_op = 'UPDATE' AND c.care_detail IS NULL AND NOT (${blocked(one, rules)})`,
    );
    if (rowCount === 0) break;
    await update("care_detail = 'READY'");
    await client.query(`UPDATE ${one.changes} SET care_detail = 'DONE' WHERE care_detail = 'READY'`);
  }
  await refuseExchanged(client, one, rules);
}

const canCheck = (one: StagedEntity, rule: UniqueRule): boolean =>
  rule.reads.every((column) => one.columns.some(({ name }) => name === column));

/** That another row holds unique values which the row of a change is to have. */
function blocked(one: StagedEntity, rules: readonly UniqueRule[]): string {
  const held = rules.map(
    (rule) =>
      `EXISTS (SELECT FROM ${heldBy(one, rule, one.desired)} n JOIN ${heldBy(one, rule, one.table.name)} t ON ${sameValues(rule, 'n', 't')} ` +
      `WHERE ${sameKey(one, 'n', 'c')} AND NOT (${sameKey(one, 't', 'c')}))`,
  );
  return held.length === 0 ? 'false' : held.join(' OR ');
}

async function refuseExchanged(
  client: pg.Client,
  one: StagedEntity,
  rules: readonly UniqueRule[],
): Promise<void> {
  const [row] = await selectRows<{ rows: number }>(
    client,
    `SELECT count(*)::int AS rows FROM ${one.changes} WHERE care_op = 'UPDATE' AND care_detail IS NULL`,
  );
  if (row?.rows === 0) return;
  throw new DataProtectionError(
    `${row?.rows} rows of ${one.entity.type} have exchanged the values of ${rules.map(({ name }) => name).join(' or ')} among them: ` +
      'free one of these values in the table first, or make the constraint deferrable',
    'RESTORE_VALIDATION_FAILED',
  );
}

async function insertRows(client: pg.Client, one: StagedEntity): Promise<void> {
  const columns = one.columns.map(({ sql }) => sql).join(', ');
  const values = one.columns.map(({ sql }) => `d.${sql}`).join(', ');
  await write(
    client,
    one,
    'INSERT',
    `INSERT INTO ${one.table.name} (${columns}) OVERRIDING SYSTEM VALUE SELECT ${values} FROM ${one.changes} c ` +
      `JOIN ${one.desired} d ON ${sameKey(one, 'd', 'c')} WHERE c.care_op = 'INSERT'`,
  );
}

async function write(
  client: pg.Client,
  one: StagedEntity,
  op: string,
  sql: string,
  which = 'true',
): Promise<void> {
  const doing = `${op === 'DELETE' ? 'Deleting' : 'Writing'} rows of ${one.entity.type}`;
  const [expected] = await selectRows<{ rows: number }>(
    client,
    `SELECT count(*)::int AS rows FROM ${one.changes} WHERE care_op = ${quoteLiteral(op)} AND ${which}`,
  );
  if (expected?.rows === 0) return;
  const { rowCount } = await client.query(sql).catch((error: unknown) => {
    throw restoreError(error, doing);
  });
  if (rowCount !== expected?.rows) {
    throw new DataProtectionError(
      `${doing} changed ${rowCount} rows instead of ${expected?.rows}: a trigger or rule of the table stands in the way${triggersOf(one)}`,
      'RESTORE_VALIDATION_FAILED',
    );
  }
}

async function requireExact(client: pg.Client, one: StagedEntity): Promise<void> {
  const rest = one.columns.filter((column) => !one.key.includes(column));
  const fields = rest.map(
    (column) => `CASE WHEN bool_or(${differs([column], 'd', 't')}) THEN ${quoteLiteral(column.name)} END`,
  );
  const [found] = await selectRows<{ rows: number; expected: number; fields: string[] }>(
    client,
    `SELECT count(t.${one.key[0]?.sql})::int AS rows, count(*)::int AS expected, array_remove(ARRAY[${fields.join(', ')}]::text[], NULL) AS fields
       FROM ${one.changes} c JOIN ${one.desired} d ON ${sameKey(one, 'd', 'c')} LEFT JOIN ${one.table.name} t ON ${sameKey(one, 't', 'c')}
      WHERE c.care_op IN ('INSERT', 'UPDATE')`,
  ).catch((error: unknown) => {
    throw restoreError(error, `Reading the rows of ${one.entity.type} back`);
  });
  if (found === undefined || (found.rows === found.expected && found.fields.length === 0)) return;
  const what = found.fields.length === 0 ? 'are missing' : `differ in ${found.fields.join(', ')}`;
  throw new DataProtectionError(
    `Rows of ${one.entity.type} ${what} once they are written${triggersOf(one)}`,
    'RESTORE_VALIDATION_FAILED',
  );
}

function triggersOf({ table, entity }: StagedEntity): string {
  const before = [
    ...new Set(
      table.triggers.filter((trigger) => trigger.before && trigger.enabled !== 'D').map(({ name }) => name),
    ),
  ];
  return before.length === 0
    ? ''
    : `. Its BEFORE triggers are ${before.join(', ')}: name those that alter rows in \`restore.disableTriggers\` of ${entity.type}’s defineEntity`;
}

/** Moves the sequences of the columns past the ids that were inserted. They never move back. */
async function advanceSequences(client: pg.Client, one: StagedEntity): Promise<void> {
  for (const { name, sql, sequence } of one.columns) {
    if (sequence === null) continue;
    await client
      .query(
        `SELECT pg_catalog.setval(q.oid, m.furthest) FROM (SELECT ${quoteLiteral(sequence)}::regclass AS oid) q,
                (SELECT max(d.${sql})::bigint AS furthest FROM ${one.changes} c JOIN ${one.desired} d ON ${sameKey(one, 'd', 'c')}
                  WHERE c.care_op = 'INSERT') m,
                (SELECT s.last_value AS reached FROM ${sequence} s) l
          WHERE m.furthest > l.reached`,
      )
      .catch((error: unknown) => {
        throw restoreError(error, `Advancing the sequence of column ${name} of ${one.entity.type}`);
      });
  }
}
