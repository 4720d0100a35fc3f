import * as z from 'zod';
import type { BackupScope, CustomFilter, RestoreScope } from '../types/backup.ts';
import { normalizeEntityType } from '../utils/entity-type.ts';
import { entityType, identifyingText, optional, sqlName, timestamp, uuid } from './fields.ts';
import { fieldOf, has, listOf, type Report, textOf, textsOf, withRule } from './rules.ts';

const MAX_IDS = 100_000;
const OPERATORS = ['=', '!=', '<', '<=', '>', '>=', 'IN', 'IS_NULL', 'IS_NOT_NULL'] as const;

const filterText = identifyingText(0, 1000);
const filterList = z
  .array(z.union([filterText, z.number(), z.boolean()]))
  .min(1)
  .max(10_000);

const storedCustomFilter = z.strictObject({
  entityType,
  column: sqlName,
  operator: z.enum(OPERATORS),
  value: optional(z.union([filterText, z.number(), z.boolean(), filterList])),
}) satisfies z.ZodType<CustomFilter>;

export const CustomFilterSchema = withRule(storedCustomFilter, filterRule) satisfies z.ZodType<CustomFilter>;

const ids = z.array(identifyingText(1, 1024)).min(1).max(MAX_IDS);
export const entityTypes = z.array(entityType).min(1).max(1000);

const scopeFields = {
  includeEntities: optional(entityTypes),
  excludeEntities: optional(z.array(entityType).max(1000)),
  branchIds: optional(z.array(uuid).min(1).max(MAX_IDS)),
  clientIds: optional(ids),
  caregiverIds: optional(ids),
  dateRangeStart: optional(timestamp),
  dateRangeEnd: optional(timestamp),
  includeSoftDeleted: optional(z.boolean()),
  includeAttachments: optional(z.boolean()),
  includeDocuments: optional(z.boolean()),
  includeAuditLogs: optional(z.boolean()),
  includePHI: optional(z.boolean()),
  includeFinancialData: optional(z.boolean()),
};

const restoreFields = {
  recordIds: optional(ids),
  restoreToTimestamp: optional(timestamp),
  restoreSoftDeleted: optional(z.boolean()),
  restoreAttachments: optional(z.boolean()),
  restoreDocuments: optional(z.boolean()),
};

/** Scopes as they are stored: their fields, without the rules between them. */
export const StoredBackupScopeSchema = z.strictObject({
  ...scopeFields,
  customFilters: optional(z.array(storedCustomFilter).max(100)),
}) satisfies z.ZodType<BackupScope>;

export const StoredRestoreScopeSchema = z.strictObject({
  ...StoredBackupScopeSchema.shape,
  ...restoreFields,
}) satisfies z.ZodType<RestoreScope>;

const customFilters = optional(z.array(CustomFilterSchema).max(100));

export const BackupScopeSchema = withRule(
  z.strictObject({ ...scopeFields, customFilters }),
  scopeRule,
) satisfies z.ZodType<BackupScope>;

export const RestoreScopeSchema = withRule(
  z.strictObject({ ...scopeFields, customFilters, ...restoreFields }),
  scopeRule,
) satisfies z.ZodType<RestoreScope>;

function filterRule(filter: unknown, report: Report): void {
  const operator = textOf(filter, 'operator');
  if (normalizeEntityType(textOf(filter, 'entityType') ?? '') === 'ALL') {
    report(['entityType'], 'Is ALL, and no column is in every entity.', 'Write one filter for each entity.');
  }
  if (!OPERATORS.some((known) => known === operator)) return;
  const takesNone = operator === 'IS_NULL' || operator === 'IS_NOT_NULL';
  const isList = Array.isArray(fieldOf(filter, 'value'));
  if (takesNone && has(filter, 'value')) report(['value'], 'Is not used by this operator.', 'Remove it.');
  if (!takesNone && !has(filter, 'value'))
    report(['value'], 'Is missing: this operator needs it.', 'Give a value.');
  if (operator === 'IN' && has(filter, 'value') && !isList)
    report(['value'], 'Must be an array for IN.', 'Give an array.');
  if (!takesNone && operator !== 'IN' && isList) {
    report(['value'], 'Is an array, which only IN takes.', 'Give one value, or use IN.');
  }
}

function scopeRule(scope: unknown, report: Report): void {
  const included = new Set(textsOf(scope, 'includeEntities').map(normalizeEntityType));
  const excludedTypes = textsOf(scope, 'excludeEntities').map(normalizeEntityType);
  const excluded = new Set(excludedTypes);
  const takesAll = included.size === 0 || included.has('ALL');
  for (const [index, type] of excludedTypes.entries()) {
    if (type === 'ALL') {
      report(['excludeEntities', index], 'Excludes every entity.', 'Name the entities to leave out.');
    } else if (included.has(type)) {
      report(['excludeEntities', index], 'Is also in `includeEntities`.', 'Remove it from one of the two.');
    }
  }
  for (const [index, filter] of listOf(scope, 'customFilters').entries()) {
    const name = textOf(filter, 'entityType');
    const type = name === undefined ? undefined : normalizeEntityType(name);
    if (type !== undefined && type !== 'ALL' && (excluded.has(type) || !(takesAll || included.has(type)))) {
      report(
        ['customFilters', index, 'entityType'],
        'Is not in the scope.',
        'Include the entity, or remove the filter.',
      );
    }
  }
  datesRule(scope, report);
}

function datesRule(scope: unknown, report: Report): void {
  const start = timeOf(fieldOf(scope, 'dateRangeStart'));
  const end = timeOf(fieldOf(scope, 'dateRangeEnd'));
  if (start >= end) {
    report(
      ['dateRangeEnd'],
      'Is not after `dateRangeStart`.',
      'Give a later end; rows at the end itself are left out.',
    );
  }
}

function timeOf(value: unknown): number {
  return typeof value === 'string' || value instanceof Date ? new Date(value).getTime() : Number.NaN;
}
