import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { type SweptOperation, type SyncSweep, syncSweep } from '../repository/sync-sweep.ts';
import type { UUID } from '../types/ids.ts';
import type { SyncQueueStatus } from '../types/offline-sync.ts';
import { type SyncContext, wakeStreams } from './sync-context.ts';
import type { SyncDelays } from './sync-delays.ts';
import { showMissing } from './sync-missing.ts';

/** Rounds of removal in one look; what is left over is removed in the next. */
const MOST_ROUNDS = 20;

/**
 * Puts right what crashes and races have left, ends what has waited too long, tells of delays, and forgets what is old.
 * Every step may be repeated and run by several processes at once.
 */
export async function sweepSync(
  context: SyncContext,
  delays: SyncDelays,
  signal: AbortSignal,
): Promise<void> {
  const sweep = syncSweep(context.db);
  const { limits, clock } = context;
  const released = await sweep.releaseExpired();
  await sweep.parkPoisoned();
  await sweep.expireOverdue();
  await sweep.breakCycles();
  await showMissing(context);
  const known = [...context.entities.values()].flatMap((entity) =>
    entity.versions.map((schemaVersion) => ({ entityType: entity.type, schemaVersion })),
  );
  await block(context, await sweep.unshownHolders());
  for (const organizationId of await sweep.organizationsToNumber()) {
    await createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' }).numberConflicts();
  }
  const freed = [
    ...released,
    ...(await sweep.predecessorsArrived()),
    ...(await sweep.raiseLanes()),
    ...(await sweep.releaseBlocked()),
    ...(await sweep.takeUpKnown(known)),
  ];
  await wakeStreams(context, distinct(freed));
  await delays.tell(context);
  const before = new Date(clock.now().getTime() - limits.historyMs).toISOString();
  const forgotten = new Date(clock.now().getTime() - 2 * limits.historyMs).toISOString();
  for (const remove of [
    () => sweep.removeEnded(before),
    () => sweep.removeEvents(before),
    () => sweep.removeIds(forgotten),
  ]) {
    for (let round = 0; round < MOST_ROUNDS && !signal.aborted; round += 1) if ((await remove()) === 0) break;
  }
}

/** Shows what operations hold up. */
async function block(
  { db }: SyncContext,
  holders: Awaited<ReturnType<SyncSweep['unshownHolders']>>,
): Promise<void> {
  const reasonOf = ({ status }: { status: SyncQueueStatus }) =>
    status === 'CONFLICT' ? 'PREDECESSOR_CONFLICT' : 'PREDECESSOR_FAILED';
  for (const [organizationId, own] of Map.groupBy(holders, (one) => one.organizationId)) {
    const repository = createOfflineSyncRepository(db, { organizationId, branchIds: 'ALL' });
    for (const [reason, operations] of Map.groupBy(own, reasonOf)) {
      await repository.blockDescendants(
        operations.map(({ id }) => id),
        reason,
      );
    }
  }
}

function distinct(operations: readonly SweptOperation[]): readonly SweptOperation[] {
  const streams = new Map<string, SweptOperation>();
  const nameOf = ({ streamId, lane }: { streamId: UUID; lane: string }): string => `${lane} ${streamId}`;
  for (const operation of operations) streams.set(nameOf(operation), operation);
  return [...streams.values()];
}
