import * as z from 'zod';
import { BACKUP_FREQUENCIES, type BackupSchedule, DAYS_OF_WEEK } from '../types/backup.ts';
import { canonicalTimeZone } from '../utils/time-zone.ts';
import { isCronExpression } from './cron.ts';
import { optional, text, wallClockTime, wholeNumber } from './fields.ts';
import { fieldOf, flagOf, has, isRecord, type Report, textOf, under, withRule } from './rules.ts';

/** 02:00 where a schedule that needs a time of day has none. */
export const DEFAULT_START_TIME = '02:00';

/** A schedule as it is stored: its fields, without the rules between them. */
export const StoredScheduleSchema = z.strictObject({
  frequency: z.enum(BACKUP_FREQUENCIES),
  startTime: optional(wallClockTime),
  timezone: optional(text(1, 100)),
  intervalMinutes: optional(wholeNumber(1, 1440)),
  intervalByDatabaseSize: optional(z.boolean()),
  daysOfWeek: optional(z.array(z.enum(DAYS_OF_WEEK)).min(1).max(7)),
  dayOfMonth: optional(wholeNumber(1, 31)),
  cronExpression: optional(text(1, 200)),
  windowStart: optional(wallClockTime),
  windowEnd: optional(wallClockTime),
  maxDurationMinutes: optional(wholeNumber(1, 10_080)),
  maxConcurrency: optional(wholeNumber(1, 32)),
}) satisfies z.ZodType<BackupSchedule>;

export const BackupScheduleSchema = withRule(
  StoredScheduleSchema,
  scheduleRule,
) satisfies z.ZodType<BackupSchedule>;

/** Which frequencies a field belongs to. */
const BELONGS: Readonly<Record<string, readonly string[]>> = {
  intervalMinutes: ['MINUTES'],
  intervalByDatabaseSize: ['MINUTES'],
  cronExpression: ['CUSTOM'],
  daysOfWeek: ['WEEKLY'],
  dayOfMonth: ['MONTHLY'],
  startTime: ['MINUTES', 'HOURLY', 'DAILY', 'WEEKLY', 'MONTHLY'],
};

function scheduleRule(schedule: unknown, report: Report): void {
  const frequency = textOf(schedule, 'frequency');
  if (frequency !== undefined) frequencyRule(schedule, frequency, report);
  const cron = textOf(schedule, 'cronExpression');
  if (cron !== undefined && !isCronExpression(cron)) {
    report(
      ['cronExpression'],
      'Is not a cron expression of five fields that some day matches.',
      'Write minute, hour, day of month, month and day of week, such as `0 2 * * *`.',
    );
  }
  const zone = textOf(schedule, 'timezone');
  if (zone !== undefined) zoneRule(zone, under(report, 'timezone'));
  windowRule(schedule, frequency, report);
}

function frequencyRule(schedule: unknown, frequency: string, report: Report): void {
  if (!BACKUP_FREQUENCIES.some((known) => known === frequency)) return;
  const bySize = flagOf(schedule, 'intervalByDatabaseSize') === true;
  if (frequency === 'MINUTES' && has(schedule, 'intervalMinutes') === bySize) {
    report(
      ['intervalMinutes'],
      bySize ? 'Is given besides `intervalByDatabaseSize`.' : 'Is missing: MINUTES needs it.',
      'Give the minutes between two backups, 1 to 1440, or `intervalByDatabaseSize: true`.',
    );
  }
  if (frequency === 'CUSTOM' && !has(schedule, 'cronExpression')) {
    report(['cronExpression'], 'Is missing: CUSTOM needs it.', 'Write five fields, such as `0 2 * * *`.');
  }
  for (const [field, frequencies] of Object.entries(BELONGS)) {
    if (has(schedule, field) && !frequencies.includes(frequency)) {
      report(
        [field],
        'Does not belong to this frequency.',
        `Remove it, or set \`frequency\` to ${frequencies.join(', ')}.`,
      );
    }
  }
}

function windowRule(schedule: unknown, frequency: string | undefined, report: Report): void {
  const start = textOf(schedule, 'windowStart');
  const end = textOf(schedule, 'windowEnd');
  if (has(schedule, 'windowStart') !== has(schedule, 'windowEnd')) {
    const absent = has(schedule, 'windowStart') ? 'windowEnd' : 'windowStart';
    report(
      [absent],
      'Is missing: a window needs both its ends.',
      'Give `windowStart` and `windowEnd`, or neither.',
    );
  }
  if (start === undefined || end === undefined) return;
  if (start === end)
    report(['windowEnd'], 'Equals `windowStart`.', 'Give two times, or leave the window out.');
  const atOneTime = frequency === 'DAILY' || frequency === 'WEEKLY' || frequency === 'MONTHLY';
  const startTime = textOf(schedule, 'startTime');
  if (atOneTime && start !== end && startTime !== undefined && !isWithin(startTime, start, end)) {
    report(
      ['startTime'],
      'Lies outside the window, so that no backup would ever start.',
      'Give a time between `windowStart` and `windowEnd`, or leave it out.',
    );
  }
}

/** Times of one length compare as text. A window may pass midnight; its end is not part of it. */
function isWithin(time: string, start: string, end: string): boolean {
  return start < end ? time >= start && time < end : time >= start || time < end;
}

function zoneRule(zone: string, report: Report): void {
  if (canonicalTimeZone(zone) === undefined) {
    report([], 'Is not a time zone that exists.', 'Write an IANA name such as America/Chicago or UTC.');
  }
}

/** `schedule` as a list, each with its path: the input may hold one or several. */
function schedulesOf(
  config: unknown,
): readonly { readonly schedule: unknown; readonly path: readonly (string | number)[] }[] {
  const field = fieldOf(config, 'schedule');
  if (Array.isArray(field))
    return field.map((schedule: unknown, index) => ({ schedule, path: ['schedule', index] }));
  return isRecord(field) ? [{ schedule: field, path: ['schedule'] }] : [];
}

/** All zones that a configuration names must be one: its own where given, else the first schedule's. */
export function zonesAgreeRule(config: unknown, report: Report): void {
  const own = textOf(config, 'timezone');
  if (own !== undefined) zoneRule(own, under(report, 'timezone'));
  const schedules = schedulesOf(config);
  const common =
    own ?? schedules.map(({ schedule }) => textOf(schedule, 'timezone')).find((zone) => zone !== undefined);
  for (const { schedule, path } of schedules) {
    const zone = textOf(schedule, 'timezone');
    if (zone !== undefined && common !== undefined && differ(zone, common)) {
      report(
        [...path, 'timezone'],
        'Differs from the time zone of the configuration.',
        'Give the same zone in `timezone` and in every schedule, or in one of them only.',
      );
    }
  }
}

function differ(one: string, other: string): boolean {
  const zone = canonicalTimeZone(one);
  const otherZone = canonicalTimeZone(other);
  return zone !== undefined && otherZone !== undefined && zone !== otherZone;
}
