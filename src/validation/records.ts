import * as z from 'zod';
import {
  BACKUP_CONFIG_STATUSES,
  BACKUP_CONFIG_TYPES,
  BACKUP_PHASES,
  BACKUP_SNAPSHOT_STATUSES,
  BACKUP_TRIGGERS,
  type BackupConfiguration,
  type BackupDataMetrics,
  type BackupErrorRecord,
  type BackupProgress,
  type BackupSnapshot,
  type BackupWarning,
  type FormerLocation,
  REPLICATION_STATUSES,
  type ReplicationLocation,
  STORAGE_JOB_KINDS,
  STORAGE_JOB_STATUSES,
  STORAGE_TYPES,
  type StorageJob,
  type StorageJobProgress,
  type StorageLocation,
} from '../types/backup.ts';
import { CHECKSUM_ALGORITHMS, COMPRESSION_ALGORITHMS, ENCRYPTION_ALGORITHMS } from '../types/encryption.ts';
import { ERROR_CODES, type ErrorCode } from '../types/errors.ts';
import { NotificationSettingsSchema } from './configuration.ts';
import { optional, timestamp, uuid, wholeNumber } from './fields.ts';
import { JsonObjectSchema } from './json.ts';
import { ComplianceRequirementSchema, StoredRetentionPolicySchema } from './retention.ts';
import { StoredScheduleSchema } from './schedule.ts';
import { StoredBackupScopeSchema } from './scope.ts';
import { StoredStorageDestinationSchema } from './storage-destination.ts';

/*
 * Records as the library stored them. They hold the shapes only: a rule between fields that a later version adds must
 * not make what is stored unreadable.
 */

export const count = wholeNumber(0);
export const nullableText = z.string().nullable();
export const nullableTimestamp = timestamp.nullable();
export const nullableUuid = uuid.nullable();
export const amount = z.number().min(0);
export const counts = z.record(z.string(), count);

export const BackupConfigurationSchema = z.strictObject({
  id: uuid,
  organizationId: uuid,
  branchIds: z.array(uuid).nullable(),
  name: z.string(),
  description: nullableText,
  configType: z.enum(BACKUP_CONFIG_TYPES),
  schedule: z.array(StoredScheduleSchema),
  timezone: z.string(),
  scope: StoredBackupScopeSchema,
  retention: StoredRetentionPolicySchema,
  storageDestination: StoredStorageDestinationSchema,
  encryptionEnabled: z.boolean(),
  encryptionKeyId: nullableText,
  allowUnencryptedPHI: z.boolean(),
  compressionEnabled: z.boolean(),
  compressionAlgorithm: z.enum(COMPRESSION_ALGORITHMS),
  compressionLevel: wholeNumber(1, 9).nullable(),
  integrityCheckEnabled: z.boolean(),
  checksumAlgorithm: z.enum(CHECKSUM_ALGORITHMS),
  notificationSettings: NotificationSettingsSchema,
  status: z.enum(BACKUP_CONFIG_STATUSES),
  statusReason: nullableText,
  lastBackupAt: nullableTimestamp,
  lastSuccessfulBackupAt: nullableTimestamp,
  nextScheduledBackupAt: nullableTimestamp,
  totalBackupsCreated: count,
  totalStorageUsed: count,
  complianceRequirements: z.array(ComplianceRequirementSchema),
  auditRetentionDays: count.nullable(),
  customFields: JsonObjectSchema,
  createdBy: uuid,
  createdAt: timestamp,
  updatedAt: timestamp,
}) satisfies z.ZodType<BackupConfiguration>;

export const BackupProgressSchema = z.strictObject({
  phase: z.enum(BACKUP_PHASES),
  percentage: z.number().min(0).max(100),
  currentEntity: nullableText,
  entitiesTotal: count,
  entitiesCompleted: count,
  recordsProcessed: count,
  bytesProcessed: count,
  bytesTotal: count,
  bytesStored: count,
  bytesPerSecond: amount,
  estimatedTimeRemainingMs: amount.nullable(),
  updatedAt: timestamp,
}) satisfies z.ZodType<BackupProgress>;

export const BackupDataMetricsSchema = z.strictObject({
  totalRecords: count,
  totalSizeBytes: count,
  storedSizeBytes: count,
  recordsByEntity: counts,
  sizeByEntity: counts,
  phiRecords: count,
  piiRecords: count,
  financialRecords: count,
  segments: count,
  objects: count,
}) satisfies z.ZodType<BackupDataMetrics>;

const errorCode = z.custom<ErrorCode>(isErrorCode, {
  error: 'Is not an error code of the library.',
  params: { remedy: 'Write a code of `ERROR_CODES`.' },
});

