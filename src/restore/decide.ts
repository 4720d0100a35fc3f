import type pg from 'pg';
import { selectRows } from '../postgres/rows.ts';
import { DataProtectionError } from '../types/errors.ts';
import { bareTable } from './cascaded.ts';
import { createChanges } from './classify.ts';
import { restoreError } from './errors.ts';
import { execute } from './execute.ts';
import type { RestoreTargetOptions } from './fill.ts';
import { keepBefore, storeImages } from './images.ts';
import { inShortTransaction, refuseCascades } from './live.ts';
import { readForeignKeys } from './live-tables.ts';
import { createCascaded, followCascades, markObstacles } from './obstacles.ts';
import type { DecisionRequest } from './restore.ts';
import { withSession } from './restore-live.ts';
import { declared, type StagedEntity, sameKey, unqualified } from './staged-entity.ts';

/**
 * Does what a person has decided about one row: writes the given values, or deletes it. Only where the row is still the
 * one that the person saw; `CONFLICT_STALE` otherwise.
 */
export async function decideLive(options: RestoreTargetOptions, request: DecisionRequest): Promise<void> {
  await withSession(options, request, async (client) => {
    const one = await stageDecision(client, request);
    const keys = await readForeignKeys(client, [one.table.oid]);
    await client.query(createCascaded);
    const again = async (): Promise<void> => {
      await enterDecision(client, request, one);
      await markObstacles(client, [one], keys, 'NEVER_CASCADES');
      await refuseObstacle(client, one);
    };
    await again();
    await inShortTransaction(
      client,
      { staged: [one], keys },
      again,
      async () => {
        refuseCascades(await followCascades(client, [one], keys), false);
        if (request.keepImages) await keepBefore(client, one);
        if (request.keepImages) {
          const restore = { id: request.restoreId, organizationId: request.organizationId };
          await storeImages(client, restore, request.records, [one]);
        }
        await request.finish(client);
      },
      { signal: request.signal, lockWaitMs: options.lockWaitMs },
    );
  });
}

/** The key, and the columns that are to be written. */
async function stageDecision(client: pg.Client, request: DecisionRequest): Promise<StagedEntity> {
  const { entity, key, values } = request;
  const one = await bareTable(client, entity.table, entity.key, 'care_decision', entity);
  const given: Readonly<Record<string, string | null>> = {
    ...values,
    ...Object.fromEntries(entity.key.map((column, i) => [column, key[i] ?? null])),
  };
  const columns = one.columns.filter(({ name }) => Object.hasOwn(given, name));
  const missing = Object.keys(given).filter((column) => !columns.some(({ name }) => name === column));
  if (missing.length > 0) {
    throw new DataProtectionError(
      `${entity.type} has lost ${missing.join(', ')} since: decide by FIELDS, without these`,
      'RESTORE_TARGET_INCOMPATIBLE',
    );
  }
  await client.query(`CREATE TEMPORARY TABLE ${unqualified(one.stage)} (${declared(columns)})`);
  const casts = columns.map(({ type }, i) => `CAST($${i + 1}::text AS ${type})`);
  await client
    .query(
      `INSERT INTO ${one.stage} SELECT ${casts.join(', ')}`,
      columns.map(({ name }) => given[name] ?? null),
    )
    .catch((error: unknown) => {
      throw restoreError(error, `Reading the row of ${entity.type}`);
    });
  await createChanges(client, one, { strategy: 'BACKUP_WINS', deletes: true });
  return { ...one, columns };
}

async function enterDecision(client: pg.Client, request: DecisionRequest, one: StagedEntity): Promise<void> {
  const { changes, stage, table, key } = one;
  const here = `t.${key[0]?.sql} IS NOT NULL`;
  const op = request.values === null ? "'DELETE'" : `CASE WHEN ${here} THEN 'UPDATE' ELSE 'INSERT' END`;
  const doing = `Comparing the row of ${one.entity.type}`;
  await execute(client, { sql: `TRUNCATE ${changes}`, doing });
  await execute(client, {
    doing,
    sql:
      `INSERT INTO ${changes} SELECT ${key.map(({ sql }) => `s.${sql}`).join(', ')}, ${op}, NULL, NULL, NULL, t.tableoid, t.ctid, t.xmin ` +
      `FROM ${stage} s LEFT JOIN ${table.name} t ON ${sameKey(one, 't', 's')}`,
  });
  const [row] = await selectRows<{ version: string | null }>(
    client,
    `SELECT care_xmin::text AS version FROM ${changes}`,
  );
  if ((row?.version ?? null) === request.version) return;
  throw new DataProtectionError(
    'The row was written after the conflict was noted: restore it again to see it as it is now',
    'CONFLICT_STALE',
  );
}

async function refuseObstacle(client: pg.Client, one: StagedEntity): Promise<void> {
  const [obstacle] = await selectRows<{ kind: string; detail: string }>(
    client,
    `SELECT care_conflict AS kind, care_detail AS detail FROM ${one.changes} WHERE care_op = 'CONFLICT'`,
  );
  if (obstacle === undefined) return;
  throw new DataProtectionError(
    `The decision cannot be carried out: ${obstacle.kind} (${obstacle.detail})`,
    'RESTORE_VALIDATION_FAILED',
  );
}
