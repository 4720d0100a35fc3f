import { uuidv7 } from 'uuidv7';
import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { syncClaims } from '../repository/sync-claims.ts';
import type { OperationEnd } from '../repository/sync-outcome.ts';
import type { Actor } from '../types/actor.ts';
import { type OfflineSyncQueue, type ProcessingSummary, SYNC_LANES } from '../types/offline-sync.ts';
import type { SyncContext } from './sync-context.ts';
import { applyClaimed, drainStream } from './sync-drain.ts';
import { afterEnds } from './sync-follow-up.ts';
import { putRight } from './sync-sweeper.ts';

const NEVER = new AbortController().signal;

/**
 * Applies what a device has handed in until nothing of it is ready. What is left is looked after as a worker's sweeper
 * would: it expires, is parked, is shown as held up, or goes on.
 */
export async function processDevice(
  context: SyncContext,
  actor: Actor,
  deviceId: string,
  signal: AbortSignal = NEVER,
): Promise<ProcessingSummary> {
  const { organizationId } = actor;
  const repository = createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' });
  // A stream may lead through any branch.
  const forAll = actor.permissions.includes('sync:admin') && actor.branchIds === 'ALL';
  const userId = forAll ? undefined : actor.userId;
  const ends: OperationEnd[] = [];
  const drain = async (): Promise<void> => {
    let worked = true;
    while (worked && !signal.aborted) {
      worked = false;
      for (const streamId of await repository.streamsOfDevice(deviceId, userId)) {
        for (const lane of SYNC_LANES) {
          const work = { organizationId, streamId, lane };
          const turn = await drainStream(context, work, { until: 'EMPTY', signal });
          ends.push(...turn.ends);
          worked ||= turn.ends.some(({ status }) => status !== 'PENDING');
        }
      }
    }
  };
  await drain();
  let remaining = await repository.findPendingOperations(deviceId);
  if (remaining.length > 0 && !signal.aborted) {
    const freed = await putRight(context, await repository.streamsOfDevice(deviceId, userId));
    if (freed.length > 0) await drain();
    remaining = await repository.findPendingOperations(deviceId);
  }
  const own = remaining.filter((operation) => userId === undefined || operation.userId === userId);
  return { ...summaryOf(ends), remaining: own.length };
}

/** Applies one operation, or its atomic batch, where it is ready. */
export async function processOne(context: SyncContext, operation: OfflineSyncQueue): Promise<void> {
  const { organizationId, streamId, lane } = operation;
  const work = { organizationId, streamId, lane };
  if (operation.batchSize !== null) {
    await drainStream(context, work, { until: 'EMPTY', signal: NEVER });
    return;
  }
  const token = uuidv7();
  const claimed = await syncClaims(context.db).claimOne(operation.id, {
    token,
    leaseMs: context.limits.leaseMs,
  });
  if (claimed === undefined) return;
  const ends = await applyClaimed(context, token, [claimed], {
    signal: NEVER,
    forMs: context.limits.leaseMs / 2,
  });
  await afterEnds(context, work, [claimed], ends);
}

function summaryOf(ends: readonly OperationEnd[]): Omit<ProcessingSummary, 'remaining'> {
  const count = (is: (end: OperationEnd) => boolean): number => ends.filter(is).length;
  return {
    processed: ends.length,
    applied: count(({ outcome }) => outcome === 'APPLIED'),
    merged: count(({ outcome }) => outcome === 'MERGED'),
    superseded: count(({ outcome }) => outcome === 'SUPERSEDED'),
    rejected: count(({ outcome }) => outcome === 'REJECTED'),
    conflicts: count(({ status }) => status === 'CONFLICT'),
    retried: count(({ status, nextRetryAt }) => status === 'PENDING' && nextRetryAt !== null),
    parked: count(({ status }) => status === 'PARKED'),
  };
}
