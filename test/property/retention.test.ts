import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { applyGFSRetention, explainRetention, type RetainableSnapshot } from '../../src/rules/index.ts';
import type { RetentionPolicy } from '../../src/types/backup.ts';

const NOW = Date.parse('2026-06-30T12:00:00Z');
const DAY = 86_400_000;
const ZONES = ['UTC', 'America/Chicago', 'Australia/Lord_Howe', 'Asia/Kathmandu'] as const;

interface Draft {
  readonly minutesLater: number;
  readonly kind: 'FULL' | 'CHILD';
  readonly verified: boolean;
  readonly locked: boolean;
  readonly legalHold: boolean;
  readonly trigger: 'SCHEDULED' | 'EMERGENCY';
  readonly size: number;
}

const draft: fc.Arbitrary<Draft> = fc.record({
  minutesLater: fc.oneof(fc.integer({ min: 1, max: 3000 }), fc.integer({ min: 1, max: 60_000 })),
  kind: fc.constantFrom('FULL', 'CHILD', 'CHILD'),
  verified: fc.boolean(),
  locked: fc.integer({ min: 0, max: 9 }).map((value) => value === 0),
  legalHold: fc.integer({ min: 0, max: 9 }).map((value) => value === 0),
  trigger: fc.constantFrom('SCHEDULED', 'SCHEDULED', 'EMERGENCY'),
  size: fc.nat(1000),
});

/** Snapshots in order, the last one taken not long ago; even numbers leave room for others between them. */
const histories = fc.array(draft, { minLength: 1, maxLength: 40 }).map((drafts) => {
  let time = NOW - drafts.reduce((sum, { minutesLater }) => sum + minutesLater, 0) * 60_000;
  const snapshots: RetainableSnapshot[] = [];
  for (const [index, one] of drafts.entries()) {
    time += one.minutesLater * 60_000;
    const parent = one.kind === 'FULL' ? undefined : snapshots.at(-1);
    snapshots.push(made(2 * index + 2, time, one, parent?.id ?? null));
  }
  return snapshots;
});

function made(number: number, time: number, one: Draft, parentSnapshotId: string | null): RetainableSnapshot {
  const startedAt = new Date(time).toISOString();
  return {
    id: `id-${number}`,
    snapshotNumber: `BKP-2026-${String(number).padStart(6, '0')}`,
    snapshotType: parentSnapshotId === null ? 'FULL' : 'INCREMENTAL',
    trigger: one.trigger,
    status: 'COMPLETED',
    startedAt,
    createdAt: startedAt,
    parentSnapshotId,
    integrityVerified: one.verified,
    retentionLocked: one.locked,
    legalHold: one.legalHold,
    dataMetrics: { storedSizeBytes: one.size },
  };
}

const count = fc.option(fc.nat(8), { nil: undefined });
const keeping = fc
  .record({
    retentionDays: fc.option(fc.integer({ min: 1, max: 60 }), { nil: undefined }),
    hourlyRetention: count,
    dailyRetention: count,
    weeklyRetention: count,
    monthlyRetention: count,
    yearlyRetention: count,
    keepLast: count,
    emergencyRetentionDays: fc.option(fc.integer({ min: 1, max: 60 }), { nil: undefined }),
  })
  .map(given);
const rotating = fc
  .record({
    maxBackups: fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined }),
    maxSize: fc.option(fc.integer({ min: 1, max: 8000 }), { nil: undefined }),
    maxAgeDays: fc.option(fc.integer({ min: 1, max: 60 }), { nil: undefined }),
    cleanupStrategy: fc.constantFrom('oldest' as const, 'size' as const),
  })
  .map(given);
const zone = fc.constantFrom(...ZONES);
const minimumDays = fc.constantFrom(0, 0, 10, 40);

/** Without the fields that are undefined. */
function given(
  policy: { [rule in keyof RetentionPolicy]: RetentionPolicy[rule] | undefined },
): RetentionPolicy {
  return Object.fromEntries(Object.entries(policy).filter(([, value]) => value !== undefined));
}

function optionsOf(timezone: string, minimumRetentionDays = 0) {
  return {
    now: new Date(NOW),
    timezone,
    complianceRequirements: [{ regulation: 'test', minimumRetentionDays }],
  };
}

const idsOf = (snapshots: readonly RetainableSnapshot[]): string[] => snapshots.map(({ id }) => id).sort();

