import * as z from 'zod';
import {
  BACKUP_CONFIG_TYPES,
  type CreateBackupConfigInput,
  type NotificationSettings,
  type UpdateBackupConfigInput,
} from '../types/backup.ts';
import { CHECKSUM_ALGORITHMS, COMPRESSION_ALGORITHMS } from '../types/encryption.ts';
import { optional, text, uuid, webUrl, wholeNumber } from './fields.ts';
import { CustomFieldsSchema } from './json.ts';
import { ComplianceRequirementSchema, complianceRule, RetentionPolicySchema } from './retention.ts';
import { fieldOf, flagOf, has, type Report, textOf, textsOf, withRule } from './rules.ts';
import { BackupScheduleSchema, zonesAgreeRule } from './schedule.ts';
import { BackupScopeSchema } from './scope.ts';
import { StorageDestinationSchema } from './storage-destination.ts';

/** Days that snapshots are kept where a configuration does not say. */
export const DEFAULT_RETENTION_DAYS = 30;

export const NotificationSettingsSchema = z.strictObject({
  enabled: optional(z.boolean()),
  onSuccess: optional(z.boolean()),
  onFailure: optional(z.boolean()),
  onWarning: optional(z.boolean()),
  emails: optional(z.array(z.email().max(320)).max(100)),
  webhookUrl: optional(webUrl),
}) satisfies z.ZodType<NotificationSettings>;

const changeable = {
  branchIds: optional(z.array(uuid).min(1).max(10_000)),
  name: text(1, 255),
  description: optional(text(0, 5000)),
  configType: optional(z.enum(BACKUP_CONFIG_TYPES)),
  schedule: optional(z.union([BackupScheduleSchema, z.array(BackupScheduleSchema).max(20)])),
  timezone: optional(text(1, 100)),
  scope: optional(BackupScopeSchema),
  retention: optional(RetentionPolicySchema),
  storageDestination: optional(StorageDestinationSchema),
  encryptionEnabled: optional(z.boolean()),
  allowUnencryptedPHI: optional(z.boolean()),
  compressionEnabled: optional(z.boolean()),
  compressionAlgorithm: optional(z.enum(COMPRESSION_ALGORITHMS)),
  compressionLevel: optional(wholeNumber(1, 9)),
  integrityCheckEnabled: optional(z.boolean()),
  checksumAlgorithm: optional(z.enum(CHECKSUM_ALGORITHMS)),
  notificationSettings: optional(NotificationSettingsSchema),
  complianceRequirements: optional(z.array(ComplianceRequirementSchema).max(100)),
  auditRetentionDays: optional(wholeNumber(0, 100_000)),
  customFields: optional(CustomFieldsSchema),
};

export const CreateBackupConfigSchema = withRule(
  z.strictObject({ organizationId: optional(uuid), ...changeable }),
  (input, report) => {
    configRule(input, report);
    complianceRule(input, fieldOf(input, 'retention') ?? { retentionDays: DEFAULT_RETENTION_DAYS }, report);
  },
) satisfies z.ZodType<CreateBackupConfigInput>;

/** Rules with fields that are not in the update are checked by `applyConfigUpdate`, on the merged whole. */
export const UpdateBackupConfigSchema = withRule(
  z.strictObject({ ...changeable, name: optional(changeable.name) }),
  (input, report) => {
    configRule(input, report);
    complianceRule(input, fieldOf(input, 'retention'), report);
  },
) satisfies z.ZodType<UpdateBackupConfigInput>;

/** What must hold between the fields of a configuration, complete or not; without its compliance requirements. */
export function configRule(config: unknown, report: Report): void {
  zonesAgreeRule(config, report);
  compressionRule(config, report);
  branchesRule(config, report);
}

function compressionRule(config: unknown, report: Report): void {
  const enabled = flagOf(config, 'compressionEnabled');
  const algorithm = textOf(config, 'compressionAlgorithm');
  if (enabled === false && algorithm !== undefined && algorithm !== 'NONE') {
    report(
      ['compressionAlgorithm'],
      'Is given while `compressionEnabled` is false.',
      'Remove it, or enable compression.',
    );
  }
  if (enabled === true && algorithm === 'NONE') {
    report(
      ['compressionAlgorithm'],
      'Is NONE while `compressionEnabled` is true.',
      'Choose an algorithm, or disable compression.',
    );
  }
  if (has(config, 'compressionLevel') && (enabled === false || algorithm === 'NONE' || algorithm === 'LZ4')) {
    report(
      ['compressionLevel'],
      'Is given where there are no levels.',
      'Remove it, or use ZSTD, GZIP or BROTLI.',
    );
  }
}

/** The branches of a configuration and of its scope intersect; nothing would be left of two disjoint lists. */
function branchesRule(config: unknown, report: Report): void {
  const own = new Set(textsOf(config, 'branchIds'));
  const scoped = textsOf(fieldOf(config, 'scope'), 'branchIds');
  if (own.size > 0 && scoped.length > 0 && !scoped.some((id) => own.has(id))) {
    report(
      ['scope', 'branchIds'],
      'Has no branch in common with `branchIds`.',
      'Give branches of `branchIds`, or leave it out.',
    );
  }
}