const ReplicationLocationSchema = z.strictObject({
  description: z.string(),
  status: z.enum(REPLICATION_STATUSES),
  index: count,
  objects: count,
  bytes: count,
  checkedAt: nullableTimestamp,
  lagMs: amount.nullable(),
  error: errorCode.nullable(),
}) satisfies z.ZodType<ReplicationLocation>;

const FormerLocationSchema = z.strictObject({
  destination: StoredStorageDestinationSchema,
  path: z.string(),
  manifestKey: z.string(),
}) satisfies z.ZodType<FormerLocation>;

export const StorageLocationSchema = z.strictObject({
  type: z.enum([...STORAGE_TYPES, 'CUSTOM']),
  description: z.string(),
  path: z.string(),
  manifestKey: z.string(),
  destination: StoredStorageDestinationSchema,
  replicationLocations: z.array(ReplicationLocationSchema),
  formerLocations: optional(z.array(FormerLocationSchema)),
}) satisfies z.ZodType<StorageLocation>;

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERROR_CODES, value);
}

export const BackupErrorRecordSchema = z.strictObject({
  code: errorCode,
  message: z.string(),
  recoverable: z.boolean(),
  occurredAt: timestamp,
}) satisfies z.ZodType<BackupErrorRecord>;

const StorageJobProgressSchema = z.strictObject({
  percentage: z.number().min(0).max(100),
  objectsTotal: count,
  objectsDone: count,
  bytesTotal: count,
  bytesDone: count,
  bytesPerSecond: amount,
  estimatedTimeRemainingMs: amount.nullable(),
  updatedAt: timestamp,
}) satisfies z.ZodType<StorageJobProgress>;

export const StorageJobSchema = z.strictObject({
  id: uuid,
  organizationId: uuid,
  kind: z.enum(STORAGE_JOB_KINDS),
  configurationId: uuid,
  snapshotId: nullableUuid,
  input: JsonObjectSchema,
  status: z.enum(STORAGE_JOB_STATUSES),
  attempts: count,
  maxAttempts: count,
  notBefore: timestamp,
  progress: StorageJobProgressSchema.nullable(),
  result: JsonObjectSchema.nullable(),
  error: BackupErrorRecordSchema.nullable(),
  requestedBy: uuid,
  startedAt: nullableTimestamp,
  completedAt: nullableTimestamp,
  createdAt: timestamp,
  updatedAt: timestamp,
}) satisfies z.ZodType<StorageJob>;

export const BackupWarningSchema = z.strictObject({
  code: z.string(),
  message: z.string(),
}) satisfies z.ZodType<BackupWarning>;

export const BackupSnapshotSchema = z.strictObject({
  id: uuid,
  organizationId: uuid,
  configurationId: uuid,
  snapshotNumber: z.string(),
  snapshotType: z.enum(BACKUP_CONFIG_TYPES),
  trigger: z.enum(BACKUP_TRIGGERS),
  generation: count,
  scheduledAt: nullableTimestamp,
  startedAt: nullableTimestamp,
  completedAt: nullableTimestamp,
  duration: amount.nullable(),
  status: z.enum(BACKUP_SNAPSHOT_STATUSES),
  statusReason: nullableText,
  progress: BackupProgressSchema.nullable(),
  dataMetrics: BackupDataMetricsSchema.nullable(),
  storageLocation: StorageLocationSchema.nullable(),
  checksum: nullableText,
  checksumAlgorithm: z.enum(CHECKSUM_ALGORITHMS),
  integrityVerified: z.boolean(),
  integrityVerifiedAt: nullableTimestamp,
  encrypted: z.boolean(),
  encryptionKeyId: nullableText,
  encryptionAlgorithm: z.enum(ENCRYPTION_ALGORITHMS).nullable(),
  compressed: z.boolean(),
  compressionAlgorithm: z.enum(COMPRESSION_ALGORITHMS),
  compressionRatio: amount.nullable(),
  errors: z.array(BackupErrorRecordSchema),
  warnings: z.array(BackupWarningSchema),
  expiresAt: nullableTimestamp,
  retentionLocked: z.boolean(),
  restoreCount: count,
  lastRestoredAt: nullableTimestamp,
  parentSnapshotId: nullableUuid,
  childSnapshotIds: z.array(uuid),
  tags: z.record(z.string(), z.string()),
  notes: nullableText,
  customFields: JsonObjectSchema,
  requestedBy: uuid,
  createdAt: timestamp,
  updatedAt: timestamp,
}) satisfies z.ZodType<BackupSnapshot>;
