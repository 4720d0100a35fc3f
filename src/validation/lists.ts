import * as z from 'zod';
import {
  BACKUP_CONFIG_STATUSES,
  BACKUP_SNAPSHOT_STATUSES,
  type ListConfigurationsInput,
  type ListSnapshotsInput,
} from '../types/backup.ts';
import { identifyingText, optional, uuid, wholeNumber } from './fields.ts';

export const paging = { limit: optional(wholeNumber(1, 1000)), cursor: optional(identifyingText(1, 1024)) };

export const ListConfigurationsSchema = z.strictObject({
  ...paging,
  status: optional(z.array(z.enum(BACKUP_CONFIG_STATUSES)).min(1).max(BACKUP_CONFIG_STATUSES.length)),
}) satisfies z.ZodType<ListConfigurationsInput>;

export const ListSnapshotsSchema = z.strictObject({
  ...paging,
  configurationId: optional(uuid),
  status: optional(z.array(z.enum(BACKUP_SNAPSHOT_STATUSES)).min(1).max(BACKUP_SNAPSHOT_STATUSES.length)),
}) satisfies z.ZodType<ListSnapshotsInput>;
