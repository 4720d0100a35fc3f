import pg from 'pg';
import { DataProtectionError } from '../types/errors.ts';

/** The schema of the library's own objects where the host names no other. */
export const DEFAULT_SCHEMA = 'care_backup';

/**
 * Checks the name of the library's schema and gives it back. Any name that PostgreSQL takes, quotes, backslashes and
 * control characters excepted: 1 to 63 bytes, neither `pg_...` nor `$user`. Throws CONFIGURATION_INVALID.
 */
export function checkSchemaName(schema: string): string {
  const bytes = Buffer.byteLength(schema);
  if (
    bytes === 0 ||
    bytes > 63 ||
    schema.startsWith('pg_') ||
    schema === '$user' ||
    /["'\\\p{Cc}]/u.test(schema)
  ) {
    throw new DataProtectionError(
      'The schema name must have 1 to 63 bytes without quotes, backslashes or control characters, and be neither pg_... nor $user',
      'CONFIGURATION_INVALID',
    );
  }
  return schema;
}

/** `"schema"."name"`, quoted. */
export function qualify(schema: string, name: string): string {
  return `${pg.escapeIdentifier(schema)}.${pg.escapeIdentifier(name)}`;
}
