import type { BackupSchedule } from '../types/backup.ts';
import { instantOf, nextOf, type Plan, type PlanEntry, planOf, type ScheduleOptions } from './schedule.ts';
import { closesAt, isInside, opensAfter, ownDelay } from './schedule-window.ts';
import { HOUR, onceAt } from './schedule-zone.ts';

/** A run that is due, for one or for many missed occurrences. */
export interface DueRun {
  /** The latest occurrence that passed. */
  readonly scheduledAt: Date;
  /** NOW: start it. LATER: its window is closed; ask again, or start it at `startAt`. */
  readonly start: 'NOW' | 'LATER';
  /** `now`, or an instant inside the next window. */
  readonly startAt: Date;
  /** The end of the window that the start lies in; null without a window. */
  readonly mustEndBy: Date | null;
  /** The schedule whose rules the start follows: of those that passed the one that may start first. */
  readonly schedule: BackupSchedule;
  readonly index: number;
}

export interface DueInput extends ScheduleOptions {
  /** The next occurrence as it was stored when the last run was started; null: none. */
  readonly storedNext: Date | string | null;
  readonly now: Date | string;
}

/**
 * What a scheduler does now. Null while nothing is due. Occurrences missed during an outage are caught up by one
 * run. Where the schedule has a window and it is closed, the run waits: for the schedule's next occurrence if that
 * lies in the next window, else for the configuration's own time in it.
 *
 * A tick of the scheduler: ask with the stored occurrence. On NOW start the run under `scheduledAt` and store
 * `calculateNextBackupTime(schedules, timezone, now)` in the same transaction, so that two workers do not both start
 * it. On LATER change nothing and ask again at the next tick: what becomes due meanwhile joins the same run. When
 * the schedules of a configuration change, store their next occurrence anew.
 *
 * A stored occurrence that the schedules do not have (an interval that follows the database's size, say) is due all
 * the same. Throws `VALIDATION_FAILED` as `calculateNextBackupTime` does.
 */
export function dueOccurrence(
  schedules: BackupSchedule | readonly BackupSchedule[],
  timezone: string,
  input: DueInput,
): DueRun | null {
  if (input.storedNext === null) return null;
  const now = instantOf(input.now, 'now');
  const since = instantOf(input.storedNext, 'storedNext');
  if (since > now) return null;
  const plan = planOf(schedules, timezone, input);
  const passed = plan.entries.flatMap((entry) => {
    const at = latestStart(entry, since, now);
    return at === null ? [] : [{ entry, at }];
  });
  if (passed.length === 0) passed.push(...storedStart(plan, since));
  const starts = passed
    .map(({ entry, at }) => ({ entry, ...startFor(plan, entry, { scheduledAt: at, now }, input) }))
    .sort((one, other) => one.at - other.at);
  const [first] = starts;
  if (first === undefined) return null;
  return {
    scheduledAt: new Date(Math.max(...passed.map(({ at }) => at))),
    start: first.at > now ? 'LATER' : 'NOW',
    startAt: new Date(first.at),
    mustEndBy: first.end === null ? null : new Date(first.end),
    schedule: first.entry.schedule,
    index: first.entry.index,
  };
}

/** The last start in [since, now], looked for in ever longer stretches back from now. */
function latestStart({ starts }: PlanEntry, since: number, now: number): number | null {
  for (let stretch = HOUR; ; stretch *= 4) {
    const from = Math.max(now - stretch, since - 1);
    let latest: number | null = null;
    let start = starts(from);
    while (start !== null && start.at <= now) {
      latest = start.at;
      start = starts(start.at);
    }
    if (latest !== null || from < since) return latest;
  }
}

/** The stored occurrence where no schedule has it, under the schedule that would start next. */
function storedStart(
  plan: Plan,
  since: number,
): readonly { readonly entry: PlanEntry; readonly at: number }[] {
  const next = nextOf(plan, since);
  const entry = plan.entries.find(({ index }) => index === next?.index);
  return entry === undefined ? [] : [{ entry, at: since }];
}

/** When a passed occurrence may start, and the end of that window. */
function startFor(
  { clock }: Plan,
  { window, starts }: PlanEntry,
  { scheduledAt, now }: { readonly scheduledAt: number; readonly now: number },
  { configurationId }: ScheduleOptions,
): { readonly at: number; readonly end: number | null } {
  if (window === null) return { at: now, end: null };
  const wall = clock.wallAt(now);
  if (isInside(window, wall)) return { at: now, end: closesAt(clock, window, wall, now) };
  // Right behind a gap of the clock, which may have swallowed the window of a time of day.
  const passed = starts(scheduledAt - 1);
  const passedEnd = passed === null ? null : closesAt(clock, window, passed.wall, passed.at);
  if (passed?.at === scheduledAt && passedEnd !== null && now < passedEnd) return { at: now, end: passedEnd };

  const opening = opensAfter(clock, window, now);
  const closing = closesAt(clock, window, opening.wall, opening.at);
  const next = starts(now);
  if (next !== null && closing !== null && next.at < closing) {
    return { at: next.at, end: closesAt(clock, window, next.wall, next.at) };
  }
  const ownWall = opening.wall + ownDelay(window, configurationId);
  const own = Math.max(onceAt(clock.read(ownWall)), opening.at);
  return { at: own, end: closesAt(clock, window, ownWall, own) };
}
