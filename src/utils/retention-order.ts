import type { BackupSnapshot } from '../types/backup.ts';
import { ValidationError } from '../types/errors.ts';
import { toTimestamp } from './timestamp.ts';

/** What retention needs to know of a snapshot; every `BackupSnapshot` has it. */
export type RetainableSnapshot = Pick<
  BackupSnapshot,
  'id' | 'snapshotNumber' | 'snapshotType' | 'trigger' | 'status' | 'startedAt' | 'createdAt'
> &
  Pick<BackupSnapshot, 'parentSnapshotId' | 'integrityVerified' | 'retentionLocked'> & {
    readonly configurationId?: string;
    readonly dataMetrics?: { readonly storedSizeBytes: number } | null;
    readonly legalHold?: boolean;
  };

/** A snapshot with the instant of the database state that it holds, in milliseconds. */
export interface Timed<S> {
  readonly snapshot: S;
  readonly time: number;
}

/** Snapshots of one configuration in the order of their numbers, and what their clocks are worth. */
export interface History<S> {
  readonly all: readonly Timed<S>[];
  /**
   * The readings of the history in which time goes forward and as few clocks as possible were wrong: the one that
   * believes the older snapshot where two contradict each other, and the one that believes the newer.
   */
  readonly readings: readonly (readonly Timed<S>[])[];
  /** The latest instant at which a snapshot can have been taken: its own where its clock is believed. */
  latestTime(snapshot: S): number;
}

/**
 * Puts snapshots in order. The number decides, never the clock: a snapshot that claims another date than its
 * neighbours must not take the place of one that does not. What claims to lie in the future is never believed.
 */
export function historyOf<S extends RetainableSnapshot>(snapshots: readonly S[], now: number): History<S> {
  const all = snapshots
    .map((snapshot) => ({ snapshot, time: timeOf(snapshot) }))
    .sort((one, other) => compareNumbers(one.snapshot, other.snapshot));
  const past = all.filter(({ time }) => time <= now);
  const newer = longestForward(past.map(({ time }) => time)).flatMap((index) => past[index] ?? []);
  const backwards = past.toReversed();
  const older = longestForward(backwards.map(({ time }) => -time))
    .flatMap((index) => backwards[index] ?? [])
    .toReversed();
  const inOlder = new Set(older);
  const latest = latestTimes(all, new Set(newer.filter((one) => inOlder.has(one))), now);
  return { all, readings: [older, newer], latestTime: ({ id }) => latest.get(id) ?? now };
}

function timeOf({ startedAt, createdAt }: RetainableSnapshot): number {
  const timestamp = toTimestamp(startedAt ?? createdAt);
  if (timestamp !== undefined) return Date.parse(timestamp);
  throw new ValidationError('The snapshot', [
    { path: 'startedAt', message: 'Is not an instant.', remedy: 'Give ISO 8601 with seconds and an offset.' },
  ]);
}

/** Whoever is not believed was taken at the latest when the next one was that is. */
function latestTimes<S extends RetainableSnapshot>(
  all: readonly Timed<S>[],
  believed: ReadonlySet<Timed<S>>,
  now: number,
): ReadonlyMap<string, number> {
  const times = new Map<string, number>();
  let next = now;
  for (const one of all.toReversed()) {
    if (believed.has(one)) next = one.time;
    times.set(one.snapshot.id, next);
  }
  return times;
}

/** `BKP-2026-1000000` comes after `BKP-2026-999999`: groups of digits compare as numbers. */
export function compareNumbers(one: RetainableSnapshot, other: RetainableSnapshot): number {
  return (
    COLLATOR.compare(one.snapshotNumber, other.snapshotNumber) ||
    (one.id < other.id ? -1 : Number(one.id > other.id))
  );
}

const COLLATOR = new Intl.Collator('en', { numeric: true });

/** Places of the longest subsequence that never decreases; of several the one that takes later places. */
function longestForward(values: readonly number[]): readonly number[] {
  const tails: number[] = [];
  const lengths = values.map((value) => {
    let [low, high] = [0, tails.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((tails[middle] ?? Number.POSITIVE_INFINITY) <= value) low = middle + 1;
      else high = middle;
    }
    tails[low] = value;
    return low + 1;
  });
  const places: number[] = [];
  let wanted = tails.length;
  let bound = Number.POSITIVE_INFINITY;
  for (const [index, value] of [...values.entries()].toReversed()) {
    if (lengths[index] !== wanted || value > bound) continue;
    places.push(index);
    wanted -= 1;
    bound = value;
  }
  return places.toReversed();
}
