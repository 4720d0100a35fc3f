import { StorageError } from '../types/errors.ts';

/** The longest key, in bytes. All characters of a key are ASCII, so bytes and characters are the same. */
export const MAX_OBJECT_KEY_BYTES = 900;

/** The longest segment, in bytes: what file systems allow for one name. */
export const MAX_OBJECT_KEY_SEGMENT_BYTES = 255;

const SEGMENT = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

/** Whether a name can be one segment of an object key. */
export function isObjectKeySegment(name: string): boolean {
  return name.length <= MAX_OBJECT_KEY_SEGMENT_BYTES && SEGMENT.test(name);
}

/**
 * Checks the name of an object before a provider looks at anything.
 * Throws `STORAGE_INVALID_KEY` unless it is segments `[A-Za-z0-9][A-Za-z0-9._-]*` of at most 255 bytes, joined by
 * `/`, 900 bytes at most.
 */
export function assertObjectKey(key: string): void {
  if (!isText(key) || key.length > MAX_OBJECT_KEY_BYTES || !key.split('/').every(isObjectKeySegment)) {
    throw invalid('key', key);
  }
}

/** Checks the prefix of a listing. Throws `STORAGE_INVALID_KEY` unless some valid key starts with it. */
export function assertObjectKeyPrefix(prefix: string): void {
  if (!isText(prefix) || prefix.length > MAX_OBJECT_KEY_BYTES) throw invalid('prefix', prefix);
  const segments = prefix.split('/');
  const unfinished = segments.pop() ?? '';
  if (!segments.every(isObjectKeySegment) || (unfinished !== '' && !isObjectKeySegment(unfinished))) {
    throw invalid('prefix', prefix);
  }
}

/** Callers without a type checker may give anything. */
function isText(value: unknown): value is string {
  return typeof value === 'string';
}

function invalid(what: 'key' | 'prefix', value: unknown): StorageError {
  const shown = isText(value) ? JSON.stringify(value.slice(0, 120)) : `a ${typeof value}`;
  return new StorageError(
    `The object ${what} ${shown} is not a relative path of plain segments (letters, digits, "-", "_", "."; ` +
      `${MAX_OBJECT_KEY_SEGMENT_BYTES} bytes a segment, ${MAX_OBJECT_KEY_BYTES} in all).`,
    'STORAGE_INVALID_KEY',
  );
}
