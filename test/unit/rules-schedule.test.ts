import { describe, expect, it } from 'vitest';
import {
  calculateNextBackupTime,
  dueOccurrence,
  frequencyForDatabaseSize,
  nextOccurrence,
  previewSchedule,
} from '../../src/rules/index.ts';
import type { BackupSchedule } from '../../src/types/backup.ts';
import { ValidationError } from '../../src/types/errors.ts';

const CHICAGO = 'America/Chicago';

/** The next starts by the clock of the zone, with its offset where clocks change. */
function shown(
  schedule: BackupSchedule | readonly BackupSchedule[],
  zone: string,
  options: Parameters<typeof previewSchedule>[2],
): string[] {
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, dateStyle: 'short', timeStyle: 'short' });
  return previewSchedule(schedule, zone, { count: 4, ...options }).map(({ at }) =>
    format.format(at).slice(5),
  );
}

describe('calculateNextBackupTime', () => {
  it('is 02:00 in the zone, as the seed calls it', () => {
    const next = calculateNextBackupTime({ frequency: 'DAILY', startTime: '02:00' }, CHICAGO);
    expect(next.getTime()).toBeGreaterThan(Date.now());
    expect(next.toLocaleTimeString('sv-SE', { timeZone: CHICAGO })).toBe('02:00:00');
  });

  it('is strictly after `from`', () => {
    const next = calculateNextBackupTime({ frequency: 'DAILY' }, 'UTC', '2026-01-01T02:00:00Z');
    expect(next).toEqual(new Date('2026-01-02T02:00:00Z'));
  });

  it.each<[string, BackupSchedule | readonly BackupSchedule[]]>([
    ['no schedule', []],
    ['CONTINUOUS', { frequency: 'CONTINUOUS' }],
    ['a day that never comes', { frequency: 'CUSTOM', cronExpression: '0 0 31 2 *' }],
    [
      'a minute outside its window',
      { frequency: 'HOURLY', startTime: '00:45', windowStart: '01:00', windowEnd: '01:30' },
    ],
    [
      'a cron time outside its window',
      { frequency: 'CUSTOM', cronExpression: '0 12 * * *', windowStart: '22:00', windowEnd: '01:30' },
    ],
  ])('is null for %s', (_name, schedule) => {
    expect(calculateNextBackupTime(schedule, CHICAGO, '2026-01-01T00:00:00Z')).toBeNull();
  });

  it.each<[string, () => unknown, string]>([
    [
      'a zone that is none',
      () => calculateNextBackupTime({ frequency: 'DAILY' }, 'Mars/Olympus'),
      'timezone',
    ],
    ['an offset as zone', () => calculateNextBackupTime({ frequency: 'DAILY' }, '+05:00'), 'timezone'],
    [
      'another zone in the schedule',
      () => calculateNextBackupTime({ frequency: 'DAILY', timezone: 'UTC' }, CHICAGO),
      'timezone',
    ],
    ['no interval', () => calculateNextBackupTime({ frequency: 'MINUTES' }, 'UTC'), 'intervalMinutes'],
    ['no expression', () => calculateNextBackupTime({ frequency: 'CUSTOM' }, 'UTC'), 'cronExpression'],
    [
      'six fields',
      () => calculateNextBackupTime({ frequency: 'CUSTOM', cronExpression: '0 0 2 * * *' }, 'UTC'),
      'cronExpression',
    ],
    [
      'a time that is none',
      () => calculateNextBackupTime({ frequency: 'DAILY', startTime: '24:00' }, 'UTC'),
      'startTime',
    ],
    ['a day as `from`', () => calculateNextBackupTime({ frequency: 'DAILY' }, 'UTC', '2026-01-01'), 'from'],
  ])('refuses %s', (_name, call, path) => {
    expect(call).toThrow(ValidationError);
    expect(call).toThrow(new RegExp(`${path}:`));
  });
});

