import type { BackupSnapshot, ComplianceRequirement, RetentionPolicy } from '../types/backup.ts';
import type { Timestamp } from '../types/ids.ts';
import { type History, historyOf, type RetainableSnapshot } from './retention-order.ts';
import { Reasons, type RetentionReason } from './retention-reasons.ts';
import { type ChainComparator, rotate, type UnreachableLimit } from './retention-rotation.ts';
import { isYounger, keepByPolicy } from './retention-tiers.ts';
import { instantOf } from './schedule.ts';
import { DAY, type ZoneClock, zoneClock } from './schedule-zone.ts';

/**
 * For fifteen years and more: daily for 30 days, weekly for a year, monthly for ten years, yearly for ever, emergency
 * backups for 90 days. A count of 100,000 is more years than a calendar has.
 */
export const FIFTEEN_YEAR_RETENTION = {
  dailyRetention: 30,
  weeklyRetention: 52,
  monthlyRetention: 120,
  yearlyRetention: 100_000,
  emergencyRetentionDays: 90,
  autoDeleteExpired: true,
} as const satisfies RetentionPolicy;

/** Where a policy says nothing of what is kept. */
const DEFAULT_RETENTION_DAYS = 30;

const KEEPING = [
  'retentionDays',
  'hourlyRetention',
  'dailyRetention',
  'weeklyRetention',
  'monthlyRetention',
  'yearlyRetention',
  'keepLast',
] as const satisfies readonly (keyof RetentionPolicy)[];

export interface RetentionOptions<S> {
  /** Now when left out. */
  readonly now?: Date | string;
  /** IANA name of the zone whose calendar the tiers follow; UTC when left out. */
  readonly timezone?: string;
  /** Nothing younger than the longest `minimumRetentionDays` of these goes. */
  readonly complianceRequirements?: readonly ComplianceRequirement[];
  /** For `cleanupStrategy: 'custom'`. */
  readonly compareChains?: ChainComparator<S>;
}

export interface RetentionResult<S> {
  /** Successful snapshots only, each in one of the two, in the order given. */
  readonly keep: readonly S[];
  readonly delete: readonly S[];
  /** By snapshot id: every reason to keep it, or why it goes. */
  readonly reasons: { readonly [snapshotId: string]: readonly RetentionReason[] };
  /** Limits of rotation that cannot be reached without what must stay. Report them: the deletions alone do not help. */
  readonly unreachable: readonly UnreachableLimit[];
  /** Configurations (null: snapshots without one) where nothing goes, since no restorable snapshot would be left. */
  readonly refused: readonly (string | null)[];
}

export interface RetentionVerdict<S> {
  readonly snapshot: S;
  /** IGNORE: not a successful snapshot, so retention does not decide about it. */
  readonly verdict: 'KEEP' | 'DELETE' | 'IGNORE';
  readonly reasons: readonly RetentionReason[];
}

/**
 * What a policy keeps and what goes, each configuration by itself. It deletes nothing.
 *
 * 1. Successful snapshots, newest number first. Tiers keep the newest of each hour, day, ISO week, month and year of
 *    the calendar of `timezone` and count only buckets that hold something; while a tier is not used up the oldest
 *    snapshot stays too. `retentionDays`, `keepLast` and `emergencyRetentionDays` keep besides; 0 days is for ever.
 *    A policy without any rule that keeps means 30 days. The number orders, never the clock: a snapshot whose date
 *    contradicts its neighbours displaces nothing and stays as long as the next that does not.
 * 2. Locked snapshots, those under legal hold, within a compliance minimum or needed by a run that has not ended, the
 *    last verified FULL, and all that a kept snapshot builds on.
 * 3. `maxAgeDays`, `maxBackups` and `maxSize` then take whole chains away, never one that rule 2 or the newest
 *    snapshot holds. Limits that this does not reach are in `unreachable`.
 *
 * With `autoDeleteExpired: false` everything stays. Where no restorable snapshot would be left, nothing goes and the
 * configuration is in `refused`. Throws `VALIDATION_FAILED` for a zone or instant that does not exist and for
 * `cleanupStrategy: 'custom'` without `compareChains`.
 */
