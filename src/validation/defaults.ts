import type {
  BackupConfiguration,
  BackupSchedule,
  BackupScope,
  CreateBackupConfigInput,
  RetentionPolicy,
  StorageDestination,
  UpdateBackupConfigInput,
} from '../types/backup.ts';
import type { CompressionAlgorithm } from '../types/encryption.ts';
import { ValidationError, type ValidationIssue } from '../types/errors.ts';
import { configRule, DEFAULT_RETENTION_DAYS } from './configuration.ts';
import { showPath } from './path.ts';
import { complianceRule, keepsSomething } from './retention.ts';
import type { Report } from './rules.ts';
import { DEFAULT_START_TIME } from './schedule.ts';

const WHAT = 'The backup configuration';
const DEFAULT_COMPRESSION_LEVEL = 3;

/** The fields of a configuration that people decide, with nothing left open. */
export type ConfigSettings = Pick<
  BackupConfiguration,
  Exclude<keyof CreateBackupConfigInput, 'organizationId'>
>;

export interface ConfigDefaults {
  /** The destination given to `createDataProtection`. */
  readonly defaultDestination: StorageDestination;
  /** Whether a key provider is configured. */
  readonly encryptionAvailable: boolean;
}

/**
 * A parsed input with every default filled in: FULL, all entities without soft-deleted rows, 30 days, ZSTD level 3,
 * SHA256, integrity check on, encryption on where a key provider is configured. `includeAttachments` and
 * `includeDocuments` stay open: they depend on whether the host registered an attachment source. Throws
 * `VALIDATION_FAILED` where the whole breaks a rule, such as a requirement of encryption without a key provider.
 */
export function withConfigDefaults(input: CreateBackupConfigInput, defaults: ConfigDefaults): ConfigSettings {
  const schedule = withScheduleDefaults(input.schedule ?? []);
  const zone = input.timezone ?? schedule.find(({ timezone }) => timezone !== undefined)?.timezone;
  const settings: ConfigSettings = {
    branchIds: input.branchIds ?? null,
    name: input.name,
    description: input.description ?? null,
    configType: input.configType ?? 'FULL',
    schedule,
    timezone: zone ?? 'UTC',
    scope: withScopeDefaults(input.scope ?? {}),
    retention: withRetentionDefaults(input.retention ?? {}, true),
    storageDestination: input.storageDestination ?? defaults.defaultDestination,
    encryptionEnabled: input.encryptionEnabled ?? defaults.encryptionAvailable,
    allowUnencryptedPHI: input.allowUnencryptedPHI ?? false,
    ...compressionOf(input, { algorithm: 'ZSTD', level: null }),
    integrityCheckEnabled: input.integrityCheckEnabled ?? true,
    checksumAlgorithm: input.checksumAlgorithm ?? 'SHA256',
    notificationSettings: input.notificationSettings ?? {},
    complianceRequirements: input.complianceRequirements ?? [],
    auditRetentionDays: input.auditRetentionDays ?? null,
    customFields: input.customFields ?? {},
  };
  const missingKeys = settings.encryptionEnabled && !defaults.encryptionAvailable ? [NO_KEY_PROVIDER] : [];
  requireValid(settings, missingKeys);
  return settings;
}

const NO_KEY_PROVIDER: ValidationIssue = {
  path: 'encryptionEnabled',
  message: 'Is true, but no key provider is configured.',
  remedy: 'Give `keys` to `createDataProtection`, or set it to false.',
};

/**
 * The settings after a parsed update. A field given replaces the field as a whole, with its defaults; one left out
 * stays, and so does `retention.autoDeleteExpired` where a new policy does not mention it. The three fields of
 * compression move together: an algorithm without levels drops the level. Throws `VALIDATION_FAILED` where the
 * merged whole breaks a rule.
 */
