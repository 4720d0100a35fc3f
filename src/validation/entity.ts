import * as z from 'zod';
import type { Classification, EntityInput, OwnerPath } from '../types/entity.ts';
import { normalizeEntityType } from '../utils/entity-type.ts';
import { entityType, must, optional, sqlName } from './fields.ts';
import { textOf, withRule } from './rules.ts';

const columns = must(
  z.array(sqlName).min(1).max(32),
  (names) => new Set(names).size === names.length,
  'Names a column twice.',
  'Name each column once.',
);

const columnOrColumns = z.union([sqlName, columns]);

const ownerPath = z.union([
  sqlName,
  z.strictObject({ through: columnOrColumns, entity: entityType }),
]) satisfies z.ZodType<OwnerPath>;

const kinds = { phi: optional(z.boolean()), pii: optional(z.boolean()), financial: optional(z.boolean()) };
const classification = z.strictObject(kinds) satisfies z.ZodType<Classification>;

export const EntityInputSchema = withRule(
  z.strictObject({
    type: entityType,
    table: sqlName,
    schema: optional(sqlName),
    key: optional(columnOrColumns),
    organization: optional(ownerPath),
    branch: optional(ownerPath),
    client: optional(sqlName),
    caregiver: optional(sqlName),
    updatedAt: optional(sqlName),
    deletedAt: optional(sqlName),
    date: optional(sqlName),
    restore: optional(z.strictObject({ disableTriggers: optional(z.array(sqlName).max(100)) })),
    auditLog: optional(z.boolean()),
    classification: optional(
      z.strictObject({ ...kinds, columns: optional(z.record(sqlName, classification)) }),
    ),
  }),
  (entity, report) => {
    if (normalizeEntityType(textOf(entity, 'type') ?? '') === 'ALL') {
      report(['type'], 'Is ALL, which stands for every entity.', 'Choose another name.');
    }
  },
) satisfies z.ZodType<EntityInput>;