export function applyGFSRetention<S extends RetainableSnapshot>(
  snapshots: readonly S[],
  policy: RetentionPolicy,
  options: RetentionOptions<S> = {},
): RetentionResult<S> {
  const verdicts = new Map<S, RetentionVerdict<S>>();
  const unreachable: UnreachableLimit[] = [];
  const refused: (string | null)[] = [];
  for (const [configurationId, own] of byConfiguration(snapshots)) {
    const outcome = retain(own, policy, options);
    for (const verdict of outcome.verdicts) verdicts.set(verdict.snapshot, verdict);
    unreachable.push(...outcome.unreachable.map((limit) => ({ configurationId, ...limit })));
    if (outcome.refused) refused.push(configurationId);
  }
  const having = (verdict: RetentionVerdict<S>['verdict']): readonly S[] =>
    snapshots.filter((snapshot) => verdicts.get(snapshot)?.verdict === verdict);
  return {
    keep: having('KEEP'),
    delete: having('DELETE'),
    reasons: Object.fromEntries(
      [...verdicts.values()].map(({ snapshot, reasons }) => [snapshot.id, reasons]),
    ),
    unreachable,
    refused,
  };
}

/** The verdict of `applyGFSRetention` on every snapshot given, in the order given, with all its reasons. */
export function explainRetention<S extends RetainableSnapshot>(
  snapshots: readonly S[],
  policy: RetentionPolicy,
  options: RetentionOptions<S> = {},
): readonly RetentionVerdict<S>[] {
  const result = applyGFSRetention(snapshots, policy, options);
  const [kept, deleted] = [new Set(result.keep), new Set(result.delete)];
  return snapshots.map((snapshot) => ({
    snapshot,
    verdict: kept.has(snapshot) ? 'KEEP' : deleted.has(snapshot) ? 'DELETE' : 'IGNORE',
    reasons: result.reasons[snapshot.id] ?? [],
  }));
}

/**
 * When the rules of age let go of a snapshot that was taken at `startedAt` (else `createdAt`): after `retentionDays`
 * and, for an emergency backup, `emergencyRetentionDays`, whichever is later. Null: never by age. Tiers may keep it
 * longer, so this is what `expiresAt` shows, not what deletes.
 */
export function calculateExpirationDate(
  snapshot: Pick<BackupSnapshot, 'startedAt' | 'createdAt' | 'trigger'>,
  policy: RetentionPolicy,
): Date | null {
  const { retentionDays, emergencyRetentionDays } = withDefaults(policy);
  const emergency = snapshot.trigger === 'EMERGENCY' ? emergencyRetentionDays : undefined;
  const days = [retentionDays, emergency].filter((count) => count !== undefined);
  if (days.length === 0 || days.includes(0)) return null;
  const taken = instantOf(snapshot.startedAt ?? snapshot.createdAt, 'startedAt');
  return new Date(taken + Math.max(...days) * DAY);
}

/** Whether `expiresAt` has come and no lock or legal hold holds the snapshot. Without a date it never expires. */
export function isSnapshotExpired(
  snapshot: { readonly expiresAt: Timestamp | Date | null } & {
    readonly retentionLocked?: boolean;
    readonly legalHold?: boolean;
  },
  now: Date | string = new Date(),
): boolean {
  if (snapshot.expiresAt === null || snapshot.retentionLocked === true || snapshot.legalHold === true) {
    return false;
  }
  return instantOf(snapshot.expiresAt, 'expiresAt') <= instantOf(now, 'now');
}

function withDefaults(policy: RetentionPolicy): RetentionPolicy {
  const keeps = KEEPING.some((rule) => policy[rule] !== undefined);
  return keeps ? policy : { ...policy, retentionDays: DEFAULT_RETENTION_DAYS };
}

function byConfiguration<S extends RetainableSnapshot>(
  snapshots: readonly S[],
): ReadonlyMap<string | null, readonly S[]> {
  return Map.groupBy(snapshots, ({ configurationId }) => configurationId ?? null);
}

interface Outcome<S> {
  readonly verdicts: readonly RetentionVerdict<S>[];
  readonly unreachable: readonly Omit<UnreachableLimit, 'configurationId'>[];
  readonly refused: boolean;
}

