import type pg from 'pg';
import { databaseError } from '../postgres/errors.ts';
import { destroySession, openSession } from '../postgres/session.ts';
import type { EntityChanges } from '../types/backup.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import { cascadedTables } from './cascaded.ts';
import { cancelled } from './errors.ts';
import type { RestoreTargetOptions } from './fill.ts';
import { sessionName } from './hidden-schema.ts';
import { keepBefore, storeConflicts, storeImages } from './images.ts';
import { compareAgain, compareLive, describeChanges, inShortTransaction, refuseCascades } from './live.ts';
import { followCascades } from './obstacles.ts';
import type { LiveOutcome, LivePreview, LiveRestoreRequest } from './restore.ts';
import { RestoreLock } from './sessions.ts';

/** What a restore into the live tables would do now. Changes nothing. */
export async function previewLive(
  options: RestoreTargetOptions,
  request: Omit<LiveRestoreRequest, 'finish'>,
): Promise<LivePreview> {
  return withSession(options, request, async (client) => {
    const comparison = await compareLive(client, request);
    const cascades = await followCascades(client, comparison.staged, comparison.keys);
    return {
      entities: await describeChanges(client, comparison.staged),
      cascades,
      disabledTriggers: comparison.staged.flatMap(({ entity }) =>
        entity.disableTriggers.map((trigger) => ({ entityType: entity.type, trigger })),
      ),
      warnings: comparison.warnings,
    };
  });
}

/**
 * Restores rows into the tables that are in use. They are staged and compared first, in temporary tables and without a
 * lock; then one short transaction locks the rows that differ, makes sure that they are still what was compared, writes,
 * reads back, and calls `finish`, which is part of it.
 */
export async function restoreLive(
  options: RestoreTargetOptions,
  request: LiveRestoreRequest,
): Promise<LiveOutcome> {
  return withSession(options, request, async (client) => {
    const comparison = await compareLive(client, request);
    const { staged, keys } = comparison;
    let outcome: LiveOutcome | undefined;
    const again = compareAgain(client, comparison);
    await inShortTransaction(
      client,
      comparison,
      again,
      async () => {
        const cascades = await followCascades(client, staged, keys);
        refuseCascades(cascades, request.allowCascades);
        const changes = await describeChanges(client, staged);
        requireSomething(request, changes);
        const restore = {
          id: request.restoreId,
          organizationId: request.organizationId,
          detectedAt: request.now,
        };
        const conflicts = await storeConflicts(client, restore, request.records, staged);
        const carried = request.keepImages ? await cascadedTables(client, cascades, staged) : [];
        if (request.keepImages) for (const one of [...staged, ...carried]) await keepBefore(client, one);
        if (request.keepImages) await storeImages(client, restore, request.records, [...staged, ...carried]);
        outcome = { entities: changes, cascades, conflicts, warnings: comparison.warnings };
        await request.finish(client, outcome);
      },
      { signal: request.signal, lockWaitMs: options.lockWaitMs },
    );
    if (outcome === undefined)
      throw new DataProtectionError('A restore ended without an outcome', 'INTERNAL');
    return outcome;
  });
}

/** A restore that names records and finds none of them is no success. */
function requireSomething(request: LiveRestoreRequest, changes: readonly EntityChanges[]): void {
  if (!request.namesRecords || changes.some(({ archived, deletes }) => archived + deletes > 0)) return;
  throw new DataProtectionError('The snapshot holds none of the rows that the scope names', 'NOT_FOUND');
}

/** A session that holds the restore's lock: as long as it lives, the restore is not taken for a dead one. */
export async function withSession<T>(
  options: RestoreTargetOptions,
  { restoreId, signal }: { readonly restoreId: UUID; readonly signal: AbortSignal },
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const cancel = (): void => stop.abort(cancelled(signal.reason));
  signal.addEventListener('abort', cancel, { once: true });
  if (signal.aborted) cancel();
  let lock: RestoreLock | undefined;
  let client: pg.Client | undefined;
  try {
    stop.signal.throwIfAborted();
    lock = await RestoreLock.take(options.connection, restoreId, () =>
      stop.abort(
        new DataProtectionError('The session that held the restore’s lock was lost', 'DATABASE_UNAVAILABLE'),
      ),
    );
    client = await openSession({
      connection: options.connection,
      name: sessionName(restoreId),
      signal: stop.signal,
    });
    return await work(client);
  } catch (error) {
    throw databaseError(stop.signal.aborted ? stop.signal.reason : error, 'Restoring');
  } finally {
    signal.removeEventListener('abort', cancel);
    if (client !== undefined) destroySession(client);
    await lock?.release();
  }
}
