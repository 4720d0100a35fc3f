import type pg from 'pg';
import { quoteIdent, quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { LiveEntity } from '../source/source.ts';
import type { RestoreCascade } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import { execute } from './execute.ts';
import { readLiveTables } from './live-tables.ts';
import { CASCADED } from './obstacles.ts';
import { declared, type StagedEntity, sameKey, unqualified } from './staged-entity.ts';

/**
 * The tables that deletes cascade into, with the rows that they will take along or change as their changes, so that what
 * these were can be kept. A table without a primary key cannot be put back: `RESTORE_TARGET_INCOMPATIBLE`.
 */
export async function cascadedTables(
  client: pg.Client,
  cascades: readonly RestoreCascade[],
  staged: readonly StagedEntity[],
): Promise<readonly StagedEntity[]> {
  if (cascades.length === 0) return [];
  const tables = await selectRows<{ oid: number; schema: string; name: string }>(
    client,
    `SELECT DISTINCT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name FROM ${CASCADED} d
       JOIN pg_catalog.pg_class c ON c.oid = d.care_relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE NOT d.care_own ORDER BY 1`,
  );
  const carried: StagedEntity[] = [];
  for (const { oid, schema, name } of tables) {
    const known = staged.find(({ table }) => table.oid === oid);
    const one = await bareTable(
      client,
      { schema, name },
      known?.entity.key ?? [],
      `care_cascade_${oid}`,
      known?.entity,
    );
    // What the restore itself writes is kept with its own rows.
    const others =
      known === undefined
        ? ''
        : `WHERE NOT EXISTS (SELECT FROM ${known.changes} o WHERE ${sameKey(one, 'o', 't')} AND o.care_op IN ('UPDATE', 'DELETE')) `;
    await execute(client, {
      sql: `CREATE TEMPORARY TABLE ${unqualified(one.changes)} (${declared(one.key)}, care_op text NOT NULL) ON COMMIT DROP`,
      doing: `Noting what deletes reach in ${name}`,
    });
    // Locked, so that what is noted is what the delete finds.
    await execute(client, {
      sql:
        `INSERT INTO ${one.changes} SELECT ${one.key.map(({ sql }) => `t.${sql}`).join(', ')}, CASE WHEN d.care_action = 'DELETE' THEN 'DELETE' ELSE 'UPDATE' END ` +
        `FROM (SELECT DISTINCT ON (care_table, care_row) * FROM ${CASCADED} WHERE care_relation = ${quoteLiteral(String(oid))} AND NOT care_own) d ` +
        `JOIN ${one.table.name} t ON t.tableoid = d.care_table AND t.ctid = d.care_row ${others}FOR UPDATE OF t`,
      doing: `Locking what deletes reach in ${name}`,
    });
    carried.push(one);
  }
  return carried;
}

/** A table of the database as the engine sees entities, by its primary key or the one that is given. */
export async function bareTable(
  client: pg.Client,
  table: LiveEntity['table'],
  key: readonly string[],
  name: string,
  definition?: LiveEntity,
): Promise<StagedEntity> {
  const bare = (of: readonly string[]): LiveEntity => ({
    type: `${table.schema}.${table.name}`,
    ...{ updatedAt: null, asked: null, own: null, covered: null, narrow: [], disableTriggers: [] },
    ...definition,
    ...{ table, key: of },
  });
  const [read] = key.length > 0 ? [] : await readLiveTables(client, [bare([])], []);
  const columns = read?.primaryKey ?? key;
  if (columns.length === 0) {
    throw new DataProtectionError(
      `${table.schema}.${table.name} has no primary key, so that what deletes take along could not be put back: set \`rollbackEnabled\` to false, or restore without \`deleteNotInBackup\``,
      'RESTORE_TARGET_INCOMPATIBLE',
    );
  }
  const entity = bare(columns);
  const [live] = await readLiveTables(client, [entity], []);
  if (live === undefined)
    throw new DataProtectionError('A table was dropped meanwhile', 'RESTORE_TARGET_INCOMPATIBLE');
  const stored = [...live.columns.values()].filter(({ generated }) => generated === null);
  const temporary = (suffix: string): string => `pg_temp.${quoteIdent(`${name}${suffix}`)}`;
  return {
    ...{ entity, table: live, root: -1, columns: stored, keyOperators: live.keyOperators },
    match: { staged: [], added: [], problems: [] },
    stage: temporary('_stage'),
    desired: temporary('_stage'),
    spared: temporary('_spared'),
    changes: temporary(''),
    key: columns.flatMap((column) => live.columns.get(column) ?? []),
  };
}
