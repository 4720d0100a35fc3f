import { describe, expect, it } from 'vitest';
import {
  CreateBackupConfigSchema,
  CreateRestoreOperationSchema,
  CreateSnapshotSchema,
  parseInput,
  withConfigDefaults,
} from '../../src/validation/index.ts';
import { ORG, SNAPSHOT } from './validation-fixtures.ts';

const defaultDestination = { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/var/backups' } } as const;

function configure(input: unknown) {
  const parsed = parseInput(CreateBackupConfigSchema, 'The backup configuration', input);
  return withConfigDefaults(parsed, { defaultDestination, encryptionAvailable: true });
}

/** The defaults of CONTRACT for what an input leaves open. */
const DEFAULTS = {
  branchIds: null,
  description: null,
  configType: 'FULL',
  schedule: [],
  timezone: 'UTC',
  scope: { includeSoftDeleted: false, includeAuditLogs: true, includePHI: true, includeFinancialData: true },
  retention: { retentionDays: 30, autoDeleteExpired: true },
  storageDestination: defaultDestination,
  encryptionEnabled: true,
  allowUnencryptedPHI: false,
  compressionEnabled: true,
  compressionAlgorithm: 'ZSTD',
  compressionLevel: 3,
  integrityCheckEnabled: true,
  checksumAlgorithm: 'SHA256',
  notificationSettings: {},
  complianceRequirements: [],
  auditRetentionDays: null,
  customFields: {},
};

describe('the configurations of the seeds', () => {
  it('fills every default where only a name is given', () => {
    expect(configure({ name: 'By hand' })).toEqual({ ...DEFAULTS, name: 'By hand' });
  });

  it('000: daily full backup', () => {
    const retention = {
      retentionDays: 30,
      dailyRetention: 7,
      weeklyRetention: 4,
      monthlyRetention: 12,
      autoDeleteExpired: true,
    };
    const schedule = { frequency: 'DAILY', startTime: '02:00', timezone: 'America/Chicago' };
    const scope = {
      includeEntities: ['CLIENT', 'CAREGIVER', 'VISIT'],
      includeSoftDeleted: false,
      includeAttachments: true,
    };
    const storageDestination = {
      type: 'AWS_S3',
      cloudStorage: { provider: 'AWS', region: 'us-east-1', bucketName: 'backups' },
    };
    expect(
      configure({
        organizationId: ORG,
        name: 'Daily Full Backup',
        configType: 'FULL',
        schedule,
        scope,
        retention,
        storageDestination,
        encryptionEnabled: true,
        compressionEnabled: true,
      }),
    ).toEqual({
      ...DEFAULTS,
      name: 'Daily Full Backup',
      schedule: [schedule],
      timezone: 'America/Chicago',
      scope: { ...DEFAULTS.scope, ...scope },
      retention,
      storageDestination,
    });
  });

  it('001: automated daily backups', () => {
    expect(
      configure({
        organizationId: ORG,
        name: 'Daily Production Backup',
        configType: 'FULL',
        schedule: { frequency: 'DAILY', startTime: '02:00' },
        retention: { retentionDays: 30, autoDeleteExpired: true },
        encryptionEnabled: true,
        compressionEnabled: true,
      }),
    ).toEqual({
      ...DEFAULTS,
      name: 'Daily Production Backup',
      schedule: [{ frequency: 'DAILY', startTime: '02:00' }],
    });
  });

  it('001: visit schedules, without a start time', () => {
    expect(
      configure({
        name: 'Visit Schedule Backup',
        scope: { includeEntities: ['VISIT', 'SCHEDULE'] },
        schedule: { frequency: 'DAILY' },
      }),
    ).toEqual({
      ...DEFAULTS,
      name: 'Visit Schedule Backup',
      scope: { ...DEFAULTS.scope, includeEntities: ['VISIT', 'SCHEDULE'] },
      schedule: [{ frequency: 'DAILY', startTime: '02:00' }],
    });
  });

  it('001: payroll archive, seven years', () => {
    const complianceRequirements = [
      { regulation: 'IRS', minimumRetentionDays: 2555, requiresEncryption: true },
    ];
    const retention = { retentionDays: 2555, autoDeleteExpired: false };
    expect(
      configure({
        name: 'Payroll Archive',
        scope: { includeEntities: ['PAYROLL', 'TIME_ENTRY'], includeFinancialData: true },
        retention,
        complianceRequirements,
      }),
    ).toEqual({
      ...DEFAULTS,
      name: 'Payroll Archive',
      scope: { ...DEFAULTS.scope, includeEntities: ['PAYROLL', 'TIME_ENTRY'] },
      retention,
      complianceRequirements,
    });
  });

  it('002: three cron schedules, tiers only, two regions', () => {
    const schedule = ['0 2 * * *', '0 3 * * 0', '0 4 1 * *'].map((cronExpression) => ({
      frequency: 'CUSTOM',
      cronExpression,
    }));
    const retention = { dailyRetention: 7, weeklyRetention: 4, monthlyRetention: 12, yearlyRetention: 3 };
    const region = (name: string) => ({
      type: 'AWS_S3',
      cloudStorage: { provider: 'AWS', region: name, bucketName: `clinicboost-backups-${name}` },
    });
    const settings = configure({
      name: 'Production',
      schedule,
      retention,
      storageDestination: {
        type: 'MULTI',
        destinations: [region('us-east-1'), region('us-west-2'), region('eu-west-1')],
        minimumConfirmations: 2,
      },
      notificationSettings: {
        enabled: true,
        emails: ['admin@clinicboost.com', 'ops@clinicboost.com'],
        webhookUrl: 'https://hooks.slack.com/services/...',
      },
    });
    expect(settings.schedule).toEqual(schedule);
    expect(settings.retention).toEqual({ ...retention, autoDeleteExpired: true });
  });

  it('003: every 15 minutes, fifteen years', () => {
    const settings = configure({
      name: 'Iron Store',
      configType: 'INCREMENTAL',
      schedule: { frequency: 'MINUTES', intervalMinutes: 15 },
      retention: {
        dailyRetention: 30,
        weeklyRetention: 52,
        monthlyRetention: 120,
        yearlyRetention: 1000,
        emergencyRetentionDays: 90,
      },
      compressionAlgorithm: 'BROTLI',
    });
    expect(settings).toMatchObject({
      schedule: [{ frequency: 'MINUTES', intervalMinutes: 15 }],
      compressionAlgorithm: 'BROTLI',
      compressionLevel: 3,
    });
    expect(configure({ name: 'LZ4', compressionAlgorithm: 'LZ4' }).compressionLevel).toBeNull();
  });

  it('004: daily, weekly and monthly at a time, rotation by count, age and size', () => {
    const settings = configure({
      name: 'Backup System',
      timezone: 'Europe/Berlin',
      schedule: ['DAILY', 'WEEKLY', 'MONTHLY'].map((frequency) => ({
        frequency,
        startTime: '03:30',
        timezone: 'Europe/Berlin',
      })),
      retention: {
        retentionDays: 60,
        maxBackups: 10,
        maxAgeDays: 90,
        maxSize: 5e9,
        cleanupStrategy: 'oldest',
      },
      storageDestination: defaultDestination,
    });
    expect(settings.schedule).toMatchObject([
      { frequency: 'DAILY' },
      { frequency: 'WEEKLY', daysOfWeek: ['SUNDAY'] },
      { frequency: 'MONTHLY', dayOfMonth: 1 },
    ]);
  });
});

describe('the snapshots and restores of the seeds', () => {
  it.each([
    ['000, from a job', { configurationId: ORG }],
    ['000, incremental', { configurationId: ORG, snapshotType: 'INCREMENTAL', parentSnapshotId: SNAPSHOT }],
    ['003, emergency', { configurationId: ORG, trigger: 'EMERGENCY' }],
  ])('%s', (_name, input) => {
    expect(parseInput(CreateSnapshotSchema, 'The snapshot', input)).toEqual(input);
  });

  it('001: point in time', () => {
    const input = {
      snapshotId: SNAPSHOT,
      restoreType: 'POINT_IN_TIME',
      scope: { includeEntities: ['CLIENT', 'VISIT'], restoreToTimestamp: '2025-01-15T10:30:00Z' },
      conflictResolutionStrategy: 'BACKUP_WINS',
      requiresApproval: true,
    };
    expect(parseInput(CreateRestoreOperationSchema, 'The restore', input)).toEqual({
      ...input,
      scope: { ...input.scope, restoreToTimestamp: '2025-01-15T10:30:00.000Z' },
    });
  });
});