describe('times of day where clocks change', () => {
  it.each<[string, BackupSchedule, string, string, string[]]>([
    [
      'skip it: right behind the gap',
      { frequency: 'DAILY', startTime: '02:30' },
      CHICAGO,
      '2026-03-07T00:00:00Z',
      ['03-07 02:30', '03-08 03:00', '03-09 02:30', '03-10 02:30'],
    ],
    [
      'show it twice: the first time',
      { frequency: 'DAILY', startTime: '01:30' },
      CHICAGO,
      '2026-10-31T12:00:00Z',
      ['11-01 01:30', '11-02 01:30', '11-03 01:30', '11-04 01:30'],
    ],
    [
      'skip half an hour',
      { frequency: 'DAILY', startTime: '02:15' },
      'Australia/Lord_Howe',
      '2026-10-02T18:00:00Z',
      ['10-04 02:30', '10-05 02:15', '10-06 02:15', '10-07 02:15'],
    ],
    [
      'skip midnight',
      { frequency: 'DAILY', startTime: '00:00' },
      'America/Sao_Paulo',
      '2018-11-03T12:00:00Z',
      ['11-04 01:00', '11-05 00:00', '11-06 00:00', '11-07 00:00'],
    ],
    [
      'skip a day',
      { frequency: 'MONTHLY', dayOfMonth: 30, startTime: '12:00' },
      'Pacific/Apia',
      '2011-10-31T12:00:00Z',
      ['11-30 12:00', '12-31 00:00', '01-30 12:00', '02-29 12:00'],
    ],
    [
      'skip several times of one expression: once',
      { frequency: 'CUSTOM', cronExpression: '*/30 2 * * *' },
      CHICAGO,
      '2026-03-07T08:20:00Z',
      ['03-07 02:30', '03-08 03:00', '03-09 02:00', '03-09 02:30'],
    ],
  ])('%s', (_name, schedule, zone, from, expected) => {
    expect(shown(schedule, zone, { from })).toEqual(expected);
  });

  it('runs at the first of two 01:30', () => {
    const next = calculateNextBackupTime(
      { frequency: 'DAILY', startTime: '01:30' },
      CHICAGO,
      '2026-11-01T00:00:00Z',
    );
    expect(next.toISOString()).toBe('2026-11-01T06:30:00.000Z');
  });
});

describe('intervals where clocks change', () => {
  it.each<[string, BackupSchedule]>([
    ['HOURLY', { frequency: 'HOURLY', startTime: '00:30' }],
    ['MINUTES', { frequency: 'MINUTES', intervalMinutes: 60, startTime: '02:30' }],
    ['a cron expression of every hour', { frequency: 'CUSTOM', cronExpression: '30 * * * *' }],
  ])('%s stays an hour apart', (_name, schedule) => {
    for (const from of ['2026-03-08T00:00:00Z', '2026-11-01T00:00:00Z']) {
      const starts = previewSchedule(schedule, CHICAGO, { from, count: 26 }).map(({ at }) => at.getTime());
      expect(starts.slice(1).map((at, index) => at - (starts[index] ?? 0))).toEqual(
        Array.from({ length: 25 }, () => 3_600_000),
      );
    }
  });

  it('counts anew each day, never longer than the interval', () => {
    const schedule = { frequency: 'MINUTES', intervalMinutes: 420, startTime: '06:00' } as const;
    expect(shown(schedule, 'UTC', { from: '2026-01-01T05:00:00Z', count: 5 })).toEqual([
      '01-01 06:00',
      '01-01 13:00',
      '01-01 20:00',
      '01-02 03:00',
      '01-02 06:00',
    ]);
  });

  it('does not leave out what half an hour skips', () => {
    const schedule = { frequency: 'CUSTOM', cronExpression: '15 * * * *' } as const;
    expect(shown(schedule, 'Australia/Lord_Howe', { from: '2026-10-03T14:00:00Z' })).toEqual([
      '10-04 01:15',
      '10-04 02:30',
      '10-04 03:15',
      '10-04 04:15',
    ]);
  });
});

describe('kinds', () => {
  it('takes the last day of short months', () => {
    const schedule = { frequency: 'MONTHLY', dayOfMonth: 31, startTime: '23:30' } as const;
    expect(shown(schedule, 'Europe/Berlin', { from: '2028-01-01T00:00:00Z' })).toEqual([
      '01-31 23:30',
      '02-29 23:30',
      '03-31 23:30',
      '04-30 23:30',
    ]);
  });

  it('takes Sunday and the first of the month where nothing is said', () => {
    expect(shown({ frequency: 'WEEKLY' }, 'UTC', { from: '2026-01-01T00:00:00Z', count: 1 })).toEqual([
      '01-04 02:00',
    ]);
    expect(shown({ frequency: 'MONTHLY' }, 'UTC', { from: '2026-01-02T00:00:00Z', count: 1 })).toEqual([
      '02-01 02:00',
    ]);
  });

  it('runs several schedules as one, once where they meet', () => {
    const schedules: BackupSchedule[] = [
      { frequency: 'DAILY' },
      { frequency: 'WEEKLY', daysOfWeek: ['SATURDAY'], startTime: '03:00' },
      { frequency: 'MONTHLY', dayOfMonth: 3 },
    ];
    const starts = previewSchedule(schedules, 'UTC', { from: '2026-01-02T12:00:00Z', count: 3 });
    expect(starts.map(({ at, index }) => [at.toISOString().slice(5, 16), index])).toEqual([
      ['01-03T02:00', 0],
      ['01-03T03:00', 1],
      ['01-04T02:00', 0],
    ]);
  });

  it.each([
    [0, 15],
    [99_999_999, 15],
    [100_000_000, 30],
    [999_999_999, 30],
    [1_000_000_000, 60],
    [null, 60],
  ] as const)('a database of %s bytes: every %d minutes', (bytes, intervalMinutes) => {
    expect(frequencyForDatabaseSize(bytes)).toEqual({ frequency: 'MINUTES', intervalMinutes });
    const bySize = { frequency: 'MINUTES', intervalByDatabaseSize: true } as const;
    const size = bytes === null ? {} : { databaseSizeBytes: bytes };
    const [first] = previewSchedule(bySize, 'UTC', { from: '2026-01-01T00:00:00Z', ...size });
    expect(first?.at.getTime()).toBe(Date.UTC(2026, 0, 1, 0, intervalMinutes));
  });
});

