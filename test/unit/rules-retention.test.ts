import { describe, expect, it } from 'vitest';
import {
  applyGFSRetention,
  calculateExpirationDate,
  explainRetention,
  FIFTEEN_YEAR_RETENTION,
  formatBytes,
  isSnapshotExpired,
  type RetainableSnapshot,
  type RetentionOptions,
} from '../../src/rules/index.ts';
import type { BackupSnapshot, RetentionPolicy } from '../../src/types/backup.ts';
import { RetentionPolicySchema } from '../../src/validation/index.ts';

const NOW = '2026-06-30T12:00:00Z';
const DAY = 86_400_000;

/** What retention reads of a `BackupSnapshot` must be there. */
const takesStoredSnapshots = (snapshots: readonly BackupSnapshot[]): unknown =>
  applyGFSRetention(snapshots, {}).delete satisfies readonly BackupSnapshot[];

function snapshot(
  number: number,
  startedAt: string,
  more: Partial<RetainableSnapshot> = {},
): RetainableSnapshot {
  return {
    id: `id-${number}`,
    configurationId: 'config',
    snapshotNumber: `BKP-2026-${String(number).padStart(6, '0')}`,
    snapshotType: 'FULL',
    trigger: 'SCHEDULED',
    status: 'COMPLETED',
    startedAt,
    createdAt: startedAt,
    parentSnapshotId: null,
    integrityVerified: false,
    retentionLocked: false,
    dataMetrics: { storedSizeBytes: 100 },
    ...more,
  };
}

/** One FULL a day at 02:00 UTC, number 1 the oldest, the last one today. */
function daily(days: number, more: (number: number) => Partial<RetainableSnapshot> = () => ({})) {
  const today = Date.parse('2026-06-30T02:00:00Z');
  return Array.from({ length: days }, (_, index) =>
    snapshot(index + 1, new Date(today - (days - 1 - index) * DAY).toISOString(), more(index + 1)),
  );
}

function keptOf(
  snapshots: readonly RetainableSnapshot[],
  policy: RetentionPolicy,
  options: RetentionOptions<RetainableSnapshot> = {},
): number[] {
  const { keep, delete: gone } = applyGFSRetention(snapshots, policy, { now: NOW, ...options });
  expect(keep.length + gone.length).toBe(snapshots.length);
  return keep.map(({ snapshotNumber }) => Number(snapshotNumber.slice(-6))).sort((a, b) => a - b);
}

