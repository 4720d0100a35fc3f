export { ListAuditLogSchema, PruneAuditLogSchema } from './audit.ts';
export {
  CreateBackupConfigSchema,
  NotificationSettingsSchema,
  UpdateBackupConfigSchema,
} from './configuration.ts';
export {
  applyConfigUpdate,
  type ConfigDefaults,
  type ConfigSettings,
  withConfigDefaults,
} from './defaults.ts';
export { EntityInputSchema } from './entity.ts';
export { ExportSnapshotSchema } from './export.ts';
export { ListConfigurationsSchema, ListSnapshotsSchema } from './lists.ts';
export { parseInput } from './parse-input.ts';
export {
  BackupConfigurationSchema,
  BackupDataMetricsSchema,
  BackupErrorRecordSchema,
  BackupProgressSchema,
  BackupSnapshotSchema,
  BackupWarningSchema,
  StorageJobSchema,
  StorageLocationSchema,
} from './records.ts';
export {
  CreateRestoreOperationSchema,
  ResolveRestoreConflictSchema,
  RestoreDestinationSchema,
} from './restore.ts';
export {
  RestoreConflictSchema,
  RestoreDataMetricsSchema,
  RestoreOperationSchema,
  RestoreProgressSchema,
  ValidationCheckSchema,
  ValidationResultsSchema,
} from './restore-records.ts';
export { ComplianceRequirementSchema, RetentionPolicySchema } from './retention.ts';
export { BackupScheduleSchema } from './schedule.ts';
export { BackupScopeSchema, CustomFilterSchema, RestoreScopeSchema } from './scope.ts';
export { CreateSnapshotSchema } from './snapshot.ts';
export { StorageDestinationSchema } from './storage-destination.ts';
export {
  ApproveOperationSchema,
  DeviceInfoSchema,
  EditOperationSchema,
  ListConflictsSchema,
  ListOperationsSchema,
  ListSyncEventsSchema,
  NetworkStatusSchema,
  ResolveConflictSchema,
  StartOfflineSessionSchema,
  SyncStatisticsInputSchema,
} from './sync-inputs.ts';
export {
  ClientStampSchema,
  type ParsedOperation,
  parseOperation,
  QueueOperationSchema,
  QueueOptionsSchema,
} from './sync-operation.ts';
