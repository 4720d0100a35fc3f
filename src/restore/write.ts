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
    const [row] = await selectRows<{ moved: boolean | null; count: number; expected: number }>(
      client,
      `SELECT bool_or(l.moved) AS moved, count(*)::int AS count,
              (SELECT count(*)::int FROM ${one.changes} WHERE care_op IN ('UPDATE', 'DELETE')) AS expected
         FROM (SELECT (t.tableoid, t.ctid, t.xmin::text) IS DISTINCT FROM (c.care_table, c.care_row, c.care_xmin::text) AS moved
                 FROM ${one.changes} c JOIN ${one.table.name} t ON ${sameKey(one, 't', 'c')}
                WHERE c.care_op IN ('INSERT', 'UPDATE', 'DELETE') ORDER BY ${order} FOR UPDATE OF t) l`,
    ).catch((error: unknown) => {
      throw restoreError(error, `Locking the rows of ${one.entity.type}`);
    });
    if (row?.moved === true || row?.count !== row?.expected) throw new RowsMoved();
  }
}

/** What is to be written, decided before any table is locked. */
export interface WritePlan {
  /** Of the entities in which something is to be done, referenced tables first. */
  readonly entities: readonly PlannedEntity[];
  /** Foreign keys of rings, checked at the end. */
  readonly rings: readonly ForeignKey[];
  /** Triggers that stand aside meanwhile. */
  readonly triggers: readonly LiveTrigger[];
}

interface PlannedEntity {
  readonly one: StagedEntity;
  readonly inserts: number;
  readonly updates: number;
  readonly deletes: number;
  /** Deletes of rows that others refer to until these are updated. */
  readonly lateDeletes: number;
  /** Rows that are inserted take unique values that others hold until they are updated. */
  readonly updatesFirst: boolean;
  /** Rows that are updated take unique values that others hold until they are. */
  readonly inTurns: boolean;
}

