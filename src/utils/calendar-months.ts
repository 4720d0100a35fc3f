import { onceAt, zoneClock } from './schedule-zone.ts';

/** A calendar month of a zone. */
export interface CalendarMonth {
  /** `2026-03`. */
  readonly month: string;
  /** Its first instant; the first behind the gap where clocks were put forward over midnight. */
  readonly startsAt: Date;
}

/** The last `count` months of a zone, the one that holds `now` last. Throws `VALIDATION_FAILED` for an unknown zone. */
export function lastMonths(timezone: string, now: Date, count: number): readonly CalendarMonth[] {
  const clock = zoneClock(timezone);
  const wall = new Date(clock.wallAt(now.getTime()));
  return Array.from({ length: count }, (_, index) => {
    const first = Date.UTC(wall.getUTCFullYear(), wall.getUTCMonth() - (count - 1 - index), 1);
    return {
      month: new Date(first).toISOString().slice(0, 7),
      startsAt: new Date(onceAt(clock.read(first))),
    };
  });
}
