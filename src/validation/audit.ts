import * as z from 'zod';
import type { ListAuditLogInput, PruneAuditLogInput } from '../types/audit.ts';
import { identifyingText, optional, timestamp, wholeNumber } from './fields.ts';
import { paging } from './lists.ts';

const name = optional(identifyingText(1, 200));

export const ListAuditLogSchema = z.strictObject({
  ...paging,
  resourceType: name,
  resourceId: name,
  action: name,
  from: optional(timestamp),
  to: optional(timestamp),
}) satisfies z.ZodType<ListAuditLogInput>;

/** A hundred years. */
const MOST_DAYS = 36_525;

export const PruneAuditLogSchema = z.strictObject({
  before: timestamp,
  retentionDays: wholeNumber(1, MOST_DAYS),
}) satisfies z.ZodType<PruneAuditLogInput>;
