import { describe, expect, it } from 'vitest';
import { ValidationError } from '../../src/types/errors.ts';
import {
  applyConfigUpdate,
  type ConfigSettings,
  CreateBackupConfigSchema,
  parseInput,
  UpdateBackupConfigSchema,
  withConfigDefaults,
} from '../../src/validation/index.ts';
import { BRANCH, ORG } from './validation-fixtures.ts';

const defaultDestination = { type: 'LOCAL_FILESYSTEM', localStorage: { path: '/var/backups' } } as const;

function configure(input: object, encryptionAvailable = true): ConfigSettings {
  const parsed = parseInput(CreateBackupConfigSchema, 'The input', { name: 'A', ...input });
  return withConfigDefaults(parsed, { defaultDestination, encryptionAvailable });
}

function update(current: ConfigSettings, change: object): ConfigSettings {
  return applyConfigUpdate(current, parseInput(UpdateBackupConfigSchema, 'The update', change));
}

function pathsThrown(act: () => unknown): readonly string[] {
  try {
    act();
  } catch (error) {
    if (error instanceof ValidationError) return error.issues.map(({ path }) => path);
    throw error;
  }
  return [];
}

describe('withConfigDefaults', () => {
  it('takes the zone of the schedules where the configuration has none', () => {
    expect(
      configure({ schedule: [{ frequency: 'HOURLY' }, { frequency: 'DAILY', timezone: 'Asia/Tokyo' }] })
        .timezone,
    ).toBe('Asia/Tokyo');
  });

  it('encrypts where a key provider is configured, and refuses to pretend where none is', () => {
    expect(configure({}, false).encryptionEnabled).toBe(false);
    expect(configure({ encryptionEnabled: false }, true).encryptionEnabled).toBe(false);
    expect(pathsThrown(() => configure({ encryptionEnabled: true }, false))).toEqual(['encryptionEnabled']);
    const requirement = { regulation: 'HIPAA', requiresEncryption: true };
    expect(pathsThrown(() => configure({ complianceRequirements: [requirement] }, false))).toEqual([
      'encryptionEnabled',
    ]);
  });

  it('adds 30 days only where nothing says what is kept', () => {
    expect(configure({ retention: {} }).retention).toEqual({ retentionDays: 30, autoDeleteExpired: true });
    expect(configure({ retention: { maxBackups: 5 } }).retention).toMatchObject({ retentionDays: 30 });
    expect(configure({ retention: { keepLast: 5 } }).retention).toEqual({
      keepLast: 5,
      autoDeleteExpired: true,
    });
    expect(configure({ retention: { retentionDays: 0 } }).retention.retentionDays).toBe(0);
  });

  it.each([
    [{ compressionEnabled: false }, [false, 'NONE', null]],
    [{ compressionAlgorithm: 'NONE' }, [false, 'NONE', null]],
    [{ compressionAlgorithm: 'LZ4' }, [true, 'LZ4', null]],
    [{ compressionLevel: 9 }, [true, 'ZSTD', 9]],
    [{ compressionAlgorithm: 'GZIP', compressionLevel: 1 }, [true, 'GZIP', 1]],
  ])('compression: %j', (input, expected) => {
    const { compressionEnabled, compressionAlgorithm, compressionLevel } = configure(input);
    expect([compressionEnabled, compressionAlgorithm, compressionLevel]).toEqual(expected);
  });

  it('gives settings that are a valid input again', () => {
    const { branchIds, description, auditRetentionDays, ...rest } = configure({
      schedule: { frequency: 'WEEKLY' },
    });
    expect([branchIds, description, auditRetentionDays]).toEqual([null, null, null]);
    expect(configure(rest)).toEqual({ ...rest, branchIds, description, auditRetentionDays });
  });
});

describe('applyConfigUpdate', () => {
  const current = configure({
    schedule: { frequency: 'DAILY', timezone: 'America/Chicago' },
    retention: { retentionDays: 365, autoDeleteExpired: false },
    branchIds: [BRANCH],
    complianceRequirements: [{ regulation: 'X', minimumRetentionDays: 365, requiresIntegrityCheck: true }],
  });

  it('changes what is given and nothing else', () => {
    expect(update(current, {})).toEqual(current);
    expect(update(current, { name: 'B', description: '' })).toEqual({
      ...current,
      name: 'B',
      description: '',
    });
    expect(update(current, { schedule: [] })).toEqual({ ...current, schedule: [] });
  });

  it('replaces a field as a whole, with its defaults, but turns no deletion on by itself', () => {
    expect(update(current, { retention: { retentionDays: 400 } }).retention).toEqual({
      retentionDays: 400,
      autoDeleteExpired: false,
    });
    expect(update(current, { schedule: { frequency: 'MONTHLY' } }).schedule).toEqual([
      { frequency: 'MONTHLY', startTime: '02:00', dayOfMonth: 1 },
    ]);
  });

  it.each([
    [{ compressionAlgorithm: 'LZ4' }, ['LZ4', null]],
    [{ compressionAlgorithm: 'GZIP' }, ['GZIP', 3]],
    [{ compressionEnabled: false }, ['NONE', null]],
    [{ compressionLevel: 7 }, ['ZSTD', 7]],
  ])('moves compression together: %j', (change, expected) => {
    const after = update(current, change);
    expect([after.compressionAlgorithm, after.compressionLevel]).toEqual(expected);
    const again = update(after, { compressionEnabled: true });
    expect(again.compressionEnabled).toBe(true);
  });

  it.each<[object, string[]]>([
    [{ retention: { retentionDays: 30 } }, ['retention.retentionDays']],
    [{ retention: { dailyRetention: 30 } }, ['retention.retentionDays']],
    [
      { integrityCheckEnabled: false, retention: { retentionDays: 1 } },
      ['retention.retentionDays', 'integrityCheckEnabled'],
    ],
    [{ timezone: 'UTC' }, ['schedule[0].timezone']],
    [{ schedule: { frequency: 'DAILY', timezone: 'UTC' } }, ['schedule[0].timezone']],
    [{ scope: { branchIds: [ORG] } }, ['scope.branchIds']],
    [
      { complianceRequirements: [{ regulation: 'Y', minimumRetentionDays: 366 }] },
      ['retention.retentionDays'],
    ],
  ])('checks the merged whole: %j', (change, expected) => {
    expect(pathsThrown(() => update(current, change))).toEqual(expected);
  });

  it('refuses a level for what is not compressed', () => {
    const plain = update(current, { compressionEnabled: false });
    expect(pathsThrown(() => update(plain, { compressionLevel: 5 }))).toEqual(['compressionLevel']);
  });
});
