import * as z from 'zod';
import {
  CONFLICT_RESOLUTION_STRATEGIES,
  type ColumnMapping,
  type CreateRestoreOperationInput,
  RESTORE_DESTINATION_TYPES,
  RESTORE_TYPES,
  type ResolveRestoreConflictInput,
  type RestoreDestination,
} from '../types/backup.ts';
import { normalizeEntityType } from '../utils/entity-type.ts';
import { must, optional, reference, sqlName, text, uuid } from './fields.ts';
import { fieldOf, has, type Report, textOf, withRule } from './rules.ts';
import { RestoreScopeSchema } from './scope.ts';

const PLACES = ['schemaName', 'tablePrefix', 'databaseConnection'] as const;

/** A destination as it is stored: its fields, without the rules between them. */
export const StoredRestoreDestinationSchema = z.strictObject({
  type: z.enum(RESTORE_DESTINATION_TYPES),
  schemaName: optional(
    must(
      sqlName,
      (name) => !/^pg_/i.test(name) && name.toLowerCase() !== 'information_schema',
      'Is a schema of PostgreSQL itself.',
      'Choose a name that does not start with pg_ and is not information_schema.',
    ),
  ),
  tablePrefix: optional(sqlName),
  databaseConnection: optional(reference),
}) satisfies z.ZodType<RestoreDestination>;

export const RestoreDestinationSchema = withRule(
  StoredRestoreDestinationSchema,
  destinationRule,
) satisfies z.ZodType<RestoreDestination>;

const columnMapping = z
  .record(z.string(), z.record(z.string(), z.string().nullable()))
  .transform(
    (mapping): ColumnMapping =>
      Object.fromEntries(
        Object.entries(mapping).map(([type, columns]) => [normalizeEntityType(type), columns]),
      ),
  );

export const CreateRestoreOperationSchema = withRule(
  z.strictObject({
    snapshotId: uuid,
    restoreType: optional(z.enum(RESTORE_TYPES)),
    scope: optional(RestoreScopeSchema),
    restoreDestination: optional(RestoreDestinationSchema),
    conflictResolutionStrategy: optional(z.enum(CONFLICT_RESOLUTION_STRATEGIES)),
    validationEnabled: optional(z.boolean()),
    requiresApproval: optional(z.boolean()),
    rollbackEnabled: optional(z.boolean()),
    deleteNotInBackup: optional(z.boolean()),
    allowCascades: optional(z.boolean()),
    columnMapping: optional(columnMapping),
    notes: optional(text(0, 5000)),
  }),
  (input, report) => {
    pointInTimeRule(input, report);
    liveRule(input, report);
  },
) satisfies z.ZodType<CreateRestoreOperationInput>;

export const ResolveRestoreConflictSchema = withRule(
  z.strictObject({
    conflictId: uuid,
    resolution: z.enum(['BACKUP', 'EXISTING', 'FIELDS']),
    fields: optional(z.array(sqlName).min(1).max(1600)),
    notes: optional(text(0, 5000)),
  }),
  (input, report) => {
    const byFields = textOf(input, 'resolution') === 'FIELDS';
    if (byFields && !has(input, 'fields'))
      report(['fields'], 'Is missing: FIELDS needs it.', 'Name the columns.');
    if (!byFields && has(input, 'fields')) report(['fields'], 'Is used by FIELDS only.', 'Remove it.');
  },
) satisfies z.ZodType<ResolveRestoreConflictInput>;

function destinationRule(destination: unknown, report: Report): void {
  const type = RESTORE_DESTINATION_TYPES.find((known) => known === textOf(destination, 'type'));
  if (type === undefined) return;
  const given = PLACES.filter((place) => has(destination, place));
  const needsOne = type === 'STAGING' || type === 'TEST';
  if (needsOne && given.length === 0) {
    report([], `Does not say where ${type} is.`, `Give one of ${PLACES.join(', ')}.`);
  }
  for (const place of needsOne ? given.slice(1) : given) {
    const message = needsOne ? 'Is a second place.' : `Does not belong to ${type}.`;
    report([place], message, needsOne ? `Give exactly one of ${PLACES.join(', ')}.` : 'Remove it.');
  }
}

/** What is said of live tables must be meant for them. */
function liveRule(input: unknown, report: Report): void {
  const type = textOf(fieldOf(input, 'restoreDestination'), 'type') ?? 'PRODUCTION';
  const destination = RESTORE_DESTINATION_TYPES.find((known) => known === type) ?? 'PRODUCTION';
  const given = textOf(input, 'conflictResolutionStrategy') ?? 'BACKUP_WINS';
  const strategy = CONFLICT_RESOLUTION_STRATEGIES.find((known) => known === given) ?? 'BACKUP_WINS';
  const deletes = fieldOf(input, 'deleteNotInBackup') === true;
  if (destination !== 'PRODUCTION') {
    for (const field of ['deleteNotInBackup', 'allowCascades', 'columnMapping', 'rollbackEnabled']) {
      const value = fieldOf(input, field);
      if (value === undefined || value === false) continue;
      report([field], `Is for the live tables, and the destination is ${destination}.`, 'Remove it.');
    }
  }
  if (deletes && strategy !== 'BACKUP_WINS' && strategy !== 'MANUAL') {
    report(['deleteNotInBackup'], `Contradicts ${strategy}.`, 'Use BACKUP_WINS or MANUAL, or remove it.');
  }
  if (fieldOf(input, 'allowCascades') === true && !deletes) {
    report(['allowCascades'], 'Deletes nothing by itself.', 'Set `deleteNotInBackup` too, or remove it.');
  }
  if (textOf(input, 'restoreType') === 'FULL' && has(input, 'scope')) {
    const narrowing = Object.keys(fieldOf(input, 'scope') ?? {});
    if (narrowing.some((field) => field !== 'restoreToTimestamp')) {
      report(
        ['restoreType'],
        'Is FULL, and `scope` takes a part.',
        'Set `restoreType` to SELECTIVE, or remove `scope`.',
      );
    }
  }
}

function pointInTimeRule(input: unknown, report: Report): void {
  const type = textOf(input, 'restoreType');
  const hasPoint = has(fieldOf(input, 'scope'), 'restoreToTimestamp');
  const path = ['scope', 'restoreToTimestamp'];
  if (type === 'POINT_IN_TIME' && !hasPoint) {
    report(
      path,
      'Is missing: POINT_IN_TIME needs it.',
      'Give the point in time, such as 2026-01-31T02:00:00Z.',
    );
  }
  if (type !== 'POINT_IN_TIME' && hasPoint) {
    report(path, 'Is used by POINT_IN_TIME only.', 'Set `restoreType` to POINT_IN_TIME, or remove it.');
  }
}