/** The three rules over one configuration. */
function retain<S extends RetainableSnapshot>(
  snapshots: readonly S[],
  asked: RetentionPolicy,
  options: RetentionOptions<S>,
): Outcome<S> {
  const policy = withDefaults(asked);
  const now = instantOf(options.now ?? new Date(), 'now');
  const clock: ZoneClock = zoneClock(options.timezone ?? 'UTC');
  const successful = snapshots.filter(isSuccessful);
  const history = historyOf(successful, now);
  const reasons = new Reasons();

  holdByDuty(history, snapshots, { now, minimumDays: minimumDaysOf(options), reasons });
  const held = new Set(successful.filter(({ id }) => reasons.has(id)));
  keepByPolicy(history, policy, { clock, now, reasons });
  if (policy.autoDeleteExpired === false) {
    for (const { id } of successful)
      reasons.add(id, 'AUTO_DELETE_OFF', 'The policy deletes nothing by itself.');
  }
  const byId = new Map(snapshots.map((snapshot) => [snapshot.id, snapshot]));
  keepAncestors(successful, byId, reasons);

  const kept = successful.filter(({ id }) => reasons.has(id));
  const { removed, unreachable } = rotate(kept, policy.autoDeleteExpired === false ? {} : policy, {
    history,
    byId,
    now,
    isHeld: (snapshot) => held.has(snapshot),
    compareChains: options.compareChains,
  });
  const gone = new Map(removed.map(({ snapshot, rule, text }) => [snapshot, { rule, text }]));
  const left = kept.filter((snapshot) => !gone.has(snapshot));
  const refused =
    left.length < successful.length &&
    (left.length === 0 || (isRestorable(successful) && !isRestorable(left)));
  if (refused) {
    for (const { id } of successful)
      reasons.add(id, 'WOULD_EMPTY', 'The policy would leave nothing to restore.');
  }
  const staying = new Set(refused ? successful : left);
  return {
    verdicts: snapshots.map((snapshot) => {
      if (!isSuccessful(snapshot)) return ignored(snapshot);
      if (staying.has(snapshot)) return { snapshot, verdict: 'KEEP', reasons: reasons.of(snapshot.id) };
      const reason = gone.get(snapshot) ?? { rule: 'NO_RULE_KEEPS', text: 'No rule keeps it.' };
      return { snapshot, verdict: 'DELETE', reasons: [reason] };
    }),
    unreachable,
    refused,
  };
}

function ignored<S extends RetainableSnapshot>(snapshot: S): RetentionVerdict<S> {
  const text = `Its status is ${snapshot.status}.`;
  return { snapshot, verdict: 'IGNORE', reasons: [{ rule: 'NOT_SUCCESSFUL', text }] };
}

function isSuccessful({ status }: RetainableSnapshot): boolean {
  return status === 'COMPLETED' || status === 'COMPLETED_WITH_WARNINGS';
}

const RUNNING = ['QUEUED', 'PREPARING', 'IN_PROGRESS', 'FINALIZING', 'VERIFYING'] as const;

function isRunning({ status }: RetainableSnapshot): boolean {
  return RUNNING.some((running) => running === status);
}

function minimumDaysOf<S>({ complianceRequirements = [] }: RetentionOptions<S>): number {
  return Math.max(0, ...complianceRequirements.map(({ minimumRetentionDays = 0 }) => minimumRetentionDays));
}

/** Rule 2 without the ancestors: what no policy may take away. */
function holdByDuty<S extends RetainableSnapshot>(
  history: History<S>,
  given: readonly S[],
  {
    now,
    minimumDays,
    reasons,
  }: { readonly now: number; readonly minimumDays: number; readonly reasons: Reasons },
): void {
  const needed = new Set(given.filter(isRunning).map(({ parentSnapshotId }) => parentSnapshotId));
  for (const { snapshot } of history.all) {
    const { id } = snapshot;
    if (snapshot.retentionLocked) reasons.add(id, 'LOCKED', 'It is locked.');
    if (snapshot.legalHold === true) reasons.add(id, 'LEGAL_HOLD', 'It is under legal hold.');
    if (minimumDays > 0 && isYounger(history.latestTime(snapshot), minimumDays, now)) {
      reasons.add(id, 'COMPLIANCE', `Younger than the ${minimumDays} days that compliance requires.`);
    }
    if (needed.has(id)) reasons.add(id, 'ANCESTOR', 'A run that has not ended builds on it.');
  }
  const verified = history.all.findLast(
    ({ snapshot }) => snapshot.snapshotType === 'FULL' && snapshot.integrityVerified,
  );
  if (verified !== undefined) {
    reasons.add(verified.snapshot.id, 'LAST_VERIFIED_FULL', 'The last full backup that was verified.');
  }
}

/** Also through a snapshot that is no longer successful itself, one that waits for its deletion say. */
function keepAncestors<S extends RetainableSnapshot>(
  successful: readonly S[],
  byId: ReadonlyMap<string, S>,
  reasons: Reasons,
): void {
  const open = successful.filter(({ id }) => reasons.has(id));
  for (let child = open.pop(); child !== undefined; child = open.pop()) {
    const parent = child.parentSnapshotId === null ? undefined : byId.get(child.parentSnapshotId);
    if (parent === undefined) continue;
    if (!reasons.has(parent.id)) open.push(parent);
    reasons.add(parent.id, 'ANCESTOR', `${child.snapshotNumber} builds on it.`);
  }
}

/** Whether any of them has its whole chain down to a snapshot without a parent. */
function isRestorable<S extends RetainableSnapshot>(snapshots: readonly S[]): boolean {
  return snapshots.some(({ parentSnapshotId }) => parentSnapshotId === null);
}
