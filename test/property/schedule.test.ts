import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  calculateNextBackupTime,
  dueOccurrence,
  nextOccurrence,
  previewSchedule,
} from '../../src/rules/index.ts';
import { type BackupSchedule, DAYS_OF_WEEK } from '../../src/types/backup.ts';

/** Zones with a moment around which their clocks change: half hours, midnight, a lost day, winter put back at 00:00. */
const CHANGES: readonly (readonly [zone: string, instant: string])[] = [
  ['America/Chicago', '2026-03-08T08:00:00Z'],
  ['America/Chicago', '2026-11-01T07:00:00Z'],
  ['Australia/Lord_Howe', '2026-10-03T15:30:00Z'],
  ['Australia/Lord_Howe', '2026-04-04T15:00:00Z'],
  ['America/Sao_Paulo', '2018-11-04T03:00:00Z'],
  ['America/Sao_Paulo', '2018-02-18T02:00:00Z'],
  ['Africa/Cairo', '2024-04-25T22:00:00Z'],
  ['Africa/Cairo', '2024-10-31T21:00:00Z'],
  ['America/Havana', '2022-11-06T05:00:00Z'],
  ['America/St_Johns', '2009-11-01T02:31:00Z'],
  ['Pacific/Apia', '2011-12-30T10:00:00Z'],
  ['Asia/Kathmandu', '2026-06-01T00:00:00Z'],
];
const MINUTE = 60_000;
const SOAK = process.env.CARE_SOAK === '1';
const runs = (few: number) => ({ numRuns: SOAK ? 50 * few : few });
const time = fc
  .tuple(fc.nat(23), fc.nat(59))
  .map(([hour, minute]) => `${String(hour).padStart(2, '0')}:${String(minute).padStart(2, '0')}`);

const someWindow = fc
  .tuple(time, time)
  .filter(([start, end]) => start !== end)
  .map(([windowStart, windowEnd]) => ({ windowStart, windowEnd }));
const window = fc.option(someWindow, { nil: {} });
const interval = fc.oneof(
  fc
    .integer({ min: 1, max: 1440 })
    .map((intervalMinutes) => ({ frequency: 'MINUTES' as const, intervalMinutes })),
  fc.record({ frequency: fc.constant('HOURLY' as const), startTime: time }),
);
const timeOfDay = fc.oneof(
  fc.record({ frequency: fc.constant('DAILY' as const), startTime: time }),
  fc.record({
    frequency: fc.constant('WEEKLY' as const),
    startTime: time,
    daysOfWeek: fc.uniqueArray(fc.constantFrom(...DAYS_OF_WEEK), { minLength: 1 }),
  }),
  fc.record({
    frequency: fc.constant('MONTHLY' as const),
    startTime: time,
    dayOfMonth: fc.integer({ min: 1, max: 31 }),
  }),
);
const cron = fc
  .tuple(
    fc.constantFrom('0', '*/20', '7,37'),
    fc.constantFrom('*', '*/2', '0-3', '1,2,23'),
    fc.constantFrom('*', '1-5'),
  )
  .map(([minute, hour, day]) => ({
    frequency: 'CUSTOM' as const,
    cronExpression: `${minute} ${hour} * * ${day}`,
  }));
const schedule: fc.Arbitrary<BackupSchedule> = fc.oneof(
  timeOfDay,
  fc.tuple(fc.oneof(interval, cron), window).map(([one, within]) => ({ ...one, ...within })),
);
const place = fc
  .tuple(fc.constantFrom(...CHANGES), fc.integer({ min: -3 * 1440, max: 2 * 1440 }), fc.nat(59_999))
  .map(([[zone, instant], minutes, rest]) => ({ zone, from: Date.parse(instant) + minutes * MINUTE + rest }));

/** What the clock shows at each minute, as text that sorts. */
function clockOf(zone: string): (instant: number) => string {
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'short' });
  return (instant) => format.format(instant);
}

