import { setTimeout as sleep } from 'node:timers/promises';
import type { BackupRepository } from '../repository/backup-repository.ts';
import type { RestoreEnd } from '../repository/restore-operations.ts';
import type { LiveOutcome, RestoreOutcome, RestoreStep } from '../restore/restore.ts';
import type {
  BackupSnapshot,
  BackupWarning,
  RestoreOperation,
  RestoreProgress,
  RestoreStatus,
} from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import { BackupError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { enterOutcome } from './catalog-end.ts';
import type { ServiceContext } from './context.ts';
import { codeOf, failureOf, isCancellation } from './failure.ts';
import { liveRequest, liveScope, orderOf, segmentsOf } from './live-restore.ts';
import { openSnapshotArchive } from './snapshot-archive.ts';
import { readSegment, requireObjects, type StoredArchive } from './stored-archive.ts';
import { placeOf } from './supported.ts';
import { THAW_DAYS, thawArchive } from './thaw.ts';

export interface RestoreRun {
  readonly context: ServiceContext;
  /** Sees the whole organization: authorization has been checked before. */
  readonly repository: BackupRepository;
  readonly restore: RestoreOperation;
  readonly snapshot: BackupSnapshot;
  readonly signal: AbortSignal;
}

const PROGRESS_MS = 400;
const MAX_CONCURRENCY = 2;

/** Runs a restore to where it is to go. Rejects with what ended it; nothing of it is there then. */
export async function runRestore(run: RestoreRun): Promise<void> {
  const { context, repository, restore, snapshot, signal } = run;
  const started = context.clock.now();
  const progress = new RestoreProgressCount(context.clock, started.getTime());
  let timer: NodeJS.Timeout | undefined;
  let writing: Promise<unknown> = Promise.resolve();
  try {
    if (!(await repository.startRestore(restore.id, started.toISOString()))) {
      throw new BackupError('The restore is not waiting to be started', 'INVALID_STATE', snapshot.id, false);
    }
    const archive = await openSnapshotArchive(context, snapshot, signal);
    await requireObjects(archive, signal);
    progress.expect(archive);
    const enter = () =>
      repository.updateRestoreProgress(restore.id, { status: 'IN_PROGRESS', progress: progress.now() });
    const tell = () =>
      context.events.emit('restore.progress', {
        restoreId: restore.id,
        organizationId: restore.organizationId,
        progress: progress.now(),
      });
    await thawArchive(archive, {
      signal,
      days: THAW_DAYS,
      pollMs: context.thawPollMs,
      onProgress: ({ readable, total }) => {
        if (readable === total) return;
        progress.thawed(readable, total);
        tell();
        writing = enter().catch(() => undefined);
      },
    });
    await writing;
    await enter();
    timer = setInterval(() => {
      const current = progress.now();
      tell();
      writing = repository
        .updateRestoreProgress(restore.id, {
          status: current.phase === 'VALIDATING' ? 'VALIDATING' : 'IN_PROGRESS',
          progress: current,
        })
        .catch(() => undefined);
    }, PROGRESS_MS);
    const place = placeOf(restore.restoreDestination);
    if (place.kind === 'LIVE') return await runLive(run, archive, progress, started);
    const outcome = await context.restoreTarget.restoreToSchema({
      restoreId: restore.id,
      snapshot: {
        contents: archive.contents,
        segments: archive.manifest.segments,
        read: (index, reading) => readSegment(archive, index, reading),
      },
      targetSchema: place.name,
      maxConcurrency: MAX_CONCURRENCY,
      validation: restore.validationEnabled ? 'FULL' : 'COUNTS',
      signal,
      onProgress: (step) => progress.step(step),
    });
    clearInterval(timer);
    await writing;
    const end = completed(outcome, { progress: progress.now(), started, ended: context.clock.now() });
    await enterOutcome(() => finish(context, restore, 'restore.completed', end));
  } catch (error) {
    clearInterval(timer);
    await writing;
    await fail(context, restore, error);
    // A connection that was lost at the commit does not say whether it took place; what stands there does.
    const live = placeOf(restore.restoreDestination).kind === 'LIVE';
    if (!live || !(await hasCompleted(repository, restore.id))) throw error;
  } finally {
    clearInterval(timer);
    await writing;
  }
}

/** The end stands in the transaction of the rows: both are there or neither. */
async function runLive(
  { context, restore, signal }: RestoreRun,
  archive: StoredArchive,
  progress: RestoreProgressCount,
  started: Date,
): Promise<void> {
  const order = orderOf(restore);
  const scope = await liveScope(context, order, archive);
  const { bytes } = segmentsOf(archive, scope);
  progress.expectLive(
    scope.entities.map(({ type }) => type),
    bytes,
  );
  const request = liveRequest(context, order, archive, scope, signal, (type, rows, read) =>
    progress.staged(type, rows, read),
  );
  await context.restoreTarget.restoreLive({
    ...request,
    finish: async (client, outcome) => {
      const transaction = context.within(client);
      const ended = context.clock.now();
      const end = liveEnd(outcome, scope.warnings, { progress: progress.now(), started, ended });
      const own = { organizationId: restore.organizationId, branchIds: 'ALL' as const };
      if (!(await context.repository(own, transaction).finishRestore(restore.id, end))) {
        throw new BackupError(
          'The restore has been ended by somebody else',
          'INVALID_STATE',
          restore.snapshotId,
          false,
        );
      }
      await context.audit.append(transaction, restoreEntry(restore, 'restore.completed', end.status));
    },
  });
}

function liveEnd(
  outcome: LiveOutcome,
  warnings: readonly BackupWarning[],
  run: { readonly progress: RestoreProgress; readonly started: Date; readonly ended: Date },
): RestoreEnd {
  const { entities, cascades } = outcome;
  const all = [
    ...warnings,
    ...outcome.warnings,
    ...cascades.map(({ table, constraint, action, rows }) => ({
      code: 'ROWS_CASCADED',
      message: `${rows} rows of ${table} were ${action === 'DELETE' ? 'deleted' : 'changed'} through foreign key ${constraint}`,
    })),
    ...(outcome.conflicts === 0
      ? []
      : [
          {
            code: 'CONFLICTS',
            message: `${outcome.conflicts} rows were left as they are: see listRestoreConflicts`,
          },
        ]),
  ];
  const written = entities.map(({ entityType, inserts, updates, deletes }) => ({
    entityType,
    rows: inserts + updates,
    deletes,
  }));
  const total = written.reduce((sum, { rows }) => sum + rows, 0);
  return {
    status: all.length === 0 ? 'COMPLETED' : 'COMPLETED_WITH_WARNINGS',
    completedAt: run.ended.toISOString(),
    duration: Math.max(0, run.ended.getTime() - run.started.getTime()),
    progress: { ...run.progress, phase: 'FINALIZING', percentage: 100 },
    dataMetrics: {
      totalRecords: total,
      totalSizeBytes: run.progress.bytesProcessed,
      recordsByEntity: Object.fromEntries(written.map(({ entityType, rows }) => [entityType, rows])),
    },
    validationResults: {
      passed: true,
      validatedAt: run.ended.toISOString(),
      recordsExpected: total,
      recordsFound: total,
      // A row that was not as it should be would have undone the restore.
      checks: written.map(({ entityType, rows, deletes }) => ({
        name: `content of ${entityType}`,
        passed: true,
        details: `${rows} rows written and read back equal, ${deletes} deleted`,
      })),
    },
    changes: entities,
    warnings: all,
  };
}

const COMPLETED: readonly RestoreStatus[] = ['COMPLETED', 'COMPLETED_WITH_WARNINGS'];

async function hasCompleted(repository: BackupRepository, id: UUID): Promise<boolean> {
  const found = await repository.findRestoreById(id).catch(() => undefined);
  return found !== undefined && COMPLETED.includes(found.status);
}

/** Restores that nobody has entered as ended. */
const UNENDED: readonly RestoreStatus[] = ['APPROVED', 'QUEUED', 'PREPARING', 'IN_PROGRESS', 'VALIDATING'];

/**
 * Ends the restores of an organization whose processes died: what they had loaded under hidden names is removed; one
 * that had renamed its schema before it died is entered as completed. A restore whose lock is held is alive.
 */
export async function endDeadRestores(context: ServiceContext, repository: BackupRepository): Promise<void> {
  const unended: RestoreOperation[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await repository.listRestores({
      status: [...UNENDED],
      ...(cursor === undefined ? {} : { cursor }),
    });
    unended.push(...page.items);
    if (page.nextCursor === null) break;
    cursor = page.nextCursor;
  }
  for (const restore of unended) {
    const lock = await context.locks.tryRestore(restore.id);
    if (lock === undefined) continue;
    try {
      await endDeadRestore(context, restore);
    } finally {
      await lock.release();
    }
  }
}

async function endDeadRestore(context: ServiceContext, restore: RestoreOperation): Promise<void> {
  const reason = new BackupError(
    'The process that ran the restore ended before the restore did',
    'RESTORE_INTERRUPTED',
    restore.snapshotId,
  );
  const end = (await context.restoreTarget.sweep([restore.id])).get(restore.id);
  if (end === 'DONE' || end === 'GONE') await enterEnd(context, restore, end, reason);
}

/** Enters how a restore ended that has not entered it itself: by what it left, and the reason where that is nothing. */
async function enterEnd(
  context: ServiceContext,
  restore: RestoreOperation,
  end: 'DONE' | 'GONE',
  reason: unknown,
): Promise<void> {
  const completedAt = context.clock.now().toISOString();
  if (end === 'DONE') {
    const message = 'The restore was interrupted when it was done; its metrics were not recorded';
    await finish(context, restore, 'restore.completed', {
      status: 'COMPLETED_WITH_WARNINGS',
      completedAt,
      warnings: [{ code: 'INTERRUPTED', message }],
    });
  } else if (isCancellation(reason)) {
    const cancelled = { status: 'CANCELLED' as const, completedAt, statusReason: 'Cancelled' };
    await finish(context, restore, 'restore.cancelled', cancelled);
  } else {
    const failed = { status: 'FAILED' as const, completedAt, ...failureOf(reason, context.clock) };
    await finish(context, restore, 'restore.failed', failed);
  }
}

function completed(
  outcome: RestoreOutcome,
  run: { readonly progress: RestoreProgress; readonly started: Date; readonly ended: Date },
): RestoreEnd {
  return {
    status: outcome.warnings.length === 0 ? 'COMPLETED' : 'COMPLETED_WITH_WARNINGS',
    completedAt: run.ended.toISOString(),
    duration: Math.max(0, run.ended.getTime() - run.started.getTime()),
    progress: { ...run.progress, phase: 'FINALIZING', percentage: 100 },
    dataMetrics: outcome.metrics,
    validationResults: outcome.validation,
    warnings: outcome.warnings,
  };
}

/** Ends a restore in the catalog, with its audit entry, unless it has ended. */
async function finish(
  context: ServiceContext,
  restore: RestoreOperation,
  action: string,
  end: RestoreEnd,
): Promise<void> {
  await context.db.withTransaction(async (transaction) => {
    const scope = { organizationId: restore.organizationId, branchIds: 'ALL' as const };
    if (!(await context.repository(scope, transaction).finishRestore(restore.id, end))) return;
    await context.audit.append(transaction, restoreEntry(restore, action, end.status));
  });
}

/** How often a server is asked whether it has seen that a session of this process is gone, and how long between. */
const SWEEP_TRIES = 5;
const SWEEP_PAUSE_MS = 200;

/**
 * Ends a restore that failed, once it is certain what it left: a connection that breaks does not say whether the
 * statement before took place. Where that cannot be seen now, the next restore does it.
 */
async function fail(context: ServiceContext, restore: RestoreOperation, reason: unknown): Promise<void> {
  try {
    for (let tries = 1; tries <= SWEEP_TRIES; tries += 1) {
      const end = (await context.restoreTarget.sweep([restore.id])).get(restore.id);
      if (end === 'DONE' || end === 'GONE') return await enterEnd(context, restore, end, reason);
      await sleep(SWEEP_PAUSE_MS);
    }
    context.logger.warn({ restoreId: restore.id }, 'The end of a restore is left to the next one');
  } catch (error) {
    context.logger.error(
      { restoreId: restore.id, error: codeOf(error) },
      'The end of a restore could not be recorded',
    );
  }
}

export const restoreEntry = (restore: RestoreOperation, action: string, status: RestoreStatus) => ({
  organizationId: restore.organizationId,
  action,
  userId: restore.requestedBy,
  resourceType: 'restore_operation',
  resourceId: restore.id,
  details: { restoreNumber: restore.restoreNumber, snapshotId: restore.snapshotId, status },
});

class RestoreProgressCount {
  readonly #clock: Clock;
  readonly #started: number;
  #step: RestoreStep = { phase: 'INITIALIZING', entity: null, entitiesCompleted: 0, records: 0, bytes: 0 };
  #entities: readonly { readonly type: string }[] = [];
  #bytesTotal = 0;
  #thawed = 0;

  constructor(clock: Clock, started: number) {
    this.#clock = clock;
    this.#started = started;
  }

  expect({ contents }: StoredArchive): void {
    this.#entities = contents.entities;
    this.#bytesTotal = contents.entities.reduce((sum, entity) => sum + entity.bytes, 0);
  }

  /** For live tables: the entities in scope only. */
  expectLive(types: readonly string[], bytes: number): void {
    this.#entities = types.map((type) => ({ type }));
    this.#bytesTotal = bytes;
    this.#step = { ...this.#step, phase: 'LOADING' };
  }

  staged(type: string | null, rows: number, bytes: number): void {
    const entity = this.#entities.findIndex((one) => one.type === type);
    this.#step = {
      phase: 'LOADING',
      entity,
      entitiesCompleted: entity,
      records: this.#step.records + rows,
      bytes: this.#step.bytes + bytes,
    };
  }

  step(step: RestoreStep): void {
    this.#step = step;
  }

  /** How many of the objects can be read, while others lie in an archive tier. */
  thawed(readable: number, total: number): void {
    this.#step = { ...this.#step, phase: 'THAWING' };
    this.#thawed = readable / total;
  }

  now(): RestoreProgress {
    const now = this.#clock.now();
    const { phase, entity, entitiesCompleted, records, bytes } = this.#step;
    const elapsed = Math.max(1, now.getTime() - this.#started);
    const rate = (bytes * 1000) / elapsed;
    const share = this.#bytesTotal === 0 ? 1 : Math.min(1, bytes / this.#bytesTotal);
    return {
      phase,
      percentage:
        PHASE_START[phase] +
        Math.floor(phase === 'LOADING' ? share * (PHASE_START.BUILDING_INDEXES - PHASE_START.LOADING) : 0) +
        (phase === 'THAWING' ? Math.round(this.#thawed * 100) / 100 : 0),
      currentEntity: entity === null ? null : (this.#entities[entity]?.type ?? null),
      entitiesTotal: this.#entities.length,
      entitiesCompleted,
      recordsRestored: records,
      bytesProcessed: bytes,
      bytesTotal: this.#bytesTotal,
      bytesPerSecond: Math.round(rate),
      estimatedTimeRemainingMs:
        phase === 'LOADING' && rate > 0 ? Math.round(((this.#bytesTotal - bytes) * 1000) / rate) : null,
      updatedAt: now.toISOString(),
    };
  }
}

const PHASE_START: Readonly<Record<RestoreProgress['phase'], number>> = {
  INITIALIZING: 0,
  THAWING: 1,
  VERIFYING: 1,
  LOADING: 2,
  BUILDING_INDEXES: 65,
  VALIDATING: 75,
  FINALIZING: 98,
};
