import type { ClaimedOperation } from '../repository/sync-claims.ts';
import type { OperationEnd } from '../repository/sync-outcome.ts';
import { calculateBackoff } from '../sync/backoff.ts';
import { categorizeSyncError } from '../sync/errors.ts';
import { DataProtectionError, ValidationError } from '../types/errors.ts';
import type { SyncReason } from '../types/sync-reasons.ts';

/** What has ended a try, in the fields of the operation. */
const NOTHING = {
  outcome: null,
  appliedVersion: null,
  superseded: [],
  conflictId: null,
  nextRetryAt: null,
  error: null,
  statusCode: null,
  validationErrors: [],
  voided: false,
  branchId: null,
} as const;

/** The end of a try that leaves the operation where it is not pending. */
export function endOf(
  operation: ClaimedOperation,
  status: OperationEnd['status'],
  reason: SyncReason | null,
  more: Partial<OperationEnd> = {},
): OperationEnd {
  return {
    ...NOTHING,
    id: operation.id,
    status,
    reason,
    outcome: status === 'FAILED' ? 'REJECTED' : null,
    retryCount: operation.retryCount,
    reviewRequired: operation.reviewRequired,
    ...more,
  };
}

/** Rejected with what it violates. */
export function rejection(
  operation: ClaimedOperation,
  reason: SyncReason,
  issues: readonly { readonly path: string; readonly message: string }[] = [],
  more: Partial<OperationEnd> = {},
): OperationEnd {
  const statusCode = reason === 'FORBIDDEN' ? 403 : reason === 'ENTITY_ID_TAKEN' ? 409 : 422;
  return endOf(operation, 'FAILED', reason, {
    error: reason,
    statusCode,
    validationErrors: issues.map(({ path, message }) => ({ path, message })),
    ...more,
  });
}

/**
 * Where a person has decided a conflict and that cannot be carried out, nothing is rejected or parked: the conflict
 * waits for another decision.
 */
export function undecided(operation: ClaimedOperation, end: OperationEnd): OperationEnd {
  const over = end.status === 'FAILED' || end.status === 'PARKED';
  if (operation.conflictResolution === null || !over) return end;
  return { ...end, status: 'CONFLICT', outcome: null, conflictId: operation.conflictId, voided: true };
}

/** An outage is waited for as after so many tries that failed. */
const OUTAGE_TRIES = 4;

/** The end of a try that failed, by what it failed with. */
export function failedTry(
  operation: ClaimedOperation,
  error: unknown,
  now: Date,
  random: () => number = Math.random,
): OperationEnd {
  const { category, reason, statusCode, countsAsAttempt } = categorizeSyncError(error);
  const told = { error: safeText(error), statusCode };
  switch (category) {
    case 'PERMANENT':
      return rejection(operation, reason, error instanceof ValidationError ? error.issues : [], told);
    case 'DETECT_AGAIN':
      // A unique key that is not the entity's own does not go away by looking again.
      return operation.retryCount >= 2
        ? rejection(operation, 'CONSTRAINT_VIOLATED', [], told)
        : again(operation, 'RETRY', now, told);
    default:
      break;
  }
  const pauseAfter = (tries: number): Date => {
    const options = { jitter: 'FULL', random } as const;
    return new Date(now.getTime() + calculateBackoff(tries, 1000, operation.backoffMultiplier, options));
  };
  // However often: it is not about the operation.
  if (!countsAsAttempt) return again(operation, 'RETRY', pauseAfter(OUTAGE_TRIES), told, 0);
  if (operation.retryCount >= operation.maxRetries) {
    return endOf(
      operation,
      'PARKED',
      category === 'WAIT_FOR_PARENT' ? 'PARENT_MISSING' : 'RETRIES_EXHAUSTED',
      told,
    );
  }
  const at = pauseAfter(operation.retryCount + 1);
  return again(operation, category === 'WAIT_FOR_PARENT' ? 'PARENT_MISSING' : 'RETRY', at, told);
}

const again = (
  operation: ClaimedOperation,
  reason: SyncReason,
  at: Date,
  told: Partial<OperationEnd>,
  counted = 1,
): OperationEnd =>
  endOf(operation, 'PENDING', reason, {
    retryCount: operation.retryCount + counted,
    nextRetryAt: at.toISOString(),
    ...told,
  });

/** A code and a message without a row's content. */
function safeText(error: unknown): string {
  if (error instanceof DataProtectionError) return `${error.code}: ${error.message}`.slice(0, 1000);
  if (!(error instanceof Error)) return 'unknown';
  const state = Reflect.get(error, 'code');
  return typeof state === 'string' && /^[A-Z0-9_]{1,40}$/.test(state) ? `${error.name} ${state}` : error.name;
}
