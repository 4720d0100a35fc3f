import { describe, expect, it } from 'vitest';
import {
  BackupScheduleSchema,
  BackupScopeSchema,
  CreateBackupConfigSchema,
  CreateRestoreOperationSchema,
  CreateSnapshotSchema,
  CustomFilterSchema,
  EntityInputSchema,
  ListSnapshotsSchema,
  parseInput,
  RestoreDestinationSchema,
  RetentionPolicySchema,
  StorageDestinationSchema,
  UpdateBackupConfigSchema,
} from '../../src/validation/index.ts';
import { AT, BRANCH, issuesOf, ORG, problems, SNAPSHOT } from './validation-fixtures.ts';

type Grid = [input: unknown, paths: readonly string[]][];

describe('BackupScheduleSchema', () => {
  it.each<Grid[number]>([
    [{ frequency: 'HOURLY' }, []],
    [{ frequency: 'HOURLY', startTime: '00:15' }, []],
    [{ frequency: 'CONTINUOUS' }, []],
    [{ frequency: 'CONTINUOUS', startTime: '02:00' }, ['startTime']],
    [{ frequency: 'daily' }, ['frequency']],
    [{}, ['frequency']],
    [{ frequency: 'MINUTES' }, ['intervalMinutes']],
    [{ frequency: 'MINUTES', intervalMinutes: 0 }, ['intervalMinutes']],
    [{ frequency: 'MINUTES', intervalMinutes: 1441 }, ['intervalMinutes']],
    [{ frequency: 'MINUTES', intervalMinutes: 1.5 }, ['intervalMinutes']],
    [{ frequency: 'DAILY', intervalMinutes: 5 }, ['intervalMinutes']],
    [{ frequency: 'CUSTOM' }, ['cronExpression']],
    [{ frequency: 'CUSTOM', cronExpression: '0 2 * * *', startTime: '02:00' }, ['startTime']],
    [{ frequency: 'DAILY', cronExpression: '0 2 * * *' }, ['cronExpression']],
    [{ frequency: 'DAILY', daysOfWeek: ['MONDAY'] }, ['daysOfWeek']],
    [{ frequency: 'WEEKLY', daysOfWeek: [] }, ['daysOfWeek']],
    [{ frequency: 'WEEKLY', daysOfWeek: ['Monday'] }, ['daysOfWeek[0]']],
    [{ frequency: 'WEEKLY', dayOfMonth: 1 }, ['dayOfMonth']],
    [{ frequency: 'MONTHLY', dayOfMonth: 32 }, ['dayOfMonth']],
    [{ frequency: 'DAILY', startTime: '24:00' }, ['startTime']],
    [{ frequency: 'DAILY', startTime: '2:00' }, ['startTime']],
    [{ frequency: 'DAILY', timezone: 'Mars/Olympus' }, ['timezone']],
    [{ frequency: 'DAILY', timezone: '+05:00' }, ['timezone']],
    [{ frequency: 'HOURLY', windowStart: '01:00' }, ['windowEnd']],
    [{ frequency: 'HOURLY', windowEnd: '01:00' }, ['windowStart']],
    [{ frequency: 'HOURLY', windowStart: '01:00', windowEnd: '01:00' }, ['windowEnd']],
    [{ frequency: 'DAILY', windowStart: '22:00', windowEnd: '04:00' }, []],
    // A time of its own in the window.
    [{ frequency: 'DAILY', windowStart: '03:00', windowEnd: '04:00' }, []],
    [{ frequency: 'MINUTES', intervalByDatabaseSize: true }, []],
    [{ frequency: 'MINUTES', intervalByDatabaseSize: true, intervalMinutes: 5 }, ['intervalMinutes']],
    [{ frequency: 'DAILY', intervalByDatabaseSize: true }, ['intervalByDatabaseSize']],
    [{ frequency: 'DAILY', startTime: '12:00', windowStart: '22:00', windowEnd: '04:00' }, ['startTime']],
    [{ frequency: 'DAILY', maxConcurrency: 33 }, ['maxConcurrency']],
    [{ frequency: 'DAILY', maxDurationMinutes: 0 }, ['maxDurationMinutes']],
    [
      { frequency: 'MINUTES', startTime: '99:99', timezone: 'X' },
      ['startTime', 'intervalMinutes', 'timezone'],
    ],
  ])('%o', (input, paths) => expect(problems(BackupScheduleSchema, input)).toEqual(paths));

  it.each([
    '0 2 * * *',
    '*/15 0-6 1,15 * MON-FRI',
    '5/10 * * JAN-mar 7',
    '0 0 29 2 *',
    '0 0 31 2 0',
    '  0  2 * *  * ',
  ])('takes cron %j', (cronExpression) =>
    expect(problems(BackupScheduleSchema, { frequency: 'CUSTOM', cronExpression })).toEqual([]),
  );

  it.each([
    '',
    '* * * *',
    '0 0 2 * * *',
    '60 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '* * * 13 *',
    '* * * * 8',
    '5-1 * * * *',
    '*/0 * * * *',
    '1-2-3 * * * *',
    '*/5/5 * * * *',
    ', * * * *',
    'MON * * * *',
    '0 0 30 2 *',
    '0 0 31 4,6 *',
    '@daily',
    '-1 * * * *',
    '1- * * * *',
  ])('refuses cron %j', (cronExpression) =>
    expect(problems(BackupScheduleSchema, { frequency: 'CUSTOM', cronExpression })).toContain(
      'cronExpression',
    ),
  );
});

