import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nextOccurrence } from '../../src/rules/index.ts';
import type { BackupSchedule } from '../../src/types/backup.ts';
import { createTestDatabase, type TestDatabase } from '../harness/postgres.ts';

const FURTHER_YEARS = [
  ['UTC', 2026],
  ['Europe/Berlin', 2026],
  ['Asia/Kolkata', 2026],
  ['Pacific/Chatham', 2026],
  ['America/Havana', 2022],
  ['Africa/Cairo', 2024],
] as const;

/**
 * A year of starts in each of these zones against PostgreSQL, which only tells what the clock shows at each quarter of
 * an hour: `shown` holds that and the latest time shown before. A wall-clock time occurs at the first instant at
 * which the clock shows it or something later, which is the rule for gaps and for repeated hours alike.
 */
const YEARS: readonly (readonly [zone: string, year: number])[] = [
  ['America/Chicago', 2026],
  ['Australia/Lord_Howe', 2026],
  ['America/Sao_Paulo', 2018],
  ['Asia/Beirut', 2022],
  ['Africa/Casablanca', 2024],
  ['Pacific/Apia', 2011],
  ...(process.env.CARE_SOAK === '1' ? FURTHER_YEARS : []),
];

const GRID = `
  CREATE TEMPORARY TABLE shown AS
  SELECT *, max(CASE WHEN date_trunc('day', latest) > before THEN at END) OVER (ORDER BY at) AS day_began
  FROM (SELECT at, wall,
               max(wall) OVER (ORDER BY at) AS latest,
               max(wall) OVER (ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM (SELECT at, at AT TIME ZONE $1 AS wall
              FROM generate_series($2::timestamptz - interval '3 days', $3::timestamptz, interval '15 minutes') AS at) AS series
       ) AS latest`;

/** Every wall-clock time of the year in quarters of an hour, also those that no clock shows, and when it occurs. */
const TIMES = `
  CREATE TEMPORARY TABLE times AS
  SELECT at, time FROM shown,
         generate_series(before + interval '15 minutes', latest, interval '15 minutes') AS time`;

const LAST_OF_MONTH = `extract(day FROM date_trunc('month', time) + interval '1 month - 1 day')`;
const timesWhere = (condition: string): string => `SELECT DISTINCT at FROM times WHERE ${condition}`;
const shownWhere = (condition: string): string => `SELECT at FROM shown WHERE ${condition}`;
/** Elapsed minutes since the day began that the instant belongs to. */
const elapsed = (minutes: number): string =>
  shownWhere(`extract(epoch FROM at - day_began)::integer % ${minutes * 60} = 0`);

const SCHEDULES: readonly (readonly [name: string, schedule: BackupSchedule, query: string])[] = [
  ['daily', { frequency: 'DAILY', startTime: '02:15' }, timesWhere(`time::time = '02:15'`)],
  ['daily at midnight', { frequency: 'DAILY', startTime: '00:00' }, timesWhere(`time::time = '00:00'`)],
  ['daily late', { frequency: 'DAILY', startTime: '23:30' }, timesWhere(`time::time = '23:30'`)],
  [
    'weekly on two days',
    { frequency: 'WEEKLY', startTime: '02:30', daysOfWeek: ['SUNDAY', 'FRIDAY'] },
    timesWhere(`time::time = '02:30' AND extract(isodow FROM time) IN (5, 7)`),
  ],
  [
    'monthly on the 31st',
    { frequency: 'MONTHLY', startTime: '00:30', dayOfMonth: 31 },
    timesWhere(`time::time = '00:30' AND extract(day FROM time) = ${LAST_OF_MONTH}`),
  ],
  [
    'monthly on the 30th',
    { frequency: 'MONTHLY', startTime: '12:00', dayOfMonth: 30 },
    timesWhere(`time::time = '12:00' AND extract(day FROM time) = least(30, ${LAST_OF_MONTH})`),
  ],
  [
    'cron at times of day',
    { frequency: 'CUSTOM', cronExpression: '15,45 0,2,14 * * *' },
    timesWhere(`extract(hour FROM time) IN (0, 2, 14) AND extract(minute FROM time) IN (15, 45)`),
  ],
  [
    'cron on working days',
    { frequency: 'CUSTOM', cronExpression: '30 1 * 3-11 MON-FRI' },
    timesWhere(
      `time::time = '01:30' AND extract(isodow FROM time) < 6 AND extract(month FROM time) BETWEEN 3 AND 11`,
    ),
  ],
  ['every quarter of an hour', { frequency: 'MINUTES', intervalMinutes: 15 }, shownWhere('true')],
  ['every 4 hours', { frequency: 'MINUTES', intervalMinutes: 240 }, elapsed(240)],
  ['hourly', { frequency: 'HOURLY' }, elapsed(60)],
  [
    'cron every half hour',
    { frequency: 'CUSTOM', cronExpression: '*/30 * * * *' },
    shownWhere('extract(minute FROM wall) IN (0, 30)'),
  ],
  [
    'in a window past midnight',
    { frequency: 'MINUTES', intervalMinutes: 15, windowStart: '22:30', windowEnd: '02:15' },
    shownWhere(`wall::time >= '22:30' OR wall::time < '02:15'`),
  ],
];

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
});

