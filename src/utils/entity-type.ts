import type { BackupEntityType } from '../types/backup.ts';

/**
 * The stored form of an entity type: `Visit` is VISIT, `EVVRecord` EVV_RECORD, `carePlan` CARE_PLAN, `time-entry`
 * TIME_ENTRY. What is normalised stays as it is. It does not judge: see `isEntityType`.
 */
export function normalizeEntityType(name: string): BackupEntityType {
  const words = /[a-z]/.test(name)
    ? name.replace(/(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])/g, '_')
    : name;
  return words
    .replace(/[\s_-]+/g, '_')
    .replace(/^_+|_+$/g, '')
    .toUpperCase();
}

/** Whether a normalised name can be an entity type: ASCII capitals, digits and single underscores, at most 63. */
export function isEntityType(name: string): boolean {
  return name.length <= 63 && /^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*$/.test(name);
}
