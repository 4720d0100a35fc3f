import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { sqlState } from '../postgres/errors.ts';
import { selectRows } from '../postgres/rows.ts';
import type { BackupWarning, EntityChanges, RestoreCascade } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import { type Classification, classify, countChanges, createChanges } from './classify.ts';
import { matchColumns } from './live-columns.ts';
import { type ForeignKey, readForeignKeys, readLiveTables } from './live-tables.ts';
import { createCascaded, markObstacles } from './obstacles.ts';
import { writeOrder } from './order.ts';
import { type LiveRestoreRequest, stageName } from './restore.ts';
import { stageRows } from './stage.ts';
import { changesName, desiredName, type StagedEntity, sameKey, sparedName } from './staged-entity.ts';
import { lockRows, planWrites, RowsMoved, runWrites } from './write.ts';

/** What a restore into the live tables comes to, compared and not yet begun. */
export interface LiveComparison {
  readonly staged: readonly StagedEntity[];
  readonly keys: readonly ForeignKey[];
  readonly how: Classification;
  readonly warnings: readonly BackupWarning[];
}

/** Stages the archived rows and compares them with those that stand. Touches nothing but temporary tables. */
export async function compareLive(
  client: pg.Client,
  request: Omit<LiveRestoreRequest, 'finish'>,
): Promise<LiveComparison> {
  const { snapshot, entities, strategy } = request;
  const { contents } = snapshot;
  const how = { strategy, deletes: request.deleteNotInBackup };
  const tables = await readLiveTables(client, entities, contents.source.searchPath);
  const staged = entities.map((entity, i): StagedEntity => {
    const table = tables[i];
    const position = contents.entities.findIndex(({ type }) => type === entity.type);
    const record = contents.entities[position];
    const relation = contents.relations[record?.relation ?? -1];
    if (table === undefined || record === undefined || relation === undefined) {
      throw new DataProtectionError(`The snapshot does not hold ${entity.type}`, 'ENTITY_UNKNOWN');
    }
    const match = matchColumns(relation, table, entity.key, request.columnMapping[entity.type]);
    const present = new Set(match.staged.map(({ live }) => live?.name));
    const columns = [...table.columns.values()].filter(({ name }) => present.has(name));
    return {
      ...{ entity, table, match, columns },
      root: record.relation,
      stage: stageName(position),
      changes: changesName(position),
      spared: sparedName(position),
      desired: strategy === 'MERGE' ? desiredName(position) : stageName(position),
      key: entity.key.flatMap((name) => table.columns.get(name) ?? []),
      keyOperators: table.keyOperators,
    };
  });
  refuseMismatches(staged, strategy);
  const keys = await readForeignKeys(
    client,
    staged.map(({ table }) => table.oid),
  );
  await refuseMissingRights(client, staged, keys, how);
  await client.query(createCascaded);
  const warnings = await stageRows({
    ...{ client, snapshot, staged, deletes: how.deletes, signal: request.signal },
    onRead: (entity, rows, bytes) => request.onRead(entities[entity]?.type ?? null, rows, bytes),
  });
  for (const one of staged) await createChanges(client, one, how);
  await compare(client, { staged, keys, how });
  return { staged, keys, how, warnings };
}

async function compare(
  client: pg.Client,
  { staged, keys, how }: Pick<LiveComparison, 'staged' | 'keys' | 'how'>,
): Promise<void> {
  for (const one of staged) await classify(client, one, how);
  await markObstacles(client, staged, keys, 'CASCADES');
}

function refuseMismatches(staged: readonly StagedEntity[], strategy: string): void {
  const problems = staged.flatMap(({ entity, match, table }) => {
    const dated = strategy === 'NEWEST_WINS' || strategy === 'OLDEST_WINS';
    const type = entity.updatedAt === null ? undefined : table.columns.get(entity.updatedAt)?.type;
    const undated =
      dated && !/^(date|timestamp\b.*)$/.test(type ?? '')
        ? [
            `${strategy} needs a date or timestamp: give \`updatedAt\` in defineEntity, or choose another strategy`,
          ]
        : [];
    const unknown = entity.disableTriggers.filter(
      (name) => !table.triggers.some((trigger) => trigger.name === name),
    );
    const triggers = unknown.map(
      (name) => `\`restore.disableTriggers\` names ${name}, which the table does not have`,
    );
    return [...match.problems, ...undated, ...triggers].map((problem) => `${entity.type}: ${problem}`);
  });
  if (problems.length === 0) return;
  throw new DataProtectionError(
    `The snapshot does not fit the tables as they are now. ${problems.join('; ')}`,
    'RESTORE_TARGET_INCOMPATIBLE',
  );
}

/** Everything that the role lacks, before anything is read. `RESTORE_PRIVILEGE_MISSING`. */
async function refuseMissingRights(
  client: pg.Client,
  staged: readonly StagedEntity[],
  keys: readonly ForeignKey[],
  how: Classification,
): Promise<void> {
  const [database] = await selectRows<{ temporary: boolean }>(
    client,
    "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY') AS temporary",
  );
  const { rings } = writeOrder(
    staged.map(({ table }) => table.oid),
    keys,
  );
  const missing = [
    ...(database?.temporary === true ? [] : ['TEMPORARY on the database']),
    ...staged.flatMap(({ table, entity }) => {
      const { rights, name } = table;
      const needed = [
        ...(rights.reachable ? [] : [`USAGE on the schema of ${name}`]),
        ...(rights.select ? [] : [`SELECT on ${name}`]),
        ...(rights.insert ? [] : [`INSERT on ${name}`]),
        ...(rights.update ? [] : [`UPDATE on ${name}`]),
        ...(rights.delete || !how.deletes ? [] : [`DELETE on ${name}`]),
      ];
      if (rights.filtered) needed.push(`BYPASSRLS, since row-level security filters ${name}`);
      if (!rights.owner && entity.disableTriggers.length > 0)
        needed.push(`ownership of ${name}, to disable triggers`);
      return needed;
    }),
    ...rings
      .filter(({ deferrable, owner }) => !deferrable && !owner)
      .map(({ fromName, name }) => `ownership of ${fromName}, to defer its foreign key ${name}`),
  ];
  if (missing.length === 0) return;
  throw new DataProtectionError(
    `The role lacks ${[...new Set(missing)].join(', ')}`,
    'RESTORE_PRIVILEGE_MISSING',
  );
}