export function applyConfigUpdate(current: ConfigSettings, update: UpdateBackupConfigInput): ConfigSettings {
  const settings: ConfigSettings = {
    branchIds: update.branchIds ?? current.branchIds,
    name: update.name ?? current.name,
    description: update.description ?? current.description,
    configType: update.configType ?? current.configType,
    schedule: update.schedule === undefined ? current.schedule : withScheduleDefaults(update.schedule),
    timezone: update.timezone ?? current.timezone,
    scope: update.scope === undefined ? current.scope : withScopeDefaults(update.scope),
    retention:
      update.retention === undefined
        ? current.retention
        : withRetentionDefaults(update.retention, current.retention.autoDeleteExpired ?? true),
    storageDestination: update.storageDestination ?? current.storageDestination,
    encryptionEnabled: update.encryptionEnabled ?? current.encryptionEnabled,
    allowUnencryptedPHI: update.allowUnencryptedPHI ?? current.allowUnencryptedPHI,
    ...compressionOf(update, { algorithm: current.compressionAlgorithm, level: current.compressionLevel }),
    integrityCheckEnabled: update.integrityCheckEnabled ?? current.integrityCheckEnabled,
    checksumAlgorithm: update.checksumAlgorithm ?? current.checksumAlgorithm,
    notificationSettings: update.notificationSettings ?? current.notificationSettings,
    complianceRequirements: update.complianceRequirements ?? current.complianceRequirements,
    auditRetentionDays: update.auditRetentionDays ?? current.auditRetentionDays,
    customFields: update.customFields ?? current.customFields,
  };
  requireValid(settings, []);
  return settings;
}

function requireValid(settings: ConfigSettings, known: readonly ValidationIssue[]): void {
  const issues = [...known];
  const report: Report = (path, message, remedy) => {
    const steps = path.map((key) => (typeof key === 'number' ? key : { key, index: 0 }));
    issues.push({ path: showPath(steps), message, remedy });
  };
  configRule(settings, report);
  complianceRule(settings, settings.retention, report);
  if (issues.length > 0) throw new ValidationError(WHAT, issues);
}

function withScheduleDefaults(
  schedule: BackupSchedule | readonly BackupSchedule[],
): readonly BackupSchedule[] {
  return [schedule].flat().map((one) => {
    // With a window, each configuration has a time of its own in it.
    const startTime = one.windowStart === undefined ? { startTime: DEFAULT_START_TIME } : {};
    switch (one.frequency) {
      case 'DAILY':
        return { ...startTime, ...one };
      case 'WEEKLY':
        return { ...startTime, daysOfWeek: ['SUNDAY'], ...one };
      case 'MONTHLY':
        return { ...startTime, dayOfMonth: 1, ...one };
      default:
        return one;
    }
  });
}

function withScopeDefaults(scope: BackupScope): BackupScope {
  return {
    includeSoftDeleted: false,
    includeAuditLogs: true,
    includePHI: true,
    includeFinancialData: true,
    ...scope,
  };
}

function withRetentionDefaults(policy: RetentionPolicy, autoDeleteExpired: boolean): RetentionPolicy {
  const days = keepsSomething(policy) ? {} : { retentionDays: DEFAULT_RETENTION_DAYS };
  return { ...days, autoDeleteExpired, ...policy };
}

type Compression = Pick<ConfigSettings, 'compressionEnabled' | 'compressionAlgorithm' | 'compressionLevel'>;

function compressionOf(
  asked: Partial<Pick<CreateBackupConfigInput, keyof Compression>>,
  before: { readonly algorithm: CompressionAlgorithm; readonly level: number | null },
): Compression {
  const again = asked.compressionEnabled === true && before.algorithm === 'NONE' ? 'ZSTD' : before.algorithm;
  const algorithm = asked.compressionEnabled === false ? 'NONE' : (asked.compressionAlgorithm ?? again);
  const hasLevels = algorithm !== 'NONE' && algorithm !== 'LZ4';
  return {
    compressionEnabled: algorithm !== 'NONE',
    compressionAlgorithm: algorithm,
    compressionLevel:
      asked.compressionLevel ?? (hasLevels ? (before.level ?? DEFAULT_COMPRESSION_LEVEL) : null),
  };
}
