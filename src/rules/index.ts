/** The rules of schedules, retention and offline sync as pure functions, for servers and browsers. */
export { type BackoffOptions, calculateBackoff } from '../sync/backoff.ts';
export { batchOperations } from '../sync/batches.ts';
export {
  type ClockState,
  type CorrectedTime,
  correct as correctClock,
  isSkewed,
  observe as observeClock,
} from '../sync/clock.ts';
export {
  areDependenciesMet,
  type DependencyNode,
  type DependentOperation,
  effectivePriorities,
  findCycle,
} from '../sync/dependencies.ts';
export { type Detection, type DetectionInput, detectConflict } from '../sync/detect.ts';
export { categorizeSyncError, type SyncErrorCategory, type SyncErrorVerdict } from '../sync/errors.ts';
export { clientImage, mergePatch } from '../sync/merge-patch.ts';
export { dueAt, PRIORITY_WEIGHTS, type SortableOperation, sortQueueByPriority } from '../sync/priority.ts';
export { resolveAutomatically, resolveByPerson } from '../sync/resolve.ts';
export { mayBecome, STATUS_CHANGES } from '../sync/states.ts';
export { type Merged, type MergeInput, mergeRows } from '../sync/three-way-merge.ts';
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
