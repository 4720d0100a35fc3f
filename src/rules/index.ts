/** The rules of schedules and retention as pure functions, for servers and browsers. */
export { formatBytes } from '../utils/bytes.ts';
export {
  applyGFSRetention,
  calculateExpirationDate,
  explainRetention,
  FIFTEEN_YEAR_RETENTION,
  isSnapshotExpired,
  type RetentionOptions,
  type RetentionResult,
  type RetentionVerdict,
} from '../utils/retention.ts';
export type { RetainableSnapshot } from '../utils/retention-order.ts';
export type { DeleteRule, KeepRule, RetentionReason } from '../utils/retention-reasons.ts';
export type { ChainComparator, UnreachableLimit } from '../utils/retention-rotation.ts';
export {
  calculateNextBackupTime,
  nextOccurrence,
  previewSchedule,
  type ScheduledStart,
  type ScheduleOptions,
} from '../utils/schedule.ts';
export { type DueInput, type DueRun, dueOccurrence } from '../utils/schedule-due.ts';
export { frequencyForDatabaseSize, type IntervalFrequency } from '../utils/schedule-size.ts';