/** The same rules put as questions about one snapshot at a time, with the calendar as text. */
function expectedToStay(
  history: readonly RetainableSnapshot[],
  policy: RetentionPolicy,
  timezone: string,
  minimum: number,
): string[] {
  const local = new Intl.DateTimeFormat('sv-SE', {
    timeZone: timezone,
    dateStyle: 'short',
    timeStyle: 'short',
  });
  const shown = new Map(history.map((one) => [one, local.format(Date.parse(one.startedAt ?? ''))]));
  const text = (one: RetainableSnapshot): string => shown.get(one) ?? '';
  const week = (one: RetainableSnapshot): string => {
    const day = new Date(text(one).slice(0, 10));
    while (day.getUTCDay() !== 1) day.setUTCDate(day.getUTCDate() - 1);
    return day.toISOString();
  };
  const tiers: [number | undefined, (one: RetainableSnapshot) => string][] = [
    [policy.hourlyRetention, (one) => text(one).slice(0, 13)],
    [policy.dailyRetention, (one) => text(one).slice(0, 10)],
    [policy.weeklyRetention, week],
    [policy.monthlyRetention, (one) => text(one).slice(0, 7)],
    [policy.yearlyRetention, (one) => text(one).slice(0, 4)],
  ];
  const says = Object.keys(policy).some((rule) => rule !== 'emergencyRetentionDays');
  const retentionDays = says ? policy.retentionDays : 30;
  const age = (one: RetainableSnapshot): number => NOW - Date.parse(one.startedAt ?? '');
  const mayStay = (one: RetainableSnapshot, place: number): boolean => {
    const newer = history.slice(place + 1);
    if (one.retentionLocked || one.legalHold || age(one) < minimum * DAY) return true;
    if (one.snapshotType === 'FULL' && one.integrityVerified) {
      if (!newer.some((other) => other.snapshotType === 'FULL' && other.integrityVerified)) return true;
    }
    if (newer.length < (policy.keepLast ?? 0) || age(one) < (retentionDays ?? 0) * DAY) return true;
    if (one.trigger === 'EMERGENCY' && age(one) < (policy.emergencyRetentionDays ?? 0) * DAY) return true;
    return tiers.some(([tier = 0, bucket]) => {
      if (place === 0 && new Set(history.map(bucket)).size < tier) return true;
      return !newer.some((other) => bucket(other) === bucket(one)) && new Set(newer.map(bucket)).size < tier;
    });
  };
  const staying = new Set(history.filter(mayStay).map(({ id }) => id));
  // Children have higher numbers than their parents.
  for (const one of history.toReversed())
    if (staying.has(one.id) && one.parentSnapshotId !== null) staying.add(one.parentSnapshotId);
  return (staying.size === 0 ? history.map(({ id }) => id) : [...staying]).sort();
}