describe('windows', () => {
  const night = { windowStart: '22:00', windowEnd: '02:00' };

  it('starts only inside, and says when it ends', () => {
    const hourly = previewSchedule({ frequency: 'HOURLY', ...night }, 'UTC', {
      from: '2026-01-01T12:00:00Z',
      count: 5,
    });
    expect(hourly.map(({ at }) => at.getUTCHours())).toEqual([22, 23, 0, 1, 22]);
    expect(hourly.map(({ mustEndBy }) => mustEndBy?.toISOString().slice(5, 16))).toEqual([
      ...Array.from({ length: 4 }, () => '01-02T02:00'),
      '01-03T02:00',
    ]);
    expect(nextOccurrence({ frequency: 'HOURLY' }, 'UTC')?.mustEndBy).toBeNull();
  });

  it('counts from its start where no time is given, so that it never stays empty', () => {
    const schedule = {
      frequency: 'MINUTES',
      intervalMinutes: 180,
      windowStart: '01:10',
      windowEnd: '02:00',
    } as const;
    expect(shown(schedule, 'UTC', { from: '2026-01-01T00:00:00Z', count: 2 })).toEqual([
      '01-01 01:10',
      '01-02 01:10',
    ]);
  });

  it('runs once behind a gap that swallows it whole, for as long as it would have lasted', () => {
    for (const schedule of [
      { frequency: 'MINUTES', intervalMinutes: 30 },
      { frequency: 'DAILY', startTime: '02:10' },
      { frequency: 'CUSTOM', cronExpression: '*/10 * * * *' },
    ] as const) {
      const [start] = previewSchedule({ ...schedule, windowStart: '02:10', windowEnd: '02:50' }, CHICAGO, {
        from: '2026-03-08T07:00:00Z',
      });
      expect(start, schedule.frequency).toMatchObject({
        at: new Date('2026-03-08T08:00:00Z'),
        mustEndBy: new Date('2026-03-08T08:40:00Z'),
      });
    }
  });

  it('opens again where clocks are put back into it, whenever one asks', () => {
    const schedule = { frequency: 'MINUTES', intervalMinutes: 15, ...night, windowEnd: '01:15' } as const;
    for (const from of ['2026-11-01T06:10:00Z', '2026-11-01T06:40:00Z', '2026-11-01T06:59:59Z']) {
      expect(calculateNextBackupTime(schedule, CHICAGO, from)?.toISOString()).toBe(
        '2026-11-01T07:00:00.000Z',
      );
    }
  });

  it('gives each configuration a time of its own in the first three quarters, always the same', () => {
    const schedule = { frequency: 'DAILY', ...night } as const;
    const from = '2026-01-01T12:00:00Z';
    const opening = Date.UTC(2026, 0, 1, 22);
    const delays = Array.from({ length: 3000 }, (_, index) => {
      // Ids of one batch differ in a few digits only.
      const configurationId = `019b0000-0000-7000-8000-${index.toString(16).padStart(12, '0')}`;
      const at = calculateNextBackupTime(schedule, 'UTC', from, { configurationId });
      expect(calculateNextBackupTime(schedule, 'UTC', from, { configurationId })).toEqual(at);
      return (at.getTime() - opening) / 3_600_000;
    });
    expect(Math.min(...delays)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...delays)).toBeLessThan(3);
    for (let part = 0; part < 12; part += 1) {
      const share = delays.filter((delay) => Math.floor(delay * 4) === part).length;
      expect(share).toBeGreaterThan(180);
      expect(share).toBeLessThan(320);
    }
    expect(calculateNextBackupTime(schedule, 'UTC', from)).toEqual(new Date(opening));
  });
});

