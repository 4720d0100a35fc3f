import * as z from 'zod';
import { BACKUP_CONFIG_TYPES, type CreateSnapshotInput } from '../types/backup.ts';
import { optional, tags, text, uuid } from './fields.ts';
import { has, textOf, withRule } from './rules.ts';

export const CreateSnapshotSchema = withRule(
  z.strictObject({
    configurationId: uuid,
    snapshotType: optional(z.enum(BACKUP_CONFIG_TYPES)),
    parentSnapshotId: optional(uuid),
    trigger: optional(z.enum(['MANUAL', 'EMERGENCY'])),
    tags: optional(tags),
    notes: optional(text(0, 5000)),
  }),
  (input, report) => {
    if (has(input, 'parentSnapshotId') && textOf(input, 'snapshotType') === 'FULL') {
      report(['parentSnapshotId'], 'Does not belong to a FULL snapshot, which builds on none.', 'Remove it.');
    }
  },
) satisfies z.ZodType<CreateSnapshotInput>;