/** By entity and in all, for a preview and for what was done. */
export async function describeChanges(
  client: pg.Client,
  staged: readonly StagedEntity[],
): Promise<EntityChanges[]> {
  const changes: EntityChanges[] = [];
  for (const one of staged) {
    const { archived, inserts, updates, deletes, kept, conflicts } = await countChanges(client, one);
    changes.push({
      entityType: one.entity.type,
      ...{ archived, inserts, updates, deletes, kept, conflicts },
      unchanged: await countUnchanged(client, one),
    });
  }
  return changes;
}

async function countUnchanged(client: pg.Client, one: StagedEntity): Promise<number> {
  const [row] = await selectRows<{ rows: number }>(
    client,
    `SELECT count(*)::int AS rows FROM ${one.stage} s WHERE NOT EXISTS (SELECT FROM ${one.changes} c WHERE ${sameKey(one, 'c', 's')})`,
  );
  return row?.rows ?? 0;
}

/** How long one wait for a table's lock may make others wait behind it, in milliseconds; it is then tried again. */
const LOCK_WAIT_MS = 40;
const ROW_WAIT_MS = 2_000;
const LONGEST_PAUSE_MS = 1_000;
/** Comparisons within one transaction: each locks what the one before found, so that less and less can move. */
const COMPARISONS = 10;

/** Locks not available, serialization failures, deadlocks, and keys that appeared meanwhile. */
const PASSING = new Set(['55P03', '40001', '40P01', '23505', '23P01']);
const TAKEN = new Set(['23505', '23P01']);
const TRIES_WHEN_TAKEN = 3;

/**
 * Writes what was compared, in one short transaction: the rows are locked, and still what was compared; `prepare` notes
 * whatever belongs to the same transaction; only then are triggers put aside, which locks their tables. A lock that is not
 * free is let go of and tried again, so that nobody queues behind it for long. Errors: `RESTORE_LOCK_TIMEOUT`, those of
 * `prepare` and of the writes.
 */
export async function inShortTransaction(
  client: pg.Client,
  { staged, keys }: Pick<LiveComparison, 'staged' | 'keys'>,
  again: () => Promise<void>,
  prepare: () => Promise<void>,
  { signal, lockWaitMs }: { readonly signal: AbortSignal; readonly lockWaitMs: number },
): Promise<void> {
  const until = performance.now() + lockWaitMs;
  for (let tries = 1; ; tries += 1) {
    signal.throwIfAborted();
    try {
      await client.query('BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE');
      await client.query(`SET LOCAL lock_timeout = ${ROW_WAIT_MS}`);
      if (tries > 1) await again();
      await settle(client, staged, again);
      await prepare();
      const plan = await planWrites(client, staged, keys);
      await client.query(`SET LOCAL lock_timeout = ${LOCK_WAIT_MS}`);
      await runWrites(client, plan);
      signal.throwIfAborted();
      await client.query('COMMIT');
      return;
    } catch (error) {
      await client.query('ROLLBACK').catch(() => undefined);
      const state = sqlState(error) ?? '';
      if (!PASSING.has(state) || (TAKEN.has(state) && tries >= TRIES_WHEN_TAKEN)) throw error;
      if (performance.now() >= until) {
        throw new DataProtectionError(
          'Rows or tables of the restore are locked by others and did not become free',
          'RESTORE_LOCK_TIMEOUT',
          { cause: error },
        );
      }
      await sleep(Math.min(LONGEST_PAUSE_MS, 20 * 2 ** Math.min(tries, 6)) * (0.5 + Math.random()));
    }
  }
}

async function settle(
  client: pg.Client,
  staged: readonly StagedEntity[],
  again: () => Promise<void>,
): Promise<void> {
  for (let comparisons = 1; ; comparisons += 1) {
    try {
      return await lockRows(client, staged);
    } catch (error) {
      if (!(error instanceof RowsMoved)) throw error;
      if (comparisons >= COMPARISONS) {
        throw new DataProtectionError(
          'The rows of the restore are changed by others all the time',
          'RESTORE_LOCK_TIMEOUT',
        );
      }
      await again();
    }
  }
}

/** Compares again, within the transaction. */
export const compareAgain = (client: pg.Client, comparison: LiveComparison): (() => Promise<void>) => {
  return () => compare(client, comparison);
};

/** Refuses deletes that would take other rows along, unless that was asked for. `RESTORE_CASCADES`. */
export function refuseCascades(cascades: readonly RestoreCascade[], allowed: boolean): void {
  if (allowed || cascades.length === 0) return;
  const list = cascades.map(
    ({ table, action, rows }) => `${action === 'DELETE' ? 'delete' : 'change'} ${rows} rows of ${table}`,
  );
  throw new DataProtectionError(
    `Deleting would also ${list.join(' and ')}: set \`allowCascades\` to take that in, or restore without \`deleteNotInBackup\``,
    'RESTORE_CASCADES',
  );
}
