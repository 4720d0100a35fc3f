import { describe, expect, test } from 'vitest';
import { lastMonths } from '../../src/utils/calendar-months.ts';
import { priceOf, quotaReachedAt, storageCost } from '../../src/utils/storage-cost.ts';

const place = (over = {}) => ({
  description: 'a bucket',
  type: 'AWS_S3' as const,
  storageClass: null,
  bytes: 0,
  writes: 0,
  ...over,
});

describe('prices', () => {
  const byType = { perGbMonth: 0.023 };
  const byClass = { perGbMonth: 0.0036 };
  const prices = { AWS_S3: byType, GLACIER: byClass };

  test.each([
    ['the class wins', 'GLACIER', byClass],
    ['a class without a price has its type’s', 'STANDARD_IA', byType],
    ['no class, the type', null, byType],
  ])('%s', (_, storageClass, expected) => {
    expect(priceOf({ type: 'AWS_S3', storageClass }, prices)).toBe(expected);
  });

  test('what nobody has set is not found, whatever objects inherit', () => {
    expect(priceOf({ type: 'SFTP', storageClass: null }, prices)).toBeUndefined();
    expect(priceOf({ type: 'SFTP', storageClass: 'constructor' }, prices)).toBeUndefined();
  });
});

describe('cost', () => {
  test('a GB is 10^9 bytes', () => {
    const cost = storageCost([place({ bytes: 1_000_000_000, writes: 1000 })], {
      AWS_S3: { perGbMonth: 0.02, perThousandWrites: 0.005 },
    });
    expect(cost.places).toMatchObject([{ storageCost: 0.02, writesCost: 0.005, currency: 'USD' }]);
    expect(cost.perMonth.USD).toBeCloseTo(0.025, 12);
  });

  test('currencies are not added, and what has no price stands in no sum', () => {
    const cost = storageCost(
      [
        place({ bytes: 2e9 }),
        place({ bytes: 3e9, storageClass: 'GLACIER' }),
        place({ bytes: 5e9 }),
        place({ bytes: 7e9, type: 'SFTP' }),
        place({ bytes: 1e9, type: 'LOCAL_FILESYSTEM' }),
      ],
      {
        AWS_S3: { perGbMonth: 1, currency: 'USD' },
        GLACIER: { perGbMonth: 0.5, currency: 'EUR' },
        LOCAL_FILESYSTEM: { perGbMonth: 0 },
      },
    );
    expect(cost.perMonth).toEqual({ USD: 7, EUR: 1.5 });
    expect(cost.unpriced).toEqual([place({ bytes: 7e9, type: 'SFTP' })]);
    expect(cost.places).toHaveLength(4);
  });

  test('nothing costs nothing', () => {
    expect(storageCost([], {})).toEqual({ perMonth: {}, places: [], unpriced: [] });
  });
});

describe('when a quota is reached', () => {
  const now = new Date('2026-01-31T00:00:00Z');
  const quota = (usedBytes: number) => ({ quotaBytes: 1000, usedBytes });

  test.each([
    ['half used, at a tenth of the rest a day', 500, 50, '2026-02-10T00:00:00.000Z'],
    ['used up', 1000, 50, now.toISOString()],
    ['more than used up, and shrinking', 1500, -50, now.toISOString()],
  ])('%s', (_, used, rate, expected) => {
    expect(quotaReachedAt(quota(used), rate, now)?.toISOString()).toBe(expected);
  });

  test.each([
    ['it does not grow', 0],
    ['it shrinks', -1],
    ['nobody knows how it grows', Number.NaN],
    ['not within a hundred years', 500 / (100 * 366)],
    ['hardly at all', Number.MIN_VALUE],
  ])('never: %s', (_, rate) => {
    expect(quotaReachedAt(quota(500), rate, now)).toBeNull();
  });
});

describe('the last months of a zone', () => {
  test('begin at its midnights, in summer and in winter', () => {
    const months = lastMonths('America/New_York', new Date('2026-04-15T00:00:00Z'), 3);
    expect(months.map(({ month, startsAt }) => [month, startsAt.toISOString()])).toEqual([
      ['2026-02', '2026-02-01T05:00:00.000Z'],
      ['2026-03', '2026-03-01T05:00:00.000Z'],
      ['2026-04', '2026-04-01T04:00:00.000Z'],
    ]);
  });

  test('over the turn of a year, from the last day of a long month', () => {
    const months = lastMonths('UTC', new Date('2026-03-31T23:59:59Z'), 5);
    expect(months.map(({ month }) => month)).toEqual(['2025-11', '2025-12', '2026-01', '2026-02', '2026-03']);
  });

  test('which month it is, the zone says', () => {
    const now = new Date('2026-03-31T13:30:00Z');
    expect(lastMonths('Pacific/Auckland', now, 1)).toEqual([
      { month: '2026-04', startsAt: new Date('2026-03-31T11:00:00Z') },
    ]);
    expect(lastMonths('UTC', now, 1)[0]?.month).toBe('2026-03');
  });

  test('a zone that does not exist is refused', () => {
    expect(() => lastMonths('Mars/Olympus', new Date(), 1)).toThrow(
      expect.objectContaining({ code: 'VALIDATION_FAILED' }),
    );
  });
});