/** The starts of a time of day, minute by minute: when the clock first shows it or something later. */
function timesOfDay(one: BackupSchedule, zone: string, from: number, to: number): number[] {
  const shownAt = clockOf(zone);
  const starts: number[] = [];
  const begin = Math.floor(from / MINUTE) * MINUTE - 2880 * MINUTE;
  let latest = shownAt(begin);
  for (let at = begin; at <= to; at += MINUTE) {
    const now = shownAt(at);
    if (now <= latest) continue;
    for (const date of datesBetween(latest, now)) {
      const wanted = `${date} ${one.startTime}`;
      if (at > from && wanted > latest && wanted <= now && isDay(one, date)) starts.push(at);
    }
    latest = now;
  }
  return [...new Set(starts)];
}

function datesBetween(first: string, last: string): string[] {
  const dates: string[] = [];
  for (let day = Date.parse(first.slice(0, 10)); day <= Date.parse(last.slice(0, 10)); day += 1440 * MINUTE)
    dates.push(new Date(day).toISOString().slice(0, 10));
  return dates;
}

function isDay(one: BackupSchedule, date: string): boolean {
  const day = new Date(date);
  if (one.frequency === 'WEEKLY') {
    const name = day.toLocaleDateString('en-US', { weekday: 'long', timeZone: 'UTC' }).toUpperCase();
    return one.daysOfWeek?.some((wanted) => wanted === name) ?? false;
  }
  if (one.frequency === 'DAILY') return true;
  const length = new Date(Date.UTC(day.getUTCFullYear(), day.getUTCMonth() + 1, 0)).getUTCDate();
  return day.getUTCDate() === Math.min(one.dayOfMonth ?? 0, length);
}

describe('starts', () => {
  it('of times of day are those of a clock that is watched minute by minute', () => {
    fc.assert(
      fc.property(timeOfDay, place, (one, { zone, from }) => {
        const to = from + 4 * 1440 * MINUTE;
        const starts = previewSchedule(one, zone, { from: new Date(from), count: 6 });
        expect(starts.map(({ at }) => at.getTime()).filter((at) => at <= to)).toEqual(
          timesOfDay(one, zone, from, to),
        );
      }),
      runs(30),
    );
  });

  it('do not depend on when one asks', () => {
    fc.assert(
      fc.property(
        schedule,
        place,
        fc.integer({ min: 0, max: 2 * 1440 * MINUTE }),
        (one, { zone, from }, later) => {
          const next =
            calculateNextBackupTime(one, zone, new Date(from))?.getTime() ?? Number.POSITIVE_INFINITY;
          expect(next).toBeGreaterThan(from);
          const again =
            calculateNextBackupTime(one, zone, new Date(from + later))?.getTime() ?? Number.POSITIVE_INFINITY;
          if (from + later < next) expect(again).toBe(next);
          else expect(again).toBeGreaterThan(next);
        },
      ),
      runs(800),
    );
  });

  it('of intervals are never further apart, and exactly so within a day', () => {
    fc.assert(
      fc.property(interval, place, (one, { zone, from }) => {
        const length = (one.frequency === 'MINUTES' ? one.intervalMinutes : 60) * MINUTE;
        const starts = previewSchedule(one, zone, { from: new Date(from), count: 30 }).map(({ at }) =>
          at.getTime(),
        );
        const gaps = starts.slice(1).map((at, index) => at - (starts[index] ?? 0));
        expect(Math.max(...gaps)).toBeLessThanOrEqual(length);
        // A shorter one ends a day, and no day has less than 22 hours.
        const shorter = starts.slice(1).filter((_, index) => (gaps[index] ?? 0) < length);
        for (const [index, at] of shorter.slice(1).entries())
          expect(at - (shorter[index] ?? 0)).toBeGreaterThanOrEqual(22 * 60 * MINUTE);
      }),
      runs(200),
    );
  });

  it('lie inside the window and end with it', () => {
    fc.assert(
      fc.property(interval, someWindow, place, (one, within, { zone, from }) => {
        const { windowStart, windowEnd } = within;
        const shownAt = clockOf(zone);
        for (const { at, mustEndBy } of previewSchedule({ ...one, ...within }, zone, {
          from: new Date(from),
          count: 10,
        })) {
          const now = shownAt(at.getTime()).slice(11);
          const inside =
            windowStart < windowEnd
              ? now >= windowStart && now < windowEnd
              : now >= windowStart || now < windowEnd;
          // Right behind a gap that swallowed the window the clock shows another time than a minute before.
          const before = shownAt(at.getTime() - MINUTE).slice(11);
          const jumped =
            Number(now.slice(3)) !== (Number(before.slice(3)) + 1) % 60 ||
            now.slice(0, 2) !== before.slice(0, 2);
          expect(inside || jumped).toBe(true);
          expect(mustEndBy?.getTime()).toBeGreaterThan(at.getTime());
        }
      }),
      runs(200),
    );
  });

  it('of several schedules are the union', () => {
    fc.assert(
      fc.property(fc.array(schedule, { minLength: 1, maxLength: 4 }), place, (several, { zone, from }) => {
        const options = { from: new Date(from), count: 8 };
        const all = several.flatMap((one) =>
          previewSchedule(one, zone, options).map(({ at }) => at.getTime()),
        );
        const expected = [...new Set(all)].sort((one, other) => one - other).slice(0, 8);
        expect(previewSchedule(several, zone, options).map(({ at }) => at.getTime())).toEqual(expected);
      }),
      runs(100),
    );
  });
});

