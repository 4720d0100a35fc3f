import type { BackupSchedule } from '../types/backup.ts';
import { ValidationError } from '../types/errors.ts';
import { type ScheduleContext, type Starts, startsOf } from './schedule-starts.ts';
import { closesAt, type Window, windowOf } from './schedule-window.ts';
import { type ZoneClock, zoneClock } from './schedule-zone.ts';
import { canonicalTimeZone } from './time-zone.ts';
import { toTimestamp } from './timestamp.ts';

export type ScheduleOptions = ScheduleContext;

/** One start of a configuration's schedules. */
export interface ScheduledStart {
  readonly at: Date;
  /** Which of the schedules; of several that start at one instant the first. */
  readonly schedule: BackupSchedule;
  readonly index: number;
  /** The end of the window that the start lies in; null without a window. `maxDurationMinutes` is not part of it. */
  readonly mustEndBy: Date | null;
}

type CalendarSchedule = BackupSchedule & { readonly frequency: 'DAILY' | 'WEEKLY' | 'MONTHLY' };

/**
 * When the next backup starts: the first instant strictly after `from` (now when left out) at which one of the
 * schedules is due, by the clocks of the IANA zone `timezone`. Null where none ever is: no schedule, CONTINUOUS
 * (which runs all the time), a cron expression that no day matches, a window that no start falls into.
 *
 * - DAILY, WEEKLY, MONTHLY and cron expressions stand for times of day. A time that clocks skip runs once, right
 *   behind the gap; one that they show twice runs the first time.
 * - MINUTES and HOURLY count elapsed time, anew each day from `startTime` (else `windowStart`, else midnight; HOURLY
 *   takes its minute), so that a change of the clocks neither adds nor drops a run. So does a cron expression that
 *   runs in every hour.
 * - MINUTES, HOURLY and CUSTOM start only inside the window, its end excluded. DAILY, WEEKLY and MONTHLY without
 *   `startTime` start in its first three quarters, at a time that `configurationId` chooses; without a window at 02:00.
 *
 * Throws `VALIDATION_FAILED` for a zone that does not exist and a schedule that lacks what its frequency needs.
 *
 * @example
 * calculateNextBackupTime({ frequency: 'DAILY', startTime: '02:00' }, 'America/Chicago', '2026-03-07T12:00:00Z');
 * // 2026-03-08T08:00:00.000Z: 02:00 does not exist on that day, so 03:00 CDT
 */
export function calculateNextBackupTime(
  schedule: CalendarSchedule,
  timezone: string,
  from?: Date | string,
  options?: ScheduleOptions,
): Date;
export function calculateNextBackupTime(
  schedules: BackupSchedule | readonly BackupSchedule[],
  timezone: string,
  from?: Date | string,
  options?: ScheduleOptions,
): Date | null;
export function calculateNextBackupTime(
  schedules: BackupSchedule | readonly BackupSchedule[],
  timezone: string,
  from: Date | string = new Date(),
  options: ScheduleOptions = {},
): Date | null {
  return nextOccurrence(schedules, timezone, from, options)?.at ?? null;
}

/** As `calculateNextBackupTime`, and says which schedule starts and when its window ends. */
export function nextOccurrence(
  schedules: BackupSchedule | readonly BackupSchedule[],
  timezone: string,
  from: Date | string = new Date(),
  options: ScheduleOptions = {},
): ScheduledStart | null {
  return nextOf(planOf(schedules, timezone, options), instantOf(from, 'from'));
}

/** The next starts, in order, at most `count` (10 when left out) of them after `from` (now when left out). */
export function previewSchedule(
  schedules: BackupSchedule | readonly BackupSchedule[],
  timezone: string,
  options: ScheduleOptions & { readonly from?: Date | string; readonly count?: number } = {},
): readonly ScheduledStart[] {
  const plan = planOf(schedules, timezone, options);
  const starts: ScheduledStart[] = [];
  let from = instantOf(options.from ?? new Date(), 'from');
  while (starts.length < (options.count ?? 10)) {
    const start = nextOf(plan, from);
    if (start === null) break;
    starts.push(start);
    from = start.at.getTime();
  }
  return starts;
}

/** Schedules made ready to be asked more than once. */
export interface Plan {
  readonly clock: ZoneClock;
  readonly entries: readonly PlanEntry[];
}

export interface PlanEntry {
  readonly schedule: BackupSchedule;
  readonly index: number;
  readonly window: Window | null;
  readonly starts: Starts;
}

export function planOf(
  schedules: BackupSchedule | readonly BackupSchedule[],
  timezone: string,
  context: ScheduleContext,
): Plan {
  const clock = zoneClock(timezone);
  const entries = [schedules].flat().map((schedule, index) => {
    requireZone(schedule, timezone);
    return { schedule, index, window: windowOf(schedule), starts: startsOf(schedule, clock, context) };
  });
  return { clock, entries };
}

/** A schedule read in another zone than its own would start hours off, without a sign of it. */
function requireZone({ timezone: own }: BackupSchedule, timezone: string): void {
  if (own === undefined || canonicalTimeZone(own) === canonicalTimeZone(timezone)) return;
  throw new ValidationError('The schedule', [
    {
      path: 'timezone',
      message: 'Differs from the time zone of the configuration.',
      remedy: 'Give the same zone in both, or leave out the schedule’s.',
    },
  ]);
}

export function nextOf({ clock, entries }: Plan, after: number): ScheduledStart | null {
  let first: ScheduledStart | null = null;
  for (const { schedule, index, window, starts } of entries) {
    const start = starts(after);
    if (start === null || (first !== null && start.at >= first.at.getTime())) continue;
    const end = window === null ? null : closesAt(clock, window, start.wall, start.at);
    const mustEndBy = end === null ? null : new Date(end);
    first = { at: new Date(start.at), schedule, index, mustEndBy };
  }
  return first;
}

/** Milliseconds since 1970. Throws `VALIDATION_FAILED` for what is no instant. */
export function instantOf(value: Date | string, path: string): number {
  const timestamp = toTimestamp(value);
  if (timestamp !== undefined) return Date.parse(timestamp);
  throw new ValidationError('The input', [
    { path, message: 'Is not an instant.', remedy: 'Give a Date, or ISO 8601 with seconds and an offset.' },
  ]);
}
