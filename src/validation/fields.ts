import * as z from 'zod';
import type { BackupEntityType } from '../types/backup.ts';
import type { Timestamp } from '../types/ids.ts';
import { isEntityType, normalizeEntityType } from '../utils/entity-type.ts';
import { toTimestamp } from '../utils/timestamp.ts';
import { isUuid } from '../utils/uuid.ts';
import { CREDENTIAL_REMEDY, holdsCredential, isCredentialName } from './credentials.ts';

/** A field that may be left out; `undefined` is not a value of it. */
export const optional = z.exactOptional;

/** A condition on a field, with what is wrong and what to write instead. */
export function must<S extends z.ZodType>(
  schema: S,
  holds: (value: z.output<S>) => boolean,
  message: string,
  remedy: string,
): S {
  return schema.superRefine((value, context) => {
    if (!holds(value)) context.addIssue({ code: 'custom', message, params: { remedy } });
  });
}

/** Text that PostgreSQL can store and that holds no credential. */
export function text(min: number, max: number) {
  const bounded = storable(z.string().min(min).max(max));
  const written =
    min === 0
      ? bounded
      : must(bounded, (value) => value === '' || /\S/.test(value), 'Is blank.', 'Write some text.');
  return must(written, (value) => !holdsCredential(value), 'Looks like a credential.', CREDENTIAL_REMEDY);
}

/** Text that is compared or identifies, of any content that PostgreSQL can store. */
export function identifyingText(min: number, max: number) {
  return storable(z.string().min(min).max(max));
}

function storable(schema: z.ZodString) {
  return must(
    schema,
    isStorable,
    'Holds a NUL character or half of a surrogate pair.',
    'Remove the characters that are no text.',
  );
}

export function isStorable(value: string): boolean {
  return value.isWellFormed() && !value.includes('\0');
}

/** A name in PostgreSQL: 1 to 63 bytes. */
export const sqlName = must(
  identifyingText(1, 63),
  (value) => new TextEncoder().encode(value).length <= 63,
  'Is longer than a name in PostgreSQL may be.',
  'Write at most 63 bytes in UTF-8.',
);

/** The name of something that the host resolves: a credential, a database connection. */
export const reference = must(
  z.string().min(1).max(256),
  (value) =>
    /^[A-Za-z0-9][A-Za-z0-9._:/-]*$/.test(value) && !value.includes('://') && !holdsCredential(value),
  'Is not a plain name; it may be a credential.',
  'Write the name under which the host resolves it: letters, digits and `. _ : / -`. Never the credential or connection string itself.',
);

export const uuid = must(
  z.string(),
  isUuid,
  'Is not a UUID.',
  'Write a UUID such as 018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e.',
).toLowerCase();

export const timestamp = z
  .custom<string | Date>((value) => typeof value === 'string' || value instanceof Date, {
    error: 'Is not a point in time.',
    params: { remedy: 'Write ISO 8601 with an offset, such as 2026-01-31T02:00:00Z, or give a Date.' },
    abort: true,
  })
  .transform((value, context): Timestamp => {
    const iso = toTimestamp(value);
    if (iso !== undefined) return iso;
    context.addIssue({
      code: 'custom',
      message: 'Is not a point in time that exists, with an offset.',
      params: {
        remedy: 'Write ISO 8601 with seconds and an offset, such as 2026-01-31T02:00:00Z, or give a Date.',
      },
    });
    return z.NEVER;
  });

export const entityType = z.string().transform((value, context): BackupEntityType => {
  const name = normalizeEntityType(value);
  if (/^[\w\s-]{1,100}$/.test(value) && isEntityType(name)) return name;
  context.addIssue({
    code: 'custom',
    message: 'Is not the name of an entity type.',
    params: {
      remedy:
        'Write a name such as VISIT or CARE_PLAN: ASCII letters, digits and underscores, at most 63, a letter first.',
    },
  });
  return z.NEVER;
});

export function wholeNumber(min: number, max: number = Number.MAX_SAFE_INTEGER) {
  return z.int().min(min).max(max);
}

/** `HH:MM`, 00:00 to 23:59. */
export const wallClockTime = must(
  z.string(),
  (value) => /^(?:[01]\d|2[0-3]):[0-5]\d$/.test(value),
  'Is not a time of day.',
  'Write HH:MM from 00:00 to 23:59, such as 02:00.',
);

export const webUrl = must(
  text(1, 2048),
  isPlainWebUrl,
  'Is not a plain http or https address.',
  'Write an address such as https://example.com/path, without a user name or password in it.',
);

function isPlainWebUrl(value: string): boolean {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  return (
    (url?.protocol === 'https:' || url?.protocol === 'http:') && url.username === '' && url.password === ''
  );
}

const tagName = must(
  text(1, 128),
  (value) => !isCredentialName(value),
  'Has a name that is for a credential.',
  CREDENTIAL_REMEDY,
);

export const tags = must(
  z.record(tagName, text(0, 256)),
  (value) => Object.keys(value).length <= 50,
  'Has more than 50 tags.',
  'Use at most 50.',
);
