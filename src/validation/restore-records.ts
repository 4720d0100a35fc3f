import * as z from 'zod';
import {
  CONFLICT_RESOLUTION_STRATEGIES,
  type ColumnMapping,
  type EntityChanges,
  RESTORE_CONFLICT_KINDS,
  RESTORE_PHASES,
  RESTORE_STATUSES,
  RESTORE_TYPES,
  type RestoreConflict,
  type RestoreDataMetrics,
  type RestoreOperation,
  type RestoreProgress,
  type ValidationCheck,
  type ValidationResults,
} from '../types/backup.ts';
import { timestamp, uuid } from './fields.ts';
import { JsonObjectSchema, JsonSchema } from './json.ts';
import {
  amount,
  BackupErrorRecordSchema,
  BackupWarningSchema,
  count,
  counts,
  nullableText,
  nullableTimestamp,
  nullableUuid,
} from './records.ts';
import { StoredRestoreDestinationSchema } from './restore.ts';
import { StoredRestoreScopeSchema } from './scope.ts';

export const RestoreProgressSchema = z.strictObject({
  phase: z.enum(RESTORE_PHASES),
  percentage: z.number().min(0).max(100),
  currentEntity: nullableText,
  entitiesTotal: count,
  entitiesCompleted: count,
  recordsRestored: count,
  bytesProcessed: count,
  bytesTotal: count,
  bytesPerSecond: amount,
  estimatedTimeRemainingMs: amount.nullable(),
  updatedAt: timestamp,
}) satisfies z.ZodType<RestoreProgress>;

export const RestoreDataMetricsSchema = z.strictObject({
  totalRecords: count,
  totalSizeBytes: count,
  recordsByEntity: counts,
}) satisfies z.ZodType<RestoreDataMetrics>;

export const ValidationCheckSchema = z.strictObject({
  name: z.string(),
  passed: z.boolean(),
  details: z.string(),
}) satisfies z.ZodType<ValidationCheck>;

export const ValidationResultsSchema = z.strictObject({
  passed: z.boolean(),
  validatedAt: timestamp,
  recordsExpected: count,
  recordsFound: count,
  checks: z.array(ValidationCheckSchema),
}) satisfies z.ZodType<ValidationResults>;

const ColumnMappingSchema = z.record(
  z.string(),
  z.record(z.string(), z.string().nullable()),
) satisfies z.ZodType<ColumnMapping>;

const EntityChangesSchema = z.strictObject({
  entityType: z.string(),
  archived: count,
  inserts: count,
  updates: count,
  deletes: count,
  kept: count,
  conflicts: count,
  unchanged: count,
}) satisfies z.ZodType<EntityChanges>;

const rowImage = z.record(z.string(), nullableText).nullable();

export const RestoreConflictSchema = z.strictObject({
  id: uuid,
  organizationId: uuid,
  restoreId: uuid,
  entityType: z.string(),
  recordId: z.string(),
  kind: z.enum(RESTORE_CONFLICT_KINDS),
  fields: z.array(z.string()),
  detail: nullableText,
  backup: rowImage,
  existing: rowImage,
  version: nullableText,
  status: z.enum(['PENDING', 'RESOLVED']),
  resolution: z.enum(['BACKUP', 'EXISTING', 'FIELDS']).nullable(),
  resolvedBy: nullableUuid,
  resolvedAt: nullableTimestamp,
  notes: nullableText,
  detectedAt: timestamp,
}) satisfies z.ZodType<RestoreConflict>;

export const RestoreOperationSchema = z.strictObject({
  id: uuid,
  organizationId: uuid,
  snapshotId: uuid,
  restoreNumber: z.string(),
  restoreType: z.enum(RESTORE_TYPES),
  requestedAt: timestamp,
  requestedBy: uuid,
  startedAt: nullableTimestamp,
  completedAt: nullableTimestamp,
  duration: amount.nullable(),
  scope: StoredRestoreScopeSchema,
  restoreDestination: StoredRestoreDestinationSchema,
  status: z.enum(RESTORE_STATUSES),
  statusReason: nullableText,
  progress: RestoreProgressSchema.nullable(),
  dataMetrics: RestoreDataMetricsSchema.nullable(),
  validationEnabled: z.boolean(),
  validationResults: ValidationResultsSchema.nullable(),
  conflictResolutionStrategy: z.enum(CONFLICT_RESOLUTION_STRATEGIES),
  conflictsDetected: z.array(JsonSchema),
  errors: z.array(BackupErrorRecordSchema),
  warnings: z.array(BackupWarningSchema),
  requiresApproval: z.boolean(),
  approvedBy: nullableUuid,
  approvedAt: nullableTimestamp,
  approvalNotes: nullableText,
  rollbackEnabled: z.boolean(),
  rollbackSnapshotId: nullableUuid,
  deleteNotInBackup: z.boolean(),
  allowCascades: z.boolean(),
  columnMapping: ColumnMappingSchema,
  changes: z.array(EntityChangesSchema),
  rolledBackAt: nullableTimestamp,
  rolledBackBy: nullableUuid,
  notes: nullableText,
  customFields: JsonObjectSchema,
  createdAt: timestamp,
  updatedAt: timestamp,
}) satisfies z.ZodType<RestoreOperation>;
