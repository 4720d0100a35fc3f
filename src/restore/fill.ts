import type pg from 'pg';
import type { BackupWarning } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { Logger } from '../types/logger.ts';
import { restoreAccess } from './access.ts';
import { addDomainConstraints } from './ddl.ts';
import { defineTables } from './define.ts';
import { execute } from './execute.ts';
import { addForeignKeys } from './foreign-keys.ts';
import { hiddenSchema } from './hidden-schema.ts';
import { analyze, buildIndexes } from './indexes.ts';
import { loadRows } from './load.ts';
import { checkRows, type Found, foreignKeyCheck, metricsOf, validationResults } from './outcome.ts';
import type { RestorePlan } from './plan.ts';
import { RestoreProgressCounter } from './progress.ts';
import type { RestoreOutcome, RestoreToSchemaRequest } from './restore.ts';
import { setSequences } from './sequences.ts';
import { WorkSessions } from './sessions.ts';
import { countRows, readBack } from './validate.ts';

export interface RestoreTargetOptions {
  /** A session connection: not through a transaction-pooling proxy. */
  readonly connection: pg.ClientConfig;
  /** How long a restore into live tables tries to lock what others hold, in milliseconds. */
  readonly lockWaitMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Fills the hidden schema, which exists and is empty: everything but the rename. Aborting `stop` cuts the sessions
 * and makes it reject at once; what it leaves is the caller's to drop.
 */
export async function fillHiddenSchema(
  options: RestoreTargetOptions,
  request: RestoreToSchemaRequest,
  plan: RestorePlan,
  stop: AbortController,
): Promise<RestoreOutcome> {
  const { restoreId, snapshot } = request;
  const { contents } = snapshot;
  const progress = new RestoreProgressCounter(snapshot, plan, request.onProgress);
  const step = stepLogger(options.logger, restoreId);
  progress.phase('INITIALIZING');
  await using sessions = await WorkSessions.open({
    connection: options.connection,
    restoreId,
    count: request.maxConcurrency,
    stop,
  });
  const { definitions, searchPath } = await defineTables(sessions, contents, plan, hiddenSchema(restoreId));
  step('defined');

  progress.phase('LOADING');
  await sessions.useSearchPath([]);
  const archived = await loadRows({
    sessions,
    snapshot,
    definitions,
    plan,
    signal: stop.signal,
    onLoaded: (relation, rows, bytes) => progress.loaded(relation, rows, bytes),
  });
  step('loaded');

  progress.phase('BUILDING_INDEXES');
  await sessions.useSearchPath(searchPath);
  await buildIndexes(sessions, definitions, plan);
  for (const statement of addDomainConstraints(definitions)) await execute(sessions.first, statement);
  await analyze(sessions, definitions, plan);
  step('indexed');

  progress.phase('VALIDATING');
  await sessions.useSearchPath([]);
  const found = await look(request, archived, { sessions, definitions, leaves: plan.leaves });
  const checks = checkRows(contents, plan, found);
  const failed = checks.filter((check) => !check.passed);
  if (failed.length > 0) {
    const details = failed.map((check) => `${check.name}: ${check.details}`).join('; ');
    throw new DataProtectionError(
      `The restored rows are not the archived ones: ${details}`,
      'RESTORE_VALIDATION_FAILED',
    );
  }
  step('compared');
  await sessions.useSearchPath(searchPath);
  const foreignKeys = await addForeignKeys(sessions, definitions, plan);
  step('foreign keys checked');

  progress.phase('FINALIZING');
  await setSequences(sessions.first, definitions);
  const access = await restoreAccess(sessions.first, definitions);
  const warnings: BackupWarning[] = [...plan.warnings, ...foreignKeys.warnings, ...access];
  return {
    metrics: metricsOf(contents),
    validation: validationResults(
      contents,
      found,
      [...checks, foreignKeyCheck(foreignKeys)],
      options.clock.now(),
    ),
    warnings,
  };
}

async function look(
  request: RestoreToSchemaRequest,
  archived: Found['archived'],
  options: Parameters<typeof readBack>[0],
): Promise<Found> {
  if (request.validation === 'COUNTS') return { archived, counted: await countRows(options), readBack: null };
  const read = await readBack(options);
  return {
    archived,
    counted: new Map([...read].map(([leaf, digest]) => [leaf, digest.rows])),
    readBack: read,
  };
}

function stepLogger(logger: Logger, restoreId: string): (step: string) => void {
  let since = performance.now();
  return (step) => {
    const now = performance.now();
    logger.info({ restoreId, step, durationMs: Math.round(now - since) }, 'restore step done');
    since = now;
  };
}
