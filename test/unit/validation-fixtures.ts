import type * as z from 'zod';
import { ValidationError, type ValidationIssue } from '../../src/types/errors.ts';
import * as validation from '../../src/validation/index.ts';

export const ORG = '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d60';
export const BRANCH = '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d61';
export const SNAPSHOT = '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d62';
export const AT = '2026-01-31T02:00:00.000Z';

const s3 = {
  type: 'AWS_S3',
  cloudStorage: {
    provider: 'AWS',
    region: 'us-east-1',
    bucketName: 'backups',
    prefix: 'care',
    endpoint: 'https://s3.example.com/',
    storageClass: 'STANDARD_IA',
    credentialsRef: 'backup/aws',
  },
};
const local = { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/var/backups', prefix: 'care' } };
const sftp = {
  type: 'SFTP',
  sftp: {
    host: 'backup.example.com',
    port: 22,
    path: '/in',
    credentialsRef: 'sftp',
    hostKey: 'ssh-ed25519 AAAA',
  },
};
const multi = { type: 'MULTI', destinations: [s3, local, sftp], minimumConfirmations: 2 };
const customFilters = [
  { entityType: 'VISIT', column: 'state', operator: 'IN', value: ['TX', 'FL', 3, true] },
  { entityType: 'CLIENT', column: 'archived', operator: 'IS_NULL' },
];
const scope = {
  includeEntities: ['CLIENT', 'VISIT'],
  excludeEntities: ['PAYROLL'],
  branchIds: [BRANCH],
  clientIds: ['c-1'],
  caregiverIds: ['g-1'],
  dateRangeStart: AT,
  dateRangeEnd: '2026-02-28T02:00:00.000Z',
  includeSoftDeleted: false,
  includeAttachments: true,
  includeDocuments: true,
  includeAuditLogs: true,
  includePHI: true,
  includeFinancialData: true,
  customFilters,
};
const schedule = {
  frequency: 'WEEKLY',
  startTime: '02:00',
  timezone: 'America/Chicago',
  daysOfWeek: ['MONDAY', 'FRIDAY'],
  windowStart: '22:00',
  windowEnd: '04:00',
  maxDurationMinutes: 60,
  maxConcurrency: 2,
};
const retention = {
  retentionDays: 2555,
  hourlyRetention: 24,
  dailyRetention: 7,
  weeklyRetention: 4,
  monthlyRetention: 12,
  yearlyRetention: 3,
  keepLast: 3,
  emergencyRetentionDays: 90,
  maxBackups: 5000,
  maxSize: 1_000_000_000,
  maxAgeDays: 4000,
  cleanupStrategy: 'oldest',
  autoDeleteExpired: true,
};
const notificationSettings = {
  enabled: true,
  onSuccess: false,
  onFailure: true,
  onWarning: true,
  emails: ['ops@example.com'],
  webhookUrl: 'https://hooks.example.com/T1',
};
const requirement = {
  regulation: 'IRS',
  minimumRetentionDays: 2555,
  requiresEncryption: true,
  requiresIntegrityCheck: true,
  description: 'Payroll',
};
const update = {
  branchIds: [BRANCH],
  name: 'Nightly',
  description: 'All of it',
  configType: 'FULL',
  schedule,
  timezone: 'America/Chicago',
  scope,
  retention,
  storageDestination: multi,
  encryptionEnabled: true,
  allowUnencryptedPHI: false,
  compressionEnabled: true,
  compressionAlgorithm: 'ZSTD',
  compressionLevel: 3,
  integrityCheckEnabled: true,
  checksumAlgorithm: 'SHA256',
  notificationSettings,
  complianceRequirements: [requirement],
  auditRetentionDays: 2555,
  customFields: { costCenter: 'A1', nested: { list: [1, null, true, 'x'] } },
};
const metrics = {
  totalRecords: 2,
  totalSizeBytes: 20,
  storedSizeBytes: 10,
  recordsByEntity: { VISIT: 2 },
  sizeByEntity: { VISIT: 20 },
  phiRecords: 2,
  piiRecords: 2,
  financialRecords: 0,
  segments: 1,
  objects: 2,
};
const progress = {
  phase: 'UPLOADING',
  percentage: 99.5,
  currentEntity: 'VISIT',
  entitiesTotal: 2,
  entitiesCompleted: 1,
  recordsProcessed: 2,
  bytesProcessed: 10,
  bytesTotal: 20,
  bytesStored: 5,
  bytesPerSecond: 1.5,
  estimatedTimeRemainingMs: null,
  updatedAt: AT,
};
const location = {
  type: 'CUSTOM',
  description: 'memory',
  path: 'a/b',
  manifestKey: 'a/b/manifest',
  destination: multi,
  replicationLocations: [
    {
      description: 'other',
      status: 'COMPLETE',
      index: 1,
      objects: 3,
      bytes: 1024,
      checkedAt: '2026-03-01T02:10:00.000Z',
      lagMs: 4000,
      error: null,
    },
  ],
};
const errorRecord = { code: 'STORAGE_FULL', message: 'No space', recoverable: true, occurredAt: AT };
const warning = { code: 'OLD_KEY', message: 'The key is old' };
const restoreScope = {
  ...scope,
  recordIds: ['1'],
  restoreToTimestamp: AT,
  restoreSoftDeleted: true,
  restoreAttachments: true,
  restoreDocuments: false,
};
const restoreProgress = {
  phase: 'LOADING',
  percentage: 10,
  currentEntity: null,
  entitiesTotal: 2,
  entitiesCompleted: 1,
  recordsRestored: 2,
  bytesProcessed: 10,
  bytesTotal: 20,
  bytesPerSecond: 1.5,
  estimatedTimeRemainingMs: 12,
  updatedAt: AT,
};
const restoreMetrics = { totalRecords: 2, totalSizeBytes: 20, recordsByEntity: { VISIT: 2 } };
const check = { name: 'counts', passed: true, details: '2 of 2' };
const results = { passed: true, validatedAt: AT, recordsExpected: 2, recordsFound: 2, checks: [check] };
const stored = { createdAt: AT, updatedAt: AT };

/** Schemas by name, each with one value that it takes as it is and that has every field. */
export const FULL: Readonly<Record<string, { readonly schema: z.ZodType; readonly value: unknown }>> = {
  create: { schema: validation.CreateBackupConfigSchema, value: { organizationId: ORG, ...update } },
  update: { schema: validation.UpdateBackupConfigSchema, value: update },
  schedule: { schema: validation.BackupScheduleSchema, value: schedule },
  minutes: { schema: validation.BackupScheduleSchema, value: { frequency: 'MINUTES', intervalMinutes: 15 } },
  monthly: { schema: validation.BackupScheduleSchema, value: { frequency: 'MONTHLY', dayOfMonth: 31 } },
  cron: {
    schema: validation.BackupScheduleSchema,
    value: { frequency: 'CUSTOM', cronExpression: '0 2 * * *' },
  },
  scope: { schema: validation.BackupScopeSchema, value: scope },
  filter: { schema: validation.CustomFilterSchema, value: customFilters[0] },
  retention: { schema: validation.RetentionPolicySchema, value: retention },
  destination: { schema: validation.StorageDestinationSchema, value: multi },
  share: {
    schema: validation.StorageDestinationSchema,
    value: { type: 'NETWORK_SHARE', networkShare: { path: '\\\\nas\\b' } },
  },
  notifications: { schema: validation.NotificationSettingsSchema, value: notificationSettings },
  requirement: { schema: validation.ComplianceRequirementSchema, value: requirement },
  snapshotInput: {
    schema: validation.CreateSnapshotSchema,
    value: {
      configurationId: ORG,
      snapshotType: 'INCREMENTAL',
      parentSnapshotId: SNAPSHOT,
      trigger: 'MANUAL',
      tags: { reason: 'test' },
      notes: 'before the migration',
    },
  },
  restoreInput: {
    schema: validation.CreateRestoreOperationSchema,
    value: {
      snapshotId: SNAPSHOT,
      restoreType: 'POINT_IN_TIME',
      scope: restoreScope,
      restoreDestination: { type: 'PRODUCTION' },
      conflictResolutionStrategy: 'BACKUP_WINS',
      validationEnabled: true,
      requiresApproval: true,
      rollbackEnabled: true,
      deleteNotInBackup: true,
      allowCascades: true,
      columnMapping: { VISIT: { note: 'remark', photo: null } },
      notes: 'drill',
    },
  },
  restoreScope: { schema: validation.RestoreScopeSchema, value: restoreScope },
  staging: { schema: validation.RestoreDestinationSchema, value: { type: 'STAGING', tablePrefix: 'drill_' } },
  test: {
    schema: validation.RestoreDestinationSchema,
    value: { type: 'TEST', databaseConnection: 'drill-db' },
  },
  listConfigurations: {
    schema: validation.ListConfigurationsSchema,
    value: { limit: 10, cursor: 'x', status: ['ACTIVE'] },
  },
  listSnapshots: {
    schema: validation.ListSnapshotsSchema,
    value: { limit: 10, cursor: 'x', configurationId: ORG, status: ['COMPLETED'] },
  },
  entity: {
    schema: validation.EntityInputSchema,
    value: {
      type: 'VISIT',
      table: 'visits',
      schema: 'care',
      key: ['org', 'id'],
      organization: 'organization_id',
      branch: { through: ['client_org', 'client_id'], entity: 'CLIENT' },
      client: 'client_id',
      caregiver: 'caregiver_id',
      updatedAt: 'updated_at',
      deletedAt: 'deleted_at',
      date: 'visit_date',
      auditLog: false,
      classification: { phi: true, pii: true, financial: false, columns: { password: { pii: true } } },
    },
  },
  configuration: {
    schema: validation.BackupConfigurationSchema,
    value: {
      id: SNAPSHOT,
      organizationId: ORG,
      ...update,
      schedule: [schedule],
      encryptionKeyId: 'k1',
      status: 'ACTIVE',
      statusReason: null,
      lastBackupAt: AT,
      lastSuccessfulBackupAt: null,
      nextScheduledBackupAt: AT,
      totalBackupsCreated: 3,
      totalStorageUsed: 1_000_000,
      createdBy: ORG,
      ...stored,
    },
  },
  snapshot: {
    schema: validation.BackupSnapshotSchema,
    value: {
      id: SNAPSHOT,
      organizationId: ORG,
      configurationId: ORG,
      snapshotNumber: 'BKP-2026-000001',
      snapshotType: 'FULL',
      trigger: 'SCHEDULED',
      generation: 0,
      scheduledAt: AT,
      startedAt: AT,
      completedAt: AT,
      duration: 1200,
      status: 'COMPLETED',
      statusReason: null,
      progress,
      dataMetrics: metrics,
      storageLocation: location,
      checksum: 'ab12',
      checksumAlgorithm: 'SHA256',
      integrityVerified: true,
      integrityVerifiedAt: AT,
      encrypted: true,
      encryptionKeyId: 'k1',
      encryptionAlgorithm: 'AES-256-GCM',
      compressed: true,
      compressionAlgorithm: 'ZSTD',
      compressionRatio: 4.2,
      errors: [errorRecord],
      warnings: [warning],
      expiresAt: AT,
      retentionLocked: false,
      restoreCount: 0,
      lastRestoredAt: null,
      parentSnapshotId: null,
      childSnapshotIds: [ORG],
      tags: { reason: 'test' },
      notes: null,
      customFields: { a: [1] },
      requestedBy: ORG,
      ...stored,
    },
  },
  progress: { schema: validation.BackupProgressSchema, value: progress },
  metrics: { schema: validation.BackupDataMetricsSchema, value: metrics },
  location: { schema: validation.StorageLocationSchema, value: location },
  errorRecord: { schema: validation.BackupErrorRecordSchema, value: errorRecord },
  warning: { schema: validation.BackupWarningSchema, value: warning },
  restore: {
    schema: validation.RestoreOperationSchema,
    value: {
      id: SNAPSHOT,
      organizationId: ORG,
      snapshotId: SNAPSHOT,
      restoreNumber: 'RST-2026-000001',
      restoreType: 'POINT_IN_TIME',
      requestedAt: AT,
      requestedBy: ORG,
      startedAt: null,
      completedAt: null,
      duration: null,
      scope: restoreScope,
      restoreDestination: { type: 'STAGING', schemaName: 'drill' },
      status: 'QUEUED',
      statusReason: null,
      progress: restoreProgress,
      dataMetrics: restoreMetrics,
      validationEnabled: true,
      validationResults: results,
      conflictResolutionStrategy: 'BACKUP_WINS',
      conflictsDetected: [{ row: 1 }],
      errors: [],
      warnings: [warning],
      requiresApproval: true,
      approvedBy: ORG,
      approvedAt: AT,
      approvalNotes: 'ok',
      rollbackEnabled: true,
      rollbackSnapshotId: SNAPSHOT,
      deleteNotInBackup: true,
      allowCascades: false,
      columnMapping: { VISIT: { note: 'remark', photo: null } },
      changes: [
        {
          entityType: 'VISIT',
          archived: 5,
          inserts: 1,
          updates: 1,
          deletes: 0,
          kept: 1,
          conflicts: 1,
          unchanged: 1,
        },
      ],
      rolledBackAt: AT,
      rolledBackBy: ORG,
      notes: null,
      customFields: {},
      ...stored,
    },
  },
  restoreProgress: { schema: validation.RestoreProgressSchema, value: restoreProgress },
  restoreMetrics: { schema: validation.RestoreDataMetricsSchema, value: restoreMetrics },
  check: { schema: validation.ValidationCheckSchema, value: check },
  results: { schema: validation.ValidationResultsSchema, value: results },
};

type Key = string | number;

/** Every path into a value, its own included. */
export function pathsInto(value: unknown, path: readonly Key[] = []): readonly (readonly Key[])[] {
  if (typeof value !== 'object' || value === null) return [path];
  const entries = Array.isArray(value) ? [...value.entries()] : Object.entries(value);
  return [path, ...entries.flatMap(([key, item]) => pathsInto(item, [...path, key]))];
}

/** A copy with another value at a path. */
export function withAt(value: unknown, [key, ...rest]: readonly Key[], replacement: unknown): unknown {
  if (key === undefined) return replacement;
  const item: unknown = Reflect.get(Object(value), key);
  const next = withAt(item, rest, replacement);
  return Array.isArray(value) ? value.with(Number(key), next) : { ...Object(value), [key]: next };
}

/** The paths of the problems that parsing names, and [] where it succeeds. */
export function problems(schema: z.ZodType, input: unknown): readonly string[] {
  return issuesOf(schema, input).map(({ path }) => path);
}

export function issuesOf(schema: z.ZodType, input: unknown): readonly ValidationIssue[] {
  return errorOf(schema, input)?.issues ?? [];
}

/** The ValidationError of a parse, undefined where it succeeds; any other error comes through. */
export function errorOf(schema: z.ZodType, input: unknown): ValidationError | undefined {
  try {
    validation.parseInput(schema, 'The input', input);
    return undefined;
  } catch (error) {
    if (error instanceof ValidationError) return error;
    throw error;
  }
}
