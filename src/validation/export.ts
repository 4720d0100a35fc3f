import * as z from 'zod';
import { EXPORT_FORMATS, type ExportSnapshotInput } from '../types/export.ts';
import { optional, uuid } from './fields.ts';
import { entityTypes } from './scope.ts';

export const ExportSnapshotSchema = z.strictObject({
  snapshotId: uuid,
  format: z.enum(EXPORT_FORMATS),
  scope: optional(z.strictObject({ includeEntities: optional(entityTypes) })),
  includePHI: optional(z.boolean()),
}) satisfies z.ZodType<ExportSnapshotInput>;
