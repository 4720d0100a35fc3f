import type pg from 'pg';
import { quoteLiteral } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import { DataProtectionError } from '../types/errors.ts';
import { bareTable } from './cascaded.ts';
import { createChanges } from './classify.ts';
import { execute } from './execute.ts';
import type { RestoreTargetOptions } from './fill.ts';
import { storeConflicts } from './images.ts';
import { describeChanges, inShortTransaction } from './live.ts';
import { readForeignKeys } from './live-tables.ts';
import { createCascaded, markObstacles } from './obstacles.ts';
import type { LiveOutcome, RollbackRequest } from './restore.ts';
import { withSession } from './restore-live.ts';
import { declared, type StagedEntity, sameKey, unqualified } from './staged-entity.ts';

interface ImageTable {
  readonly position: number;
  readonly entityType: string;
  readonly schema: string;
  readonly name: string;
  readonly columns: readonly string[];
  readonly key: readonly string[];
}

/**
 * Puts back what a restore had changed, all of it or nothing. A row that somebody has written since is left as it is and
 * is a conflict, and so is one that somebody's rows refer to.
 */
export async function rollbackLive(
  options: RestoreTargetOptions,
  request: RollbackRequest,
): Promise<LiveOutcome> {
  return withSession(options, request, async (client) => {
    const tables = await selectRows<ImageTable>(
      client,
      `SELECT position, entity_type AS "entityType", schema_name AS schema, table_name AS name, columns, key
         FROM ${request.records.tables} WHERE restore_id = ${quoteLiteral(request.restoreId)}::uuid ORDER BY position`,
    );
    const staged: StagedEntity[] = [];
    for (const table of tables) staged.push(await stageImages(client, request, table));
    const keys = await readForeignKeys(
      client,
      staged.map(({ table }) => table.oid),
    );
    await client.query(createCascaded);
    const again = async (): Promise<void> => {
      for (const [i, one] of staged.entries())
        await classifyImages(client, request, one, tables[i]?.position ?? -1);
      await markObstacles(client, staged, keys, 'NEVER_CASCADES');
    };
    await again();
    let outcome: LiveOutcome | undefined;
    await inShortTransaction(
      client,
      { staged, keys },
      again,
      async () => {
        const entities = await describeChanges(client, staged);
        const restore = {
          id: request.restoreId,
          organizationId: request.organizationId,
          detectedAt: request.now,
        };
        const conflicts = await storeConflicts(client, restore, request.records, staged);
        outcome = { entities, cascades: [], conflicts, warnings: [] };
        await request.finish(client, outcome);
      },
      { signal: request.signal, lockWaitMs: options.lockWaitMs },
    );
    if (outcome === undefined)
      throw new DataProtectionError('A rollback ended without an outcome', 'INTERNAL');
    return outcome;
  });
}

async function stageImages(
  client: pg.Client,
  request: RollbackRequest,
  table: ImageTable,
): Promise<StagedEntity> {
  const definition = request.entities.find(({ type }) => type === table.entityType);
  const one = await bareTable(client, table, table.key, `care_back_${table.position}`, definition);
  const dropped = table.columns.filter((column) => !one.columns.some(({ name }) => name === column));
  if (dropped.length > 0) {
    throw new DataProtectionError(
      `${table.schema}.${table.name} has lost ${dropped.join(', ')} since the restore: what it held before cannot be put back`,
      'RESTORE_TARGET_INCOMPATIBLE',
    );
  }
  const columns = one.columns.filter(({ name }) => table.columns.includes(name));
  await client.query(`CREATE TEMPORARY TABLE ${unqualified(one.stage)} (${declared(columns)})`);
  const values = columns.map(
    ({ name, type }) => `CAST(i.before[${table.columns.indexOf(name) + 1}] AS ${type})`,
  );
  await execute(client, {
    doing: `Reading what the rows of ${one.entity.type} were`,
    sql:
      `INSERT INTO ${one.stage} (${columns.map(({ sql }) => sql).join(', ')}) SELECT ${values.join(', ')} FROM ${request.records.images} i ` +
      `WHERE i.restore_id = ${quoteLiteral(request.restoreId)}::uuid AND i.position = ${table.position} AND i.before IS NOT NULL`,
  });
  await client.query(`CREATE UNIQUE INDEX ON ${one.stage} (${one.key.map(({ sql }) => sql).join(', ')})`);
  await client.query(`ANALYZE ${one.stage}`);
  await createChanges(client, one, { strategy: 'BACKUP_WINS', deletes: true });
  return { ...one, columns };
}

/** What the restore left is put back where it still stands: by the version of the row, which every write makes another. */
async function classifyImages(
  client: pg.Client,
  request: RollbackRequest,
  one: StagedEntity,
  position: number,
): Promise<void> {
  const { changes, table, key } = one;
  const doing = `Comparing the rows of ${one.entity.type}`;
  const here = `t.${key[0]?.sql} IS NOT NULL`;
  const same = 't.xmin::text::bigint = i.version';
  const op = `CASE
    WHEN i.version IS NULL THEN CASE WHEN ${here} THEN 'CONFLICT' ELSE 'INSERT' END
    WHEN NOT (${here}) THEN CASE WHEN i.before IS NULL THEN 'KEEP' ELSE 'CONFLICT' END
    WHEN ${same} THEN CASE WHEN i.before IS NULL THEN 'DELETE' ELSE 'UPDATE' END
    ELSE 'CONFLICT' END`;
  const keys = key.map(({ sql, type }, n) => `CAST(i.key[${n + 1}] AS ${type}) AS ${sql}`).join(', ');
  await execute(client, { sql: `TRUNCATE ${changes}`, doing });
  await execute(client, {
    doing,
    sql:
      `INSERT INTO ${changes} SELECT ${key.map(({ sql }) => `i.${sql}`).join(', ')}, ${op}, CASE WHEN ${op} = 'CONFLICT' THEN 'CHANGED_SINCE' END, ` +
      `NULL, NULL, t.tableoid, t.ctid, t.xmin FROM (SELECT ${keys}, i.before, i.version FROM ${request.records.images} i ` +
      `WHERE i.restore_id = ${quoteLiteral(request.restoreId)}::uuid AND i.position = ${position}) i LEFT JOIN ${table.name} t ON ${sameKey(one, 't', 'i')}`,
  });
  await client.query(`ANALYZE ${changes}`);
}