it('a scheduler that ticks at random, with outages, runs each occurrence once or catches it up once', () => {
  fc.assert(
    fc.property(
      fc.array(schedule, { minLength: 1, maxLength: 3 }),
      place,
      // Seconds between ticks; an outage now and then.
      fc.array(
        fc.oneof(
          { weight: 8, arbitrary: fc.integer({ min: 1, max: 1800 }) },
          { weight: 1, arbitrary: fc.integer({ min: 3600, max: 260_000 }) },
        ),
        { minLength: 20, maxLength: 120 },
      ),
      (schedules, { zone, from }, ticks) => {
        let now = from;
        let storedNext = calculateNextBackupTime(schedules, zone, new Date(now));
        let coveredTo = from;
        for (const seconds of ticks) {
          now += seconds * 1000;
          const due = dueOccurrence(schedules, zone, { storedNext, now: new Date(now) });
          const missed = nextOccurrence(schedules, zone, new Date(coveredTo));
          const isMissed = missed !== null && missed.at.getTime() <= now;
          // Whatever has passed since the last run is due, and nothing else is.
          expect(due !== null).toBe(isMissed);
          if (due === null) continue;
          expect(due.scheduledAt.getTime()).toBeGreaterThan(coveredTo);
          expect(due.scheduledAt.getTime()).toBeLessThanOrEqual(now);
          const between = nextOccurrence(schedules, zone, due.scheduledAt);
          expect(between === null || between.at.getTime() > now).toBe(true);
          if (due.start === 'LATER') {
            expect(due.startAt.getTime()).toBeGreaterThan(now);
            // Who waits until then may start.
            const then = dueOccurrence(schedules, zone, { storedNext, now: due.startAt });
            expect(then?.start).toBe('NOW');
            continue;
          }
          expect(due.startAt.getTime()).toBe(now);
          if (due.mustEndBy !== null) expect(due.mustEndBy.getTime()).toBeGreaterThan(now);
          coveredTo = now;
          storedNext = calculateNextBackupTime(schedules, zone, new Date(now));
        }
      },
    ),
    SOAK ? runs(60) : { ...runs(60), seed: 20_261_121 },
  );
});
