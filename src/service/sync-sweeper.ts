import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { type Holder, type SweptOperation, syncSweep } from '../repository/sync-sweep.ts';
import type { UUID } from '../types/ids.ts';
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
  const freed = [...(await putRight(context)), ...(await sweep.raiseLanes())];
  await wakeStreams(context, distinct(freed));
  await delays.tell(context);
  await sweep.breakCycles();
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

/**
 * Puts right what was left behind in these streams, or in all. Gives what can go on, for a start: each of it stands for
 * its stream.
 */
export async function putRight(
  context: SyncContext,
  streamIds?: readonly UUID[],
): Promise<readonly SweptOperation[]> {
  const sweep = syncSweep(context.db, streamIds);
  const released = await sweep.releaseExpired(context.limits.leaseMs);
  await sweep.parkPoisoned();
  await sweep.reopenPoisoned();
  await sweep.expireOverdue();
  await showMissing(context, streamIds);
  const known = [...context.entities.values()].flatMap((entity) =>
    entity.versions.map((schemaVersion) => ({ entityType: entity.type, schemaVersion })),
  );
  await block(context, await sweep.unshownHolders());
  for (const organizationId of await sweep.organizationsToNumber()) {
    await createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' }).numberConflicts();
  }
  return [
    ...released,
    ...(await sweep.predecessorsArrived()),
    ...(await sweep.takeUpKnown(known)),
    ...(await sweep.releaseBlocked()),
  ];
}

/** Shows what operations hold up. */
async function block({ db }: SyncContext, holders: readonly Holder[]): Promise<void> {
  for (const [organizationId, own] of Map.groupBy(holders, (one) => one.organizationId)) {
    const repository = createOfflineSyncRepository(db, { organizationId, branchIds: 'ALL' });
    for (const [reason, operations] of Map.groupBy(own, (one) => one.reason)) {
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