/** The two may know different versions of the time zone database; then they cannot be compared. */
const disagreeing: string[] = [];

describe.each(YEARS)('%s %d', (zone, year) => {
  it('starts exactly when PostgreSQL’s clock says so', async () => {
    const [start, end] = [Date.UTC(year, 0, 1), Date.UTC(year + 1, 0, 1)];
    const client = await database.pool.connect();
    try {
      await client.query("SET TimeZone = 'UTC'");
      await client.query('DROP TABLE IF EXISTS shown, times');
      const bounds = [new Date(start), new Date(end)];
      await client.query(
        GRID.replace('$1', `'${zone}'`)
          .replace('$2', `'${bounds[0]?.toISOString()}'`)
          .replace('$3', `'${bounds[1]?.toISOString()}'`),
      );
      await client.query(TIMES);

      const { rows: clock } = await client.query<{ at: string; wall: string }>(
        `SELECT extract(epoch FROM at)::text AS at, to_char(wall, 'YYYY-MM-DD HH24:MI:SS') AS wall FROM shown`,
      );
      const format = new Intl.DateTimeFormat('sv-SE', {
        timeZone: zone,
        dateStyle: 'short',
        timeStyle: 'medium',
      });
      if (clock.some(({ at, wall }) => format.format(Number(at) * 1000) !== wall)) {
        disagreeing.push(`${zone} ${year}`);
        return;
      }
      for (const [name, schedule, query] of SCHEDULES) {
        const { rows } = await client.query<{ at: string }>(
          `SELECT extract(epoch FROM at)::text AS at FROM (${query}) AS starts
           WHERE at > '${bounds[0]?.toISOString()}' AND at <= '${bounds[1]?.toISOString()}' ORDER BY at`,
        );
        const expected = rows.map(({ at }) => new Date(Number(at) * 1000).toISOString());
        const starts = startsBetween(schedule, zone, start, end);
        expect(expected.length, name).toBeGreaterThan(11);
        expect(starts, `${name} in ${zone}`).toEqual(expected);
      }
    } finally {
      client.release();
    }
  });
});

it('compared most zones, where both know the same clocks', () => {
  expect(disagreeing.length, `different tzdata: ${disagreeing.join(', ')}`).toBeLessThanOrEqual(
    YEARS.length / 6,
  );
});

function startsBetween(schedule: BackupSchedule, zone: string, from: number, to: number): string[] {
  const starts: string[] = [];
  let start = nextOccurrence(schedule, zone, new Date(from));
  while (start !== null && start.at.getTime() <= to) {
    starts.push(start.at.toISOString());
    start = nextOccurrence(schedule, zone, start.at);
  }
  return starts;
}
