import { expect, it } from 'vitest';
import type * as z from 'zod';
import type {
  CreateBackupConfigInput,
  CreateRestoreOperationInput,
  CreateSnapshotInput,
  UpdateBackupConfigInput,
} from '../../src/types/backup.ts';
import type { EntityInput } from '../../src/types/entity.ts';
import type { CreateBackupConfigSchema, CreateRestoreOperationSchema } from '../../src/validation/index.ts';

it('types the calls as people write them', () => {
  const daily: CreateBackupConfigInput = {
    organizationId: '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d60',
    name: 'Daily Production Backup',
    configType: 'FULL',
    schedule: { frequency: 'DAILY', startTime: '02:00', timezone: 'America/Chicago' },
    scope: { includeEntities: ['CLIENT', 'Visit', 'hostEntity'], includeAttachments: true },
    retention: { retentionDays: 30, dailyRetention: 7, autoDeleteExpired: true },
    storageDestination: {
      type: 'AWS_S3',
      cloudStorage: { provider: 'AWS', region: 'us-east-1', bucketName: 'backups' },
    },
    complianceRequirements: [{ regulation: 'IRS', minimumRetentionDays: 2555, requiresEncryption: true }],
    encryptionEnabled: true,
    compressionEnabled: true,
  };
  const payroll: UpdateBackupConfigInput = { retention: { retentionDays: 2555, autoDeleteExpired: false } };
  const snapshot: CreateSnapshotInput = { configurationId: 'config-123' };
  const restore: CreateRestoreOperationInput = {
    snapshotId: 'snapshot-123',
    restoreType: 'POINT_IN_TIME',
    scope: { includeEntities: ['CLIENT', 'VISIT'], restoreToTimestamp: '2025-01-15T10:30:00Z' },
    conflictResolutionStrategy: 'BACKUP_WINS',
    requiresApproval: true,
  };
  const entity: EntityInput = { type: 'VISIT', table: 'visits' };

  // What the schemas take: every input of the interface, and dates besides.
  const asked: z.input<typeof CreateBackupConfigSchema> = {
    name: 'Since yesterday',
    scope: { dateRangeStart: new Date(0), dateRangeEnd: '2026-01-01T00:00:00Z' },
    storageDestination: {
      type: 'MULTI',
      destinations: [{ type: 'LOCAL_FILESYSTEM', localStorage: { path: '/b' } }],
    },
  };
  const wanted: z.input<typeof CreateRestoreOperationSchema> = {
    snapshotId: 'snapshot-123',
    scope: { restoreToTimestamp: new Date(0) },
  };
  expect([daily, payroll, snapshot, restore, entity, asked, wanted]).toHaveLength(7);
});

it('refuses what the documents do not have', () => {
  // @ts-expect-error a name is needed
  const nameless: CreateBackupConfigInput = {};
  // @ts-expect-error undefined is not absence
  const undefinedField: CreateBackupConfigInput = { name: 'A', description: undefined };
  // @ts-expect-error an unknown field
  const unknownField: CreateSnapshotInput = { configurationId: 'c', label: 'x' };
  // @ts-expect-error an organization is not changed
  const moved: UpdateBackupConfigInput = { organizationId: 'o' };
  // @ts-expect-error an unknown frequency
  const yearly: CreateBackupConfigInput = { name: 'A', schedule: { frequency: 'YEARLY' } };
  expect([nameless, undefinedField, unknownField, moved, yearly]).toHaveLength(5);
});
