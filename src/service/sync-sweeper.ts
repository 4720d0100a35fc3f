import { createOfflineSyncRepository } from '../repository/offline-sync-repository.ts';
import { type Holder, type SweptOperation, syncSweep } from '../repository/sync-sweep.ts';
import type { UUID } from '../types/ids.ts';
import { codeOf } from './failure.ts';
import { type SyncContext, wakeStreams } from './sync-context.ts';
import type { SyncDelays } from './sync-delays.ts';
import { showMissing } from './sync-missing.ts';

/** Rounds of removal in one look; what is left over is removed in the next. */
const MOST_ROUNDS = 20;

/** Runs a step of the sweep. */
type Run = <T>(name: string, step: () => Promise<T>) => Promise<T | undefined>;

/**
 * Puts right what crashes and races have left, ends what has waited too long, tells of delays, and forgets what is old.
 * Every step may be repeated and run by several processes at once. A step that fails does not keep the others from
 * theirs: the first failure is thrown in the end; only where the database is away at once.
 */
export async function sweepSync(
  context: SyncContext,
  delays: SyncDelays,
  signal: AbortSignal,
): Promise<void> {
  const sweep = syncSweep(context.db);
  const { limits, clock } = context;
  const before = new Date(clock.now().getTime() - limits.historyMs).toISOString();
  const forgotten = new Date(clock.now().getTime() - 2 * limits.historyMs).toISOString();
  const removals = {
    'remove operations': () => sweep.removeEnded(before),
    'remove events': () => sweep.removeEvents(before),
    'remove ids': () => sweep.removeIds(forgotten),
  };
  await eachByItself(context, async (run) => {
    const freed = await repair(context, run);
    freed.push(...((await run('raise lanes', () => sweep.raiseLanes())) ?? []));
    await wakeStreams(context, distinct(freed));
    await run('tell of delays', () => delays.tell(context));
    await run('break cycles', () => sweep.breakCycles());
    for (const [name, remove] of Object.entries(removals)) {
      await run(name, async () => {
        for (let round = 0; round < MOST_ROUNDS && !signal.aborted; round += 1)
          if ((await remove()) === 0) break;
      });
    }
  });
}

/**
 * Puts right what was left behind in these streams, or in all. Gives what can go on, for a start: each of it stands for
 * its stream. Throws as `sweepSync`.
 */
export function putRight(
  context: SyncContext,
  streamIds?: readonly UUID[],
): Promise<readonly SweptOperation[]> {
  return eachByItself(context, (run) => repair(context, run, streamIds));
}

async function repair(
  context: SyncContext,
  run: Run,
  streamIds?: readonly UUID[],
): Promise<SweptOperation[]> {
  const sweep = syncSweep(context.db, streamIds);
  const known = [...context.entities.values()].flatMap((entity) =>
    entity.versions.map((schemaVersion) => ({ entityType: entity.type, schemaVersion })),
  );
  const released = await run('release', () => sweep.releaseExpired(context.limits.leaseMs));
  await run('park', () => sweep.parkPoisoned());
  await run('reopen', () => sweep.reopenPoisoned());
  await run('expire', () => sweep.expireOverdue());
  await run('show what is missing', () => showMissing(context, streamIds));
  // What may pass those that are shown as held up goes on.
  const passed = await run('block', async () => block(context, await sweep.unshownHolders()));
  for (const organizationId of (await run('find conflicts', () => sweep.organizationsToNumber())) ?? []) {
    const repository = createOfflineSyncRepository(context.db, { organizationId, branchIds: 'ALL' });
    await run('number conflicts', () => repository.numberConflicts());
  }
  return [
    ...(released ?? []),
    ...(passed ?? []),
    ...((await run('take up what has arrived', () => sweep.predecessorsArrived())) ?? []),
    ...((await run('take up what is known', () => sweep.takeUpKnown(known))) ?? []),
    ...((await run('unblock', () => sweep.releaseBlocked())) ?? []),
  ];
}

/** Runs steps of which each may fail by itself. Throws what the first failed with, once all have had their turn. */
async function eachByItself<T>({ logger }: SyncContext, work: (run: Run) => Promise<T>): Promise<T> {
  const failures: unknown[] = [];
  const done = await work(async (step, run) => {
    try {
      return await run();
    } catch (error) {
      if (codeOf(error) === 'DATABASE_UNAVAILABLE') throw error;
      logger.warn({ step, error: codeOf(error) }, 'A step of looking after offline operations has failed');
      failures.push(error);
      return undefined;
    }
  });
  if (failures.length > 0) throw failures[0];
  return done;
}

/** Shows what operations hold up; gives them. */
async function block({ db }: SyncContext, holders: readonly Holder[]): Promise<readonly Holder[]> {
  for (const [organizationId, own] of Map.groupBy(holders, (one) => one.organizationId)) {
    const repository = createOfflineSyncRepository(db, { organizationId, branchIds: 'ALL' });
    for (const [reason, operations] of Map.groupBy(own, (one) => one.reason)) {
      await repository.blockDescendants(
        operations.map(({ id }) => id),
        reason,
      );
    }
  }
  return holders;
}

function distinct(operations: readonly SweptOperation[]): readonly SweptOperation[] {
  const streams = new Map<string, SweptOperation>();
  const nameOf = ({ streamId, lane }: { streamId: UUID; lane: string }): string => `${lane} ${streamId}`;
  for (const operation of operations) streams.set(nameOf(operation), operation);
  return [...streams.values()];
}