describe('dueOccurrence', () => {
  const daily = { frequency: 'DAILY' } as const;

  it('is null before the stored occurrence and without one', () => {
    const now = '2026-01-01T01:59:59Z';
    expect(dueOccurrence(daily, 'UTC', { storedNext: '2026-01-01T02:00:00Z', now })).toBeNull();
    expect(dueOccurrence(daily, 'UTC', { storedNext: null, now })).toBeNull();
    expect(dueOccurrence([], 'UTC', { storedNext: '2025-01-01T02:00:00Z', now })).toBeNull();
  });

  it('makes one run of all that was missed', () => {
    const now = '2026-01-09T11:00:00Z';
    expect(dueOccurrence(daily, 'UTC', { storedNext: '2025-06-01T02:00:00Z', now })).toEqual({
      scheduledAt: new Date('2026-01-09T02:00:00Z'),
      start: 'NOW',
      startAt: new Date(now),
      mustEndBy: null,
      schedule: daily,
      index: 0,
    });
  });

  it('waits for the window, then joins what is due in it anyway', () => {
    const schedule = {
      frequency: 'DAILY',
      startTime: '23:00',
      windowStart: '22:00',
      windowEnd: '02:00',
    } as const;
    const waiting = dueOccurrence(schedule, 'UTC', {
      storedNext: '2026-01-01T23:00:00Z',
      now: '2026-01-02T12:00:00Z',
    });
    expect(waiting).toMatchObject({
      start: 'LATER',
      scheduledAt: new Date('2026-01-01T23:00:00Z'),
      startAt: new Date('2026-01-02T23:00:00Z'),
      mustEndBy: new Date('2026-01-03T02:00:00Z'),
    });
    const inside = dueOccurrence(schedule, 'UTC', {
      storedNext: '2026-01-01T23:00:00Z',
      now: '2026-01-02T01:00:00Z',
    });
    expect(inside).toMatchObject({ start: 'NOW', mustEndBy: new Date('2026-01-02T02:00:00Z') });
  });

  it('catches a weekly run up in the next window, at the configuration’s own time', () => {
    const schedule = { frequency: 'WEEKLY', windowStart: '22:00', windowEnd: '02:00' } as const;
    const input = { storedNext: '2026-01-04T22:00:00Z', now: '2026-01-05T12:00:00Z' };
    expect(dueOccurrence(schedule, 'UTC', input)?.startAt).toEqual(new Date('2026-01-05T22:00:00Z'));
    const own = dueOccurrence(schedule, 'UTC', { ...input, configurationId: 'one' })?.startAt.getTime() ?? 0;
    expect(own).toBeGreaterThan(Date.UTC(2026, 0, 5, 22));
    expect(own).toBeLessThan(Date.UTC(2026, 0, 6, 1));
  });

  it('does not wait for a window where another schedule that was missed has none', () => {
    const schedules = [daily, { frequency: 'DAILY', windowStart: '04:00', windowEnd: '05:00' }] as const;
    const due = dueOccurrence(schedules, 'UTC', {
      storedNext: '2026-01-01T02:00:00Z',
      now: '2026-01-01T12:00:00Z',
    });
    expect(due).toMatchObject({ start: 'NOW', index: 0, scheduledAt: new Date('2026-01-01T04:00:00Z') });
  });

  it('runs a stored occurrence that the schedule no longer has', () => {
    const due = dueOccurrence({ frequency: 'MINUTES', intervalByDatabaseSize: true }, 'UTC', {
      storedNext: '2026-01-01T00:15:00Z',
      now: '2026-01-01T00:15:02Z',
      databaseSizeBytes: 5_000_000_000,
    });
    expect(due).toMatchObject({ start: 'NOW', scheduledAt: new Date('2026-01-01T00:15:00Z') });
  });

  it('starts behind a gap that swallowed the window', () => {
    const schedule = {
      frequency: 'DAILY',
      startTime: '02:30',
      windowStart: '02:10',
      windowEnd: '02:50',
    } as const;
    const storedNext = calculateNextBackupTime(schedule, CHICAGO, '2026-03-07T12:00:00Z');
    const due = dueOccurrence(schedule, CHICAGO, { storedNext, now: '2026-03-08T08:00:03Z' });
    expect(due).toMatchObject({ start: 'NOW', mustEndBy: new Date('2026-03-08T08:20:00Z') });
  });
});
