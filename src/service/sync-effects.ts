import type { ClaimedOperation } from '../repository/sync-claims.ts';
import type { NewSyncEvent, OperationEnd } from '../repository/sync-outcome.ts';
import type { SyncEventType } from '../types/offline-sync.ts';

/** The events that tell how a try ended. */
export function eventsOf(operation: ClaimedOperation, end: OperationEnd): readonly NewSyncEvent[] {
  const type = typeOf(end);
  if (type === undefined) return [];
  const event = (of: SyncEventType): NewSyncEvent => ({
    queueId: operation.id,
    type: of,
    version: end.appliedVersion,
    details: {
      ...(end.reason === null ? {} : { reason: end.reason }),
      ...(end.conflictId === null ? {} : { conflictId: end.conflictId }),
      ...(end.superseded.length === 0 ? {} : { superseded: end.superseded.length }),
      ...(end.retryCount === 0 ? {} : { retryCount: end.retryCount }),
    },
  });
  const review = end.status === 'COMPLETED' && end.reviewRequired;
  return review ? [event(type), event('REVIEW_REQUIRED')] : [event(type)];
}

function typeOf(end: OperationEnd): SyncEventType | undefined {
  switch (end.status) {
    case 'COMPLETED':
    case 'FAILED':
      return end.outcome ?? undefined;
    case 'CONFLICT':
      return 'CONFLICT_DETECTED';
    case 'PARKED':
      return 'PARKED';
    case 'BLOCKED':
      return 'BLOCKED';
    case 'PENDING':
      return end.nextRetryAt === null ? undefined : 'RETRY';
    default:
      return undefined;
  }
}