describe('rules 1 and 2', () => {
  it('agree with the same rules asked one snapshot at a time', () => {
    fc.assert(
      fc.property(histories, keeping, zone, minimumDays, (history, policy, timezone, minimum) => {
        const { keep } = applyGFSRetention(history, policy, optionsOf(timezone, minimum));
        expect(idsOf(keep)).toEqual(expectedToStay(history, policy, timezone, minimum));
      }),
      { numRuns: 400 },
    );
  });

  it('never keep less for more policy', () => {
    fc.assert(
      fc.property(histories, keeping, keeping, zone, (history, policy, more, timezone) => {
        const base: RetentionPolicy = { keepLast: 1, ...policy };
        const merged: RetentionPolicy = { ...more, ...base };
        for (const [rule, value] of Object.entries(more)) {
          Object.assign(merged, {
            [rule]: Math.max(Number(value), Number(new Map(Object.entries(base)).get(rule) ?? 0)),
          });
        }
        const kept = new Set(applyGFSRetention(history, merged, optionsOf(timezone)).keep);
        for (const one of applyGFSRetention(history, base, optionsOf(timezone)).keep)
          expect(kept.has(one)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it('let a snapshot whose clock was wrong displace nothing, wherever it stands', () => {
    fc.assert(
      fc.property(
        histories,
        keeping,
        zone,
        fc.nat(),
        fc.oneof(fc.integer({ min: -400 * DAY, max: 400 * DAY }), fc.constantFrom(-20_000 * DAY, 9000 * DAY)),
        (history, { keepLast: _, ...policy }, timezone, where, shift) => {
          const plain = history.map((one) => ({ ...one, retentionLocked: false, legalHold: false }));
          const place = where % (plain.length + 1);
          const time = Date.parse(plain[Math.min(place, plain.length - 1)]?.startedAt ?? '') + shift;
          const earlier = plain.slice(0, place).some(({ startedAt }) => Date.parse(startedAt ?? '') > time);
          const later = plain.slice(place).some(({ startedAt }) => Date.parse(startedAt ?? '') < time);
          fc.pre(earlier || later || time > NOW);
          const wrong: Draft = {
            minutesLater: 0,
            kind: 'FULL',
            verified: false,
            locked: false,
            legalHold: false,
            trigger: 'SCHEDULED',
            size: 1,
          };
          const stranger = made(2 * place + 1, time, wrong, null);
          const rules: RetentionPolicy = { dailyRetention: 3, ...policy };
          const kept = new Set(
            idsOf(applyGFSRetention([...plain, stranger], rules, optionsOf(timezone)).keep),
          );
          for (const { id } of applyGFSRetention(plain, rules, optionsOf(timezone)).keep)
            expect(kept.has(id)).toBe(true);
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe('all rules', () => {
  const policies = fc
    .tuple(keeping, rotating)
    .map(([keep, rotate]): RetentionPolicy => ({ ...keep, ...rotate }));

  it('do not depend on the order of the input, and change nothing when applied again', () => {
    fc.assert(
      fc.property(
        histories,
        policies,
        zone,
        fc.infiniteStream(fc.nat()),
        (history, policy, timezone, stream) => {
          const shuffled = history
            .map((one) => ({ one, key: stream.next().value }))
            .sort((first, second) => first.key - second.key)
            .map(({ one }) => one);
          const first = applyGFSRetention(history, policy, optionsOf(timezone));
          const second = applyGFSRetention(shuffled, policy, optionsOf(timezone));
          expect(idsOf(second.delete)).toEqual(idsOf(first.delete));
          expect(second.unreachable).toEqual(first.unreachable);
          expect(second.reasons).toEqual(first.reasons);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('never take what is locked, held, young by law, the last verified full, the newest, or an ancestor', () => {
    fc.assert(
      fc.property(histories, policies, zone, minimumDays, (history, policy, timezone, minimum) => {
        const result = applyGFSRetention(history, policy, optionsOf(timezone, minimum));
        const gone = new Set(idsOf(result.delete));
        expect(idsOf([...result.keep, ...result.delete])).toEqual(idsOf(history));
        expect(result.keep.length).toBeGreaterThan(0);
        const verified = history.findLast((one) => one.snapshotType === 'FULL' && one.integrityVerified);
        expect(gone.has(verified?.id ?? '')).toBe(false);
        for (const one of history) {
          const young = NOW - Date.parse(one.startedAt ?? '') < minimum * DAY;
          if (one.retentionLocked || one.legalHold || young) expect(gone.has(one.id)).toBe(false);
          if (!gone.has(one.id)) expect(gone.has(one.parentSnapshotId ?? '')).toBe(false);
        }
        for (const { verdict, reasons } of explainRetention(history, policy, optionsOf(timezone, minimum))) {
          expect(verdict).not.toBe('IGNORE');
          expect(reasons.length).toBeGreaterThan(0);
        }
      }),
      { numRuns: 400 },
    );
  });

  it('hold the limits or say that they cannot, and only ever take more than rules 1 and 2', () => {
    fc.assert(
      fc.property(histories, keeping, rotating, zone, (history, keep, rotate, timezone) => {
        const rules: RetentionPolicy = { keepLast: 3, ...keep };
        const before = new Set(idsOf(applyGFSRetention(history, rules, optionsOf(timezone)).keep));
        const result = applyGFSRetention(history, { ...rules, ...rotate }, optionsOf(timezone));
        if (result.refused.length > 0) return;
        for (const { id } of result.keep) expect(before.has(id)).toBe(true);
        const unreachable = result.unreachable.map(({ rule }) => rule);
        const size = result.keep.reduce((sum, one) => sum + (one.dataMetrics?.storedSizeBytes ?? 0), 0);
        expect(result.keep.length > (rotate.maxBackups ?? Number.POSITIVE_INFINITY)).toBe(
          unreachable.includes('maxBackups'),
        );
        expect(size > (rotate.maxSize ?? Number.POSITIVE_INFINITY)).toBe(unreachable.includes('maxSize'));
        // What rotation takes, it takes with all that builds on it.
        const kept = new Set(idsOf(result.keep));
        for (const one of history) {
          const parent = one.parentSnapshotId;
          if (parent !== null && before.has(parent) && !kept.has(parent))
            expect(kept.has(one.id)).toBe(false);
        }
      }),
      { numRuns: 400 },
    );
  });
});
