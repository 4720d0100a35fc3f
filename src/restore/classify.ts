import type pg from 'pg';
import { quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { ConflictResolutionStrategy } from '../types/backup.ts';
import { execute } from './execute.ts';
import { columnsOf, declared, differs, type StagedEntity, sameKey, unqualified } from './staged-entity.ts';

export interface Classification {
  readonly strategy: ConflictResolutionStrategy;
  /** Rows of the scope that the snapshot does not hold are deleted. */
  readonly deletes: boolean;
}

/**
 * The table of what is to be done, empty. INSERT, UPDATE and DELETE are done; with KEEP the row that stands stays, by the
 * strategy; with CONFLICT it stays, and somebody has to look. Table, row and xmin are the version of the row that stands which was looked at.
 * With MERGE the rows that are to be written are neither those of the archive nor those that stand.
 */
export async function createChanges(
  client: pg.ClientBase,
  one: StagedEntity,
  { strategy }: Classification,
): Promise<void> {
  await client.query(
    `CREATE TEMPORARY TABLE ${unqualified(one.changes)} (${declared(one.key)}, care_op text NOT NULL, care_conflict text, ` +
      'care_fields text[], care_detail text, care_table oid, care_row tid, care_xmin xid)',
  );
  await client.query(`CREATE UNIQUE INDEX ON ${one.changes} (${one.key.map(({ sql }) => sql).join(', ')})`);
  if (strategy === 'MERGE') {
    await client.query(
      `CREATE TEMPORARY TABLE ${unqualified(one.desired)} (LIKE ${one.stage} INCLUDING INDEXES)`,
    );
  }
}

/** Compares the archived rows with those that stand, and enters what is to be done with each that differs. */
export async function classify(client: pg.Client, one: StagedEntity, how: Classification): Promise<void> {
  const { stage, changes, table, entity, key, columns } = one;
  const doing = `Comparing the rows of ${entity.type}`;
  const keys = columnsOf(key, 's');
  const here = `t.${key[0]?.sql} IS NOT NULL`;
  const own = entity.own === null ? 'true' : `(${entity.own}) IS TRUE`;
  const rest = columns.filter((column) => !key.includes(column));
  const fields = rest.map(
    (column) => `CASE WHEN ${differs([column], 's', 't')} THEN ${quoteLiteral(column.name)} END`,
  );
  const { op, conflict } = outcomeOf(one, how);
  await execute(client, { sql: `TRUNCATE ${changes}`, doing });
  await execute(client, {
    doing,
    sql:
      `INSERT INTO ${changes} SELECT ${keys}, ` +
      `CASE WHEN NOT (${here}) THEN 'INSERT' WHEN NOT (${own}) THEN 'CONFLICT' ELSE ${op} END, ` +
      `CASE WHEN NOT (${here}) THEN NULL WHEN NOT (${own}) THEN 'OUT_OF_SCOPE' ELSE ${conflict} END, ` +
      `array_remove(ARRAY[${fields.join(', ')}]::text[], NULL), NULL, t.tableoid, t.ctid, t.xmin ` +
      `FROM ${stage} s LEFT JOIN ${table.name} t ON ${sameKey(one, 's', 't')} ` +
      `WHERE NOT (${here})${rest.length === 0 ? '' : ` OR ${differs(rest, 's', 't')}`}`,
  });
  if (how.deletes) {
    const manual = how.strategy === 'MANUAL';
    await execute(client, {
      doing,
      sql:
        `INSERT INTO ${changes} SELECT ${columnsOf(key, 't')}, ${manual ? "'CONFLICT', 'NOT_IN_BACKUP'" : "'DELETE', NULL"}, ` +
        `NULL, NULL, t.tableoid, t.ctid, t.xmin FROM ${table.name} t ` +
        `WHERE ${entity.covered === null ? 'true' : `(${entity.covered})`} ` +
        `AND NOT EXISTS (SELECT FROM ${stage} s WHERE ${sameKey(one, 's', 't')}) ` +
        `AND NOT EXISTS (SELECT FROM ${one.spared} p WHERE ${sameKey(one, 'p', 't')})`,
    });
  }
  if (how.strategy === 'MERGE') await merge(client, one);
  await client.query(`ANALYZE ${changes}`);
}

/** Fills the gaps of the row that stands; where both have a value it keeps its own. */
async function merge(client: pg.Client, one: StagedEntity): Promise<void> {
  const { desired, stage, changes, table, columns, entity } = one;
  const doing = `Merging the rows of ${entity.type}`;
  const merged = columns.map(({ sql }) => `COALESCE(t.${sql}, s.${sql})`).join(', ');
  await execute(client, { sql: `TRUNCATE ${desired}`, doing });
  await execute(client, {
    doing,
    sql:
      `INSERT INTO ${desired} (${columns.map(({ sql }) => sql).join(', ')}) SELECT ${merged} FROM ${changes} c ` +
      `JOIN ${stage} s ON ${sameKey(one, 's', 'c')} LEFT JOIN ${table.name} t ON ${sameKey(one, 't', 'c')} ` +
      "WHERE c.care_op IN ('INSERT', 'UPDATE')",
  });
  await client.query(`ANALYZE ${desired}`);
}

/** SQL of what becomes of a row that differs from the one that stands. */
function outcomeOf(one: StagedEntity, { strategy }: Classification): { op: string; conflict: string } {
  const none = { conflict: 'NULL' };
  switch (strategy) {
    case 'BACKUP_WINS':
      return { op: "'UPDATE'", ...none };
    case 'EXISTING_WINS':
      return { op: "'KEEP'", ...none };
    case 'MANUAL':
      return { op: "'CONFLICT'", conflict: "'DIFFERENT'" };
    case 'NEWEST_WINS':
    case 'OLDEST_WINS': {
      const column = one.columns.find(({ name }) => name === one.entity.updatedAt)?.sql ?? '';
      const compared = strategy === 'NEWEST_WINS' ? '>' : '<';
      const dated = `s.${column} IS NOT NULL AND t.${column} IS NOT NULL`;
      return {
        op: `CASE WHEN NOT (${dated}) THEN 'CONFLICT' WHEN s.${column} ${compared} t.${column} THEN 'UPDATE' ELSE 'KEEP' END`,
        conflict: `CASE WHEN NOT (${dated}) THEN 'UNDATED' END`,
      };
    }
    case 'MERGE': {
      const rest = one.columns.filter((column) => !one.key.includes(column));
      const gaps = rest.map(
        ({ sql }) => `t.${sql} IS NOT DISTINCT FROM NULL AND s.${sql} IS DISTINCT FROM NULL`,
      );
      const clashes = rest.map(
        (column) =>
          `t.${column.sql} IS DISTINCT FROM NULL AND s.${column.sql} IS DISTINCT FROM NULL AND ${differs([column], 's', 't')}`,
      );
      const any = (conditions: readonly string[]): string =>
        conditions.length === 0
          ? 'false'
          : `(${conditions.map((condition) => `(${condition})`).join(' OR ')})`;
      return {
        op: `CASE WHEN ${any(gaps)} THEN 'UPDATE' WHEN ${any(clashes)} THEN 'CONFLICT' ELSE 'KEEP' END`,
        conflict: `CASE WHEN ${any(clashes)} THEN 'FIELDS' END`,
      };
    }
  }
}

export interface ChangeCounts {
  readonly archived: number;
  readonly inserts: number;
  readonly updates: number;
  readonly deletes: number;
  readonly kept: number;
  readonly conflicts: number;
}

export async function countChanges(client: pg.Client, one: StagedEntity): Promise<ChangeCounts> {
  const [row] = await selectRows<ChangeCounts>(
    client,
    `SELECT (SELECT count(*) FROM ${one.stage}) AS archived, count(*) FILTER (WHERE care_op = 'INSERT') AS inserts,
            count(*) FILTER (WHERE care_op = 'UPDATE') AS updates, count(*) FILTER (WHERE care_op = 'DELETE') AS deletes,
            count(*) FILTER (WHERE care_op = 'KEEP') AS kept, count(*) FILTER (WHERE care_conflict IS NOT NULL) AS conflicts
       FROM ${one.changes}`,
  );
  return row ?? { archived: 0, inserts: 0, updates: 0, deletes: 0, kept: 0, conflicts: 0 };
}
