import * as z from 'zod';
import type { RewrapKeysInput } from '../types/keys.ts';
import { must, optional } from './fields.ts';

export const KeyIdSchema = must(
  z.string(),
  (value) => /^[A-Za-z0-9._:/-]{1,255}$/.test(value),
  'Is not the id of a key.',
  'Write an id as `getKeyStatus` gives it: 1 to 255 of letters, digits and `. _ : / -`.',
);

export const RewrapKeysInputSchema = z.strictObject({
  toKeyId: optional(KeyIdSchema),
}) satisfies z.ZodType<RewrapKeysInput>;
