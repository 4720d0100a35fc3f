import type { RetentionPolicy } from '../types/backup.ts';
import type { History, RetainableSnapshot, Timed } from './retention-order.ts';
import type { KeepRule, Reasons } from './retention-reasons.ts';
import { DAY, dayOf, HOUR, type ZoneClock } from './schedule-zone.ts';

interface Tier {
  readonly rule: KeepRule;
  readonly name: string;
  readonly count: (policy: RetentionPolicy) => number | undefined;
  /** The bucket of a wall-clock time. */
  readonly bucket: (wall: number) => string;
}

const TIERS: readonly Tier[] = [
  {
    rule: 'HOURLY',
    name: 'hour',
    count: ({ hourlyRetention }) => hourlyRetention,
    bucket: (wall) => new Date(Math.floor(wall / HOUR) * HOUR).toISOString().slice(0, 13),
  },
  {
    rule: 'DAILY',
    name: 'day',
    count: ({ dailyRetention }) => dailyRetention,
    bucket: (wall) => new Date(wall).toISOString().slice(0, 10),
  },
  {
    rule: 'WEEKLY',
    name: 'week from',
    count: ({ weeklyRetention }) => weeklyRetention,
    // ISO weeks begin on Mondays; day 0, 1970-01-01, was a Thursday.
    bucket: (wall) => new Date((Math.floor((dayOf(wall) + 3) / 7) * 7 - 3) * DAY).toISOString().slice(0, 10),
  },
  {
    rule: 'MONTHLY',
    name: 'month',
    count: ({ monthlyRetention }) => monthlyRetention,
    bucket: (wall) => new Date(wall).toISOString().slice(0, 7),
  },
  {
    rule: 'YEARLY',
    name: 'year',
    count: ({ yearlyRetention }) => yearlyRetention,
    bucket: (wall) => new Date(wall).toISOString().slice(0, 4),
  },
];

/**
 * Rule 1: what the policy keeps by calendar, number and age. The tiers are applied to every reading of the history
 * and to the dates as they are claimed; the union stays, so that a wrong clock takes nobody's place.
 */
export function keepByPolicy<S extends RetainableSnapshot>(
  history: History<S>,
  policy: RetentionPolicy,
  { clock, now, reasons }: { readonly clock: ZoneClock; readonly now: number; readonly reasons: Reasons },
): void {
  for (const tier of TIERS) {
    for (const snapshots of [...history.readings, history.all]) {
      keepNewestOfBuckets(tier, tier.count(policy) ?? 0, { snapshots, clock, reasons });
    }
  }
  const last = policy.keepLast ?? 0;
  for (const { snapshot } of last === 0 ? [] : history.all.slice(-last)) {
    reasons.add(snapshot.id, 'KEEP_LAST', `One of the last ${last}.`);
  }
  for (const { snapshot } of history.all) {
    const { id } = snapshot;
    const latest = history.latestTime(snapshot);
    const days = policy.retentionDays;
    if (days === 0) reasons.add(id, 'RETENTION_DAYS', 'Kept for ever.');
    else if (isYounger(latest, days, now)) reasons.add(id, 'RETENTION_DAYS', `Younger than ${days} days.`);
    const emergencyDays = snapshot.trigger === 'EMERGENCY' ? policy.emergencyRetentionDays : undefined;
    if (emergencyDays === 0) reasons.add(id, 'EMERGENCY', 'Emergency backup, kept for ever.');
    else if (isYounger(latest, emergencyDays, now)) {
      reasons.add(id, 'EMERGENCY', `Emergency backup younger than ${emergencyDays} days.`);
    }
  }
}

export function isYounger(time: number, days: number | undefined, now: number): boolean {
  return days !== undefined && now - time < days * DAY;
}

/** Newest first; empty buckets use up nothing, and while the count lasts the oldest snapshot stays besides. */
function keepNewestOfBuckets<S extends RetainableSnapshot>(
  { rule, name, bucket }: Tier,
  count: number,
  {
    snapshots,
    clock,
    reasons,
  }: { readonly snapshots: readonly Timed<S>[]; readonly clock: ZoneClock; readonly reasons: Reasons },
): void {
  const buckets = new Set<string>();
  for (const { snapshot, time } of snapshots.toReversed()) {
    if (buckets.size >= count) return;
    const own = bucket(clock.wallAt(time));
    if (buckets.has(own)) continue;
    buckets.add(own);
    reasons.add(snapshot.id, rule, `The newest of the ${name} ${own}.`);
  }
  const [oldest] = snapshots;
  if (oldest !== undefined && buckets.size < count) {
    reasons.add(oldest.snapshot.id, 'OLDEST', `The oldest, while the rule ${rule} is not used up.`);
  }
}
