import { ValidationError } from '../types/errors.ts';

export const SECOND = 1000;
export const MINUTE = 60_000;
export const HOUR = 3_600_000;
export const DAY = 86_400_000;

/** No zone was ever further from UTC than this. */
const FARTHEST = 16 * HOUR;

/**
 * What a wall-clock time stands for: one instant, two where clocks were put back over it, none where they were put
 * forward over it. Then `after` is the first instant behind the gap, and `elapsed` the instant at which the clock
 * would have shown the time had nobody touched it.
 */
export type WallTime =
  | { readonly kind: 'once'; readonly at: number }
  | { readonly kind: 'twice'; readonly at: number; readonly again: number }
  | { readonly kind: 'never'; readonly after: number; readonly elapsed: number };

/**
 * The clocks of one IANA zone. Instants are milliseconds since 1970 in UTC; a wall-clock time is written as the
 * milliseconds of the same digits in UTC.
 */
export interface ZoneClock {
  /** Wall-clock time minus UTC. */
  offsetAt(instant: number): number;
  wallAt(instant: number): number;
  read(wall: number): WallTime;
  /** The first instant of (from, to] with another offset than `from`. There must be one. */
  changeBetween(from: number, to: number): number;
}

const REMEMBERED_DAYS = 2000;

/** Building a formatter costs a hundred times what using it does. */
const clocks = new Map<string, ZoneClock>();

/** Throws `VALIDATION_FAILED` for a name that is no IANA zone. */
export function zoneClock(timezone: string): ZoneClock {
  const known = clocks.get(timezone);
  if (known !== undefined) return known;
  const clock = makeClock(timezone);
  clocks.set(timezone, clock);
  return clock;
}

function makeClock(timezone: string): ZoneClock {
  const format = formatterOf(timezone);

  /** Offsets of days in which it does not change; undefined where it does. */
  const days = new Map<number, number | undefined>();

  function offsetAt(instant: number): number {
    const day = Math.floor(instant / DAY);
    if (!days.has(day)) {
      if (days.size >= REMEMBERED_DAYS) days.clear();
      const [first, last] = [formattedOffset(day * DAY), formattedOffset((day + 1) * DAY - 1)];
      days.set(day, first === last ? first : undefined);
    }
    return days.get(day) ?? formattedOffset(instant);
  }

  function formattedOffset(instant: number): number {
    const fields = { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0 };
    for (const { type, value } of format.formatToParts(instant)) {
      if (isFieldOf(type, fields)) fields[type] = Number(value);
    }
    const { year, month, day, hour, minute, second } = fields;
    // Year + 400 has the same calendar and is not one of the two-digit years that Date.UTC moves to 19xx.
    const wall = Date.UTC(year + 400, month - 1, day, hour, minute, second);
    return wall - FOUR_CENTURIES - Math.floor(instant / SECOND) * SECOND;
  }

  function changeBetween(from: number, to: number): number {
    const before = offsetAt(from);
    let [same, other] = [from, to];
    while (other - same > 1) {
      const middle = Math.floor((same + other) / 2);
      if (offsetAt(middle) === before) same = middle;
      else other = middle;
    }
    return other;
  }

  function read(wall: number): WallTime {
    const before = offsetAt(wall - FARTHEST);
    const after = offsetAt(wall + FARTHEST);
    const early = wall - before;
    if (before === after) return { kind: 'once', at: early };
    const late = wall - after;
    const earlyHolds = offsetAt(early) === before;
    const lateHolds = offsetAt(late) === after;
    if (earlyHolds && lateHolds) return { kind: 'twice', at: early, again: late };
    if (earlyHolds) return { kind: 'once', at: early };
    if (lateHolds) return { kind: 'once', at: late };
    return { kind: 'never', after: changeBetween(wall - FARTHEST, wall + FARTHEST), elapsed: early };
  }

  return { offsetAt, wallAt: (instant) => instant + offsetAt(instant), read, changeBetween };
}

function isFieldOf<T extends object>(name: PropertyKey, fields: T): name is keyof T {
  return name in fields;
}

const FOUR_CENTURIES = 146_097 * DAY;

function formatterOf(timezone: string): Intl.DateTimeFormat {
  // Runtimes also take `+05:00`, which is no zone: it knows no summer time.
  if (/^[A-Za-z]/.test(timezone)) {
    try {
      return new Intl.DateTimeFormat('en-US', {
        timeZone: timezone,
        calendar: 'gregory',
        numberingSystem: 'latn',
        hourCycle: 'h23',
        year: 'numeric',
        month: 'numeric',
        day: 'numeric',
        hour: 'numeric',
        minute: 'numeric',
        second: 'numeric',
      });
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
    }
  }
  throw new ValidationError('The schedule', [
    {
      path: 'timezone',
      message: 'Is not a time zone that exists.',
      remedy: 'Write an IANA name such as America/Chicago or UTC.',
    },
  ]);
}

/** The instants that a wall-clock time has, in order; behind the gap where it has none. */
export function instantsOf(time: WallTime): readonly number[] {
  if (time.kind === 'twice') return [time.at, time.again];
  return [time.kind === 'once' ? time.at : time.after];
}

/** When something fixed to a wall-clock time runs: once, the first time, or right behind the gap. */
export function onceAt(time: WallTime): number {
  return time.kind === 'never' ? time.after : time.at;
}

/** The number of the day since 1970 that a wall-clock time lies in. */
export function dayOf(wall: number): number {
  return Math.floor(wall / DAY);
}

export function timeOfDay(wall: number): number {
  return wall - dayOf(wall) * DAY;
}

/** `HH:MM` as milliseconds since midnight. */
export function parseTimeOfDay(text: string): number {
  const [hours, minutes] = text.split(':').map(Number);
  const time = (hours ?? Number.NaN) * HOUR + (minutes ?? Number.NaN) * MINUTE;
  if (!/^\d{2}:\d{2}$/.test(text) || !(time < DAY)) {
    throw new ValidationError('The schedule', [
      { path: 'startTime', message: 'Is not a time of day.', remedy: 'Write HH:MM, 00:00 to 23:59.' },
    ]);
  }
  return time;
}
