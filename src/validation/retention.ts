import * as z from 'zod';
import type { ComplianceRequirement, RetentionPolicy } from '../types/backup.ts';
import { optional, text, wholeNumber } from './fields.ts';
import { fieldOf, flagOf, has, listOf, numberOf, type Report, withRule } from './rules.ts';

const MAX_COUNT = 100_000;
const count = wholeNumber(0, MAX_COUNT);

/** The rules of a policy that keep something; the others only take away. */
const KEEPING = [
  'retentionDays',
  'hourlyRetention',
  'dailyRetention',
  'weeklyRetention',
  'monthlyRetention',
  'yearlyRetention',
  'keepLast',
] as const;

export const StoredRetentionPolicySchema = z.strictObject({
  retentionDays: optional(count),
  hourlyRetention: optional(count),
  dailyRetention: optional(count),
  weeklyRetention: optional(count),
  monthlyRetention: optional(count),
  yearlyRetention: optional(count),
  keepLast: optional(count),
  emergencyRetentionDays: optional(count),
  maxBackups: optional(wholeNumber(1, MAX_COUNT)),
  maxSize: optional(wholeNumber(1)),
  maxAgeDays: optional(wholeNumber(1, MAX_COUNT)),
  cleanupStrategy: optional(z.enum(['oldest', 'size', 'custom'])),
  autoDeleteExpired: optional(z.boolean()),
}) satisfies z.ZodType<RetentionPolicy>;

export const RetentionPolicySchema = withRule(StoredRetentionPolicySchema, (policy, report) => {
  const empties = has(policy, 'retentionDays') ? [] : KEEPING.filter((rule) => has(policy, rule));
  const keepsNothing = empties.length > 0 && empties.every((rule) => fieldOf(policy, rule) === 0);
  if (keepsNothing && flagOf(policy, 'autoDeleteExpired') !== false) {
    report([], 'Keeps nothing.', 'Give at least one tier a count above 0, or `retentionDays`.');
  }
}) satisfies z.ZodType<RetentionPolicy>;

export const ComplianceRequirementSchema = z.strictObject({
  regulation: text(1, 200),
  minimumRetentionDays: optional(count),
  requiresEncryption: optional(z.boolean()),
  requiresIntegrityCheck: optional(z.boolean()),
  description: optional(text(0, 2000)),
}) satisfies z.ZodType<ComplianceRequirement>;

/** Whether a policy says what is kept, so that no default number of days is added. */
export function keepsSomething(policy: RetentionPolicy): boolean {
  return KEEPING.some((rule) => policy[rule] !== undefined);
}

/**
 * The requirements of a configuration against its retention, encryption and integrity check, all violations at once.
 * `retentionDays` 0 keeps for ever and satisfies any minimum. Rules of rotation that would delete sooner count too.
 */
export function complianceRule(config: unknown, retention: unknown, report: Report): void {
  for (const [index, requirement] of listOf(config, 'complianceRequirements').entries()) {
    const asks = `complianceRequirements[${index}]`;
    const minimum = numberOf(requirement, 'minimumRetentionDays');
    if (minimum !== undefined && minimum > 0 && retention !== undefined)
      minimumRule(retention, minimum, asks, report);
    if (flagOf(requirement, 'requiresEncryption') === true && flagOf(config, 'encryptionEnabled') === false) {
      report(
        ['encryptionEnabled'],
        `Is false, while ${asks} requires encryption.`,
        'Set it to true and configure a key provider.',
      );
    }
    if (
      flagOf(requirement, 'requiresIntegrityCheck') === true &&
      flagOf(config, 'integrityCheckEnabled') === false
    ) {
      report(
        ['integrityCheckEnabled'],
        `Is false, while ${asks} requires the check.`,
        'Set it to true, or leave it out.',
      );
    }
  }
}

function minimumRule(retention: unknown, minimum: number, asks: string, report: Report): void {
  const days = fieldOf(retention, 'retentionDays');
  if (days === undefined || (typeof days === 'number' && days !== 0 && days < minimum)) {
    const message = `Is less than the minimum that ${asks} requires.`;
    report(
      ['retention', 'retentionDays'],
      message,
      `Set it to ${minimum} or more, or to 0 to keep for ever.`,
    );
  }
  const maxAge = numberOf(retention, 'maxAgeDays');
  if (maxAge !== undefined && maxAge < minimum) {
    const message = `Would delete before the minimum that ${asks} requires.`;
    report(['retention', 'maxAgeDays'], message, `Set it to ${minimum} or more, or leave it out.`);
  }
}