describe('BackupScopeSchema', () => {
  it('normalises entity types, ids and times', () => {
    expect(
      parseInput(BackupScopeSchema, 'The scope', {
        includeEntities: ['Visit', 'EVVRecord', 'carePlan'],
        branchIds: [BRANCH.toUpperCase()],
        dateRangeStart: new Date(0),
        dateRangeEnd: '2026-01-01T00:00:00+02:00',
      }),
    ).toEqual({
      includeEntities: ['VISIT', 'EVV_RECORD', 'CARE_PLAN'],
      branchIds: [BRANCH],
      dateRangeStart: '1970-01-01T00:00:00.000Z',
      dateRangeEnd: '2025-12-31T22:00:00.000Z',
    });
  });

  it.each<Grid[number]>([
    [{}, []],
    [{ includeEntities: ['ALL'], excludeEntities: ['PAYROLL'] }, []],
    [{ includeEntities: [] }, ['includeEntities']],
    [{ includeEntities: ['visit; drop'] }, ['includeEntities[0]']],
    [{ includeEntities: ['Visit'], excludeEntities: ['VISIT'] }, ['excludeEntities[0]']],
    [{ excludeEntities: ['All'] }, ['excludeEntities[0]']],
    [{ branchIds: ['branch-1'] }, ['branchIds[0]']],
    [{ clientIds: ['a\0'] }, ['clientIds[0]']],
    [{ dateRangeStart: AT, dateRangeEnd: AT }, ['dateRangeEnd']],
    [{ dateRangeStart: '2026-01-01T00:00:00Z', dateRangeEnd: new Date(0) }, ['dateRangeEnd']],
    [{ dateRangeStart: '2026-01-01' }, ['dateRangeStart']],
    [{ dateRangeStart: 5 }, ['dateRangeStart']],
    [{ dateRangeStart: new Date(Number.NaN) }, ['dateRangeStart']],
    [{ includePHI: 'yes' }, ['includePHI']],
    [
      {
        includeEntities: ['CLIENT'],
        customFilters: [{ entityType: 'VISIT', column: 'a', operator: 'IS_NULL' }],
      },
      ['customFilters[0].entityType'],
    ],
  ])('%o', (input, paths) => expect(problems(BackupScopeSchema, input)).toEqual(paths));
});

describe('CustomFilterSchema', () => {
  const filter = { entityType: 'Visit', column: 'state', operator: '=' };
  it.each<Grid[number]>([
    [{ ...filter, value: 'TX' }, []],
    [{ ...filter, value: '' }, []],
    [{ ...filter, value: false }, []],
    [filter, ['value']],
    [{ ...filter, value: ['TX'] }, ['value']],
    [{ ...filter, value: null }, ['value', 'value']],
    [{ ...filter, value: { a: 1 } }, ['value']],
    [{ ...filter, value: Number.POSITIVE_INFINITY }, ['value']],
    [{ ...filter, value: 'a\ud800' }, ['value']],
    [{ ...filter, operator: 'IN', value: ['TX', 1] }, []],
    [{ ...filter, operator: 'IN', value: 'TX' }, ['value']],
    [{ ...filter, operator: 'IN', value: [] }, ['value']],
    [{ ...filter, operator: 'IN', value: [['TX']] }, ['value[0]']],
    [{ ...filter, operator: 'IS_NULL' }, []],
    [{ ...filter, operator: 'IS_NULL', value: 'TX' }, ['value']],
    [{ ...filter, operator: 'LIKE', value: 'TX' }, ['operator']],
    [{ ...filter, column: 'é'.repeat(32), value: 1 }, ['column']],
    [{ ...filter, entityType: 'ALL', value: 1 }, ['entityType']],
  ])('%o', (input, paths) => expect(problems(CustomFilterSchema, input)).toEqual(paths));
});

