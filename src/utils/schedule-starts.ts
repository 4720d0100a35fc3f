import { Cron } from 'croner';
import { type BackupSchedule, DAYS_OF_WEEK } from '../types/backup.ts';
import { ValidationError } from '../types/errors.ts';
import { frequencyForDatabaseSize } from './schedule-size.ts';
import { isInside, modulo, opensAfter, ownDelay, type Window, windowOf } from './schedule-window.ts';
import {
  DAY,
  dayOf,
  HOUR,
  MINUTE,
  onceAt,
  parseTimeOfDay,
  timeOfDay,
  type ZoneClock,
} from './schedule-zone.ts';

/** The next wall-clock time after a given one; null where there is none. */
type WallTimes = (wall: number) => number | null;

/** What a schedule needs to know besides its own fields. */
export interface ScheduleContext {
  /** Chooses the time of a schedule that has a window and no `startTime`. */
  readonly configurationId?: string;
  /** For `intervalByDatabaseSize`: the size of the last backup. Unknown counts as large. */
  readonly databaseSizeBytes?: number;
}

/** A start: the instant, and the wall-clock time that it stands for, which differ where the clock jumped over it. */
export interface Start {
  readonly at: number;
  readonly wall: number;
}

/** The first start strictly after an instant; null where there is none. */
export type Starts = (after: number) => Start | null;

/** A schedule that finds no start inside its window in so many days has none: that is two years of clock changes. */
const TRIES = 800;

/** The starts of one schedule. Throws `VALIDATION_FAILED` where a field that the frequency needs is missing or wrong. */
export function startsOf(schedule: BackupSchedule, clock: ZoneClock, context: ScheduleContext): Starts {
  const window = windowOf(schedule);
  switch (schedule.frequency) {
    case 'CONTINUOUS':
      return () => null;
    case 'MINUTES':
      return within(window, clock, everyMinutes(intervalOf(schedule, context), anchorOf(schedule), clock));
    case 'HOURLY':
      return within(window, clock, everyMinutes(60, anchorOf(schedule) % HOUR, clock));
    case 'CUSTOM':
      return byCron(schedule.cronExpression, window, clock);
    case 'DAILY':
      return onDays(() => true, timeOf(schedule, window, context), clock);
    case 'WEEKLY':
      return onDays(weekdays(schedule.daysOfWeek ?? ['SUNDAY']), timeOf(schedule, window, context), clock);
    case 'MONTHLY':
      return onDays(dayOfMonth(schedule.dayOfMonth ?? 1), timeOf(schedule, window, context), clock);
  }
}

/** Where counting starts every day: midnight, unless the schedule or its window names a time. */
function anchorOf({ startTime, windowStart }: BackupSchedule): number {
  return parseTimeOfDay(startTime ?? windowStart ?? '00:00');
}

function timeOf({ startTime }: BackupSchedule, window: Window | null, context: ScheduleContext): number {
  if (startTime !== undefined || window === null) return parseTimeOfDay(startTime ?? '02:00');
  return (window.start + ownDelay(window, context.configurationId)) % DAY;
}

function intervalOf(schedule: BackupSchedule, { databaseSizeBytes }: ScheduleContext): number {
  const minutes =
    schedule.intervalByDatabaseSize === true
      ? frequencyForDatabaseSize(databaseSizeBytes ?? null).intervalMinutes
      : schedule.intervalMinutes;
  if (minutes === undefined || !Number.isInteger(minutes) || minutes < 1 || minutes > 1440) {
    throw new ValidationError('The schedule', [
      { path: 'intervalMinutes', message: 'Is not a number of minutes.', remedy: 'Give 1 to 1440.' },
    ]);
  }
  return minutes;
}

function weekdays(days: readonly (typeof DAYS_OF_WEEK)[number][]): (day: number) => boolean {
  // Day 0, 1970-01-01, was a Thursday.
  return (day) => days.some((name) => DAYS_OF_WEEK.indexOf(name) === modulo(day + 3, 7));
}

/** In a month that is too short, its last day. */
function dayOfMonth(wanted: number): (day: number) => boolean {
  return (day) => {
    const date = new Date(day * DAY).getUTCDate();
    const isLast = new Date((day + 1) * DAY).getUTCDate() === 1;
    return date === wanted || (isLast && date < wanted);
  };
}

/** On days of the calendar at one wall-clock time: once where clocks were put back, right behind the gap where forward. */
function onDays(isDue: (day: number) => boolean, time: number, clock: ZoneClock): Starts {
  return (after) => {
    const today = dayOf(clock.wallAt(after));
    // A gap may push the start of a day into the next, and no month is longer than 31 days.
    for (let day = today - 2; day <= today + 64; day += 1) {
      if (!isDue(day)) continue;
      const wall = day * DAY + time;
      const at = onceAt(clock.read(wall));
      if (at > after) return { at, wall };
    }
    return null;
  };
}

/**
 * Every so many minutes of elapsed time, counted anew each day from the wall-clock time `anchor`: clocks that are put
 * back or forward neither add nor drop a start. The last interval of a day may be shorter, none is longer.
 */