/** Looks at everything that decides about the order of the writes. */
export async function planWrites(
  client: pg.Client,
  staged: readonly StagedEntity[],
  keys: readonly ForeignKey[],
): Promise<WritePlan> {
  const { order, rings } = writeOrder(
    staged.map(({ table }) => table.oid),
    keys,
  );
  await markLateDeletes(client, staged, keys);
  const entities: PlannedEntity[] = [];
  for (const one of order.flatMap((i) => staged[i] ?? [])) {
    const [row] = await selectRows<Omit<PlannedEntity, 'one' | 'updatesFirst' | 'inTurns'>>(
      client,
      `SELECT count(*) FILTER (WHERE care_op = 'INSERT')::int AS inserts, count(*) FILTER (WHERE care_op = 'UPDATE')::int AS updates,
              count(*) FILTER (WHERE care_op = 'DELETE' AND care_detail IS NULL)::int AS deletes,
              count(*) FILTER (WHERE care_op = 'DELETE' AND care_detail IS NOT NULL)::int AS "lateDeletes" FROM ${one.changes}`,
    );
    if (row === undefined || row.inserts + row.updates + row.deletes + row.lateDeletes === 0) continue;
    const rules = one.table.uniques.filter((rule) => canCheck(one, rule));
    const held = row.updates > 0 && rules.length > 0;
    entities.push({
      ...row,
      one,
      updatesFirst: held && row.inserts > 0 && (await waits(client, one, rules, 'INSERT')),
      inTurns: held && (await waits(client, one, rules, 'UPDATE')),
    });
  }
  const triggers = entities.flatMap(({ one: { table, entity } }) =>
    table.triggers.filter(({ name, enabled }) => enabled !== 'D' && entity.disableTriggers.includes(name)),
  );
  const changed = entities.map(({ one }) => one.table.oid);
  return {
    entities,
    rings: rings.filter(({ from, to }) => changed.includes(from) && changed.includes(to)),
    triggers,
  };
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

const canCheck = (one: StagedEntity, rule: UniqueRule): boolean =>
  rule.reads.every((column) => one.columns.some(({ name }) => name === column));

/** That another row holds unique values which the row of a change is to have. */
function blocked(one: StagedEntity, rules: readonly UniqueRule[]): string {
  const held = rules.map(
    (rule) =>
      `EXISTS (SELECT FROM ${heldBy(one, rule, one.desired)} n JOIN ${heldBy(one, rule, one.table.name)} t ON ${sameValues(rule, 'n', 't')} ` +
      `WHERE ${sameKey(one, 'n', 'c')} AND NOT (${sameKey(one, 't', 'c')}))`,
  );
  return held.length === 0 ? 'false' : `(${held.join(' OR ')})`;
}

async function waits(
  client: pg.Client,
  one: StagedEntity,
  rules: readonly UniqueRule[],
  op: 'INSERT' | 'UPDATE',
): Promise<boolean> {
  const [row] = await selectRows<{ found: boolean }>(
    client,
    `SELECT EXISTS (SELECT FROM ${one.changes} c WHERE c.care_op = '${op}' AND ${blocked(one, rules)}) AS found`,
  );
  return row?.found === true;
}

/**
 * Writes: children are deleted first, parents written first, set by set. Where triggers stand aside, the tables' writers
 * wait from here to the end of the transaction: nothing is done in between that could be done before. Throws
 * `RESTORE_VALIDATION_FAILED` where the rows that stand then are not the ones that were to.
 */
export async function runWrites(client: pg.Client, plan: WritePlan): Promise<void> {
  await asHost(client, async () => {
    await alterTriggers(client, plan.triggers, () => 'DISABLE');
    await deferRings(client, plan.rings);
    for (const planned of plan.entities.toReversed()) await deleteRows(client, planned, 'IN_TIME');
    for (const planned of plan.entities) await writeRows(client, planned);
    for (const planned of plan.entities.toReversed()) await deleteRows(client, planned, 'LATE');
    await checkRings(client, plan.rings);
    await alterTriggers(client, plan.triggers, ({ enabled }) => ENABLED[enabled] ?? 'DISABLE');
  });
  await requireExact(client, plan.entities);
  await requireSameTriggers(client, plan.triggers);
}

const ENABLED: Readonly<Record<string, string>> = { O: 'ENABLE', A: 'ENABLE ALWAYS', R: 'ENABLE REPLICA' };

/** Puts triggers aside, or back exactly as they were. A transaction that ends otherwise never changed them. */
async function alterTriggers(
  client: pg.Client,
  triggers: readonly LiveTrigger[],
  how: (trigger: LiveTrigger) => string,
): Promise<void> {
  if (triggers.length === 0) return;
  const sql = triggers.map(
    (trigger) => `ALTER TABLE ONLY ${trigger.table} ${how(trigger)} TRIGGER ${quoteIdent(trigger.name)}`,
  );
  await execute(client, { sql: sql.join('; '), doing: 'Putting triggers aside and back' });
}

async function requireSameTriggers(client: pg.Client, triggers: readonly LiveTrigger[]): Promise<void> {
  if (triggers.length === 0) return;
  const [row] = await selectRows<{ same: number }>(
    client,
    `SELECT count(*)::int AS same FROM unnest($1::text[], $2::text[], $3::text[]) w(relation, name, enabled)
       JOIN pg_catalog.pg_trigger g ON g.tgrelid = w.relation::regclass AND g.tgname = w.name AND g.tgenabled::text = w.enabled`,
    [
      triggers.map(({ table }) => table),
      triggers.map(({ name }) => name),
      triggers.map(({ enabled }) => enabled),
    ],
  );
  if (row?.same === triggers.length) return;
  throw new DataProtectionError('Triggers could not be put back as they were', 'INTERNAL');
}

async function deferRings(client: pg.Client, rings: readonly ForeignKey[]): Promise<void> {
  if (rings.length === 0) return;
  for (const { deferrable, fromName, name } of rings) {
    if (deferrable) continue;
    const sql = `ALTER TABLE ${fromName} ALTER CONSTRAINT ${quoteIdent(name)} DEFERRABLE INITIALLY DEFERRED`;
    await execute(client, { sql, doing: `Deferring foreign key ${name}` });
  }
  await client.query('SET CONSTRAINTS ALL DEFERRED');
}

async function checkRings(client: pg.Client, rings: readonly ForeignKey[]): Promise<void> {
  await execute(client, { sql: 'SET CONSTRAINTS ALL IMMEDIATE', doing: 'Checking the foreign keys' });
  for (const { deferrable, fromName, name } of rings) {
    if (deferrable) continue;
    const sql = `ALTER TABLE ${fromName} ALTER CONSTRAINT ${quoteIdent(name)} NOT DEFERRABLE`;
    await execute(client, { sql, doing: `Putting back foreign key ${name}` });
  }
}

async function deleteRows(
  client: pg.Client,
  { one, deletes, lateDeletes }: PlannedEntity,
  when: 'IN_TIME' | 'LATE',
): Promise<void> {
  const late = when === 'LATE' ? 'IS NOT NULL' : 'IS NULL';
  const sql = `DELETE FROM ${one.table.name} t USING ${one.changes} c WHERE c.care_op = 'DELETE' AND c.care_detail ${late} AND ${sameKey(one, 't', 'c')}`;
  await write(client, one, when === 'LATE' ? lateDeletes : deletes, sql);
}

async function writeRows(client: pg.Client, planned: PlannedEntity): Promise<void> {
  const { one, inserts, updatesFirst } = planned;
  if (updatesFirst) await updateRows(client, planned);
  await write(client, one, inserts, insertSql(one));
  if (!updatesFirst) await updateRows(client, planned);
  if (inserts > 0) await advanceSequences(client, one);
}

function insertSql(one: StagedEntity): string {
  const columns = one.columns.map(({ sql }) => sql).join(', ');
  const values = one.columns.map(({ sql }) => `d.${sql}`).join(', ');
  return (
    `INSERT INTO ${one.table.name} (${columns}) OVERRIDING SYSTEM VALUE SELECT ${values} FROM ${one.changes} c ` +
    `JOIN ${one.desired} d ON ${sameKey(one, 'd', 'c')} WHERE c.care_op = 'INSERT'`
  );
}

/** Values of identity columns that are ALWAYS generated cannot be changed; equal ones are left. */
const updatable = (one: StagedEntity): readonly LiveColumn[] =>
  one.columns.filter((column) => !one.key.includes(column) && column.identity !== 'ALWAYS');

async function updateRows(client: pg.Client, { one, updates, inTurns }: PlannedEntity): Promise<void> {
  const set = updatable(one).map(({ sql }) => `${sql} = d.${sql}`);
  if (set.length === 0) return;
  const update = (which: string): string =>
    `UPDATE ${one.table.name} t SET ${set.join(', ')} FROM ${one.changes} c JOIN ${one.desired} d ON ${sameKey(one, 'd', 'c')} ` +
    `WHERE c.care_op = 'UPDATE' AND ${which} AND ${sameKey(one, 't', 'c')}`;
  if (!inTurns) return write(client, one, updates, update('true'));
  const rules = one.table.uniques.filter((rule) => canCheck(one, rule));
  let left = updates;
  // Uniqueness is looked at row by row: what is still held by a row that is to change is taken once it has.
  while (left > 0) {
    const { rowCount } = await client.query(
      `UPDATE ${one.changes} c SET care_detail = 'READY' WHERE c.care_op = 'UPDATE' AND c.care_detail IS NULL AND NOT ${blocked(one, rules)}`,
    );
    const ready = rowCount ?? 0;
    if (ready === 0) throw exchanged(one, rules, left);
    await write(client, one, ready, update("c.care_detail = 'READY'"));
    await client.query(`UPDATE ${one.changes} SET care_detail = 'DONE' WHERE care_detail = 'READY'`);
    left -= ready;
  }
}

const exchanged = (one: StagedEntity, rules: readonly UniqueRule[], rows: number): DataProtectionError =>
  new DataProtectionError(
    `${rows} rows of ${one.entity.type} have exchanged the values of ${rules.map(({ name }) => name).join(' or ')} among them: ` +
      'free one of these values in the table first, or make the constraint deferrable',
    'RESTORE_VALIDATION_FAILED',
  );

async function write(client: pg.Client, one: StagedEntity, expected: number, sql: string): Promise<void> {
  if (expected === 0) return;
  const doing = `Writing rows of ${one.entity.type}`;
  const { rowCount } = await client.query(sql).catch((error: unknown) => {
    throw restoreError(error, doing);
  });
  if (rowCount === expected) return;
  throw new DataProtectionError(
    `${doing} changed ${rowCount} rows instead of ${expected}: a trigger or rule of the table stands in the way${triggersOf(one)}`,
    'RESTORE_VALIDATION_FAILED',
  );
}

/** Reads back what was written, all tables in one question. */
async function requireExact(client: pg.Client, entities: readonly PlannedEntity[]): Promise<void> {
  const written = entities.filter(({ inserts, updates }) => inserts + updates > 0);
  if (written.length === 0) return;
  const parts = written.map(({ one }, i) => {
    const rest = one.columns.filter((column) => !one.key.includes(column));
    const fields = rest.map(
      (column) => `CASE WHEN bool_or(${differs([column], 'd', 't')}) THEN ${quoteLiteral(column.name)} END`,
    );
    return (
      `SELECT ${i} AS i, count(t.${one.key[0]?.sql})::int AS rows, array_remove(ARRAY[${fields.join(', ')}]::text[], NULL) AS fields ` +
      `FROM ${one.changes} c JOIN ${one.desired} d ON ${sameKey(one, 'd', 'c')} LEFT JOIN ${one.table.name} t ON ${sameKey(one, 't', 'c')} ` +
      "WHERE c.care_op IN ('INSERT', 'UPDATE')"
    );
  });
  const found = await selectRows<{ i: number; rows: number; fields: string[] }>(
    client,
    parts.join(' UNION ALL '),
  ).catch((error: unknown) => {
    throw restoreError(error, 'Reading the restored rows back');
  });
  for (const [i, { one, inserts, updates }] of written.entries()) {
    const { rows, fields } = found.find((row) => row.i === i) ?? { rows: 0, fields: [] };
    if (rows === inserts + updates && fields.length === 0) continue;
    const what = fields.length === 0 ? 'are missing' : `differ in ${fields.join(', ')}`;
    throw new DataProtectionError(
      `Rows of ${one.entity.type} ${what} once they are written${triggersOf(one)}`,
      'RESTORE_VALIDATION_FAILED',
    );
  }
}

function triggersOf({ table, entity }: StagedEntity): string {
  const before = [
    ...new Set(table.triggers.filter((one) => one.before && one.enabled !== 'D').map(({ name }) => name)),
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
