import * as z from 'zod';
import type { StorageAnalyticsInput, StoragePrices, StorageUsageInput } from '../types/usage.ts';
import { must, optional, uuid, wholeNumber } from './fields.ts';

export const StorageUsageInputSchema = z.strictObject({
  configurationId: optional(uuid),
  measure: optional(z.boolean()),
}) satisfies z.ZodType<StorageUsageInput>;

export const StorageAnalyticsInputSchema = z.strictObject({
  configurationId: optional(uuid),
  months: optional(wholeNumber(1, 120)),
}) satisfies z.ZodType<StorageAnalyticsInput>;

const amount = z.number().min(0).max(1_000_000_000);

export const StoragePricesSchema = z.record(
  z.string().min(1).max(100),
  z.strictObject({
    perGbMonth: amount,
    perThousandWrites: optional(amount),
    currency: optional(
      must(
        z.string(),
        (value) => /^[A-Z]{3}$/.test(value),
        'Is not a currency.',
        'Write its three letters, such as USD.',
      ),
    ),
  }),
) satisfies z.ZodType<StoragePrices>;
