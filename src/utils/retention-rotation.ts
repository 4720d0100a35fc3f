import type { RetentionPolicy } from '../types/backup.ts';
import { ValidationError } from '../types/errors.ts';
import { compareNumbers, type History, type RetainableSnapshot } from './retention-order.ts';
import type { DeleteRule } from './retention-reasons.ts';
import { isYounger } from './retention-tiers.ts';
import { DAY } from './schedule-zone.ts';

/** Which of two chains rotation removes first: negative for the first. Each in the order of its numbers. */
export type ChainComparator<S> = (one: readonly S[], other: readonly S[]) => number;

/** A limit that rotation could not reach, because what is left is protected. */
export interface UnreachableLimit {
  readonly configurationId: string | null;
  readonly rule: 'maxBackups' | 'maxSize' | 'maxAgeDays';
  readonly limit: number;
  /** Snapshots, bytes, or days of the oldest chain; what is left after the deletions. */
  readonly actual: number;
}

export interface Rotation<S> {
  readonly removed: readonly { readonly snapshot: S; readonly rule: DeleteRule; readonly text: string }[];
  readonly unreachable: readonly Omit<UnreachableLimit, 'configurationId'>[];
}

interface Chain<S> {
  readonly snapshots: readonly S[];
  readonly isProtected: boolean;
  readonly bytes: number;
  /** Of its youngest member: the others are needed by it. */
  readonly time: number;
}

/**
 * Rule 3: removes whole chains (a FULL and all that builds on it) until the limits hold. A chain of which rule 2
 * keeps a member stays, and so does the one of the newest snapshot: a limit that is too small must not cost the
 * backup that was just taken.
 */
export function rotate<S extends RetainableSnapshot>(
  kept: readonly S[],
  policy: RetentionPolicy,
  {
    history,
    byId,
    now,
    isHeld,
    compareChains,
  }: {
    readonly history: History<S>;
    /** Every snapshot of the configuration, whatever its state: chains run through all of them. */
    readonly byId: ReadonlyMap<string, S>;
    readonly now: number;
    readonly isHeld: (snapshot: S) => boolean;
    readonly compareChains: ChainComparator<S> | undefined;
  },
): Rotation<S> {
  const { maxAgeDays, maxBackups, maxSize } = policy;
  let chains = chainsOf(kept, byId, { history, isHeld }).sort(removalOrder(policy, compareChains));
  const removed: Rotation<S>['removed'][number][] = [];
  const remove = (chain: Chain<S>, rule: DeleteRule, text: string): void => {
    removed.push(...chain.snapshots.map((snapshot) => ({ snapshot, rule, text })));
    chains = chains.filter((one) => one !== chain);
  };
  const unreachable: Rotation<S>['unreachable'][number][] = [];

  if (maxAgeDays !== undefined) {
    const tooOld = (): readonly Chain<S>[] => chains.filter(({ time }) => !isYounger(time, maxAgeDays, now));
    for (const chain of tooOld().filter(({ isProtected }) => !isProtected)) {
      remove(chain, 'MAX_AGE', `Older than ${maxAgeDays} days.`);
    }
    const ages = tooOld().map(({ time }) => Math.floor((now - time) / DAY));
    if (ages.length > 0)
      unreachable.push({ rule: 'maxAgeDays', limit: maxAgeDays, actual: Math.max(...ages) });
  }
  const limits = [
    {
      rule: 'maxBackups',
      limit: maxBackups,
      deleteRule: 'MAX_BACKUPS',
      actual: () => sum(chains.map(({ snapshots }) => snapshots.length)),
    },
    {
      rule: 'maxSize',
      limit: maxSize,
      deleteRule: 'MAX_SIZE',
      actual: () => sum(chains.map(({ bytes }) => bytes)),
    },
  ] as const;
  for (const { rule, limit, deleteRule, actual } of limits) {
    if (limit === undefined) continue;
    for (const chain of chains.filter(({ isProtected }) => !isProtected)) {
      if (actual() > limit) remove(chain, deleteRule, `Beyond ${rule} ${limit}.`);
    }
    if (actual() > limit) unreachable.push({ rule, limit, actual: actual() });
  }
  return { removed, unreachable };
}

function chainsOf<S extends RetainableSnapshot>(
  kept: readonly S[],
  byId: ReadonlyMap<string, S>,
  { history, isHeld }: { readonly history: History<S>; readonly isHeld: (snapshot: S) => boolean },
): Chain<S>[] {
  const chains = new Map<string, S[]>();
  for (const snapshot of kept.toSorted(compareNumbers)) {
    const root = rootOf(snapshot, byId);
    const chain = chains.get(root.id);
    if (chain === undefined) chains.set(root.id, [snapshot]);
    else chain.push(snapshot);
  }
  const newest = history.all.at(-1)?.snapshot.id;
  return [...chains.values()].map((snapshots) => ({
    snapshots,
    isProtected: snapshots.some((snapshot) => isHeld(snapshot) || snapshot.id === newest),
    bytes: sum(snapshots.map(({ dataMetrics }) => dataMetrics?.storedSizeBytes ?? 0)),
    time: Math.max(...snapshots.map((snapshot) => history.latestTime(snapshot))),
  }));
}

function rootOf<S extends RetainableSnapshot>(snapshot: S, byId: ReadonlyMap<string, S>): S {
  const seen = new Set([snapshot.id]);
  let root = snapshot;
  for (;;) {
    const parent = root.parentSnapshotId === null ? undefined : byId.get(root.parentSnapshotId);
    if (parent === undefined || seen.has(parent.id)) return root;
    seen.add(parent.id);
    root = parent;
  }
}

function removalOrder<S extends RetainableSnapshot>(
  { cleanupStrategy = 'oldest' }: RetentionPolicy,
  compareChains: ChainComparator<S> | undefined,
): (one: Chain<S>, other: Chain<S>) => number {
  const oldest = (one: Chain<S>, other: Chain<S>): number => {
    const [first, second] = [one.snapshots[0], other.snapshots[0]];
    return first === undefined || second === undefined ? 0 : compareNumbers(first, second);
  };
  switch (cleanupStrategy) {
    case 'oldest':
      return oldest;
    case 'size':
      return (one, other) => other.bytes - one.bytes || oldest(one, other);
    case 'custom':
      if (compareChains === undefined) {
        throw new ValidationError('The retention policy', [
          {
            path: 'cleanupStrategy',
            message: 'Is `custom`, but no comparator is given.',
            remedy: 'Pass `compareChains`, or choose `oldest` or `size`.',
          },
        ]);
      }
      return (one, other) => compareChains(one.snapshots, other.snapshots) || oldest(one, other);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