describe('rule 1', () => {
  it('keeps by tiers, as the seed calls it', () => {
    const policy = { dailyRetention: 7, weeklyRetention: 4, monthlyRetention: 3 };
    // 2026-06-30 is a Tuesday: weeks end on 28, 21, 14 June; months on 31 May and 30 April.
    expect(keptOf(daily(90), policy)).toEqual([29, 60, 74, 81, 84, 85, 86, 87, 88, 89, 90]);
  });

  it('does not use a count up for days without a snapshot', () => {
    const snapshots = daily(60).filter((_, index) => index % 10 === 9);
    expect(keptOf(snapshots, { dailyRetention: 4 })).toEqual([30, 40, 50, 60]);
  });

  it('keeps the newest of a bucket, by the calendar of the zone', () => {
    const snapshots = [
      snapshot(1, '2026-06-29T20:00:00Z'),
      snapshot(2, '2026-06-30T03:00:00Z'),
      snapshot(3, '2026-06-30T06:00:00Z'),
    ];
    expect(keptOf(snapshots, { dailyRetention: 2 })).toEqual([1, 3]);
    expect(keptOf(snapshots, { dailyRetention: 2 }, { timezone: 'America/Chicago' })).toEqual([2, 3]);
  });

  it('keeps the oldest while a tier is not used up', () => {
    expect(keptOf(daily(20), { yearlyRetention: 1 })).toEqual([20]);
    expect(keptOf(daily(20), { yearlyRetention: 2 })).toEqual([1, 20]);
  });

  it.each<[RetentionPolicy, number[]]>([
    [{ retentionDays: 3 }, [8, 9, 10]],
    [{ retentionDays: 0 }, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
    [{ keepLast: 2 }, [9, 10]],
    [{ hourlyRetention: 2 }, [9, 10]],
    [{ autoDeleteExpired: false, keepLast: 1 }, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
    [{ keepLast: 1, retentionDays: 2, dailyRetention: 3 }, [8, 9, 10]],
  ])('%j', (policy, kept) => expect(keptOf(daily(10), policy)).toEqual(kept));

  it('keeps 30 days where the policy says nothing', () => {
    expect(keptOf(daily(40), {})).toHaveLength(30);
    expect(keptOf(daily(40), { maxBackups: 12 })).toHaveLength(12);
  });

  it('keeps emergency backups for their own time', () => {
    const snapshots = daily(100, (number) => (number === 20 || number === 5 ? { trigger: 'EMERGENCY' } : {}));
    expect(keptOf(snapshots, { keepLast: 1, emergencyRetentionDays: 90 })).toEqual([20, 100]);
  });

  it('orders by number: a wrong date displaces nothing', () => {
    const policy = { dailyRetention: 5 };
    const good = daily(10);
    for (const wrong of ['1970-01-01T00:00:00Z', '2026-06-28T23:00:00Z', '2031-01-01T00:00:00Z']) {
      for (const number of [11, 12]) {
        const kept = keptOf([...good, snapshot(number, wrong)], policy);
        expect(kept, wrong).toEqual(expect.arrayContaining([6, 7, 8, 9, 10]));
      }
    }
    // The clock was a month ahead for one run: what came after it is believed.
    const ahead = good.map((one) =>
      one.id === 'id-5' ? { ...one, startedAt: '2026-06-30T11:00:00Z' } : one,
    );
    expect(keptOf(ahead, policy)).toEqual([6, 7, 8, 9, 10]);
    expect(keptOf([...good, snapshot(11, '1970-01-01T00:00:00Z')], { retentionDays: 2 })).toEqual([
      9, 10, 11,
    ]);
  });

  it('orders numbers past six digits and over years', () => {
    const snapshots = [
      snapshot(1, '2026-06-28T00:00:00Z', { snapshotNumber: 'BKP-2026-1000000' }),
      snapshot(2, '2026-06-27T00:00:00Z', { snapshotNumber: 'BKP-2026-999999' }),
      snapshot(3, '2026-06-26T00:00:00Z', { snapshotNumber: 'BKP-2025-2000000' }),
    ];
    const { keep } = applyGFSRetention(snapshots, { keepLast: 1 }, { now: NOW });
    expect(keep.map(({ id }) => id)).toEqual(['id-1']);
  });

  it('does not mix configurations', () => {
    const other = daily(3).map((one) => ({ ...one, id: `other-${one.id}`, configurationId: 'other' }));
    const { keep } = applyGFSRetention([...daily(3), ...other], { keepLast: 1 }, { now: NOW });
    expect(keep.map(({ id }) => id)).toEqual(['id-3', 'other-id-3']);
  });
});

describe('rule 2', () => {
  it('keeps what is locked, held or young by law, and the last verified full', () => {
    const snapshots = daily(10, (number) => ({
      retentionLocked: number === 1,
      legalHold: number === 3,
      integrityVerified: number === 2 || number === 4,
    }));
    const complianceRequirements = [
      { regulation: 'A', minimumRetentionDays: 1 },
      { regulation: 'B', minimumRetentionDays: 3 },
    ];
    expect(keptOf(snapshots, { keepLast: 1 }, { complianceRequirements })).toEqual([1, 3, 4, 8, 9, 10]);
  });

  it('keeps every ancestor, also of a run that has not ended and through a snapshot that waits for its end', () => {
    const chain = daily(10, (number) => {
      const parentSnapshotId = [1, 6].includes(number) ? null : `id-${number - 1}`;
      return { parentSnapshotId, snapshotType: parentSnapshotId === null ? 'FULL' : 'INCREMENTAL' };
    });
    expect(keptOf(chain, { keepLast: 1 })).toEqual([6, 7, 8, 9, 10]);
    const locked = chain.map((one) => ({
      ...one,
      retentionLocked: one.id === 'id-3',
      status: one.id === 'id-2' ? ('EXPIRED' as const) : one.status,
    }));
    const result = applyGFSRetention(locked, { keepLast: 1 }, { now: NOW });
    expect(result.delete.map(({ id }) => id)).toEqual(['id-4', 'id-5']);
    const running = snapshot(11, NOW, { status: 'IN_PROGRESS', parentSnapshotId: 'id-2' });
    const besides = applyGFSRetention([...chain, running], { keepLast: 1, maxBackups: 1 }, { now: NOW });
    expect(besides.delete.map(({ id }) => id)).toEqual(['id-3', 'id-4', 'id-5']);
  });

  it('decides only about successful snapshots', () => {
    const snapshots = [
      snapshot(1, '2026-01-01T00:00:00Z', { status: 'FAILED' }),
      snapshot(2, '2026-06-01T00:00:00Z', { status: 'COMPLETED_WITH_WARNINGS' }),
      snapshot(3, '2026-06-29T00:00:00Z', { status: 'FAILED' }),
    ];
    const verdicts = explainRetention(snapshots, { keepLast: 1 }, { now: NOW });
    expect(verdicts.map(({ verdict }) => verdict)).toEqual(['IGNORE', 'KEEP', 'IGNORE']);
  });

  it('refuses to empty a configuration, or to leave only what cannot be restored', () => {
    const result = applyGFSRetention(daily(3), { dailyRetention: 0 }, { now: NOW });
    expect(result).toMatchObject({ delete: [], refused: ['config'] });
    expect(result.reasons['id-1']?.map(({ rule }) => rule)).toEqual(['WOULD_EMPTY']);
    const orphan = [
      ...daily(3),
      snapshot(4, '2026-06-30T03:00:00Z', { snapshotType: 'INCREMENTAL', parentSnapshotId: 'lost' }),
    ];
    expect(applyGFSRetention(orphan, { keepLast: 1 }, { now: NOW }).refused).toEqual(['config']);
  });
});

describe('rule 3', () => {
  /** Four chains of three; the sizes of the second and third stand out. */
  const chains = daily(12, (number) => {
    const isFull = number % 3 === 1;
    return {
      snapshotType: isFull ? 'FULL' : 'INCREMENTAL',
      parentSnapshotId: isFull ? null : `id-${number - 1}`,
      integrityVerified: isFull,
      dataMetrics: { storedSizeBytes: isFull ? ([1000, 5000, 8000, 2000][(number - 1) / 3] ?? 0) : 100 },
    };
  });
  const keepAll = { retentionDays: 0 };

  it.each<[RetentionPolicy, number[]]>([
    [{ maxBackups: 12 }, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]],
    [{ maxBackups: 11 }, [4, 5, 6, 7, 8, 9, 10, 11, 12]],
    [{ maxBackups: 5 }, [10, 11, 12]],
    [{ maxBackups: 9, cleanupStrategy: 'size' }, [1, 2, 3, 4, 5, 6, 10, 11, 12]],
    [{ maxSize: 9000 }, [10, 11, 12]],
    [{ maxSize: 9000, cleanupStrategy: 'size' }, [1, 2, 3, 4, 5, 6, 10, 11, 12]],
    [{ maxAgeDays: 8 }, [4, 5, 6, 7, 8, 9, 10, 11, 12]],
    [{ maxAgeDays: 7, maxBackups: 6 }, [7, 8, 9, 10, 11, 12]],
  ])('%j', (policy, kept) => {
    expect(keptOf(chains, { ...keepAll, ...policy })).toEqual(kept);
    expect(applyGFSRetention(chains, { ...keepAll, ...policy }, { now: NOW }).unreachable).toEqual([]);
  });

  it('takes chains in the order that the host gives', () => {
    const compareChains = (
      one: readonly RetainableSnapshot[],
      other: readonly RetainableSnapshot[],
    ): number => Number(other[0]?.id === 'id-4') - Number(one[0]?.id === 'id-4');
    const policy = { ...keepAll, maxBackups: 9, cleanupStrategy: 'custom' } as const;
    expect(keptOf(chains, policy, { compareChains })).toEqual([1, 2, 3, 7, 8, 9, 10, 11, 12]);
    expect(() => keptOf(chains, policy)).toThrow(/compareChains/);
  });

  it('never takes what rule 2 keeps, and says what it cannot reach', () => {
    const locked = chains.map((one) => ({ ...one, retentionLocked: one.id === 'id-2' }));
    const result = applyGFSRetention(
      locked,
      { ...keepAll, maxBackups: 5, maxSize: 100, maxAgeDays: 2 },
      { now: NOW },
    );
    expect(result.keep.map(({ id }) => id)).toEqual(['id-1', 'id-2', 'id-3', 'id-10', 'id-11', 'id-12']);
    expect(result.unreachable).toEqual([
      { configurationId: 'config', rule: 'maxAgeDays', limit: 2, actual: 9 },
      { configurationId: 'config', rule: 'maxBackups', limit: 5, actual: 6 },
      { configurationId: 'config', rule: 'maxSize', limit: 100, actual: 3400 },
    ]);
  });

  it('never takes the newest chain, verified or not', () => {
    const unverified = chains.map((one) => ({ ...one, integrityVerified: one.id === 'id-4' }));
    expect(keptOf(unverified, { ...keepAll, maxBackups: 1 })).toEqual([4, 5, 6, 10, 11, 12]);
  });

  it('rests with autoDeleteExpired: false', () => {
    expect(keptOf(chains, { maxBackups: 1, autoDeleteExpired: false })).toHaveLength(12);
  });
});

it('explains every verdict', () => {
  const verdicts = explainRetention(
    daily(4, (number) => ({ retentionLocked: number === 2 })),
    { dailyRetention: 1, keepLast: 2 },
    { now: NOW },
  );
  expect(verdicts.map(({ verdict, reasons }) => [verdict, ...reasons.map(({ rule }) => rule)])).toEqual([
    ['DELETE', 'NO_RULE_KEEPS'],
    ['KEEP', 'LOCKED'],
    ['KEEP', 'KEEP_LAST'],
    ['KEEP', 'DAILY', 'KEEP_LAST'],
  ]);
  expect(verdicts[3]?.reasons[0]?.text).toBe('The newest of the day 2026-06-30.');
});

it('keeps 15 years by the preset: 30 days, 52 weeks, 120 months and every year', () => {
  expect(RetentionPolicySchema.parse(FIFTEEN_YEAR_RETENTION)).toEqual(FIFTEEN_YEAR_RETENTION);
  const snapshots = daily(15 * 366);
  const result = applyGFSRetention(snapshots, FIFTEEN_YEAR_RETENTION, { now: NOW });
  const counts = Object.groupBy(Object.values(result.reasons).flat(), ({ rule }) => rule);
  expect(counts.DAILY).toHaveLength(30);
  expect(counts.WEEKLY).toHaveLength(52);
  expect(counts.MONTHLY).toHaveLength(120);
  expect(counts.YEARLY).toHaveLength(16);
  expect(result.keep[0]?.id).toBe('id-1');
});

describe('dates of expiry', () => {
  const taken = { startedAt: '2026-01-01T00:00:00Z', createdAt: '2026-01-01T00:00:00Z' };

  it.each<[BackupSnapshot['trigger'], RetentionPolicy, string | null]>([
    ['SCHEDULED', { retentionDays: 30 }, '2026-01-31'],
    ['SCHEDULED', {}, '2026-01-31'],
    ['SCHEDULED', { retentionDays: 0 }, null],
    ['SCHEDULED', { dailyRetention: 7 }, null],
    ['SCHEDULED', { dailyRetention: 7, emergencyRetentionDays: 10 }, null],
    ['EMERGENCY', { retentionDays: 30, emergencyRetentionDays: 90 }, '2026-04-01'],
    ['EMERGENCY', { retentionDays: 30, emergencyRetentionDays: 0 }, null],
  ])('%s with %j: %s', (trigger, policy, expected) => {
    const date = calculateExpirationDate({ ...taken, trigger }, policy);
    expect(date?.toISOString().slice(0, 10) ?? null).toBe(expected);
  });

  it.each([
    [{ expiresAt: '2026-06-30T12:00:00Z' }, true],
    [{ expiresAt: '2026-06-30T12:00:01Z' }, false],
    [{ expiresAt: null }, false],
    [{ expiresAt: '2026-01-01T00:00:00Z', retentionLocked: true }, false],
    [{ expiresAt: '2026-01-01T00:00:00Z', legalHold: true }, false],
  ])('%j expired: %s', (one, expired) => expect(isSnapshotExpired(one, NOW)).toBe(expired));
});

it('belongs to the rules with the other pure functions', () => {
  expect(formatBytes(1536)).toBe('1.5 KiB');
  expect(takesStoredSnapshots([])).toEqual([]);
});
