import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import type { ClaimedOperation } from '../repository/sync-claims.ts';
import type { OperationEnd } from '../repository/sync-outcome.ts';
import type { UUID } from '../types/ids.ts';
import { codeOf } from './failure.ts';
import { type StreamLane, type SyncContext, wakeStreams } from './sync-context.ts';

/**
 * What follows from ends that stand in the database: successors go on or are shown as blocked, conflicts get their
 * numbers, workers are woken, listeners told. All of it can be lost: the sweeper makes up for it.
 */
export async function afterEnds(
  context: SyncContext,
  work: StreamLane,
  taken: readonly ClaimedOperation[],
  ends: readonly OperationEnd[],
): Promise<void> {
  const { organizationId } = work;
  const repository = createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' });
  const operations = new Map(taken.map((operation) => [operation.id, operation]));
  const operationIds = (of: readonly OperationEnd[]): readonly UUID[] =>
    of.flatMap(({ id }) => operations.get(id)?.operationId ?? []);
  const completed = ends.filter(({ status }) => status === 'COMPLETED');
  const conflicts = ends.filter(({ status }) => status === 'CONFLICT');
  const failed = ends.filter(({ status }) => status === 'FAILED' || status === 'PARKED');

  try {
    if (completed.length > 0) {
      const waiting = await repository.successorsOf(operationIds(completed));
      if (waiting.length > 0) {
        await repository.unblock(operationIds(completed));
        await wakeStreams(
          context,
          waiting
            .filter(({ streamId, lane }) => streamId !== work.streamId || lane !== work.lane)
            .map((one) => ({ organizationId, ...one })),
        );
      }
    }
    if (conflicts.length > 0) {
      await repository.blockDescendants(
        conflicts.map(({ id }) => id),
        'PREDECESSOR_CONFLICT',
      );
    }
    if (conflicts.length > 0 || ends.some(({ conflictId }) => conflictId !== null)) {
      await repository.numberConflicts();
    }
    if (failed.length > 0) {
      await repository.blockDescendants(
        failed.map(({ id }) => id),
        'PREDECESSOR_FAILED',
      );
    }
  } catch (error) {
    context.logger.warn(
      { error: codeOf(error) },
      'What follows from applied operations is left to the sweeper',
    );
  }
  const delay = nextTry(ends, context.clock.now());
  if (delay !== undefined) await wakeStreams(context, [work], delay);
  for (const end of ends) tell(context, operations.get(end.id), end);
}

/** Until the first of them is tried again. */
function nextTry(ends: readonly OperationEnd[], now: Date): number | undefined {
  const times = ends.flatMap(({ status, nextRetryAt }) =>
    status === 'PENDING' && nextRetryAt !== null ? [Date.parse(nextRetryAt)] : [],
  );
  return times.length === 0 ? undefined : Math.max(0, Math.ceil(Math.min(...times) - now.getTime()));
}

function tell(context: SyncContext, operation: ClaimedOperation | undefined, end: OperationEnd): void {
  if (operation === undefined || end.status === 'PENDING') return;
  const { organizationId, operationId, userId, deviceId, entityType, entityId } = operation;
  const { status, outcome, reason, appliedVersion, conflictId } = end;
  context.events.emit('sync.operation', {
    ...{ organizationId, operationId, userId, deviceId, entityType, entityId },
    ...{ status, outcome, reason, version: appliedVersion, conflictId },
    superseded: end.superseded,
  });
}