describe('StorageDestinationSchema', () => {
  const s3 = { type: 'AWS_S3', cloudStorage: { provider: 'AWS', bucketName: 'b' } };
  const local = { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/b' } };
  it.each<Grid[number]>([
    [s3, []],
    [local, []],
    [{ type: 'AWS_S3' }, ['cloudStorage']],
    [{ ...s3, localStorage: { path: '/b' } }, ['localStorage']],
    [{ ...s3, minimumConfirmations: 1 }, ['minimumConfirmations']],
    [
      { type: 'AZURE_BLOB', cloudStorage: { provider: 'AWS', bucketName: 'b', accountName: 'abc' } },
      ['cloudStorage.provider'],
    ],
    [
      { type: 'AZURE_BLOB', cloudStorage: { provider: 'AZURE', bucketName: 'b' } },
      ['cloudStorage.accountName'],
    ],
    [{ type: 'AZURE_BLOB', cloudStorage: { provider: 'AZURE', bucketName: 'b', credentialsRef: 'c' } }, []],
    [
      { type: 'AWS_S3', cloudStorage: { provider: 'AWS', bucketName: 'b', accountName: 'abc' } },
      ['cloudStorage.accountName'],
    ],
    [
      {
        type: 'AWS_S3',
        cloudStorage: { provider: 'AWS', bucketName: 'b', serverSideEncryption: { type: 'KMS' } },
      },
      ['cloudStorage.serverSideEncryption.keyId'],
    ],
    [
      {
        type: 'AWS_S3',
        cloudStorage: {
          provider: 'AWS',
          bucketName: 'b',
          serverSideEncryption: { type: 'PROVIDER_KEY', customerKeyRef: 'k' },
        },
      },
      ['cloudStorage.serverSideEncryption.customerKeyRef'],
    ],
    [{ type: 'FIREBASE' }, ['type']],
    [{ type: 'SFTP', sftp: { host: 'user:pass@host', path: '/' } }, ['sftp.host']],
    [{ type: 'SFTP', sftp: { host: '[::1]', port: 70_000, path: '/' } }, ['sftp.port']],
    [{ type: 'MULTI' }, ['destinations']],
    [{ type: 'MULTI', destinations: [s3] }, ['destinations']],
    [{ type: 'MULTI', destinations: [s3, local] }, []],
    [{ type: 'MULTI', destinations: [s3, { ...s3 }] }, ['destinations[1]']],
    [
      { type: 'MULTI', destinations: [s3, { type: 'MULTI', destinations: [s3, local] }] },
      ['destinations[1].type'],
    ],
    [{ type: 'MULTI', destinations: [s3, local], minimumConfirmations: 3 }, ['minimumConfirmations']],
    [{ type: 'MULTI', destinations: [s3, { type: 'SFTP' }] }, ['destinations[1].sftp']],
    [{ ...local, localStorage: { path: '/b', prefix: '../up' } }, ['localStorage.prefix']],
    [{ type: 'NETWORK_SHARE', networkShare: { path: 'smb://u:p@nas/b' } }, ['networkShare.path']],
    [{ ...s3, cloudStorage: { ...s3.cloudStorage, endpoint: 'ftp://x' } }, ['cloudStorage.endpoint']],
    [
      { ...s3, cloudStorage: { ...s3.cloudStorage, credentialsRef: 'AKIAIOSFODNN7EXAMPLE' } },
      ['cloudStorage.credentialsRef'],
    ],
  ])('%o', (input, paths) => expect(problems(StorageDestinationSchema, input)).toEqual(paths));

  it('drops the slash at the end of a prefix', () => {
    const input = { ...local, localStorage: { path: '/b', prefix: 'a/b/' } };
    expect(parseInput(StorageDestinationSchema, 'The destination', input).localStorage?.prefix).toBe('a/b');
  });

  it.each([
    'accessKeyId',
    'secretAccessKey',
    'password',
    'connectionString',
    'accountKey',
    'sasToken',
    'private_key',
    'clientSecret',
    'credentials',
  ])('refuses the inline credential %s without echoing it', (name) => {
    const input = { ...s3, cloudStorage: { ...s3.cloudStorage, [name]: 'PLANTED-s3cret' } };
    const [issue, ...more] = issuesOf(StorageDestinationSchema, input);
    expect(more).toEqual([]);
    expect(issue).toMatchObject({ path: `cloudStorage.${name}`, message: 'Is a field for a credential.' });
    expect(issue?.remedy).toContain('credentialsRef');
  });
});

describe('RetentionPolicySchema', () => {
  it.each<Grid[number]>([
    [{}, []],
    [{ retentionDays: 0 }, []],
    [{ dailyRetention: 0 }, ['']],
    [{ dailyRetention: 0, keepLast: 0, autoDeleteExpired: false }, []],
    [{ dailyRetention: 0, keepLast: 1 }, []],
    [{ retentionDays: -1 }, ['retentionDays']],
    [{ retentionDays: '30' }, ['retentionDays']],
    [{ maxBackups: 0 }, ['maxBackups']],
    [{ maxSize: 2 ** 53 }, ['maxSize']],
    [{ cleanupStrategy: 'newest' }, ['cleanupStrategy']],
  ])('%o', (input, paths) => expect(problems(RetentionPolicySchema, input)).toEqual(paths));
});

describe('CreateBackupConfigSchema', () => {
  const requirement = {
    regulation: 'IRS',
    minimumRetentionDays: 2555,
    requiresEncryption: true,
    requiresIntegrityCheck: true,
  };
  it.each<Grid[number]>([
    [{}, ['name']],
    [{ name: '' }, ['name']],
    [{ name: '  ' }, ['name']],
    [{ name: 'x'.repeat(255) }, []],
    [{ name: 'x'.repeat(256) }, ['name']],
    [{ name: 'a\0b' }, ['name']],
    [{ name: 'A', organizationId: 'org-123' }, ['organizationId']],
    [{ name: 'A', description: undefined, scope: { includePHI: undefined } }, []],
    [{ name: 'A', description: null }, ['description']],
    [{ name: 'A', branchIds: [] }, ['branchIds']],
    [{ name: 'A', branchIds: [BRANCH], scope: { branchIds: [ORG] } }, ['scope.branchIds']],
    [{ name: 'A', schedule: { frequency: 'MINUTES' } }, ['schedule.intervalMinutes']],
    [
      { name: 'A', schedule: [{ frequency: 'DAILY' }, { frequency: 'MINUTES' }] },
      ['schedule[1].intervalMinutes'],
    ],
    [{ name: 'A', schedule: 'DAILY' }, ['schedule']],
    [{ name: 'A', schedule: [{ frequency: 'DAILY', nope: 1 }] }, ['schedule[0].nope']],
    [{ name: 'A', timezone: 'UTC', schedule: { frequency: 'DAILY', timezone: 'Etc/UTC' } }, []],
    [
      { name: 'A', timezone: 'UTC', schedule: { frequency: 'DAILY', timezone: 'Asia/Tokyo' } },
      ['schedule.timezone'],
    ],
    [
      {
        name: 'A',
        schedule: [
          { frequency: 'DAILY', timezone: 'UTC' },
          { frequency: 'DAILY', timezone: 'Asia/Tokyo' },
        ],
      },
      ['schedule[1].timezone'],
    ],
    [{ name: 'A', timezone: 'Nowhere' }, ['timezone']],
    [{ name: 'A', compressionLevel: 10 }, ['compressionLevel']],
    [{ name: 'A', compressionAlgorithm: 'LZ4', compressionLevel: 3 }, ['compressionLevel']],
    [{ name: 'A', compressionAlgorithm: 'NONE', compressionEnabled: true }, ['compressionAlgorithm']],
    [{ name: 'A', compressionAlgorithm: 'GZIP', compressionEnabled: false }, ['compressionAlgorithm']],
    [{ name: 'A', compressionLevel: 3, compressionEnabled: false }, ['compressionLevel']],
    [{ name: 'A', compressionAlgorithm: 'NONE', compressionEnabled: false }, []],
    [{ name: 'A', notificationSettings: { emails: ['nobody'] } }, ['notificationSettings.emails[0]']],
    [
      { name: 'A', notificationSettings: { webhookUrl: 'https://u:p@x.com' } },
      ['notificationSettings.webhookUrl', 'notificationSettings.webhookUrl'],
    ],
    [{ name: 'A', complianceRequirements: [requirement] }, ['retention.retentionDays']],
    [
      { name: 'A', complianceRequirements: [requirement], retention: { retentionDays: 2554 } },
      ['retention.retentionDays'],
    ],
    [
      { name: 'A', complianceRequirements: [requirement], retention: { yearlyRetention: 9 } },
      ['retention.retentionDays'],
    ],
    [{ name: 'A', complianceRequirements: [requirement], retention: { retentionDays: 2555 } }, []],
    [{ name: 'A', complianceRequirements: [requirement], retention: { retentionDays: 0 } }, []],
    [
      { name: 'A', complianceRequirements: [requirement], retention: { retentionDays: 0, maxAgeDays: 30 } },
      ['retention.maxAgeDays'],
    ],
    [
      {
        name: '',
        complianceRequirements: [requirement],
        encryptionEnabled: false,
        integrityCheckEnabled: false,
      },
      ['name', 'retention.retentionDays', 'encryptionEnabled', 'integrityCheckEnabled'],
    ],
    [{ name: 'A', customFields: { a: { b: [1, 'x', null] } } }, []],
    [{ name: 'A', customFields: [] }, ['customFields']],
    [{ name: 'A', customFields: { password: 'x' } }, ['customFields.password']],
    [{ name: 'A', customFields: { note: 'postgres://u:p@h/db' } }, ['customFields.note']],
    [{ name: 'A', customFields: { when: new Date(0) } }, []],
    [
      { name: 'A', scope: new Date(0), customFields: { when: new Date(Number.NaN) } },
      ['customFields.when', 'scope'],
    ],
    [{ name: 'A', customFields: { a: 1n } }, ['customFields.a']],
    [
      { name: 'A', customFields: { a: { b: { c: { d: { e: { f: { g: { h: {} } } } } } } } } },
      ['customFields.a.b.c.d.e.f.g.h'],
    ],
    [{ name: 'A', customFields: { 'x\0': 1 } }, ['customFields.(field 1)']],
    [{ name: 'A', customFields: { list: Array.from({ length: 1001 }, () => 1) } }, ['customFields']],
    [{ name: 'A', customFields: { long: 'x'.repeat(10_001) } }, ['customFields.long']],
  ])('%o', (input, paths) => expect(problems(CreateBackupConfigSchema, input)).toEqual(paths));

  it('names the field that was meant', () => {
    const input = { name: 'A', retenton: {}, schedule: { frequency: 'DALY', starTime: '02:00' } };
    expect(issuesOf(CreateBackupConfigSchema, input)).toEqual([
      expect.objectContaining({
        path: 'schedule.frequency',
        remedy: expect.stringMatching(/^Did you mean `DAILY`\? Write one of/),
      }),
      { path: 'schedule.starTime', message: 'Is not a field here.', remedy: 'Did you mean `startTime`?' },
      { path: 'retenton', message: 'Is not a field here.', remedy: 'Did you mean `retention`?' },
    ]);
  });
});

describe('UpdateBackupConfigSchema', () => {
  it.each<Grid[number]>([
    [{}, []],
    [{ organizationId: ORG }, ['organizationId']],
    [{ name: '' }, ['name']],
    [{ complianceRequirements: [{ regulation: 'X', minimumRetentionDays: 99 }] }, []],
    [
      {
        complianceRequirements: [{ regulation: 'X', minimumRetentionDays: 99 }],
        retention: { retentionDays: 1 },
      },
      ['retention.retentionDays'],
    ],
  ])('%o', (input, paths) => expect(problems(UpdateBackupConfigSchema, input)).toEqual(paths));
});

describe('CreateSnapshotSchema', () => {
  it.each<Grid[number]>([
    [{}, ['configurationId']],
    [{ configurationId: ORG, trigger: 'SCHEDULED' }, ['trigger']],
    [{ configurationId: ORG, snapshotType: 'FULL', parentSnapshotId: SNAPSHOT }, ['parentSnapshotId']],
    [{ configurationId: ORG, tags: { reason: 1 } }, ['tags.reason']],
    [{ configurationId: ORG, tags: { 'Jane Doe': 'x\0' } }, ['tags.(field 1)']],
    [{ configurationId: ORG, tags: { apiKey: 'x' } }, ['tags.apiKey']],
    [{ configurationId: ORG, tags: { '': 'x' } }, ['tags.(field 1)']],
    [
      {
        configurationId: ORG,
        tags: Object.fromEntries(Array.from({ length: 51 }, (_, n) => [`t${n}`, 'x'])),
      },
      ['tags'],
    ],
  ])('%o', (input, paths) => expect(problems(CreateSnapshotSchema, input)).toEqual(paths));
});

describe('restores', () => {
  it.each<Grid[number]>([
    [{ type: 'PRODUCTION' }, []],
    [{ type: 'TEMPORARY' }, []],
    [{ type: 'PRODUCTION', schemaName: 'a' }, ['schemaName']],
    [{ type: 'TEMPORARY', tablePrefix: 'a' }, ['tablePrefix']],
    [{ type: 'STAGING' }, ['']],
    [
      { type: 'TEST', schemaName: 'a', tablePrefix: 'b', databaseConnection: 'c' },
      ['tablePrefix', 'databaseConnection'],
    ],
    [{ type: 'STAGING', schemaName: '' }, ['schemaName']],
    [{ type: 'STAGING', schemaName: 'Ünïcode name "x"' }, []],
    [{ type: 'STAGING', schemaName: 'x'.repeat(63) }, []],
    [{ type: 'STAGING', schemaName: 'é'.repeat(32) }, ['schemaName']],
    [{ type: 'STAGING', schemaName: 'a\0' }, ['schemaName']],
    [{ type: 'STAGING', schemaName: 'pg_temp' }, ['schemaName']],
    [{ type: 'STAGING', schemaName: 'information_schema' }, ['schemaName']],
    [{ type: 'TEST', databaseConnection: 'postgres://u:p@h/db' }, ['databaseConnection']],
    [{ type: 'TEST', databaseConnection: 'host=h password=p' }, ['databaseConnection']],
    [{ schemaName: 'a' }, ['type']],
  ])('to %o', (input, paths) => expect(problems(RestoreDestinationSchema, input)).toEqual(paths));

  it.each<Grid[number]>([
    [{ snapshotId: SNAPSHOT }, []],
    [{}, ['snapshotId']],
    [{ snapshotId: SNAPSHOT, restoreType: 'POINT_IN_TIME' }, ['scope.restoreToTimestamp']],
    [
      { snapshotId: SNAPSHOT, restoreType: 'FULL', scope: { restoreToTimestamp: AT } },
      ['scope.restoreToTimestamp'],
    ],
    [{ snapshotId: SNAPSHOT, restoreDestination: { type: 'STAGING' } }, ['restoreDestination']],
    [{ snapshotId: SNAPSHOT, scope: { recordIds: [] } }, ['scope.recordIds']],
  ])('of %o', (input, paths) => expect(problems(CreateRestoreOperationSchema, input)).toEqual(paths));
});

describe('EntityInputSchema', () => {
  const entity = { type: 'Visit', table: 'visits' };
  it.each<Grid[number]>([
    [entity, []],
    [{ ...entity, type: 'All' }, ['type']],
    [{ ...entity, table: '' }, ['table']],
    [{ ...entity, key: [] }, ['key']],
    [{ ...entity, key: ['a', 'a'] }, ['key']],
    [{ ...entity, key: 5 }, ['key']],
    [{ ...entity, branch: { through: 'client_id' } }, ['branch.entity']],
    [{ ...entity, branch: { through: 'client_id', entity: 'Client', extra: 1 } }, ['branch.extra']],
    [{ ...entity, organization: 'SHARED' }, []],
    [{ ...entity, classification: { columns: { password: { pii: true } } } }, []],
    [
      { ...entity, classification: { columns: { ssn: { secret: true } } } },
      ['classification.columns.ssn.secret'],
    ],
  ])('%o', (input, paths) => expect(problems(EntityInputSchema, input)).toEqual(paths));
});

it.each<Grid[number]>([
  [{}, []],
  [{ limit: 0 }, ['limit']],
  [{ limit: 1001 }, ['limit']],
  [{ status: 'COMPLETED' }, ['status']],
  [{ status: ['DONE'] }, ['status[0]']],
  [{ configurationId: 'x' }, ['configurationId']],
])('ListSnapshotsSchema %o', (input, paths) => expect(problems(ListSnapshotsSchema, input)).toEqual(paths));