function everyMinutes(minutes: number, anchor: number, clock: ZoneClock): Starts {
  const interval = minutes * MINUTE;
  const begins = (day: number): number => {
    const time = clock.read(day * DAY + anchor);
    return time.kind === 'never' ? time.elapsed : time.at;
  };
  return (after) => {
    let day = dayOf(clock.wallAt(after));
    let begin = begins(day);
    while (begin > after) {
      day -= 1;
      begin = begins(day);
    }
    let end = begins(day + 1);
    while (end <= after) {
      day += 1;
      begin = end;
      end = begins(day + 1);
    }
    const at = Math.min(begin + (Math.floor((after - begin) / interval) + 1) * interval, end);
    return { at, wall: clock.wallAt(at) };
  };
}

/**
 * By a cron expression. One that runs in every hour is matched against the clock as it shows, so a repeated hour
 * runs again and nothing is missed by the hour that is left out. Any other stands for times of day: once where
 * clocks were put back, once right behind the gap where they were put forward.
 */
function byCron(expression: string | undefined, window: Window | null, clock: ZoneClock): Starts {
  const { next, everyHour } = readCron(expression ?? '');
  return everyHour
    ? within(window, clock, asShown(next, clock))
    : asTimesOfDay(wallTimesWithin(window, next), clock);
}

function asTimesOfDay(next: WallTimes, clock: ZoneClock): Starts {
  return (after) => {
    let wall = next(clock.wallAt(after));
    while (wall !== null && onceAt(clock.read(wall)) <= after) wall = next(wall);
    return wall === null ? null : { at: onceAt(clock.read(wall)), wall };
  };
}

function asShown(next: WallTimes, clock: ZoneClock): Starts {
  return (after) => {
    let from = after;
    let offset = clock.offsetAt(from);
    let wall = next(from + offset);
    while (wall !== null && clock.offsetAt(wall - offset) !== offset) {
      const change = clock.changeBetween(from, wall - offset);
      const changed = clock.offsetAt(change);
      // A gap of half an hour would leave out a run that a gap of whole hours does not.
      if (wall < change + changed && (changed - offset) % HOUR !== 0) return { at: change, wall };
      from = change;
      offset = changed;
      wall = next(change + changed - 1);
    }
    return wall === null ? null : { at: wall - offset, wall };
  };
}

interface CronTimes {
  readonly next: WallTimes;
  readonly everyHour: boolean;
}

/** Reading an expression costs more than using it, and a scheduler asks again every few seconds. */
const expressions = new Map<string, CronTimes>();
const REMEMBERED_EXPRESSIONS = 500;

function readCron(expression: string): CronTimes {
  const known = expressions.get(expression);
  if (known !== undefined) return known;
  const times = { next: wallTimes(expression), everyHour: runsEveryHour(expression) };
  if (expressions.size >= REMEMBERED_EXPRESSIONS) expressions.clear();
  expressions.set(expression, times);
  return times;
}

/** The wall-clock times that an expression matches, after a given one. Croner works on the digits, as if in UTC. */
function wallTimes(expression: string): WallTimes {
  try {
    const cron = new Cron(expression, { utcOffset: 0, mode: '5-part', sloppyRanges: true });
    return (wall) => cron.nextRun(new Date(wall))?.getTime() ?? null;
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw new ValidationError('The schedule', [
      {
        path: 'cronExpression',
        message: 'Is not a cron expression of five fields.',
        remedy: 'Write minute, hour, day of month, month and day of week, such as `0 2 * * *`.',
      },
    ]);
  }
}

function runsEveryHour(expression: string): boolean {
  const [, hours = ''] = expression.trim().split(/\s+/);
  const next = wallTimes(`0 ${hours} * * *`);
  let wall: number | null = -1;
  for (let hour = 0; hour < 24; hour += 1) {
    wall = next(wall);
    if (wall !== hour * HOUR) return false;
  }
  return true;
}

function wallTimesWithin(window: Window | null, next: WallTimes): WallTimes {
  if (window === null) return next;
  return (from) => {
    let wall = next(from);
    for (let tries = 0; tries < TRIES && wall !== null; tries += 1) {
      if (isInside(window, wall)) return wall;
      wall = next(wall + modulo(window.start - timeOfDay(wall), DAY) - 1);
    }
    return null;
  };
}

/** Only the starts inside a window; one start right behind a gap of the clock that swallowed a whole window. */
function within(window: Window | null, clock: ZoneClock, starts: Starts): Starts {
  if (window === null) return starts;
  return (after) => {
    let from = after;
    for (let tries = 0; tries < TRIES; tries += 1) {
      const start = starts(from);
      if (start === null || isInside(window, start.wall)) return start;
      const opening = opensAfter(clock, window, from);
      const swallowed = !isInside(window, clock.wallAt(opening.at));
      if (swallowed && opening.at <= start.at) return opening;
      from = Math.max(start.at, opening.at - 1);
    }
    return null;
  };
}
